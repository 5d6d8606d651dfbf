package wire

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"xapid/pkg/xenapi"
)

// DecodeXMLCall reads a methodCall document. An error is a *SyntaxError.
func DecodeXMLCall(body []byte) (method string, params []Value, err error) {
	var p xmlParser
	p.start(body, MaxValues)
	if err = p.prolog("methodCall"); err != nil {
		return "", nil, err
	}
	if method, err = p.textElement("methodName"); err != nil {
		return "", nil, err
	}
	if params, err = p.params("methodCall"); err != nil {
		return "", nil, err
	}
	return method, params, p.end()
}

// DecodeXMLResponse reads a methodResponse: the value of a success, or the
// *xenapi.Error of a failure. A bare value, such as that of
// system.listMethods, is given as it is.
func DecodeXMLResponse(body []byte) (Value, error) {
	var p xmlParser
	p.start(body, maxResponseValues)
	if err := p.prolog("methodResponse"); err != nil {
		return Value{}, err
	}
	params, err := p.params("methodResponse")
	if err == nil {
		err = p.end()
	}
	if err != nil {
		return Value{}, err
	}
	if len(params) != 1 {
		return Value{}, p.fail("a response has one value")
	}
	v := params[0]
	status, wrapped := v.Member("Status")
	if !wrapped {
		return v, nil
	}
	if status.Text == "Success" {
		if val, ok := v.Member("Value"); ok {
			return *val, nil
		}
	}
	if desc, ok := v.Member("ErrorDescription"); ok && status.Text == "Failure" {
		return Value{}, errorOf(desc)
	}
	return Value{}, p.fail("neither success nor failure")
}

// errorOf reads [CODE, param, ...].
func errorOf(desc *Value) error {
	e := &xenapi.Error{Params: []string{}}
	for i := range desc.Items {
		if i == 0 {
			e.Code = desc.Items[0].Text
		} else {
			e.Params = append(e.Params, desc.Items[i].Text)
		}
	}
	return e
}

// xmlParser reads the XML subset that XML-RPC needs: elements, text, the five
// predefined and the numeric entities, CDATA, comments and processing
// instructions. Attributes are skipped. Any "<!DOCTYPE" is refused, so there
// is nothing to expand.
type xmlParser struct {
	src []byte
	pos int
	stack
}

func (p *xmlParser) start(body []byte, values int) {
	p.src = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	p.stack.init(values, MaxDepth)
}

func (p *xmlParser) fail(reason string) error { return &SyntaxError{p.pos, reason} }

// tag is a start or end tag, or both in one: <name/>.
type tag struct {
	name         []byte
	close, empty bool
}

func (t tag) opens(name string) bool  { return !t.close && string(t.name) == name }
func (t tag) closes(name string) bool { return t.close && string(t.name) == name }

// prolog reads the XML declaration and the root's start tag.
func (p *xmlParser) prolog(root string) error {
	p.blanks()
	if decl, ok := p.declaration(); ok && !encodingIsUTF8(decl) {
		return p.fail("only UTF-8 is understood")
	}
	return p.open(root)
}

func (p *xmlParser) declaration() ([]byte, bool) {
	rest := p.src[p.pos:]
	if !bytes.HasPrefix(rest, []byte("<?xml ")) {
		return nil, false
	}
	i := bytes.Index(rest, []byte("?>"))
	if i < 0 {
		return nil, false
	}
	p.pos += i + 2
	return rest[:i], true
}

func encodingIsUTF8(decl []byte) bool {
	_, enc, given := bytes.Cut(decl, []byte("encoding"))
	if !given {
		return true
	}
	name := strings.ToLower(strings.Trim(string(enc), " \t\r\n='\""))
	for _, ok := range [...]string{"utf-8", "utf8", "us-ascii", "ascii"} {
		if rest, found := strings.CutPrefix(name, ok); found && (rest == "" || strings.ContainsAny(rest[:1], "'\" \t\r\n")) {
			return true
		}
	}
	return false
}

