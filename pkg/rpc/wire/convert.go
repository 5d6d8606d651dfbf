package wire

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// The codes that a conversion fails with.
const (
	codeShape   = "XMLRPC_UNMARSHAL_FAILURE"
	codeField   = "FIELD_TYPE_ERROR"
	codeInvalid = "INVALID_VALUE"
)

// Fields is a record as a client gave it: the members that it named, by field.
type Fields struct {
	Class  *datamodel.Class
	values []any
	given  []bool
}

// Get returns the canonical value of a field and whether it was given.
func (f *Fields) Get(field *datamodel.Field) (any, bool) {
	return f.values[field.Index], f.given[field.Index]
}

// Set gives a field a canonical value.
func (f *Fields) Set(field *datamodel.Field, v any) {
	f.values[field.Index], f.given[field.Index] = v, true
}

// NewFields makes an empty record of a class.
func NewFields(c *datamodel.Class) *Fields {
	return &Fields{Class: c, values: make([]any, len(c.Fields)), given: make([]bool, len(c.Fields))}
}

// Decode converts a wire value into the canonical Go value of a type; the
// package comment lists them. param names the parameter in errors, which are
// *xenapi.Error:
//
//	XMLRPC_UNMARSHAL_FAILURE [expected, received]  the shape is another
//	FIELD_TYPE_ERROR [field]                       so it is, inside a record
//	INVALID_VALUE [param, text]                    no member of the enum, or text that can't be stored
func Decode(t *datamodel.Type, v Value, param string) (any, error) {
	c := converter{param: param}
	out, err := c.any(t, &v)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// converter carries the name that errors give to the value at hand.
type converter struct{ param string }

func (c *converter) any(t *datamodel.Type, v *Value) (any, error) {
	switch t.Kind {
	case datamodel.Int:
		return result(c.int(t, v))
	case datamodel.Float:
		return result(c.float(t, v))
	case datamodel.Bool:
		if v.Kind != Bool || v.Text != "0" && v.Text != "1" {
			return nil, shape(t, v)
		}
		return v.Text == "1", nil
	case datamodel.DateTime:
		return result(c.time(t, v))
	case datamodel.Set:
		return c.set(t, v)
	case datamodel.Map:
		return c.mapping(t, v)
	case datamodel.Record:
		return result(c.record(t, v))
	case datamodel.Option:
		if v.Kind == Nil {
			return nil, nil
		}
		return c.any(t.Elem, v)
	case datamodel.Void:
		if v.Kind != Nil && (v.Kind != String || v.Text != "") {
			return nil, shape(t, v)
		}
		return nil, nil
	}
	return result(c.text(t, v))
}

// result boxes a value only when there is no error.
func result[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

// shape is the error for a value of another kind than t needs, or whose text
// is none of t's. Secrets are not repeated.
func shape(t *datamodel.Type, v *Value) error {
	got := v.Kind.String()
	switch {
	case v.Kind == Invalid:
		got = v.Text
	case v.Kind != Array && v.Kind != Struct && v.Kind != Nil && t.Kind != datamodel.Secret:
		got += " " + Clip(v.Text)
	}
	return &xenapi.Error{Code: codeShape, Params: []string{t.String(), got}}
}

func (c *converter) invalid(text string) error {
	return &xenapi.Error{Code: codeInvalid, Params: []string{c.param, Clip(text)}}
}

// checked refuses text that the database could not give back in XML.
func (c *converter) checked(secret bool, s string) (string, error) {
	fault := checkText(s)
	if fault == textGood {
		return s, nil
	}
	echo := s
	if secret {
		echo = ""
	}
	if fault == textNotUTF8 {
		return "", &xenapi.Error{Code: codeInvalid, Params: []string{"Invalid UTF-8 string in parameter", Clip(echo)}}
	}
	return "", c.invalid(echo)
}

func (c *converter) text(t *datamodel.Type, v *Value) (string, error) {
	s := v.Text
	switch v.Kind {
	case String:
	case Base64:
		raw, err := base64.StdEncoding.DecodeString(withoutBlanks(s))
		if err != nil {
			return "", shape(t, v)
		}
		s = string(raw)
	default:
		return "", shape(t, v)
	}
	s, err := c.checked(t.Kind == datamodel.Secret, s)
	if err != nil || t.Kind != datamodel.EnumType {
		return s, err
	}
	return c.enum(t, s)
}

func withoutBlanks(s string) string {
	return strings.NewReplacer(" ", "", "\t", "", "\n", "", "\r", "").Replace(s)
}

// enum finds the canonical spelling of an enum's text.
func (c *converter) enum(t *datamodel.Type, s string) (string, error) {
	for _, m := range t.Enum.Members {
		if m == s || equalFoldASCII(m, s) {
			return m, nil
		}
	}
	return "", c.invalid(s)
}

func equalFoldASCII(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func (c *converter) int(t *datamodel.Type, v *Value) (int64, error) {
	if v.Kind == Int || v.Kind == Number || v.Kind == String {
		if n, ok := parseInt(v.Text); ok {
			return n, nil
		}
	}
	return 0, shape(t, v)
}

func (c *converter) float(t *datamodel.Type, v *Value) (float64, error) {
	if v.Kind == Double || v.Kind == Int || v.Kind == Number || v.Kind == String {
		if f, ok := parseFloat(v.Text); ok {
			return f, nil
		}
	}
	return 0, shape(t, v)
}

func (c *converter) time(t *datamodel.Type, v *Value) (time.Time, error) {
	if v.Kind == DateTime || v.Kind == String {
		if tm, ok := parseTime(v.Text); ok {
			return tm, nil
		}
	}
	return time.Time{}, shape(t, v)
}

func (c *converter) set(t *datamodel.Type, v *Value) (any, error) {
	switch {
	case t.Elem.Textual():
		return result(setOf(t, v, c.text))
	case t.Elem.Kind == datamodel.Int:
		return result(setOf(t, v, c.int))
	case t.Elem.Kind == datamodel.Set && t.Elem.Elem.Textual():
		return result(setOf(t, v, c.texts))
	case t.Elem.Kind == datamodel.Record:
		return result(setOf(t, v, c.record))
	}
	return nil, unsupported(t)
}

// unsupported marks a type that the datamodel does not have; a test walks all
// that it has.
func unsupported(t *datamodel.Type) error {
	return fmt.Errorf("wire: no canonical value for %s", t)
}

func (c *converter) texts(t *datamodel.Type, v *Value) ([]string, error) { return setOf(t, v, c.text) }

func setOf[T any](t *datamodel.Type, v *Value, elem func(*datamodel.Type, *Value) (T, error)) ([]T, error) {
	if v.Kind != Array {
		return nil, shape(t, v)
	}
	out := make([]T, len(v.Items))
	for i := range v.Items {
		var err error
		if out[i], err = elem(t.Elem, &v.Items[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *converter) mapping(t *datamodel.Type, v *Value) (any, error) {
	e := t.Elem
	if t.Key.Kind == datamodel.Int {
		switch {
		case e.Kind == datamodel.Int:
			return result(mapOf(t, v, c.intKey, c.int))
		case e.Kind == datamodel.Float:
			return result(mapOf(t, v, c.intKey, c.float))
		case e.Kind == datamodel.Set && e.Elem.Textual():
			return result(mapOf(t, v, c.intKey, c.texts))
		}
		return nil, unsupported(t)
	}
	switch {
	case e.Textual():
		return result(c.textMap(t, v))
	case e.Kind == datamodel.Int:
		return result(mapOf(t, v, c.text, c.int))
	case e.Kind == datamodel.Set && e.Elem.Textual():
		return result(mapOf(t, v, c.text, c.texts))
	case e.Kind == datamodel.Map && e.Key.Textual() && e.Elem.Textual():
		return result(mapOf(t, v, c.text, c.textMap))
	case e.Kind == datamodel.Record:
		return result(mapOf(t, v, c.text, c.record))
	}
	return nil, unsupported(t)
}

func (c *converter) textMap(t *datamodel.Type, v *Value) (map[string]string, error) {
	return mapOf(t, v, c.text, c.text)
}

func (c *converter) intKey(t *datamodel.Type, v *Value) (int64, error) { return c.int(t, v) }

// mapOf converts a struct. Two names can be one key (0x1 and 1, Start and
// start): that is refused as a member given twice.
func mapOf[K comparable, T any](t *datamodel.Type, v *Value,
	key func(*datamodel.Type, *Value) (K, error), elem func(*datamodel.Type, *Value) (T, error)) (map[K]T, error) {
	if v.Kind != Struct {
		return nil, shape(t, v)
	}
	out := make(map[K]T, len(v.Items))
	for i := range v.Items {
		m := &v.Items[i]
		k, err := key(t.Key, &Value{Kind: String, Text: m.Name})
		if err != nil {
			return nil, err
		}
		if out[k], err = elem(t.Elem, m); err != nil {
			return nil, err
		}
		if len(out) != i+1 {
			return nil, shape(t, &Value{Kind: Invalid, Text: "struct with key " + strconv.Quote(Clip(m.Name)) + " twice"})
		}
	}
	return out, nil
}

// record takes the members that are fields of the class. A field that no
// client can set is left out when it does not read well: whole records may be
// passed to a constructor, those of a newer server too.
func (c *converter) record(t *datamodel.Type, v *Value) (*Fields, error) {
	if v.Kind != Struct {
		return nil, shape(t, v)
	}
	out := NewFields(t.Class)
	for i := range v.Items {
		m := &v.Items[i]
		f := t.Class.FieldByName(m.Name)
		if f == nil || f.InternalOnly {
			continue
		}
		inner := converter{param: f.Name}
		val, err := inner.any(f.Type, m)
		switch {
		case err == nil:
			out.Set(f, val)
		case !f.CanCreate():
		case xenapi.Code(err) == codeShape:
			return nil, &xenapi.Error{Code: codeField, Params: []string{f.Name}}
		default:
			return nil, err
		}
	}
	return out, nil
}
