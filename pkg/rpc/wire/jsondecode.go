package wire

import (
	"bytes"
	"slices"
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
	var r callReader
	if err := p.enter('{'); err != nil {
		return Call{}, err
	}
	for first := true; ; first = false {
		more, err := p.more('}', first)
		if err != nil {
			return Call{}, err
		}
		if !more {
			break
		}
		if err := r.member(&p); err != nil {
			return Call{}, err
		}
	}
	if err := p.end(); err != nil {
		return Call{}, err
	}
	return r.finish(&p)
}

// callReader gathers the members of a request. Those that it has no use for
// are counted, and allowed, in names too.
type callReader struct {
	names             [8]string
	count             int
	method, version   string
	params            Value
	hasMethod, hasPar bool
	id                []byte
}

func (r *callReader) member(p *jsonParser) error {
	name, err := p.name()
	if err != nil {
		return err
	}
	if r.count == len(r.names) || slices.Contains(r.names[:r.count], name) {
		return p.fail("member twice, or too many")
	}
	r.names[r.count] = name
	r.count++
	from := p.pos
	if err := p.value(); err != nil {
		return err
	}
	v := p.pop()
	switch name {
	case "method":
		if v.Kind != String || !utf8.ValidString(v.Text) {
			return p.fail("method must be a string")
		}
		r.method, r.hasMethod = v.Text, true
	case "params":
		r.params, r.hasPar = v, true
	case "jsonrpc":
		if r.version = v.Text; v.Kind != String || v.Text != "1.0" && v.Text != "2.0" {
			return p.fail("unknown version")
		}
	case "id":
		if v.Kind != String && v.Kind != Number || !utf8.ValidString(v.Text) {
			return p.fail("id must be a number or a string")
		}
		r.id = bytes.Clone(p.src[from:p.pos])
	}
	return nil
}

func (r *callReader) finish(p *jsonParser) (Call, error) {
	c := Call{Method: r.method, ID: r.id, V2: r.version == "2.0"}
	if !r.hasMethod || r.id == nil {
		return Call{}, p.fail("method or id missing")
	}
	switch {
	case !r.hasPar && c.V2:
	case r.hasPar && r.params.Kind == Array:
		c.Params = r.params.Items
	case r.hasPar && r.params.Kind == Struct && c.V2:
		c.Params = []Value{r.params}
	default:
		return Call{}, p.fail("params must be an array")
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
	if err := p.enter('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := p.more('}', first)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		name, err := p.name()
		if err != nil {
			return err
		}
		if err := p.value(); err != nil {
			return err
		}
		p.items[len(p.items)-1].Name = name
	}
	members := p.take(base)
	if _, twice := duplicate(members); twice {
		return p.fail("member twice")
	}
	p.items = append(p.items, Value{Kind: Struct, Items: members})
	return nil
}

// name reads a member's name and the colon behind it.
func (p *jsonParser) name() (string, error) {
	if p.peek() != '"' {
		return "", p.fail("name expected")
	}
	name, err := p.str()
	if err != nil {
		return "", err
	}
	if p.peek() != ':' {
		return "", p.fail("colon expected")
	}
	p.pos++
	p.peek()
	return name, nil
}

func (p *jsonParser) array() error {
	base := len(p.items)
	if err := p.enter('['); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := p.more(']', first)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := p.value(); err != nil {
			return err
		}
	}
	p.items = append(p.items, Value{Kind: Array, Items: p.take(base)})
	return nil
}

// enter takes an opening bracket, within the depth limit.
func (p *jsonParser) enter(open byte) error {
	if p.peek() != open {
		return p.fail(string(open) + " expected")
	}
	if p.depth++; p.depth > p.limit {
		return p.fail("nested deeper than " + strconv.Itoa(MaxDepth))
	}
	p.pos++
	return nil
}

// more reports whether an item follows; if not, it takes the closing bracket.
func (p *jsonParser) more(end byte, first bool) (bool, error) {
	switch c := p.peek(); {
	case c == end:
		p.pos++
		p.depth--
		return false, nil
	case first:
		return true, nil
	case c != ',':
		return false, p.fail("comma expected")
	}
	p.pos++
	if p.peek() == end {
		return false, p.fail("comma before the end")
	}
	return true, nil
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
