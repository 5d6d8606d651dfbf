package datamodel

import (
	"fmt"
	"strings"
)

// TypeKind is the outer shape of a Type.
type TypeKind uint8

// The kinds of types. Secret is a string that must not be logged.
const (
	Void TypeKind = iota
	String
	Int
	Float
	Bool
	DateTime
	EnumType
	Ref
	Record
	Set
	Map
	Option
	Secret
)

// Type is a parsed type of the datamodel.
type Type struct {
	Kind  TypeKind
	Name  string // the enum or the class
	Enum  *Enum  // of EnumType
	Class *Class // of Ref and Record
	Key   *Type  // of Map
	Elem  *Type  // of Set, Map (the value) and Option
}

// Textual reports whether values of the type are Go strings: strings, enums,
// refs and secrets.
func (t *Type) Textual() bool {
	return t.Kind == String || t.Kind == EnumType || t.Kind == Ref || t.Kind == Secret
}

// String writes the type as the schema spells it.
func (t *Type) String() string {
	switch t.Kind {
	case EnumType:
		return "enum " + t.Name
	case Ref:
		return t.Name + " ref"
	case Record:
		return t.Name + " record"
	case Set:
		return t.Elem.String() + " set"
	case Map:
		return "(" + t.Key.String() + " -> " + t.Elem.String() + ") map"
	case Option:
		return t.Elem.String() + " option"
	}
	return kindNames[t.Kind]
}

var kindNames = map[TypeKind]string{Void: "void", String: "string", Int: "int", Float: "float",
	Bool: "bool", DateTime: "datetime", Secret: "secretstring"}

// parseType reads "VM ref set", "(string -> int) map" and the like.
func parseType(s string) (*Type, error) {
	p := typeParser{words: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(s))}
	t, err := p.parse()
	if err != nil || len(p.words) != 0 {
		return nil, fmt.Errorf("datamodel: type %q: trailing %q: %w", s, p.words, errBadType)
	}
	return t, nil
}

var errBadType = fmt.Errorf("unreadable type")

type typeParser struct{ words []string }

func (p *typeParser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *typeParser) parse() (*Type, error) {
	t, err := p.primary()
	for err == nil && len(p.words) > 0 {
		switch p.words[0] {
		case "set":
			t = &Type{Kind: Set, Elem: t}
		case "option":
			t = &Type{Kind: Option, Elem: t}
		default:
			return t, nil
		}
		p.next()
	}
	return t, err
}

func (p *typeParser) primary() (*Type, error) {
	w := p.next()
	for k, n := range kindNames {
		if w == n {
			return &Type{Kind: k}, nil
		}
	}
	switch w {
	case "":
		return nil, errBadType
	case "enum":
		return &Type{Kind: EnumType, Name: p.next()}, nil
	case "(":
		return p.mapping()
	}
	switch p.next() {
	case "ref":
		return &Type{Kind: Ref, Name: w}, nil
	case "record":
		return &Type{Kind: Record, Name: w}, nil
	}
	return nil, errBadType
}

func (p *typeParser) mapping() (*Type, error) {
	key, err := p.parse()
	if err != nil || p.next() != "->" {
		return nil, errBadType
	}
	val, err := p.parse()
	if err != nil || p.next() != ")" || p.next() != "map" {
		return nil, errBadType
	}
	return &Type{Kind: Map, Key: key, Elem: val}, nil
}