// params reads the optional <params> and the end of the element around it.
func (p *xmlParser) params(root string) ([]Value, error) {
	t, err := p.next()
	if err != nil {
		return nil, err
	}
	if t.closes(root) {
		return nil, nil
	}
	if !t.opens("params") {
		return nil, p.fail("params expected")
	}
	for !t.empty {
		if t, err = p.next(); err != nil {
			return nil, err
		}
		if t.closes("params") {
			break
		}
		if !t.opens("param") || t.empty {
			return nil, p.fail("param expected")
		}
		if err := p.valueElement(); err != nil {
			return nil, err
		}
		if err := p.close("param"); err != nil {
			return nil, err
		}
		t = tag{}
	}
	return p.take(0), p.close(root)
}

// end makes sure that nothing follows the root.
func (p *xmlParser) end() error {
	if err := p.misc(); err != nil {
		return err
	}
	if p.pos != len(p.src) {
		return p.fail("something follows the document")
	}
	return nil
}

func (p *xmlParser) open(name string) error {
	t, err := p.next()
	if err == nil && (!t.opens(name) || t.empty) {
		err = p.fail(name + " expected")
	}
	return err
}

func (p *xmlParser) close(name string) error {
	t, err := p.next()
	if err == nil && !t.closes(name) {
		err = p.fail("end of " + name + " expected")
	}
	return err
}

