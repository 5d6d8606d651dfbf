package wire

import (
	"strconv"
	"time"

	"xapid/pkg/datamodel"
)

// DBText gives the text that the query language compares a value of type t
// with: a set is ('a' 'b'), a map (('k' 'v')), a time 20260823T10:11:12Z. v is
// canonical or what Record.Ptr points at.
func DBText(t *datamodel.Type, v any) string {
	switch v := v.(type) {
	case string:
		return v
	case *string:
		return *v
	case int64:
		return strconv.FormatInt(v, 10)
	case *int64:
		return strconv.FormatInt(*v, 10)
	case bool:
		return strconv.FormatBool(v)
	case *bool:
		return strconv.FormatBool(*v)
	case float64:
		return string(appendFloat(nil, v))
	case *float64:
		return string(appendFloat(nil, *v))
	case time.Time:
		return string(appendTime(nil, v))
	case *time.Time:
		return string(appendTime(nil, *v))
	case nil:
		return ""
	}
	if inner, ok := option(v); ok {
		if inner == nil {
			return ""
		}
		if t != nil && t.Kind == datamodel.Option {
			t = t.Elem
		}
		return DBText(t, inner)
	}
	return string(dbSyntax.value(nil, v))
}

// dbSyntax is the database's notation, written by the same walker.
var dbSyntax = syntax{
	open: "'", close: "'",
	openInt: "'", closeInt: "'",
	openF: "'", closeF: "'",
	openSet: "(", closeSet: ")",
	openMap: "(", closeMap: ")",
	openKey: "('", closeKey: "' ", closeMember: ")",
	comma:  " ",
	escape: appendDBText, float: appendFloat,
}

// appendDBText escapes as the original's database does.
func appendDBText(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c == '\'' || c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return dst
}
