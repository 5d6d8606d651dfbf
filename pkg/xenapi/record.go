// Package xenapi holds the words of the XenAPI as Go types: a record, a
// reference and enums for each class, and an error constructor for each code.
//
// Almost all of it is generated from the datamodel. Its one invariant: a
// record's fields stand in the order of datamodel.Class.Fields, so that
// generic code can reach field i by Ptr(i). Start reading here, then at
// vm_gen.go.
package xenapi

import (
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"
	"time"
	"unsafe"

	"xapid/pkg/datamodel"
)

// Null is the reference that names nothing, of every class.
const Null = "OpaqueRef:NULL"

// RefPrefix begins every reference on the wire.
const RefPrefix = "OpaqueRef:"

// Record is one object's fields; the generated structs implement it.
//
// Ptr(i) points at field i of the class in one of these types, whatever the
// field's own: *string (strings, enums, refs, secrets), *int64, *float64,
// *bool, *time.Time (UTC, whole seconds), *[]string (sets of textual types),
// *[]int64, *map[string]string (maps between textual types), *map[string]int64,
// *map[string][]string, *map[int64]int64, *map[int64]float64,
// *map[int64][]string, **string and *Record for options.
//
// A record that the database handed out is shared and must not be changed,
// neither its fields nor the sets and maps in them: replace, don't mutate.
type Record interface {
	// XenClass is the record's datamodel.Class.ID.
	XenClass() int
	// Ptr points at field i.
	Ptr(i int) any
	// Clone copies the record; sets and maps stay shared.
	Clone() Record
}

// NewUUID draws a random (version 4) uuid, lower case.
func NewUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return FormatUUID(b)
}

// FormatUUID writes 16 bytes as 8-4-4-4-12 lower-case hexadecimal digits.
func FormatUUID(b [16]byte) string {
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	s[8] = '-'
	hex.Encode(s[9:13], b[4:6])
	s[13] = '-'
	hex.Encode(s[14:18], b[6:8])
	s[18] = '-'
	hex.Encode(s[19:23], b[8:10])
	s[23] = '-'
	hex.Encode(s[24:36], b[10:16])
	return string(s[:])
}

// NewRef draws a fresh reference. Its uuid is never the object's own: a
// session's uuid may be shown, its reference is a credential.
func NewRef[R ~string]() R { return R(RefPrefix + NewUUID()) }

// Class returns the datamodel's entry for a record.
func Class(r Record) *datamodel.Class { return datamodel.Get().Classes[r.XenClass()] }

// strs views a set of a textual type as a set of strings; they are laid out
// alike, since T's underlying type is string.
func strs[T ~string](p *[]T) *[]string { return (*[]string)(unsafe.Pointer(p)) }

// Texts copies a set of a textual type into plain strings.
func Texts[T ~string](in []T) []string { return *strs(&in) }

// As views plain strings as a set of a textual type.
func As[T ~string](in []string) []T { return *(*[]T)(unsafe.Pointer(&in)) }

// SameField reports whether field values at two pointers from Ptr are equal;
// an empty set or map equals a nil one.
func SameField(a, b any) bool {
	switch a := a.(type) {
	case *string:
		return *a == *b.(*string)
	case *int64:
		return *a == *b.(*int64)
	case *float64:
		return *a == *b.(*float64)
	case *bool:
		return *a == *b.(*bool)
	case *time.Time:
		return a.Equal(*b.(*time.Time))
	case *[]string:
		return slices.Equal(*a, *b.(*[]string))
	case *[]int64:
		return slices.Equal(*a, *b.(*[]int64))
	case *map[string]string:
		return maps.Equal(*a, *b.(*map[string]string))
	}
	return sameRare(a, b)
}

func sameRare(a, b any) bool {
	switch a := a.(type) {
	case *map[string]int64:
		return maps.Equal(*a, *b.(*map[string]int64))
	case *map[int64]int64:
		return maps.Equal(*a, *b.(*map[int64]int64))
	case *map[int64]float64:
		return maps.Equal(*a, *b.(*map[int64]float64))
	case *map[string][]string:
		return maps.EqualFunc(*a, *b.(*map[string][]string), slices.Equal[[]string])
	case *map[int64][]string:
		return maps.EqualFunc(*a, *b.(*map[int64][]string), slices.Equal[[]string])
	case **string:
		x, y := *a, *b.(**string)
		return x == y || x != nil && y != nil && *x == *y
	}
	return false
}

// CopyField assigns the value at src to dst, both from Ptr of the same field.
func CopyField(dst, src any) {
	switch d := dst.(type) {
	case *string:
		*d = *src.(*string)
	case *int64:
		*d = *src.(*int64)
	case *float64:
		*d = *src.(*float64)
	case *bool:
		*d = *src.(*bool)
	case *time.Time:
		*d = *src.(*time.Time)
	case *[]string:
		*d = *src.(*[]string)
	case *[]int64:
		*d = *src.(*[]int64)
	case *map[string]string:
		*d = *src.(*map[string]string)
	case *map[string]int64:
		*d = *src.(*map[string]int64)
	case *map[int64]int64:
		*d = *src.(*map[int64]int64)
	case *map[int64]float64:
		*d = *src.(*map[int64]float64)
	case *map[string][]string:
		*d = *src.(*map[string][]string)
	case *map[int64][]string:
		*d = *src.(*map[int64][]string)
	case **string:
		*d = *src.(**string)
	}
}
