// Package wire turns XML-RPC and JSON-RPC bytes into values and back.
//
// Its one invariant: what DecodeXMLCall and DecodeJSONCall accept is bounded
// (depth, number of values) before it is believed, and Decode yields only
// canonical Go values of a datamodel type, whichever encoding they came in:
//
//	string, ref, enum, secretstring     string
//	int, float, bool                    int64, float64, bool
//	datetime                            time.Time, UTC, whole seconds
//	set of textual, int, textual set    []string, []int64, [][]string
//	textual -> textual, int, set, map   map[string]string, map[string]int64,
//	                                    map[string][]string, map[string]map[string]string
//	int -> int, float, textual set      map[int64]int64, map[int64]float64, map[int64][]string
//	record, record set, ref -> record   *Fields, []*Fields, map[string]*Fields
//	option                              nil or the value inside
//	void                                nil
//
// A call goes DecodeXMLCall, Decode for each parameter, then XMLSuccess or
// XMLFailure with the answer. Start reading at Value, then convert.go.
package wire

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Kind is the shape that a value had on the wire.
type Kind uint8

// The kinds of wire values. Number is JSON's, which does not tell int from
// double. Invalid is a value that parsed but can mean nothing, such as a
// struct with a member twice: every conversion of it fails.
const (
	Nil Kind = iota
	String
	Int
	Double
	Bool
	DateTime
	Base64
	Number
	Array
	Struct
	Invalid
)

var kindNames = [...]string{"nil", "string", "int", "double", "boolean", "dateTime", "base64", "number", "array", "struct", ""}

// String names the kind as a client would.
func (k Kind) String() string { return kindNames[k] }

// Value is one decoded value without a type yet. Scalars keep their text, so
// that nothing is rounded or clamped before the type is known.
type Value struct {
	Kind  Kind
	Name  string  // of a struct's member
	Text  string  // of a scalar; "1" or "0" for Bool; what is wrong for Invalid
	Items []Value // elements of an Array, members of a Struct in their order
}

// Member finds a struct's member.
func (v *Value) Member(name string) (*Value, bool) {
	for i := range v.Items {
		if v.Kind == Struct && v.Items[i].Name == name {
			return &v.Items[i], true
		}
	}
	return nil, false
}

// Call is a decoded JSON-RPC call. ID is the id's own bytes, to be given back;
// V2 chooses the shape of the answer.
type Call struct {
	Method string
	Params []Value
	ID     []byte
	V2     bool
}

// SyntaxError says that a body is not a call at all. The server answers it
// with HTTP status 500 and closes the connection.
type SyntaxError struct {
	Offset int
	Reason string
}

// Error names the place and the reason.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("malformed request at byte %d: %s", e.Offset, e.Reason)
}

// Limits on what is decoded. A call has at most MaxValues values in all.
const (
	MaxDepth  = 64
	MaxValues = 1 << 17

	maxResponseValues = 1 << 28 // answers come from our own servers
	maxEcho           = 256
)

// Clip makes text from a stranger fit to be given back in an error: at most
// 256 bytes, valid UTF-8, nothing that XML can't carry.
func Clip(s string) string {
	if len(s) > maxEcho {
		cut := maxEcho
		for cut > maxEcho-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	if checkText(s) == textGood {
		return s
	}
	return strings.Map(func(r rune) rune {
		if !xmlRune(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// textFault says what keeps a text from being stored.
type textFault uint8

const (
	textGood textFault = iota
	textNotUTF8
	textNotXML
)

// checkText finds invalid UTF-8 and characters that XML 1.0 can't carry.
func checkText(s string) textFault {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < 0x20 && c != '\t' && c != '\n' && c != '\r' {
				if !utf8.ValidString(s[i:]) {
					return textNotUTF8
				}
				return textNotXML
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			return textNotUTF8
		}
		if !xmlRune(r) {
			return textNotXML
		}
		i += n
	}
	return textGood
}

func xmlRune(r rune) bool {
	return r >= 0x20 && r != 0xFFFE && r != 0xFFFF || r == '\t' || r == '\n' || r == '\r'
}

// stack collects the children of the containers that are being read; each
// container takes its own off when it closes, copied to the exact size.
type stack struct {
	items  []Value
	room   [8]Value
	budget int
	depth  int
	limit  int
}

func (s *stack) init(values, depth int) {
	s.items, s.budget, s.limit = s.room[:0], values, depth
}

func (s *stack) take(base int) []Value {
	if len(s.items) == base {
		return nil
	}
	out := make([]Value, len(s.items)-base)
	copy(out, s.items[base:])
	s.items = s.items[:base]
	return out
}

// duplicate returns a member's name that occurs twice.
func duplicate(members []Value) (string, bool) {
	if len(members) > 12 {
		return duplicateOfMany(members)
	}
	for i := range members {
		for j := range i {
			if members[i].Name == members[j].Name {
				return members[i].Name, true
			}
		}
	}
	return "", false
}

func duplicateOfMany(members []Value) (string, bool) {
	seen := make(map[string]struct{}, len(members))
	for i := range members {
		seen[members[i].Name] = struct{}{}
		if len(seen) != i+1 {
			return members[i].Name, true
		}
	}
	return "", false
}
