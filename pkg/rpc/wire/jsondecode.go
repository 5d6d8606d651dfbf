package wire

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonEnvelope is how deep the parameters of a call stand: in an array in an
// object.
const jsonEnvelope = 2

// DecodeJSONCall reads a JSON-RPC 1.0 or 2.0 request; batches are refused. An
// error is a *SyntaxError.
func DecodeJSONCall(body []byte) (Call, error) {
	var p jsonParser
	p.start(body, MaxValues)
	call := callReader{p: &p}
	if err := p.object(call.member); err != nil {
		return Call{}, err
	}
	if err := p.end(); err != nil {
		return Call{}, err
	}
	return call.finish()
}

// callReader gathers the members of a request.
type callReader struct {
	p       *jsonParser
	seen    map[string]struct{}
	method  *string
	params  *Value
	version string
	id      []byte
}

func (r *callReader) member(name string) error {
	if _, twice := r.seen[name]; twice {
		return r.p.fail("member twice")
	}
	if r.seen == nil {
		r.seen = make(map[string]struct{}, 4)
	}
	r.seen[name] = struct{}{}
	from := r.p.pos
	if err := r.p.value(); err != nil {
		return err
	}
	v := r.p.pop()
	switch name {
	case "method":
		if v.Kind != String || !utf8.ValidString(v.Text) {
			return r.p.fail("method must be a string")
		}
		r.method = &v.Text
	case "params":
		r.params = &v
	case "jsonrpc":
		if r.version = v.Text; v.Kind != String || v.Text != "1.0" && v.Text != "2.0" {
			return r.p.fail("unknown version")
		}
	case "id":
		if v.Kind != String && v.Kind != Number || !utf8.ValidString(v.Text) {
			return r.p.fail("id must be a number or a string")
		}
		r.id = bytes.Clone(r.p.src[from:r.p.pos])
	}
	return nil
}

func (r *callReader) finish() (Call, error) {
	c := Call{ID: r.id, V2: r.version == "2.0"}
	if r.method == nil || r.id == nil {
		return Call{}, r.p.fail("method or id missing")
	}
	c.Method = *r.method
	switch {
	case r.params == nil && c.V2:
	case r.params != nil && r.params.Kind == Array:
		c.Params = r.params.Items
	case r.params != nil && r.params.Kind == Struct && c.V2:
		c.Params = []Value{*r.params}
	default:
		return Call{}, r.p.fail("params must be an array")
	}
	return c, nil
}

// DecodeJSONResponse reads an answer of either version: the result, or the
// *xenapi.Error of a failure.
func DecodeJSONResponse(body []byte) (Value, error) {
	var p jsonParser
	p.start(body, maxResponseValues)
	if err := p.value(); err != nil {
		return Value{}, err
	}
	if err := p.end(); err != nil {
		return Value{}, err
	}
	v := p.pop()
	if e, ok := v.Member("error"); ok && e.Kind != Nil {
		return Value{}, jsonErrorOf(e)
	}
	if r, ok := v.Member("result"); ok {
		return *r, nil
	}
	return Value{}, p.fail("neither result nor error")
}

func jsonErrorOf(e *Value) error {
	message, ok := e.Member("message")
	if !ok {
		return errorOf(e)
	}
	desc := Value{Kind: Array, Items: []Value{*message}}
	if data, ok := e.Member("data"); ok {
		desc.Items = append(desc.Items, data.Items...)
	}
	return errorOf(&desc)
}

// jsonParser reads RFC 8259 strictly. Bytes in strings that are no UTF-8 pass:
// the conversion names the parameter that holds them.
type jsonParser struct {
	src []byte
	pos int
	stack
}

func (p *jsonParser) start(body []byte, values int) {
	p.src = body
	p.stack.init(values, MaxDepth+jsonEnvelope)
}

func (p *jsonParser) fail(reason string) error { return &SyntaxError{p.pos, reason} }

func (p *jsonParser) pop() Value {
	v := p.items[len(p.items)-1]
	p.items = p.items[:len(p.items)-1]
	return v
}

// peek skips blanks and shows the next byte; 0 is the end, and no JSON.
func (p *jsonParser) peek() byte {
	for p.pos < len(p.src) {
		if c := p.src[p.pos]; !isBlank(c) {
			return c
		}
		p.pos++
	}
	return 0
}

func (p *jsonParser) end() error {
	if p.peek(); p.pos != len(p.src) {
		return p.fail("something follows the document")
	}
	return nil
}

// value reads one value and pushes it.
func (p *jsonParser) value() error {
	if p.budget--; p.budget < 0 {
		return p.fail("too many values")
	}
	switch c := p.peek(); c {
	case '"':
		s, err := p.str()
		p.items = append(p.items, Value{Kind: String, Text: s})
		return err
	case '{':
		return p.structure()
	case '[':
		return p.array()
	case 't':
		return p.literal("true", Value{Kind: Bool, Text: "1"})
	case 'f':
		return p.literal("false", Value{Kind: Bool, Text: "0"})
	case 'n':
		return p.literal("null", Value{})
	default:
		return p.number()
	}
}

