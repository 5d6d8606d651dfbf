package datamodel

// implicit lists the messages that follow from a class and its fields, by the
// rules of the XenAPI: 1,580 over all classes.
func implicit(c *Class) []*Message {
	if !c.InDatabase {
		return nil
	}
	b := implicitBuilder{class: c, explicit: map[string]bool{}}
	for _, m := range c.Messages {
		b.explicit[m.Name] = true
	}
	b.objects()
	for _, f := range c.Fields {
		if !f.InternalOnly {
			b.field(f)
		}
	}
	return b.out
}

type implicitBuilder struct {
	class    *Class
	explicit map[string]bool
	out      []*Message
}

func (b *implicitBuilder) add(m Message) *Message {
	if m.Lifecycle == "" {
		m.Lifecycle = b.class.Lifecycle
	}
	if b.explicit[m.Name] {
		return &m
	}
	b.out = append(b.out, &m)
	return &m
}

func (b *implicitBuilder) objects() {
	c := b.class
	ref, rec := c.Name+" ref", c.Name+" record"
	self := Param{Name: "self", TypeText: ref}
	b.add(Message{Name: "get_record", Kind: GetRecord, Params: []Param{self}, ResultText: rec, Role: c.ImplicitRole})
	if c.HasUUID {
		b.add(Message{Name: "get_by_uuid", Kind: GetByUUID, Params: []Param{{Name: "uuid", TypeText: "string"}}, ResultText: ref, Role: c.ImplicitRole})
	}
	if c.CtorDtor {
		b.add(Message{Name: "create", Kind: Create, Params: []Param{{Name: "args", TypeText: rec}}, ResultText: ref, Role: c.CtorDtorRole, Async: true})
		b.add(Message{Name: "destroy", Kind: Destroy, Params: []Param{self}, ResultText: "void", Role: c.CtorDtorRole, Async: true})
	}
	if c.HasName {
		b.add(Message{Name: "get_by_name_label", Kind: GetByNameLabel, Params: []Param{{Name: "label", TypeText: "string"}}, ResultText: ref + " set", Role: c.ImplicitRole})
	}
	if c.GetAll {
		expr := []Param{{Name: "expr", TypeText: "string"}}
		records := "(" + ref + " -> " + rec + ") map"
		b.add(Message{Name: "get_all", Kind: GetAll, ResultText: ref + " set", Role: c.ImplicitRole})
		b.add(Message{Name: "get_all_where", Kind: GetAllWhere, Params: expr, ResultText: ref + " set", Role: c.ImplicitRole, Hidden: true})
		b.add(Message{Name: "get_all_records_where", Kind: GetAllRecordsWhere, Params: expr, ResultText: records, Role: c.ImplicitRole, Hidden: true})
		b.add(Message{Name: "get_all_records", Kind: GetAllRecords, ResultText: records, Role: c.ImplicitRole})
	}
}

func (b *implicitBuilder) field(f *Field) {
	self := Param{Name: "self", TypeText: b.class.Name + " ref"}
	value := func(t string) []Param { return []Param{self, {Name: "value", TypeText: t}} }
	put := func(name string, kind Kind, params []Param, result, role string) {
		m := Message{Name: name + f.Name, Kind: kind, Field: f, Params: params, ResultText: result, Role: role,
			Lifecycle: f.Lifecycle, Effect: f.Effect && kind != FieldGet}
		if kind == FieldAdd || kind == FieldRemove {
			m.MapKeysRoles = f.MapKeysRoles
		}
		b.add(m)
	}
	put("get_", FieldGet, []Param{self}, f.TypeText, f.GetRole)
	if f.Qualifier != RW || f.Derived {
		return
	}
	put("set_", FieldSet, value(f.TypeText), "void", f.SetRole)
	switch f.Type.Kind {
	case Map:
		key := Param{Name: "key", TypeText: f.Type.Key.String()}
		put("add_to_", FieldAdd, []Param{self, key, {Name: "value", TypeText: f.Type.Elem.String()}}, "void", f.SetRole)
		put("remove_from_", FieldRemove, []Param{self, key}, "void", f.SetRole)
	case Set:
		put("add_", FieldAdd, value(f.Type.Elem.String()), "void", f.SetRole)
		put("remove_", FieldRemove, value(f.Type.Elem.String()), "void", f.SetRole)
	}
}
