package query

import (
	"slices"
	"strconv"
	"strings"
)

// token is a word, a sign, a quoted string, or the end (kind 0).
type token struct {
	kind byte // 'w', 's', or the sign itself
	text string
}

func (t token) word(w string) bool { return t.kind == 'w' && t.text == w }

func (t token) String() string {
	switch t.kind {
	case 0:
		return "the end"
	case 's':
		return "a string"
	}
	return strconv.Quote(t.text)
}

type lexer struct {
	src string
	pos int
}

// next reads a token; bad says why it can't.
func (l *lexer) next() (t token, bad string) {
	for l.pos < len(l.src) && strings.IndexByte(" \t\n", l.src[l.pos]) >= 0 {
		l.pos++
	}
	if l.pos == len(l.src) {
		return token{}, ""
	}
	rest := l.src[l.pos:]
	switch c := rest[0]; {
	case c == '(' || c == ')' || c == '=':
		l.pos++
		return token{c, rest[:1]}, ""
	case c == '"':
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 {
			return token{}, "unfinished string at byte " + strconv.Itoa(l.pos)
		}
		l.pos += end + 2
		return token{'s', rest[1 : end+1]}, ""
	}
	n := 0
	for n < len(rest) && rest[n] >= 'a' && rest[n] <= 'z' {
		n++
	}
	if n == 0 {
		return token{}, "unexpected character at byte " + strconv.Itoa(l.pos)
	}
	l.pos += n
	return token{'w', rest[:n]}, ""
}

// parser is recursive descent with one token of lookahead. Its functions give
// a reason when they fail.
type parser struct {
	lexer
	tok    token
	depth  int
	fields []string
}

func (p *parser) advance() (bad string) {
	p.tok, bad = p.next()
	return bad
}

func (p *parser) unexpected() string {
	return "unexpected " + p.tok.String() + " before byte " + strconv.Itoa(p.pos)
}

func (p *parser) whole() (node, string) {
	if bad := p.advance(); bad != "" {
		return nil, bad
	}
	n, bad := p.expr()
	if bad == "" && p.tok.kind != 0 {
		bad = p.unexpected()
	}
	return n, bad
}

// expr reads term {("and" | "or") term}.
func (p *parser) expr() (node, string) {
	first, bad := p.term()
	if bad != "" {
		return nil, bad
	}
	var rest []link
	for p.tok.word("and") || p.tok.word("or") {
		or := p.tok.text == "or"
		if bad := p.advance(); bad != "" {
			return nil, bad
		}
		n, bad := p.term()
		if bad != "" {
			return nil, bad
		}
		rest = append(rest, link{or, n})
	}
	if rest == nil {
		return first, ""
	}
	return chain{first, rest}, ""
}

// term reads true, false, not term, ( expr ) or value = value.
func (p *parser) term() (node, string) {
	if p.depth++; p.depth > MaxDepth {
		return nil, "nested deeper than " + strconv.Itoa(MaxDepth)
	}
	defer func() { p.depth-- }()
	switch {
	case p.tok.word("true"), p.tok.word("false"):
		yes := p.tok.text == "true"
		return constant(yes), p.advance()
	case p.tok.word("not"):
		if bad := p.advance(); bad != "" {
			return nil, bad
		}
		n, bad := p.term()
		return not{n}, bad
	case p.tok.kind == '(':
		if bad := p.advance(); bad != "" {
			return nil, bad
		}
		n, bad := p.expr()
		if bad == "" {
			bad = p.expect(')')
		}
		return n, bad
	}
	return p.comparison()
}

func (p *parser) comparison() (node, string) {
	left, bad := p.value()
	if bad == "" {
		bad = p.expect('=')
	}
	if bad != "" {
		return nil, bad
	}
	right, bad := p.value()
	return equal{left, right}, bad
}

func (p *parser) value() (value, string) {
	v := value{isField: p.tok.word("field")}
	if v.isField {
		if bad := p.advance(); bad != "" {
			return v, bad
		}
	}
	if p.tok.kind != 's' {
		return v, p.unexpected()
	}
	v.text = p.tok.text
	if v.isField && !slices.Contains(p.fields, v.text) {
		if p.fields = append(p.fields, v.text); len(p.fields) > maxFields {
			return v, "more than " + strconv.Itoa(maxFields) + " fields"
		}
	}
	return v, p.advance()
}

func (p *parser) expect(sign byte) string {
	if p.tok.kind != sign {
		return p.unexpected()
	}
	return p.advance()
}
