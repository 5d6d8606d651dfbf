package wire

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// syntax is one encoding as data: what stands around and between values. The
// walker in encode.go writes both with it.
type syntax struct {
	open, close         string // around text
	openInt, closeInt   string
	openI32, closeI32   string
	openF, closeF       string
	yes, no             string
	openTime, closeTime string
	openSet, closeSet   string
	openMap, closeMap   string
	openKey, closeKey   string // around a member's name
	closeMember         string
	comma               string // between elements and between members
	null                string
	escape              func(dst []byte, s string) []byte
	float               func(dst []byte, f float64) []byte
}

var xmlSyntax = syntax{
	open: "<value>", close: "</value>",
	openInt: "<value>", closeInt: "</value>",
	openI32: "<value><i4>", closeI32: "</i4></value>",
	openF: "<value><double>", closeF: "</double></value>",
	yes: "<value><boolean>1</boolean></value>", no: "<value><boolean>0</boolean></value>",
	openTime: "<value><dateTime.iso8601>", closeTime: "</dateTime.iso8601></value>",
	openSet: "<value><array><data>", closeSet: "</data></array></value>",
	openMap: "<value><struct>", closeMap: "</struct></value>",
	openKey: "<member><name>", closeKey: "</name>", closeMember: "</member>",
	null:   "<value><nil/></value>",
	escape: appendXMLText, float: appendFloat,
}

var jsonSyntax = syntax{
	open: `"`, close: `"`,
	yes: "true", no: "false",
	openTime: `"`, closeTime: `"`,
	openSet: "[", closeSet: "]",
	openMap: "{", closeMap: "}",
	openKey: `"`, closeKey: `":`,
	comma: ",", null: "null",
	escape: appendJSONText, float: appendJSONFloat,
}

func (s *syntax) text(dst []byte, v string) []byte {
	dst = append(dst, s.open...)
	dst = s.escape(dst, v)
	return append(dst, s.close...)
}

func (s *syntax) int(dst []byte, n int64) []byte {
	dst = append(dst, s.openInt...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, s.closeInt...)
}

func (s *syntax) int32(dst []byte, n int32) []byte {
	dst = append(dst, s.openI32...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, s.closeI32...)
}

func (s *syntax) double(dst []byte, f float64) []byte {
	dst = append(dst, s.openF...)
	dst = s.float(dst, f)
	return append(dst, s.closeF...)
}

func (s *syntax) bool(dst []byte, b bool) []byte {
	if b {
		return append(dst, s.yes...)
	}
	return append(dst, s.no...)
}

func (s *syntax) time(dst []byte, t time.Time) []byte {
	dst = append(dst, s.openTime...)
	dst = appendTime(dst, t)
	return append(dst, s.closeTime...)
}

// key begins a member; first says that no member stands before it.
func (s *syntax) key(dst []byte, first bool, name string) []byte {
	if !first {
		dst = append(dst, s.comma...)
	}
	dst = append(dst, s.openKey...)
	dst = s.escape(dst, name)
	return append(dst, s.closeKey...)
}

// xmlPlain marks the bytes that stand for themselves in XML text: all but the
// four that are escaped and the control bytes, which are dropped.
var xmlPlain, jsonPlain = plainBytes("<>&\"", "\t\n\r"), plainBytes("\"\\", "")

func plainBytes(special, control string) (t [256]bool) {
	for c := 0x20; c < 256; c++ {
		t[c] = true
	}
	for _, c := range []byte(control) {
		t[c] = true
	}
	for _, c := range []byte(special) {
		t[c] = false
	}
	return t
}

func appendXMLText(dst []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); i++ {
		if xmlPlain[s[i]] {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch s[i] {
		case '<':
			dst = append(dst, "&lt;"...)
		case '>':
			dst = append(dst, "&gt;"...)
		case '&':
			dst = append(dst, "&amp;"...)
		case '"':
			dst = append(dst, "&quot;"...)
		}
	}
	return append(dst, s[from:]...)
}

// appendJSONText escapes s; bytes that are no UTF-8 become U+FFFD.
func appendJSONText(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < utf8.RuneSelf && jsonPlain[c] {
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[from:i]...), "\uFFFD"...)
				from = i + 1
			}
			i += n - 1
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(dst, s[from:]...)
}

// appendJSONFloat writes null for what JSON has no number for.
func appendJSONFloat(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	return appendFloat(dst, f)
}
