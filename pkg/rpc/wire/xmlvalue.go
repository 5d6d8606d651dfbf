package wire

import (
	"strconv"
	"strings"
)

// valueElement reads <value>...</value> and pushes what is inside.
func (p *xmlParser) valueElement() error {
	t, err := p.next()
	if err != nil {
		return err
	}
	if !t.opens("value") {
		return p.fail("value expected")
	}
	if p.budget--; p.budget < 0 {
		return p.fail("too many values")
	}
	if t.empty {
		p.items = append(p.items, Value{Kind: String})
		return nil
	}
	text, err := p.text()
	if err != nil {
		return err
	}
	if t, err = p.tag(); err != nil {
		return err
	}
	if t.closes("value") {
		p.items = append(p.items, Value{Kind: String, Text: text})
		return nil
	}
	if t.close || strings.Trim(text, " \t\r\n") != "" {
		return p.fail("text beside an element")
	}
	if err := p.typed(t); err != nil {
		return err
	}
	return p.close("value")
}

// typed reads the element inside a value, whose start tag is t.
func (p *xmlParser) typed(t tag) error {
	switch string(t.name) {
	case "array":
		return p.container(t, "array", (*xmlParser).array)
	case "struct":
		return p.container(t, "struct", (*xmlParser).structure)
	case "nil", "ex:nil":
		p.items = append(p.items, Value{Kind: Nil})
		if t.empty {
			return nil
		}
		return p.close(string(t.name))
	}
	kind, ok := scalarKind(t.name)
	if !ok {
		return p.fail("unknown type")
	}
	var text string
	if !t.empty {
		var err error
		if text, err = p.textUntil(string(t.name)); err != nil {
			return err
		}
	}
	v := Value{Kind: kind, Text: text}
	if string(t.name) == "i4" && !fits32(text) {
		v.Kind, v.Text = Invalid, "i4 "+Clip(text)
	}
	p.items = append(p.items, v)
	return nil
}

// scalarKind maps an element to its kind. int is taken as wide as i8, as some
// clients write 64 bits in it; i4 is not.
func scalarKind(name []byte) (Kind, bool) {
	switch string(name) {
	case "string":
		return String, true
	case "int", "i4", "i8":
		return Int, true
	case "boolean":
		return Bool, true
	case "double":
		return Double, true
	case "dateTime.iso8601":
		return DateTime, true
	case "base64":
		return Base64, true
	}
	return Nil, false
}

func fits32(text string) bool {
	n, ok := parseInt(text)
	return ok && n == int64(int32(n))
}

// container reads an array or a struct within the depth limit.
func (p *xmlParser) container(t tag, name string, inside func(*xmlParser) (Value, error)) error {
	if p.depth++; p.depth > p.limit {
		return p.fail("nested deeper than " + strconv.Itoa(p.limit))
	}
	v := Value{Kind: Array}
	if name == "struct" {
		v.Kind = Struct
	}
	if !t.empty {
		var err error
		if v, err = inside(p); err != nil {
			return err
		}
	}
	p.depth--
	p.items = append(p.items, v)
	return nil
}

// array reads up to </array>.
func (p *xmlParser) array() (Value, error) {
	base := len(p.items)
	t, err := p.next()
	if err != nil || t.closes("array") {
		return Value{Kind: Array}, err
	}
	if !t.opens("data") {
		return Value{}, p.fail("data expected")
	}
	for !t.empty {
		more, err := p.another("data")
		if err != nil {
			return Value{}, err
		}
		if !more {
			break
		}
		if err := p.valueElement(); err != nil {
			return Value{}, err
		}
	}
	return Value{Kind: Array, Items: p.take(base)}, p.close("array")
}

// structure reads up to </struct>.
func (p *xmlParser) structure() (Value, error) {
	base := len(p.items)
	for {
		more, err := p.another("struct")
		if err != nil {
			return Value{}, err
		}
		if !more {
			break
		}
		if err := p.member(); err != nil {
			return Value{}, err
		}
	}
	members := p.take(base)
	if name, twice := duplicate(members); twice {
		return Value{Kind: Invalid, Text: "struct with member " + Clip(name) + " twice"}, nil
	}
	return Value{Kind: Struct, Items: members}, nil
}

func (p *xmlParser) member() error {
	if err := p.open("member"); err != nil {
		return err
	}
	name, err := p.textElement("name")
	if err != nil {
		return err
	}
	if err := p.valueElement(); err != nil {
		return err
	}
	p.items[len(p.items)-1].Name = name
	return p.close("member")
}

// another reports whether a child follows; if not, it takes the end tag.
func (p *xmlParser) another(parent string) (bool, error) {
	if err := p.misc(); err != nil {
		return false, err
	}
	if p.pos+1 < len(p.src) && p.src[p.pos] == '<' && p.src[p.pos+1] == '/' {
		return false, p.close(parent)
	}
	return true, nil
}
