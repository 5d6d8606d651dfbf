package wire

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// Raw is a value that is encoded already, in the encoding of the answer that
// it becomes part of: what AppendXML or AppendJSON gave.
type Raw []byte

// Chunks is one encoded value in pieces. An answer refers to them instead of
// copying; they must not change until it is sent.
type Chunks [][]byte

// RawSet is a set of encoded values; RawMap is a map to them, in its order. An
// answer refers to the values instead of copying.
type (
	RawSet []Raw
	RawMap []RawMember
)

// RawMember is one entry of a RawMap.
type RawMember struct {
	Name  string
	Value Raw
}

// Object is a struct that has no class, such as the answer of event.from; its
// values are canonical or of this package.
type Object []Member

// Member is one member of an Object.
type Member struct {
	Name  string
	Value any
}

// List is a set without a type.
type List []any

// Int32 is the integer that XML-RPC writes as <i4>; only the counts in
// valid_ref_counts are one.
type Int32 int32

// AppendXML writes v, a canonical value of type t, as a <value> element. Also
// taken are xenapi.Record, []xenapi.Record, map[string]xenapi.Record, what
// Record.Ptr points at, and this package's own values. t may be nil when v
// says it all.
func AppendXML(dst []byte, t *datamodel.Type, v any) []byte {
	return xmlSyntax.top(dst, t, v)
}

// AppendJSON writes v as JSON; it takes what AppendXML takes.
func AppendJSON(dst []byte, t *datamodel.Type, v any) []byte {
	return jsonSyntax.top(dst, t, v)
}

func (s *syntax) top(dst []byte, t *datamodel.Type, v any) []byte {
	if v == nil && (t == nil || t.Kind == datamodel.Void) {
		return s.text(dst, "")
	}
	return s.value(dst, v)
}

// value writes what most fields are, and leaves the rest to container.
func (s *syntax) value(dst []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return s.text(dst, v)
	case *string:
		return s.text(dst, *v)
	case bool:
		return s.bool(dst, v)
	case *bool:
		return s.bool(dst, *v)
	case int64:
		return s.int(dst, v)
	case *int64:
		return s.int(dst, *v)
	case []string:
		return s.texts(dst, v)
	case *[]string:
		return s.texts(dst, *v)
	case map[string]string:
		return mapping(s, dst, v, textKey, s.text)
	case *map[string]string:
		return mapping(s, dst, *v, textKey, s.text)
	case float64:
		return s.double(dst, v)
	case *float64:
		return s.double(dst, *v)
	case time.Time:
		return s.time(dst, v)
	case *time.Time:
		return s.time(dst, *v)
	case Raw:
		return append(dst, v...)
	case xenapi.Record:
		return s.record(dst, v)
	}
	return s.container(dst, v)
}

// container writes sets, maps and sets of records.
func (s *syntax) container(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, s.null...)
	case []int64:
		return set(s, dst, v, s.int)
	case *[]int64:
		return set(s, dst, *v, s.int)
	case [][]string:
		return set(s, dst, v, s.texts)
	case []xenapi.Record:
		return set(s, dst, v, s.record)
	case map[string]int64:
		return mapping(s, dst, v, textKey, s.int)
	case *map[string]int64:
		return mapping(s, dst, *v, textKey, s.int)
	case map[string][]string:
		return mapping(s, dst, v, textKey, s.texts)
	case *map[string][]string:
		return mapping(s, dst, *v, textKey, s.texts)
	case map[string]map[string]string:
		return mapping(s, dst, v, textKey, s.textMap)
	case map[string]xenapi.Record:
		return mapping(s, dst, v, textKey, s.record)
	case map[int64]int64:
		return mapping(s, dst, v, intKey, s.int)
	case *map[int64]int64:
		return mapping(s, dst, *v, intKey, s.int)
	case map[int64]float64:
		return mapping(s, dst, v, intKey, s.double)
	case *map[int64]float64:
		return mapping(s, dst, *v, intKey, s.double)
	case map[int64][]string:
		return mapping(s, dst, v, intKey, s.texts)
	case *map[int64][]string:
		return mapping(s, dst, *v, intKey, s.texts)
	}
	return s.own(dst, v)
}

