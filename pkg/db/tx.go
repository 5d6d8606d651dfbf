package db

import (
	"slices"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// Tx collects the changes of one Update. It reads its own edits; the sets on
// the many side of a relation follow at the commit.
type Tx struct {
	base    *Snapshot
	edits   map[string]*edit
	order   []*edit
	journal []journalChange
	check   checker
}

// edit is what a transaction does to one object.
type edit struct {
	class *datamodel.Class
	ref   string
	base  xenapi.Record // nil for a new object
	rec   xenapi.Record // nil for a deleted one
	touch bool          // make a version even if nothing changed
}

type journalChange struct {
	id   string
	data []byte // nil: the saga has ended
}

func newTx(base *Snapshot) *Tx { return &Tx{base: base, edits: map[string]*edit{}} }

// Snapshot implements Reader: the state before this transaction.
func (tx *Tx) Snapshot() *Snapshot { return tx.base }

// Row implements Reader.
func (tx *Tx) Row(class *datamodel.Class, ref string) (xenapi.Record, bool) {
	if e := tx.edits[ref]; e != nil && e.class == class {
		return e.rec, e.rec != nil
	}
	return tx.base.Row(class, ref)
}

// Edit gives a copy of the object to change; the commit compares it with what
// was there. Sets and maps in it are shared: replace, don't mutate.
func (tx *Tx) Edit(class *datamodel.Class, ref string) (xenapi.Record, error) {
	if e := tx.edits[ref]; e != nil && e.class == class && e.rec != nil {
		return e.rec, nil
	}
	base, ok := tx.Row(class, ref)
	if !ok {
		return nil, xenapi.ErrHandleInvalid(class.Name, ref)
	}
	e := &edit{class: class, ref: ref, base: base, rec: base.Clone()}
	tx.put(e)
	return e.rec, nil
}

// Insert adds an object. The record is the transaction's from here on.
func (tx *Tx) Insert(ref string, rec xenapi.Record) {
	tx.put(&edit{class: xenapi.Class(rec), ref: ref, rec: rec})
}

// Delete removes an object; what is not there is none of its concern. Fields
// elsewhere that refer to it become null.
func (tx *Tx) Delete(class *datamodel.Class, ref string) {
	e := tx.edits[ref]
	if e == nil || e.class != class {
		base, ok := tx.base.Row(class, ref)
		if !ok {
			return
		}
		e = &edit{class: class, ref: ref, base: base}
		tx.put(e)
	}
	e.rec = nil
}

func (tx *Tx) put(e *edit) {
	tx.edits[e.ref] = e
	tx.order = append(tx.order, e)
}

// SetJournal records what a saga needs to be undone after a crash; nil data
// ends it. The entry is as durable as any other change.
func (tx *Tx) SetJournal(id string, data []byte) {
	tx.journal = append(tx.journal, journalChange{id, data})
}

// Edit is Tx.Edit for a typed reference.
func Edit[R recordOf[T], T any, P recordPtr[T]](tx *Tx, ref R) (P, error) {
	rec, err := tx.Edit(datamodel.Get().Classes[P(nil).XenClass()], string(ref))
	if err != nil {
		return nil, err
	}
	return rec.(P), nil
}

// Insert adds a record under a fresh reference, which it returns.
func Insert[R recordOf[T], T any, P recordPtr[T]](tx *Tx, rec P) R {
	ref := xenapi.NewRef[R]()
	tx.Insert(string(ref), rec)
	return ref
}

// Delete is Tx.Delete for a typed reference.
func Delete[R recordOf[T], T any, P recordPtr[T]](tx *Tx, ref R) {
	tx.Delete(datamodel.Get().Classes[P(nil).XenClass()], string(ref))
}

// changes turns the edits into what is to be applied, after following
// deletions and many-to-many relations to the objects that they touch, and
// refuses what would break an invariant of the graph.
func (tx *Tx) changes(derive func(tx *Tx)) ([]Change, error) {
	for i := 0; i < len(tx.order); i++ { // order grows while we follow
		e := tx.order[i]
		if e.rec == nil && e.base != nil {
			if err := tx.forget(e); err != nil {
				return nil, err
			}
		}
		if err := tx.mirror(e); err != nil {
			return nil, err
		}
	}
	if derive != nil && len(tx.order) > 0 {
		derive(tx)
	}
	var out []Change
	for _, e := range tx.order {
		c, ok := e.change()
		if !ok {
			continue
		}
		if err := tx.check.change(tx, e, c); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// forget nulls the fields that refer to a deleted object.
func (tx *Tx) forget(e *edit) error {
	for _, f := range e.class.Fields {
		if !f.Derived {
			continue
		}
		for _, ref := range *e.base.Ptr(f.Index).(*[]string) {
			if err := tx.dropRef(referrer{ref, f.Rel.From}, e.ref); err != nil {
				return err
			}
		}
	}
	known, _ := tx.base.refs.get(e.ref)
	for _, r := range known.from {
		if err := tx.dropRef(r, e.ref); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) dropRef(from referrer, gone string) error {
	if rec, ok := tx.Row(from.field.Class, from.ref); !ok || !refersTo(rec.Ptr(from.field.Index), gone) {
		return nil
	}
	rec, err := tx.Edit(from.field.Class, from.ref)
	if err != nil {
		return err
	}
	switch p := rec.Ptr(from.field.Index).(type) {
	case *string:
		*p = xenapi.Null
	case *[]string:
		*p = slices.DeleteFunc(slices.Clone(*p), func(s string) bool { return s == gone })
	case *map[string]string:
		kept := map[string]string{}
		for k, v := range *p {
			if k != gone && v != gone {
				kept[k] = v
			}
		}
		*p = kept
	}
	return nil
}

func refersTo(p any, ref string) bool {
	switch p := p.(type) {
	case *string:
		return *p == ref
	case *[]string:
		return slices.Contains(*p, ref)
	case *map[string]string:
		for k, v := range *p {
			if k == ref || v == ref {
				return true
			}
		}
	}
	return false
}

// mirror keeps both ends of the many-to-many relations of an edited object.
func (tx *Tx) mirror(e *edit) error {
	for _, f := range e.class.Fields {
		if f.Rel == nil || !f.Rel.ManyToMany {
			continue
		}
		other := f.Rel.To
		if other == f {
			other = f.Rel.From
		}
		had, has := setOf(e.base, f), setOf(e.rec, f)
		for _, ref := range has {
			if !slices.Contains(had, ref) {
				if err := tx.setMember(other, ref, e.ref, true); err != nil {
					return err
				}
			}
		}
		for _, ref := range had {
			if !slices.Contains(has, ref) {
				if err := tx.setMember(other, ref, e.ref, false); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func setOf(rec xenapi.Record, f *datamodel.Field) []string {
	if rec == nil {
		return nil
	}
	return *rec.Ptr(f.Index).(*[]string)
}

func (tx *Tx) setMember(f *datamodel.Field, ref, member string, in bool) error {
	rec, ok := tx.Row(f.Class, ref)
	if !ok {
		if !in {
			return nil
		}
		return xenapi.ErrHandleInvalid(f.Class.Name, ref)
	}
	if slices.Contains(setOf(rec, f), member) == in {
		return nil
	}
	rec, err := tx.Edit(f.Class, ref)
	if err != nil {
		return err
	}
	p := rec.Ptr(f.Index).(*[]string)
	if in {
		*p = append(slices.Clip(*p), member)
	} else {
		*p = slices.DeleteFunc(slices.Clone(*p), func(s string) bool { return s == member })
	}
	return nil
}

// change compares the edit with its base; false if nothing is different.
func (e *edit) change() (Change, bool) {
	c := Change{Class: e.class, Ref: e.ref, Rec: e.rec}
	switch {
	case e.rec == nil:
		c.Op = OpDelete
		return c, e.base != nil
	case e.base == nil:
		c.Op = OpCreate
	default:
		c.Op = OpUpdate
	}
	base := e.base
	if base == nil {
		base = xenapi.New(e.class.ID)
	}
	for _, f := range e.class.Fields {
		if at, ok := e.rec.Ptr(f.Index).(*time.Time); ok {
			*at = at.UTC().Truncate(time.Second) // as the log and SQLite hold it
		}
		if !f.Derived && !xenapi.SameField(base.Ptr(f.Index), e.rec.Ptr(f.Index)) {
			c.Fields = append(c.Fields, f.Index)
		}
	}
	return c, c.Op == OpCreate || e.touch || len(c.Fields) > 0
}

// Edited lists the objects that the transaction has made, edited or deleted.
func (tx *Tx) Edited() []Key {
	out := make([]Key, len(tx.order))
	for i, e := range tx.order {
		out[i] = Key{e.class, e.ref}
	}
	return out
}

// Key names an object.
type Key struct {
	Class *datamodel.Class
	Ref   string
}

// Touch makes a new version of an object that is like the old one: an event
// without a change.
func (tx *Tx) Touch(class *datamodel.Class, ref string) error {
	if _, err := tx.Edit(class, ref); err != nil {
		return err
	}
	tx.edits[ref].touch = true
	return nil
}
