// Package query is the language of get_all_records_where: comparisons between
// fields and texts, joined by and, or, not and parentheses.
//
// Its one invariant: a parsed Query is bounded in size and depth and touches
// nothing but the lookup that Eval is given. "and" and "or" have the same
// precedence and group from the left; "not" binds tighter. Start reading at
// Parse.
package query

import (
	"strconv"

	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// Limits on an expression.
const (
	MaxLength = 64 << 10
	MaxDepth  = 64

	maxFields = 256 // different ones; no class has as many
)

// Query is a parsed expression; it may be evaluated by many at once.
type Query struct {
	root   node
	fields []string
}

// Fields lists the names of the fields that the query asks for, as written,
// each once. The caller checks them before it evaluates.
func (q *Query) Fields() []string { return q.fields }

// Eval decides the query for one object. field gives the text of a field, as
// wire.DBText writes it; a comparison with a field that is not there is false.
func (q *Query) Eval(field func(name string) (string, bool)) bool { return q.root.eval(field) }

// Parse reads an expression. The error is INVALID_VALUE [expr, reason].
func Parse(expr string) (*Query, error) {
	if len(expr) > MaxLength {
		return nil, invalid(expr, "longer than "+strconv.Itoa(MaxLength)+" bytes")
	}
	p := parser{lexer: lexer{src: expr}}
	root, reason := p.whole()
	if reason != "" {
		return nil, invalid(expr, reason)
	}
	return &Query{root: root, fields: p.fields}, nil
}

func invalid(expr, reason string) error {
	return &xenapi.Error{Code: "INVALID_VALUE", Params: []string{wire.Clip(expr), reason}}
}

// node is one part of the syntax tree.
type node interface {
	eval(field func(string) (string, bool)) bool
}

type constant bool

func (c constant) eval(func(string) (string, bool)) bool { return bool(c) }

type not struct{ of node }

func (n not) eval(field func(string) (string, bool)) bool { return !n.of.eval(field) }

// value is a field's name or a literal.
type value struct {
	text    string
	isField bool
}

func (v value) get(field func(string) (string, bool)) (string, bool) {
	if v.isField {
		return field(v.text)
	}
	return v.text, true
}

type equal struct{ left, right value }

func (e equal) eval(field func(string) (string, bool)) bool {
	l, okL := e.left.get(field)
	r, okR := e.right.get(field)
	return okL && okR && l == r
}

// chain is first op next op next, decided from the left.
type chain struct {
	first node
	rest  []link
}

type link struct {
	or bool
	node
}

func (c chain) eval(field func(string) (string, bool)) bool {
	result := c.first.eval(field)
	for _, l := range c.rest {
		if result != l.or {
			result = l.node.eval(field)
		}
	}
	return result
}
