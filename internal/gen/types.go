package main

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"xapid/pkg/datamodel"
)

// goType is the Go type of a value of the API; prefix is "xenapi." outside
// that package. Sets keep their element type, maps are keyed by plain strings.
func goType(t *datamodel.Type, prefix string) string {
	switch t.Kind {
	case datamodel.String, datamodel.Secret:
		return "string"
	case datamodel.Int:
		return "int64"
	case datamodel.Float:
		return "float64"
	case datamodel.Bool:
		return "bool"
	case datamodel.DateTime:
		return "time.Time"
	case datamodel.EnumType:
		return prefix + enumName(t.Enum)
	case datamodel.Ref:
		return prefix + goName(t.Name) + "Ref"
	case datamodel.Record:
		return "*" + prefix + goName(t.Name)
	case datamodel.Set:
		if t.Elem.Kind == datamodel.Record {
			return "[]" + prefix + "Record"
		}
		return "[]" + goType(t.Elem, prefix)
	case datamodel.Option:
		if t.Elem.Kind == datamodel.Record {
			return prefix + "Record"
		}
		return "*" + goType(t.Elem, prefix)
	case datamodel.Map:
		return "map[" + plainType(t.Key, prefix) + "]" + plainType(t.Elem, prefix)
	}
	return ""
}

// plainType is goType with every textual type a string.
func plainType(t *datamodel.Type, prefix string) string {
	switch {
	case t.Textual():
		return "string"
	case t.Kind == datamodel.Set && t.Elem.Textual():
		return "[]string"
	case t.Kind == datamodel.Record:
		return prefix + "Record"
	}
	return goType(t, prefix)
}

// typed reports whether a textual type has a Go type of its own.
func typed(t *datamodel.Type) bool {
	return t.Kind == datamodel.EnumType || t.Kind == datamodel.Ref
}

// ptr is the expression for Record.Ptr of a field.
func ptr(f *datamodel.Field) string {
	p := "&r." + goName(f.Name)
	switch {
	case typed(f.Type):
		return "(*string)(" + p + ")"
	case f.Type.Kind == datamodel.Set && typed(f.Type.Elem):
		return "strs(" + p + ")"
	}
	return p
}

// arg is the expression that turns canonical argument i into its Go type.
func arg(p datamodel.Param, i int) string {
	return fromCanonical(p.Type, fmt.Sprintf("a[%d]", i))
}

// fromCanonical asserts the canonical value expr and gives it its own type.
func fromCanonical(t *datamodel.Type, expr string) string {
	full := goType(t, "xenapi.")
	switch {
	case typed(t):
		return full + "(" + expr + ".(string))"
	case t.Kind == datamodel.Set && typed(t.Elem):
		return "xenapi.As[" + goType(t.Elem, "xenapi.") + "](" + expr + ".([]string))"
	}
	return expr + ".(" + full + ")"
}

// result is the expression that turns the Go value r into a canonical one.
func result(t *datamodel.Type) string {
	switch {
	case typed(t):
		return "string(r)"
	case t.Kind == datamodel.Set && typed(t.Elem):
		return "xenapi.Texts(r)"
	}
	return "r"
}

// decodeResult names the function of the client that gives a canonical result
// its Go type.
func decodeResult(t *datamodel.Type) string {
	switch {
	case t.Kind == datamodel.Void:
		return "none"
	case t.Textual():
		return "text[" + goType(t, "xenapi.") + "]"
	case t.Kind == datamodel.Set && typed(t.Elem):
		return "set[" + goType(t.Elem, "xenapi.") + "]"
	}
	return "value[" + goType(t, "xenapi.") + "]"
}

// clientArg is the expression that the client passes for a parameter.
func clientArg(p datamodel.Param, i int) string {
	n := argName(p.Name, i)
	switch {
	case typed(p.Type):
		return "string(" + n + ")"
	case p.Type.Kind == datamodel.Set && typed(p.Type.Elem):
		return "xenapi.Texts(" + n + ")"
	}
	return n
}

// zero is the zero value of a result, for error returns.
func zero(t *datamodel.Type) string {
	switch t.Kind {
	case datamodel.String, datamodel.Secret, datamodel.EnumType, datamodel.Ref:
		return `""`
	case datamodel.Int, datamodel.Float:
		return "0"
	case datamodel.Bool:
		return "false"
	case datamodel.DateTime:
		return "time.Time{}"
	}
	return "nil"
}

// defaults lists the assignments that a new record needs beyond Go's zero.
func defaults(c *datamodel.Class) []string {
	var out []string
	for _, f := range c.Fields {
		if v := defaultOf(f); v != "" {
			out = append(out, goName(f.Name)+": "+v)
		}
	}
	return out
}

func defaultOf(f *datamodel.Field) string {
	switch f.Type.Kind {
	case datamodel.Ref:
		return "Null"
	case datamodel.DateTime:
		return "Epoch"
	case datamodel.EnumType:
		m := f.Type.Enum.Members[0]
		if s, ok := f.Default.(string); ok && s != "" {
			m = s
		}
		return memberName(f.Type.Enum, m)
	case datamodel.Set:
		return literalSet(f)
	case datamodel.Map:
		return literalMap(f)
	}
	b, err := json.Marshal(f.Default)
	if s := string(b); err == nil && f.HasDefault && s != `""` && s != "0" && s != "false" {
		return s
	}
	return ""
}

func literalSet(f *datamodel.Field) string {
	list, ok := f.Default.([]any)
	if !ok || len(list) == 0 {
		return ""
	}
	var parts []string
	for _, v := range list {
		b, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		parts = append(parts, string(b))
	}
	return goType(f.Type, "") + "{" + strings.Join(parts, ", ") + "}"
}

func literalMap(f *datamodel.Field) string {
	m, ok := f.Default.(map[string]any)
	if !ok || len(m) == 0 {
		return ""
	}
	var parts []string
	for k, v := range m {
		parts = append(parts, fmt.Sprintf("%q: %q", k, v))
	}
	sort.Strings(parts)
	return goType(f.Type, "") + "{" + strings.Join(parts, ", ") + "}"
}

// explicit lists a class's explicit messages.
func explicit(c *datamodel.Class) []*datamodel.Message {
	var out []*datamodel.Message
	for _, m := range c.Messages {
		if m.Kind == datamodel.Explicit {
			out = append(out, m)
		}
	}
	return out
}

// docLine is what a schema line says of itself, or words made of its name.
func docLine(doc, name string) string {
	if doc != "" {
		return doc
	}
	return "is " + strings.ReplaceAll(name, "_", " ") + "."
}

// comment starts a doc comment with the name that it documents.
func comment(name, doc, fallback string) string {
	if doc == "" {
		doc = fallback
	}
	return "// " + name + ": " + doc
}

// cell escapes text for a cell of a Markdown table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
