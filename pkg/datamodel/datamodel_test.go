package datamodel

import "testing"

// TestCounts holds the model against the published figures of API 2.23: a
// line lost from the schema, or a rule for implicit messages gone wrong,
// changes one of them.
func TestCounts(t *testing.T) {
	m := Get()
	got := map[string]int{"classes": len(m.Classes), "enums": len(m.Enums), "errors": len(m.Errors),
		"relations": len(m.Relations), "http": len(m.HTTP), "roles": len(m.Roles), "alerts": len(m.Alerts)}
	for _, c := range m.Classes {
		got["fields"] += len(c.Fields)
		for _, msg := range c.Messages {
			got["messages"]++
			if msg.Kind == Explicit {
				got["explicit"]++
			} else {
				got["implicit"]++
			}
			if msg.Hidden {
				got["hidden"]++
			}
			if msg.Async {
				got["async"]++
			}
			if m.Message(msg.WireName()) != msg {
				t.Errorf("%s is listed twice", msg.WireName())
			}
		}
	}
	want := map[string]int{"classes": 73, "enums": 75, "errors": 634, "relations": 64, "http": 57, "roles": 7,
		"alerts": 108, "fields": 950, "messages": 2258, "explicit": 678, "implicit": 1580, "hidden": 251, "async": 530}
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%s: %d, want %d", k, got[k], n)
		}
	}
}

func TestTypesPrintAsTheyAreSpelled(t *testing.T) {
	for _, c := range Get().Classes {
		for _, f := range c.Fields {
			if f.Type.String() != f.TypeText {
				t.Errorf("%s.%s: %q prints as %q", c.Name, f.Name, f.TypeText, f.Type)
			}
		}
	}
	for _, bad := range []string{"", "VM", "VM ref set x", "(string -> ) map", "(string string) map", "set"} {
		if typ, err := parseType(bad); err == nil {
			t.Errorf("%q parsed as %v", bad, typ)
		}
	}
}

func TestRelationEnds(t *testing.T) {
	m := Get()
	vbds := m.Class("VM").FieldByName("VBDs")
	if !vbds.Derived || vbds.Persistent() || vbds.Rel.From.Class.Name != "VBD" {
		t.Errorf("VM.VBDs must be derived from VBD.VM: %+v", vbds)
	}
	groups := m.Class("VM").FieldByName("groups")
	if groups.Derived || !groups.Rel.ManyToMany {
		t.Errorf("VM.groups is many to many, both ends stored")
	}
	if f := m.Class("VM").FieldByName("name__label"); f == nil || f.Name != "name_label" {
		t.Errorf("columns name fields too")
	}
}
