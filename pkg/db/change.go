package db

import (
	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// Op is what a change does to an object.
type Op uint8

// The operations, in the order in which event.from groups them.
const (
	OpCreate Op = iota + 1
	OpUpdate
	OpDelete
)

// Change is one object's part of a commit: the named fields of Rec replace
// those of the object, or of a new record.
type Change struct {
	Op     Op
	Class  *datamodel.Class
	Ref    string
	Rec    xenapi.Record
	Fields []int
}

// persistent cuts a change to what is written to the log; false if nothing is.
func (c Change) persistent() (Change, bool) {
	if !c.Class.Stored() {
		return c, false
	}
	if c.Op == OpDelete {
		return c, true
	}
	kept := make([]int, 0, len(c.Fields))
	for _, i := range c.Fields {
		if c.Class.Fields[i].Persistent() {
			kept = append(kept, i)
		}
	}
	c.Fields = kept
	return c, c.Op == OpCreate || len(kept) > 0
}

// applied is a change after it was carried out: the versions before and after.
type applied struct {
	Change
	before, after *Row
}

// apply carries changes out on a snapshot and returns the next one. It is the
// only way that state changes, and a pure function of its arguments: the same
// on the proposer, on replay and on every host.
func (s *Snapshot) apply(changes []Change, journal []journalChange) (*Snapshot, []applied) {
	next := *s
	next.gen++
	b := builder{next: &next}
	next.tables = append([]*table(nil), s.tables...)
	for _, c := range changes {
		b.apply(c)
	}
	for _, a := range b.done { // once every object is there
		b.relate(a.Change, a.before, a.after)
	}
	for _, j := range journal {
		if j.data == nil {
			next.journal = next.journal.delete(j.id)
		} else {
			next.journal = next.journal.put(journalEntry(j))
		}
	}
	return &next, b.done
}

// builder makes one snapshot from the one before it.
type builder struct {
	next *Snapshot
	done []applied
}

// table gives the class's table to write to: a copy, the first time.
func (b *builder) table(c *datamodel.Class) *table {
	t := b.next.tables[c.ID]
	if t.gen != b.next.gen {
		fresh := *t
		fresh.gen = b.next.gen
		t = &fresh
		b.next.tables[c.ID] = t
	}
	return t
}

func (b *builder) apply(c Change) {
	t := b.table(c.Class)
	before, _ := t.rows.get(c.Ref)
	if before == nil && c.Op == OpUpdate {
		return // deleted by an earlier entry
	}
	if c.Op == OpDelete {
		if before != nil {
			b.delete(t, c, before)
		}
		return
	}
	row := &Row{Ref: c.Ref, Gen: b.next.gen, Created: b.next.gen}
	if before != nil {
		row.Rec, row.Created = before.Rec.Clone(), before.Created
	} else {
		row.Rec = xenapi.New(c.Class.ID)
	}
	for _, i := range c.Fields {
		xenapi.CopyField(row.Rec.Ptr(i), c.Rec.Ptr(i))
	}
	b.index(t, before, row)
	t.rows = t.rows.put(row)
	b.done = append(b.done, applied{c, before, row})
}

func (b *builder) delete(t *table, c Change, before *Row) {
	b.index(t, before, nil)
	t.rows = t.rows.delete(c.Ref)
	c.Fields = nil
	for _, f := range c.Class.Fields {
		c.Fields = append(c.Fields, f.Index)
	}
	b.done = append(b.done, applied{c, before, nil})
}

// index keeps the uuids of the class.
func (b *builder) index(t *table, before, after *Row) {
	var was, is string
	if before != nil {
		was = before.UUID()
	}
	if after != nil {
		is = after.UUID()
	}
	if was == is {
		return
	}
	if owner, _ := t.uuids.get(was); was != "" && owner.ref == before.Ref { // it may have passed on in this commit
		t.uuids = t.uuids.delete(was)
	}
	if is != "" {
		t.uuids = t.uuids.put(uuidEntry{is, after.Ref})
	}
}

// relate carries the changed reference fields to the other ends: derived sets
// of one-to-many relations, and the index of plain references.
func (b *builder) relate(c Change, before, after *Row) {
	fields := c.Fields
	if before == nil {
		fields = nil
		for _, f := range c.Class.Fields {
			fields = append(fields, f.Index)
		}
	}
	for _, i := range fields {
		f := c.Class.Fields[i]
		if !refersOut(f) {
			continue
		}
		was, is := targets(before, f), targets(after, f)
		if len(was) == 1 && len(is) == 1 && was[0] == is[0] {
			continue
		}
		for _, ref := range was {
			b.unlink(f, c.Ref, ref)
		}
		for _, ref := range is {
			b.link(f, c.Ref, ref)
		}
	}
}

// refersOut reports whether a field's references are followed: those of
// many-to-many relations are kept by the transaction, foreign keys that the
// datamodel calls plain data by nobody.
func refersOut(f *datamodel.Field) bool {
	if f.Derived || f.IgnoreForeignKey || f.Rel != nil && f.Rel.ManyToMany {
		return false
	}
	return refType(f.Type) != nil
}

// refType finds the reference in a type: the type itself, its element, its
// key or its value.
func refType(t *datamodel.Type) *datamodel.Type {
	switch t.Kind {
	case datamodel.Ref:
		return t
	case datamodel.Set:
		return refType(t.Elem)
	case datamodel.Map:
		if r := refType(t.Key); r != nil {
			return r
		}
		return refType(t.Elem)
	}
	return nil
}

// targets lists the references in a field of a row.
func targets(r *Row, f *datamodel.Field) []string {
	if r == nil {
		return nil
	}
	switch p := r.Rec.Ptr(f.Index).(type) {
	case *string:
		if *p == xenapi.Null || *p == "" {
			return nil
		}
		return []string{*p}
	case *[]string:
		return *p
	case *map[string]string:
		var out []string
		for k, v := range *p {
			if f.Type.Key.Kind == datamodel.Ref {
				v = k
			}
			out = append(out, v)
		}
		return out
	}
	return nil
}
