package db

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// How fields lie in SQLite: texts, numbers and floats as they are, booleans
// as 0 and 1, datetimes as the wire writes them, sets and maps as JSON.
const timeLayout = "20060102T15:04:05Z"

// columnType is the declared type of a field's column.
func columnType(f *datamodel.Field) string {
	switch f.Type.Kind {
	case datamodel.Int, datamodel.Bool:
		return "INTEGER"
	case datamodel.Float:
		return "REAL"
	}
	return "TEXT"
}

// columnValue is what the column holds for a field.
func columnValue(p any) driver.Value {
	switch p := p.(type) {
	case *string:
		return *p
	case *int64:
		return *p
	case *float64:
		return *p
	case *bool:
		if *p {
			return int64(1)
		}
		return int64(0)
	case *time.Time:
		return p.UTC().Format(timeLayout)
	case *[]string:
		if len(*p) == 0 {
			return "[]"
		}
	case *map[string]string:
		if len(*p) == 0 {
			return "{}"
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(p); err != nil {
		panic(fmt.Sprintf("db: a field type that JSON can't hold: %T", p)) // the set of types is closed
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// columnReader sets fields from what columns hold; equal short texts share
// their memory.
type columnReader struct {
	seen map[string]string
	sets map[string][]string
	maps map[string]map[string]string
}

func newColumnReader() *columnReader {
	return &columnReader{map[string]string{}, map[string][]string{}, map[string]map[string]string{}}
}

// Texts as long as a uuid or a reference hardly repeat, and are not looked up
// to be shared. What has not repeated among maxInterned others is forgotten.
const (
	uuidLength  = 36
	refLength   = len(xenapi.RefPrefix) + uuidLength
	maxInterned = 1 << 12
)

func (r *columnReader) intern(s string) string {
	if n := len(s); n == 0 || n >= uuidLength && n <= refLength {
		return s
	}
	if old, ok := r.seen[s]; ok {
		return old
	}
	remember(r.seen, s, s)
	return s
}

func remember[V any](seen map[string]V, text string, v V) {
	if len(seen) >= maxInterned {
		clear(seen)
	}
	seen[text] = v
}

// read sets the field at p; NULL, as in a column that a migration added,
// leaves the default.
func (r *columnReader) read(p any, v driver.Value) error {
	switch v := v.(type) {
	case nil:
		return nil
	case int64:
		return r.number(p, v)
	case float64:
		if f, ok := p.(*float64); ok {
			*f = v
			return nil
		}
	case []byte:
		return r.text(p, string(v))
	case string:
		return r.text(p, v)
	}
	return fmt.Errorf("column holds %T for %T", v, p)
}

func (r *columnReader) number(p any, v int64) error {
	switch p := p.(type) {
	case *int64:
		*p = v
	case *bool:
		*p = v != 0
	case *float64:
		*p = float64(v)
	default:
		return fmt.Errorf("column holds a number for %T", p)
	}
	return nil
}

func (r *columnReader) text(p any, s string) error {
	switch p := p.(type) {
	case *string:
		*p = r.intern(s)
		return nil
	case *time.Time:
		t, err := time.Parse(timeLayout, s)
		*p = t
		return err
	case *[]string:
		return r.set(p, s)
	case *map[string]string:
		return r.mapping(p, s)
	}
	return json.Unmarshal([]byte(s), p)
}

// set and mapping read JSON of plain strings by hand: nine in ten columns of
// a host hold nothing else, and start-up is this loop.
func (r *columnReader) set(p *[]string, s string) error {
	if s == "[]" {
		return nil
	}
	if old, ok := r.sets[s]; ok {
		*p = old
		return nil
	}
	sc := flatJSON{s: s, r: r}
	var out []string
	if sc.open('[') {
		for more := true; more; more = sc.comma(']') {
			out = append(out, sc.str())
		}
	}
	if sc.bad {
		return json.Unmarshal([]byte(s), p)
	}
	*p = slices.Clip(out)
	remember(r.sets, s, *p)
	return nil
}

func (r *columnReader) mapping(p *map[string]string, s string) error {
	if s == "{}" {
		return nil
	}
	if old, ok := r.maps[s]; ok {
		*p = old
		return nil
	}
	sc := flatJSON{s: s, r: r}
	out := map[string]string{}
	if sc.open('{') {
		for more := true; more; more = sc.comma('}') {
			k := sc.str()
			sc.open(':')
			out[k] = sc.str()
		}
	}
	if sc.bad {
		return json.Unmarshal([]byte(s), p)
	}
	*p = out
	remember(r.maps, s, out)
	return nil
}

// flatJSON scans JSON without blanks and escapes; anything else is bad and
// left to encoding/json.
type flatJSON struct {
	s   string
	r   *columnReader
	bad bool
}

func (f *flatJSON) open(c byte) bool {
	if f.bad || f.s == "" || f.s[0] != c {
		f.bad = true
		return false
	}
	f.s = f.s[1:]
	return true
}

// comma reports whether more follows; it takes the comma or the end.
func (f *flatJSON) comma(end byte) bool {
	if f.s == "" || f.bad {
		f.bad = true
		return false
	}
	c := f.s[0]
	f.s = f.s[1:]
	if c == end && f.s == "" {
		return false
	}
	f.bad = c != ','
	return !f.bad
}

func (f *flatJSON) str() string {
	if !f.open('"') {
		return ""
	}
	i := strings.IndexByte(f.s, '"')
	if i < 0 || strings.IndexByte(f.s[:i], '\\') >= 0 {
		f.bad = true
		return ""
	}
	out := f.r.intern(f.s[:i])
	f.s = f.s[i+1:]
	return out
}
