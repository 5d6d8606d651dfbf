package db

import (
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// The limits of one field's value. They bound what one object can cost, and
// lie far above what any client needs.
const (
	MaxFieldBytes = 2 << 20
	MaxMembers    = 10_000
	// MaxTxBytes bounds one transaction, and nearly so a log entry, of which
	// the log takes 64 MiB.
	MaxTxBytes = 16 << 20
	// maxChain bounds how far a parent chain is followed for a loop.
	maxChain = 100_000
)

// checker refuses changes that would break an invariant of the graph: types,
// enums, texts that the wire can't carry, both ends of a reference, unique
// uuids, and parents that would be their own ancestors.
type checker struct {
	uuids map[string]string
	bytes int // of all that was checked
}

func (k *checker) change(tx *Tx, e *edit, c Change) error {
	if c.Op == OpDelete {
		return nil
	}
	for _, i := range c.Fields {
		f := c.Class.Fields[i]
		n, err := checkValue(f, e.rec.Ptr(i))
		if err != nil {
			return err
		}
		if k.bytes += n; k.bytes > MaxTxBytes {
			return xenapi.ErrInvalidValue(f.Name, fmt.Sprintf("more than %d bytes in one change", MaxTxBytes))
		}
		if err := k.references(tx, e, f); err != nil {
			return err
		}
		if f.Name == "uuid" {
			if err := k.unique(tx, e, *e.rec.Ptr(i).(*string)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *checker) unique(tx *Tx, e *edit, uuid string) error {
	if uuid == "" {
		return nil
	}
	key := e.class.Name + uuid
	if k.uuids == nil {
		k.uuids = map[string]string{}
	}
	other := k.uuids[key]
	if other == "" {
		other = tx.base.ByUUID(e.class, uuid)
	}
	if _, alive := tx.Row(e.class, other); alive && other != e.ref {
		return xenapi.ErrInternalError(fmt.Sprintf("%s uuid %s is taken", e.class.Name, uuid))
	}
	k.uuids[key] = e.ref
	return nil
}

// references checks that every reference in a field names a living object of
// the right class, and that chains of parents end.
func (k *checker) references(tx *Tx, e *edit, f *datamodel.Field) error {
	t := refType(f.Type)
	if t == nil {
		return nil
	}
	for _, ref := range targets(&Row{Rec: e.rec}, f) {
		if ref == xenapi.Null || ref == "" {
			continue
		}
		if _, ok := tx.Row(t.Class, ref); !ok {
			return xenapi.ErrHandleInvalid(t.Class.Name, ref)
		}
	}
	if f.Type.Kind == datamodel.Ref && t.Class == f.Class {
		return acyclic(tx, e, f)
	}
	return nil
}

func acyclic(tx *Tx, e *edit, f *datamodel.Field) error {
	at := *e.rec.Ptr(f.Index).(*string)
	for range maxChain {
		if at == e.ref {
			return xenapi.ErrValueNotSupported(f.Class.Name+"."+f.Name, at, "the object would be its own ancestor")
		}
		rec, ok := tx.Row(f.Class, at)
		if !ok {
			return nil
		}
		at = *rec.Ptr(f.Index).(*string)
	}
	return xenapi.ErrValueNotSupported(f.Class.Name+"."+f.Name, at, "the chain of ancestors is too long")
}

// checkValue checks the texts in a field, enums, characters, sizes, and counts
// their bytes.
func checkValue(f *datamodel.Field, p any) (int, error) {
	c := valueChecker{field: f}
	switch p := p.(type) {
	case *string:
		c.text(f.Type, *p)
	case *[]string:
		c.count(len(*p))
		for _, s := range *p {
			c.text(f.Type.Elem, s)
		}
	case *map[string]string:
		c.count(len(*p))
		for k, v := range *p {
			c.key(k)
			c.text(f.Type.Elem, v)
		}
	case *time.Time:
		if y := p.Year(); y < 0 || y > 9999 {
			c.fail(p.String())
		}
	case *float64:
		c.number(*p)
	case *map[int64]float64:
		for _, v := range *p {
			c.number(v)
		}
	case *map[string]int64:
		c.count(len(*p))
	case *map[string][]string:
		c.count(len(*p))
		for k, vs := range *p {
			c.key(k)
			for _, v := range vs {
				c.text(f.Type.Elem.Elem, v)
			}
		}
	}
	if c.bytes > MaxFieldBytes {
		c.fail(fmt.Sprintf("%d bytes, %d at most", c.bytes, MaxFieldBytes))
	}
	return c.bytes, c.err
}

type valueChecker struct {
	field *datamodel.Field
	bytes int
	err   error
}

func (c *valueChecker) fail(value string) {
	if c.err == nil {
		c.err = xenapi.ErrInvalidValue(c.field.Name, value)
	}
}

func (c *valueChecker) count(n int) {
	if n > MaxMembers && refType(c.field.Type) == nil {
		c.fail(fmt.Sprintf("%d members, %d at most", n, MaxMembers))
	}
}

// number refuses what neither JSON nor SQLite can hold.
func (c *valueChecker) number(v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		c.fail(fmt.Sprint(v))
	}
}

func (c *valueChecker) key(k string) {
	if k == "" {
		c.fail("an empty key")
	}
	c.text(c.field.Type.Key, k)
}

func (c *valueChecker) text(t *datamodel.Type, s string) {
	c.bytes += len(s)
	if t.Kind == datamodel.EnumType && !slices.Contains(t.Enum.Members, s) || !Storable(s) {
		c.fail(s)
	}
}

// Storable reports whether a string can be stored: UTF-8 of characters that
// XML 1.0 can carry.
func Storable(s string) bool {
	for i, r := range s {
		switch {
		case r >= 0x20 && r < 0x7f, r == '\t', r == '\n', r == '\r':
		case r < 0x20, r == 0xfffe, r == 0xffff:
			return false
		case r == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		}
	}
	return true
}