// own writes this package's values.
func (s *syntax) own(dst []byte, v any) []byte {
	switch v := v.(type) {
	case Int32:
		return s.int32(dst, int32(v))
	case List:
		return set(s, dst, v, s.value)
	case Object:
		return s.object(dst, v)
	case RawSet:
		return set(s, dst, v, func(dst []byte, r Raw) []byte { return append(dst, r...) })
	case RawMap:
		dst = append(dst, s.openMap...)
		for i, m := range v {
			dst = append(append(s.key(dst, i == 0, m.Name), m.Value...), s.closeMember...)
		}
		return append(dst, s.closeMap...)
	case Chunks:
		for _, c := range v {
			dst = append(dst, c...)
		}
		return dst
	case *Fields:
		return s.fields(dst, v)
	case []*Fields:
		return set(s, dst, v, s.fields)
	case map[string]*Fields:
		return mapping(s, dst, v, textKey, s.fields)
	case Value:
		return s.echo(dst, &v)
	}
	if inner, given := option(v); given {
		return s.value(dst, inner)
	}
	panic(fmt.Sprintf("wire: no encoding for %T", v))
}

// option looks into what Ptr gives for a field that may be absent.
func option(v any) (inner any, given bool) {
	switch v := v.(type) {
	case **string:
		if *v == nil {
			return nil, true
		}
		return *v, true
	case *xenapi.Record:
		if *v == nil {
			return nil, true
		}
		return *v, true
	}
	return nil, false
}

func (s *syntax) texts(dst []byte, v []string) []byte { return set(s, dst, v, s.text) }

func (s *syntax) textMap(dst []byte, v map[string]string) []byte {
	return mapping(s, dst, v, textKey, s.text)
}

func set[T any](s *syntax, dst []byte, v []T, elem func([]byte, T) []byte) []byte {
	dst = append(dst, s.openSet...)
	for i := range v {
		if i > 0 {
			dst = append(dst, s.comma...)
		}
		dst = elem(dst, v[i])
	}
	return append(dst, s.closeSet...)
}

func textKey(k string) string { return k }
func intKey(k int64) string   { return strconv.FormatInt(k, 10) }

// mapping writes a map with its keys in order.
func mapping[K cmp.Ordered, T any](s *syntax, dst []byte, v map[K]T, name func(K) string, elem func([]byte, T) []byte) []byte {
	dst = append(dst, s.openMap...)
	var room [16]K
	keys := room[:0]
	for k := range v {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for i, k := range keys {
		dst = s.key(dst, i == 0, name(k))
		dst = elem(dst, v[k])
		dst = append(dst, s.closeMember...)
	}
	return append(dst, s.closeMap...)
}

func (s *syntax) object(dst []byte, v Object) []byte {
	dst = append(dst, s.openMap...)
	for i, m := range v {
		dst = s.key(dst, i == 0, m.Name)
		dst = s.value(dst, m.Value)
		dst = append(dst, s.closeMember...)
	}
	return append(dst, s.closeMap...)
}

// record writes every field that clients see; absent options are left out.
func (s *syntax) record(dst []byte, r xenapi.Record) []byte {
	dst = append(dst, s.openMap...)
	first := true
	for i, f := range xenapi.Class(r).Fields {
		if f.InternalOnly {
			continue
		}
		v := r.Ptr(i)
		if f.Type.Kind == datamodel.Option {
			if v, _ = option(v); v == nil {
				continue
			}
		}
		dst = s.key(dst, first, f.Name)
		dst = s.value(dst, v)
		dst = append(dst, s.closeMember...)
		first = false
	}
	return append(dst, s.closeMap...)
}

// fields writes the members that a Fields has.
func (s *syntax) fields(dst []byte, r *Fields) []byte {
	dst = append(dst, s.openMap...)
	first := true
	for i, f := range r.Class.Fields {
		if !r.given[i] || r.values[i] == nil {
			continue
		}
		dst = s.key(dst, first, f.Name)
		dst = s.value(dst, r.values[i])
		dst = append(dst, s.closeMember...)
		first = false
	}
	return append(dst, s.closeMap...)
}

// echo writes an untyped value back, as system.isAlive does; scalars that are
// not what they claim to be go as text.
func (s *syntax) echo(dst []byte, v *Value) []byte {
	switch v.Kind {
	case Nil:
		return append(dst, s.null...)
	case Array:
		return set(s, dst, v.Items, func(dst []byte, v Value) []byte { return s.echo(dst, &v) })
	case Struct:
		dst = append(dst, s.openMap...)
		for i := range v.Items {
			dst = s.key(dst, i == 0, v.Items[i].Name)
			dst = append(s.echo(dst, &v.Items[i]), s.closeMember...)
		}
		return append(dst, s.closeMap...)
	case Bool:
		return s.bool(dst, v.Text == "1")
	case DateTime:
		if t, ok := parseTime(v.Text); ok {
			return s.time(dst, t)
		}
	case Int, Double, Number:
		if n, ok := parseInt(v.Text); ok && v.Kind != Double {
			return s.int(dst, n)
		}
		if f, ok := parseFloat(v.Text); ok {
			return s.double(dst, f)
		}
	}
	return s.text(dst, v.Text)
}