func (p *xmlParser) blanks() {
	for p.pos < len(p.src) && isBlank(p.src[p.pos]) {
		p.pos++
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// misc skips blanks, comments and processing instructions.
func (p *xmlParser) misc() error {
	for {
		p.blanks()
		rest := p.src[p.pos:]
		if len(rest) < 2 || rest[0] != '<' || rest[1] != '!' && rest[1] != '?' {
			return nil
		}
		if err := p.skipMarkup(rest); err != nil {
			return err
		}
	}
}

// skipMarkup passes one comment or processing instruction.
func (p *xmlParser) skipMarkup(rest []byte) error {
	stop := "?>"
	if rest[1] == '!' {
		if !bytes.HasPrefix(rest, []byte("<!--")) {
			return p.fail("document types are not allowed")
		}
		stop = "-->"
	}
	i := bytes.Index(rest, []byte(stop))
	if i < 0 {
		return p.fail("unfinished markup")
	}
	p.pos += i + len(stop)
	return nil
}

// next skips to a tag and reads it; text other than blanks is an error.
func (p *xmlParser) next() (tag, error) {
	p.blanks()
	if p.pos+1 < len(p.src) && (p.src[p.pos+1] == '!' || p.src[p.pos+1] == '?') {
		if err := p.misc(); err != nil {
			return tag{}, err
		}
	}
	return p.tag()
}

// tag reads the tag that begins here.
func (p *xmlParser) tag() (tag, error) {
	var t tag
	i := p.pos
	if i >= len(p.src) || p.src[i] != '<' {
		return t, p.fail("tag expected")
	}
	i++
	if i < len(p.src) && p.src[i] == '/' {
		t.close = true
		i++
	}
	from := i
	for i < len(p.src) && isNameByte(p.src[i]) {
		i++
	}
	t.name = p.src[from:i]
	if len(t.name) == 0 {
		return t, p.fail("tag name expected")
	}
	if i < len(p.src) && p.src[i] == '>' {
		p.pos = i + 1
		return t, nil
	}
	return p.attributes(t, i)
}

func isNameByte(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == ':' || c == '-'
}

// attributes skips to the end of a tag, minding quotes.
func (p *xmlParser) attributes(t tag, i int) (tag, error) {
	var quote byte
	for ; i < len(p.src); i++ {
		c := p.src[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '<':
			return t, p.fail("< in a tag")
		case c == '>':
			t.empty = p.src[i-1] == '/'
			if t.empty && t.close {
				return t, p.fail("end tag with a slash at its end")
			}
			p.pos = i + 1
			return t, nil
		}
	}
	return t, p.fail("unfinished tag")
}

// textElement reads <name>text</name>.
func (p *xmlParser) textElement(name string) (string, error) {
	t, err := p.next()
	if err != nil {
		return "", err
	}
	if !t.opens(name) {
		return "", p.fail(name + " expected")
	}
	if t.empty {
		return "", nil
	}
	return p.textUntil(name)
}

// textUntil reads text and the end tag that closes it.
func (p *xmlParser) textUntil(name string) (string, error) {
	text, err := p.text()
	if err != nil {
		return "", err
	}
	t, err := p.tag()
	if err == nil && !t.closes(name) {
		err = p.fail("end of " + name + " expected")
	}
	return text, err
}

// text reads character data up to the next tag.
func (p *xmlParser) text() (string, error) {
	raw, err := p.run()
	if err != nil {
		return "", err
	}
	if p.atTag() && bytes.IndexByte(raw, '&') < 0 {
		return string(raw), nil
	}
	return p.slowText(raw)
}

// run returns the bytes before the next "<".
func (p *xmlParser) run() ([]byte, error) {
	i := bytes.IndexByte(p.src[p.pos:], '<')
	if i < 0 {
		return nil, p.fail("unfinished text")
	}
	raw := p.src[p.pos : p.pos+i]
	p.pos += i
	return raw, nil
}

func (p *xmlParser) atTag() bool {
	return p.pos+1 < len(p.src) && p.src[p.pos+1] != '!' && p.src[p.pos+1] != '?'
}

// slowText joins runs of text over entities, CDATA, comments and
// instructions.
func (p *xmlParser) slowText(raw []byte) (string, error) {
	out, err := p.unescape(make([]byte, 0, len(raw)), raw)
	for err == nil && !p.atTag() {
		rest := p.src[p.pos:]
		if data, ok := bytes.CutPrefix(rest, []byte("<![CDATA[")); ok {
			i := bytes.Index(data, []byte("]]>"))
			if i < 0 {
				return "", p.fail("unfinished CDATA")
			}
			out = append(out, data[:i]...)
			p.pos += len("<![CDATA[") + i + len("]]>")
		} else if len(rest) < 2 {
			return "", p.fail("unfinished text")
		} else if err := p.skipMarkup(rest); err != nil {
			return "", err
		}
		if raw, err = p.run(); err == nil {
			out, err = p.unescape(out, raw)
		}
	}
	return string(out), err
}

func (p *xmlParser) unescape(out, raw []byte) ([]byte, error) {
	for {
		i := bytes.IndexByte(raw, '&')
		if i < 0 {
			return append(out, raw...), nil
		}
		out = append(out, raw[:i]...)
		raw = raw[i+1:]
		end := bytes.IndexByte(raw[:min(len(raw), 12)], ';')
		if end < 0 {
			return nil, p.fail("unfinished entity")
		}
		r, ok := entity(string(raw[:end]))
		if !ok {
			return nil, p.fail("unknown entity")
		}
		out = appendRune(out, r)
		raw = raw[end+1:]
	}
}

func entity(name string) (rune, bool) {
	switch name {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "quot":
		return '"', true
	case "apos":
		return '\'', true
	}
	digits, numeric := strings.CutPrefix(name, "#")
	base := 10
	if hex, ok := strings.CutPrefix(digits, "x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	return rune(n), numeric && err == nil && n <= utf8.MaxRune
}

// appendRune writes surrogates too, as the three bytes that UTF-8 forbids, so
// that the check of the text finds them.
func appendRune(out []byte, r rune) []byte {
	if r >= 0xD800 && r <= 0xDFFF {
		return append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0xBF)
	}
	return utf8.AppendRune(out, r)
}
