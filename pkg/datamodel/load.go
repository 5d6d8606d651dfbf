package datamodel

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"sync"
)

//go:embed schema
var files embed.FS

// Model is the whole datamodel, linked and checked. It is read-only.
type Model struct {
	Classes   []*Class
	Enums     []*Enum
	Relations []*Relation
	Errors    []ErrorCode
	Alerts    []Alert
	Roles     []Role
	HTTP      []HTTPAction
	Templates []Template
	// ExtraPermissions maps permissions that are no message's to their role.
	ExtraPermissions map[string]string

	classes  map[string]*Class
	enums    map[string]*Enum
	messages map[string]*Message
	errors   map[string]*ErrorCode
}

// Get returns the model that is built into the program. The files are part of
// the binary, so what can be wrong with them is a defect found by every test:
// it panics.
var Get = sync.OnceValue(func() *Model {
	m, err := Load(files)
	if err != nil {
		panic(err)
	}
	return m
})

// Class finds a class by its name, case-sensitively; nil if there is none.
func (m *Model) Class(name string) *Class { return m.classes[name] }

// Enum finds an enum by its name.
func (m *Model) Enum(name string) *Enum { return m.enums[name] }

// Message finds a message by its wire name, "VM.start".
func (m *Model) Message(wireName string) *Message { return m.messages[wireName] }

// Error finds an error code.
func (m *Model) Error(code string) *ErrorCode { return m.errors[code] }

// Load reads a datamodel from the directory schema of a file system.
func Load(fsys fs.FS) (*Model, error) {
	m := &Model{classes: map[string]*Class{}, enums: map[string]*Enum{},
		messages: map[string]*Message{}, errors: map[string]*ErrorCode{}}
	var roles struct {
		Roles []Role
		Extra map[string]string `json:"extra_permissions"`
	}
	var order []string
	var relations [][4]string
	for name, dst := range map[string]any{"enums": &m.Enums, "errors": &m.Errors, "alerts": &m.Alerts,
		"roles": &roles, "http": &m.HTTP, "order": &order, "templates": &m.Templates, "relations": &relations} {
		if err := readJSON(fsys, "schema/"+name+".json", dst); err != nil {
			return nil, err
		}
	}
	m.Roles, m.ExtraPermissions = roles.Roles, roles.Extra
	for _, e := range m.Enums {
		m.enums[e.Name] = e
	}
	for i := range m.Errors {
		m.errors[m.Errors[i].Code] = &m.Errors[i]
	}
	for i, name := range order {
		c := &Class{ID: i, Lifecycle: Published, byName: map[string]*Field{}}
		if err := readJSON(fsys, "schema/classes/"+name+".json", c); err != nil {
			return nil, err
		}
		m.Classes = append(m.Classes, c)
		m.classes[name] = c
	}
	return m, m.link(relations)
}

func readJSON(fsys fs.FS, path string, dst any) error {
	b, err := fs.ReadFile(fsys, path)
	if err == nil {
		err = json.Unmarshal(b, dst)
	}
	if err != nil {
		return fmt.Errorf("datamodel: %s: %w", path, err)
	}
	return nil
}

// UnmarshalJSON notes whether a default is given: null is none.
func (f *Field) UnmarshalJSON(b []byte) error {
	type plain Field
	f.Lifecycle = Published
	if err := json.Unmarshal(b, (*plain)(f)); err != nil {
		return err
	}
	f.HasDefault = f.Default != nil
	return nil
}

// UnmarshalJSON notes whether a default is given: null is none.
func (p *Param) UnmarshalJSON(b []byte) error {
	type plain Param
	if err := json.Unmarshal(b, (*plain)(p)); err != nil {
		return err
	}
	p.HasDefault = p.Default != nil
	return nil
}

// link parses every type, joins the relations and adds the implicit messages.
func (m *Model) link(relations [][4]string) error {
	for _, c := range m.Classes {
		for i, f := range c.Fields {
			f.Index, f.Class = i, c
			if f.GetRole == "" {
				f.GetRole = c.ImplicitRole
			}
			var err error
			if f.Type, err = m.resolve(f.TypeText); err != nil {
				return fmt.Errorf("%s.%s: %w", c.Name, f.Name, err)
			}
			c.byName[f.Name] = f
			c.byName[f.Column()] = f
		}
	}
	for _, r := range relations {
		if err := m.relate(r); err != nil {
			return err
		}
	}
	for _, c := range m.Classes {
		for _, msg := range c.Messages {
			msg.Kind = Explicit
			if msg.Lifecycle == "" {
				msg.Lifecycle = Published
			}
		}
		c.Messages = append(c.Messages, implicit(c)...)
		for _, msg := range c.Messages {
			msg.Class = c
			if err := m.linkMessage(msg); err != nil {
				return fmt.Errorf("%s.%s: %w", c.Name, msg.Name, err)
			}
			m.messages[msg.WireName()] = msg
		}
	}
	return nil
}

func (m *Model) linkMessage(msg *Message) (err error) {
	if msg.Result, err = m.resolve(msg.ResultText); err != nil {
		return err
	}
	for i := range msg.Params {
		if msg.Params[i].Type, err = m.resolve(msg.Params[i].TypeText); err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) relate(r [4]string) error {
	from, to := m.classes[r[0]].byName[r[1]], m.classes[r[2]].byName[r[3]]
	if from == nil || to == nil {
		return fmt.Errorf("datamodel: relation %v: no such field", r)
	}
	rel := &Relation{From: from, To: to, ManyToMany: from.Type.Kind == Set}
	m.Relations = append(m.Relations, rel)
	if from == to { // a set of references that has no other end
		return nil
	}
	from.Rel, to.Rel = rel, rel
	to.Derived = !rel.ManyToMany
	return nil
}

// resolve parses a type and points its names at their enums and classes.
func (m *Model) resolve(text string) (*Type, error) {
	t, err := parseType(text)
	if err != nil {
		return nil, err
	}
	return t, m.resolveNames(t)
}

func (m *Model) resolveNames(t *Type) error {
	if t == nil {
		return nil
	}
	switch t.Kind {
	case EnumType:
		if t.Enum = m.enums[t.Name]; t.Enum == nil {
			return fmt.Errorf("no enum %q", t.Name)
		}
	case Ref, Record:
		if t.Class = m.classes[t.Name]; t.Class == nil {
			return fmt.Errorf("no class %q", t.Name)
		}
	}
	if err := m.resolveNames(t.Key); err != nil {
		return err
	}
	return m.resolveNames(t.Elem)
}
