package wire

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// parseInt reads a decimal or 0x integer of 64 bits: no sign but minus, no
// blanks, no digit separators.
func parseInt(s string) (int64, bool) {
	digits, neg := strings.CutPrefix(s, "-")
	base := 10
	if hex, ok := strings.CutPrefix(digits, "0x"); ok {
		digits, base = hex, 16
	}
	if digits == "" || digits[0] == '+' || digits[0] == '-' {
		return 0, false
	}
	if neg {
		digits = "-" + digits
	}
	n, err := strconv.ParseInt(digits, base, 64)
	return n, err == nil
}

// parseFloat reads a decimal number that a float64 can hold; nan, inf and
// numbers that would become infinite are refused.
func parseFloat(s string) (float64, bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c|0x20 != 'e' {
			return 0, false
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// appendFloat prints as C's %.16g.
func appendFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, "nan"...)
	case math.IsInf(f, 1):
		return append(dst, "inf"...)
	case math.IsInf(f, -1):
		return append(dst, "-inf"...)
	}
	return strconv.AppendFloat(dst, f, 'g', 16, 64)
}

const timeForm = "20060102T15:04:05Z"

// Never is the time that stands for "not yet".
func Never() time.Time { return time.Unix(0, 0).UTC() }

// appendTime prints whole seconds in UTC; Go's zero time means never.
func appendTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(dst, "19700101T00:00:00Z"...)
	}
	t = t.UTC()
	y, mo, d := t.Date()
	h, mi, s := t.Clock()
	if y < 0 || y > 9999 {
		return t.AppendFormat(dst, timeForm)
	}
	two := func(n int) { dst = append(dst, '0'+byte(n/10), '0'+byte(n%10)) }
	two(y / 100)
	two(y % 100)
	two(int(mo))
	two(d)
	dst = append(dst, 'T')
	two(h)
	dst = append(dst, ':')
	two(mi)
	dst = append(dst, ':')
	two(s)
	return append(dst, 'Z')
}

// parseTime reads YYYYMMDDTHH:MM:SS or YYYY-MM-DDTHH:MM:SS, with Z, an offset
// or nothing (UTC) behind it. Fractions of a second are dropped.
func parseTime(s string) (time.Time, bool) {
	form := "20060102T15:04:05"
	if len(s) > 4 && s[4] == '-' {
		form = "2006-01-02T15:04:05"
	}
	if len(s) < len(form) {
		return time.Time{}, false
	}
	if zone := zoneForm(s[len(form):]); zone != "" {
		form += zone
	}
	t, err := time.Parse(form, s)
	t = t.UTC().Truncate(time.Second)
	return t, err == nil && t.Year() >= 0 && t.Year() <= 9999
}

// zoneForm picks the layout of what follows the seconds. time.Parse takes a
// fraction there without being asked to.
func zoneForm(rest string) string {
	rest = strings.TrimLeft(rest, ".0123456789")
	if rest == "" {
		return ""
	}
	switch len(rest) {
	case 1:
		return "Z"
	case 3:
		return "-07"
	case 5:
		return "-0700"
	}
	return "-07:00"
}