func (p *jsonParser) literal(text string, v Value) error {
	if !bytes.HasPrefix(p.src[p.pos:], []byte(text)) {
		return p.fail("unknown literal")
	}
	p.pos += len(text)
	p.items = append(p.items, v)
	return nil
}

func (p *jsonParser) structure() error {
	base := len(p.items)
	err := p.object(func(name string) error {
		if err := p.value(); err != nil {
			return err
		}
		p.items[len(p.items)-1].Name = name
		return nil
	})
	if err != nil {
		return err
	}
	members := p.take(base)
	if _, twice := duplicate(members); twice {
		return p.fail("member twice")
	}
	p.items = append(p.items, Value{Kind: Struct, Items: members})
	return nil
}

// object reads {"name": ...}, calling member at each value.
func (p *jsonParser) object(member func(name string) error) error {
	return p.sequence('{', '}', func() error {
		if p.peek() != '"' {
			return p.fail("name expected")
		}
		name, err := p.str()
		if err != nil {
			return err
		}
		if p.peek() != ':' {
			return p.fail("colon expected")
		}
		p.pos++
		p.peek()
		return member(name)
	})
}

func (p *jsonParser) array() error {
	base := len(p.items)
	if err := p.sequence('[', ']', p.value); err != nil {
		return err
	}
	p.items = append(p.items, Value{Kind: Array, Items: p.take(base)})
	return nil
}

// sequence reads items between brackets, with commas.
func (p *jsonParser) sequence(open, end byte, item func() error) error {
	if p.peek() != open {
		return p.fail(string(open) + " expected")
	}
	if p.depth++; p.depth > p.limit {
		return p.fail("nested deeper than " + strconv.Itoa(MaxDepth))
	}
	p.pos++
	for more := p.peek() != end; more; {
		if err := item(); err != nil {
			return err
		}
		switch p.peek() {
		case ',':
			p.pos++
		case end:
			more = false
		default:
			return p.fail("comma expected")
		}
	}
	p.pos++
	p.depth--
	return nil
}

// number keeps the text of a number; one too big for a float64 is refused.
func (p *jsonParser) number() error {
	from := p.pos
	if p.is('-') {
		p.pos++
	}
	ok := true
	if p.is('0') {
		p.pos++
	} else {
		ok = p.digits()
	}
	if ok && p.is('.') {
		p.pos++
		ok = p.digits()
	}
	if ok && (p.is('e') || p.is('E')) {
		p.pos++
		if p.is('+') || p.is('-') {
			p.pos++
		}
		ok = p.digits()
	}
	text := string(p.src[from:p.pos])
	if ok && len(text) > 4 {
		_, ok = parseFloat(text)
	}
	if !ok {
		p.pos = from
		return p.fail("value expected")
	}
	p.items = append(p.items, Value{Kind: Number, Text: text})
	return nil
}

func (p *jsonParser) is(c byte) bool { return p.pos < len(p.src) && p.src[p.pos] == c }

func (p *jsonParser) digits() bool {
	from := p.pos
	for p.pos < len(p.src) && p.src[p.pos] >= '0' && p.src[p.pos] <= '9' {
		p.pos++
	}
	return p.pos > from
}

// str reads a string; the opening quote is at pos.
func (p *jsonParser) str() (string, error) {
	p.pos++
	from := p.pos
	for i := from; i < len(p.src); i++ {
		switch c := p.src[i]; {
		case c == '"':
			p.pos = i + 1
			return string(p.src[from:i]), nil
		case c == '\\':
			p.pos = i
			return p.escaped(append(make([]byte, 0, i-from+64), p.src[from:i]...))
		case c < 0x20:
			p.pos = i
			return "", p.fail("control character in a string")
		}
	}
	return "", p.fail("unfinished string")
}

// escaped reads the rest of a string that has escapes.
func (p *jsonParser) escaped(out []byte) (string, error) {
	for p.pos < len(p.src) {
		c := p.src[p.pos]
		p.pos++
		switch {
		case c == '"':
			return string(out), nil
		case c < 0x20:
			return "", p.fail("control character in a string")
		case c != '\\':
			out = append(out, c)
		default:
			r, ok := p.escape()
			if !ok {
				return "", p.fail("bad escape")
			}
			out = utf8.AppendRune(out, r)
		}
	}
	return "", p.fail("unfinished string")
}

func (p *jsonParser) escape() (rune, bool) {
	if p.pos >= len(p.src) {
		return 0, false
	}
	c := p.src[p.pos]
	p.pos++
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		return p.unicode()
	}
	return 0, false
}

// unicode reads four digits, and a second escape after a high surrogate.
func (p *jsonParser) unicode() (rune, bool) {
	r, ok := p.hex4()
	if !ok || !utf16.IsSurrogate(r) {
		return r, ok
	}
	if !bytes.HasPrefix(p.src[p.pos:], []byte(`\u`)) {
		return 0, false
	}
	p.pos += 2
	low, ok := p.hex4()
	r = utf16.DecodeRune(r, low)
	return r, ok && r != utf8.RuneError
}

func (p *jsonParser) hex4() (rune, bool) {
	if p.pos+4 > len(p.src) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p.src[p.pos:p.pos+4]), 16, 32)
	p.pos += 4
	return rune(n), err == nil
}
