package listen

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync/atomic"
)

// ErrFraming says that a request could be read in more than one way: two
// lengths, a length beside an encoding, line ends that are no CRLF, chunk
// sizes that are no sizes. net/http takes several of these; two readers on one
// path that take them differently are how requests are smuggled.
var ErrFraming = errors.New("listen: ambiguous request framing")

// Bounds on what the checker keeps of a line, and on a chunk.
const (
	keptLine    = 128
	maxChunkHex = 7 // digits: 256 MiB
)

// part is what the next byte belongs to.
type part uint8

const (
	inRequestLine part = iota
	inHeader
	inBody
	inChunkSize
	inChunkData
	inChunkEnd
	inTrailer
	inRaw
)

// strict follows the bytes of one connection's requests and finds framing
// that RFC 9112 forbids or leaves open. It changes nothing and keeps no more
// than the beginning of the line at hand.
type strict struct {
	in        part
	line      []byte // without its end, cut to keptLine
	length    int    // of the whole line
	last      uint64 // its last eight bytes
	sawCR     bool
	left      int64 // bytes of body or chunk to come
	http10    bool
	hasLength bool
	chunked   bool
	tunnel    bool // CONNECT or Upgrade: what follows is not HTTP
	isRaw     atomic.Bool
	heads     int // whole request headers seen
}

// raw says that the connection no longer speaks HTTP.
func (s *strict) raw() { s.isRaw.Store(true) }

// feed checks the next bytes. On an error, good is the number of bytes before
// the one that is wrong: no header is complete without it.
func (s *strict) feed(p []byte) (good int, err error) {
	if s.isRaw.Load() {
		return len(p), nil
	}
	for i := 0; i < len(p); {
		switch s.in {
		case inRaw:
			return len(p), nil
		case inBody, inChunkData:
			n := int(min(s.left, int64(len(p)-i)))
			i += n
			if s.left -= int64(n); s.left > 0 {
				continue
			}
			if s.in == inChunkData {
				s.in = inChunkEnd
				continue
			}
			s.in = inRequestLine
			continue
		}
		ended, ok := s.char(p[i])
		if ok && ended {
			ok = s.endLine()
		}
		if !ok {
			return i, ErrFraming
		}
		i++
	}
	return len(p), nil
}

// char takes one byte of a line. Lines end in CRLF; CR, LF and NUL stand
// nowhere else.
func (s *strict) char(c byte) (ended, ok bool) {
	switch {
	case s.sawCR:
		s.sawCR = false
		return true, c == '\n'
	case c == '\r':
		s.sawCR = true
	case c == '\n' || c == 0:
		return false, false
	default:
		s.last = s.last<<8 | uint64(c)
		if s.length++; len(s.line) < keptLine {
			s.line = append(s.line, c)
		}
	}
	return false, true
}

// endLine takes the line that is complete now.
func (s *strict) endLine() bool {
	line, length := s.line, s.length
	s.line, s.length = s.line[:0], 0
	switch s.in {
	case inRequestLine:
		return s.requestLine(line, length)
	case inHeader:
		if length == 0 {
			return s.endHeader()
		}
		return s.header(line, length)
	case inChunkSize:
		return s.chunkSize(line, length)
	case inChunkEnd:
		s.in = inChunkSize
		return length == 0
	default: // inTrailer
		if length == 0 {
			s.in = inRequestLine
		}
		return true
	}
}

func (s *strict) requestLine(line []byte, length int) bool {
	s.in = inHeader
	s.hasLength, s.chunked, s.left = false, false, 0
	s.tunnel = bytes.HasPrefix(line, []byte("CONNECT "))
	s.http10 = s.last == binary.BigEndian.Uint64([]byte("HTTP/1.0"))
	return length > 0
}

// header checks one header line; only the two that frame the body, and the
// one that ends HTTP, mean anything here.
func (s *strict) header(line []byte, length int) bool {
	name, value, found := bytes.Cut(line, []byte(":"))
	if !found || !isToken(name) {
		return false
	}
	value = bytes.Trim(value, " \t")
	whole := length == len(line)
	switch {
	case bytes.EqualFold(name, []byte("Content-Length")):
		var ok bool
		s.left, ok = parseLength(value)
		first := !s.hasLength
		s.hasLength = true
		return ok && whole && first
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		first := !s.chunked
		s.chunked = true
		return first && whole && bytes.EqualFold(value, []byte("chunked"))
	case bytes.EqualFold(name, []byte("Upgrade")):
		s.tunnel = true
	}
	return true
}

// endHeader decides where the next request begins.
func (s *strict) endHeader() bool {
	s.heads++
	switch {
	case s.chunked && (s.hasLength || s.http10):
		return false
	case s.tunnel:
		s.in = inRaw
	case s.chunked:
		s.in = inChunkSize
	case s.left > 0:
		s.in = inBody
	default:
		s.in = inRequestLine
	}
	return true
}

// chunkSize reads 1*HEXDIG; an extension behind a semicolon is skipped.
func (s *strict) chunkSize(line []byte, length int) bool {
	digits, _, _ := bytes.Cut(line, []byte(";"))
	digits = bytes.TrimRight(digits, " \t")
	if len(digits) == 0 || len(digits) > maxChunkHex || length > keptLine {
		return false
	}
	s.left = 0
	for _, c := range digits {
		d := hexDigit(c)
		if d < 0 {
			return false
		}
		s.left = s.left<<4 | int64(d)
	}
	s.in = inChunkData
	if s.left == 0 {
		s.in = inTrailer
	}
	return true
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// parseLength reads 1*DIGIT below 2^63.
func parseLength(v []byte) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 19 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int64(c-'0'); n < 0 {
			return 0, false
		}
	}
	return n, true
}

func isToken(name []byte) bool {
	for _, c := range name {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) < 0 {
			return false
		}
	}
	return len(name) > 0
}
