package datamodel

import (
	"strings"
	"testing"
)

// TestEverythingIsDescribed keeps the reference whole: a new class, field, enum or message needs its line, short
// enough for a table and for the comment behind a struct field.
func TestEverythingIsDescribed(t *testing.T) {
	const longest = 110
	check := func(what, doc string) {
		switch {
		case doc == "":
			t.Errorf("%s has no description", what)
		case len(doc) > longest || strings.ContainsAny(doc, "\n|`") || !strings.HasSuffix(doc, "."):
			t.Errorf("%s: want one plain line of at most %d bytes and a full stop, got %q", what, longest, doc)
		}
	}
	m := Get()
	for _, e := range m.Enums {
		check("enum "+e.Name, e.Doc)
	}
	for _, c := range m.Classes {
		check("class "+c.Name, c.Doc)
		for _, f := range c.Fields {
			check(c.Name+"."+f.Name, f.Doc)
		}
		for _, msg := range c.Messages {
			if msg.Kind == Explicit && msg.Lifecycle != Removed {
				check(msg.WireName(), msg.Doc)
			}
		}
	}
}
