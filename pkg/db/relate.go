package db

import (
	"slices"

	"xapid/pkg/datamodel"
)

// link notes at the target that from refers to it; the list grows as member's
// sets do.
func (b *builder) link(f *datamodel.Field, from, target string) {
	if f.Rel != nil {
		b.member(f.Rel.To, target, from, true)
		return
	}
	known, _ := b.next.refs.get(target)
	b.next.refs = b.next.refs.put(referrers{target, append(known.from, referrer{from, f})})
}

// unlink takes the note back.
func (b *builder) unlink(f *datamodel.Field, from, target string) {
	if f.Rel != nil {
		b.member(f.Rel.To, target, from, false)
		return
	}
	known, ok := b.next.refs.get(target)
	if !ok {
		return
	}
	i := slices.Index(known.from, referrer{from, f})
	switch {
	case i >= 0 && len(known.from) == 1:
		b.next.refs = b.next.refs.delete(target)
	case i >= 0:
		b.next.refs = b.next.refs.put(referrers{target, removed(known.from, i)})
	}
}

// member adds or removes ref in the derived set of the target, which makes a
// new version of it and so an event.
//
// Adding appends behind the old version's end: older versions share the array
// but know only their own length, and only the newest is ever appended to.
func (b *builder) member(f *datamodel.Field, target, ref string, in bool) {
	t := b.table(f.Class)
	old, ok := t.rows.get(target)
	if !ok {
		return
	}
	set := *old.Rec.Ptr(f.Index).(*[]string)
	i := -1
	if !in {
		if i = slices.Index(set, ref); i < 0 {
			return
		}
	}
	row := &Row{Ref: old.Ref, Gen: b.next.gen, Created: old.Created, Rec: old.Rec.Clone()}
	p := row.Rec.Ptr(f.Index).(*[]string)
	if in {
		*p = append(set, ref)
	} else {
		*p = removed(set, i)
	}
	t.rows = t.rows.put(row)
	b.touched(f, old, row)
}

// touched records the new version of a derived set's owner, once a commit.
func (b *builder) touched(f *datamodel.Field, before, after *Row) {
	if before.Gen == b.next.gen {
		for i := range b.done {
			if b.done[i].after == before {
				b.done[i].after = after
				return
			}
		}
	}
	b.done = append(b.done, applied{Change{Op: OpUpdate, Class: f.Class, Ref: before.Ref}, before, after})
}
