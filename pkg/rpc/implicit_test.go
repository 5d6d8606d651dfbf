package rpc_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
)

// world is a graph with an object of every class, all fields set.
type world struct {
	*env
	refs map[string]string // by class
}

// populate makes the objects, then fills in their fields, which refer to one
// another.
func populate(e *env) *world {
	w := &world{env: e, refs: map[string]string{"session": e.root}}
	stored := func(c *datamodel.Class) bool {
		return c.InDatabase && c.Name != "session" && datamodel.Get().Message(c.Name+".get_record") != nil
	}
	xapitest.Update(e.t, e.Env, func(tx *db.Tx) {
		for _, c := range datamodel.Get().Classes {
			if !stored(c) {
				continue
			}
			rec, ref := xenapi.New(c.ID), xenapi.NewRef[string]()
			if f := c.FieldByName("uuid"); f != nil {
				xenapi.SetField(rec.Ptr(f.Index), xenapi.NewUUID())
			}
			tx.Insert(ref, rec)
			w.refs[c.Name] = ref
		}
	})
	xapitest.Update(e.t, e.Env, func(tx *db.Tx) {
		for _, c := range datamodel.Get().Classes {
			if !stored(c) {
				continue
			}
			rec, err := tx.Edit(c, w.refs[c.Name])
			if err != nil {
				e.t.Fatal(err)
			}
			for _, f := range c.Fields {
				if v := w.value(f, 0); v != nil && !f.Derived && f.Name != "uuid" {
					xenapi.SetField(rec.Ptr(f.Index), v)
				}
			}
		}
	})
	return w
}

// value makes a canonical value for a field, one of two; nil where a test
// leaves the field alone.
func (w *world) value(f *datamodel.Field, variant int) any {
	if f.Type.Kind == datamodel.Ref && f.Type.Class == f.Class {
		return xenapi.Null // an object is not its own parent
	}
	return w.typed(f.Type, variant)
}

func (w *world) typed(t *datamodel.Type, variant int) any {
	if t.Textual() {
		return w.text(t, variant)
	}
	switch t.Kind {
	case datamodel.Int:
		return int64(7 + variant)
	case datamodel.Float:
		return 0.25 + float64(variant)
	case datamodel.Bool:
		return variant == 0
	case datamodel.DateTime:
		return time.Date(2026, 8, 23, 10, 11, 12+variant, 0, time.UTC)
	case datamodel.Set:
		if t.Elem.Kind == datamodel.Int {
			return []int64{int64(3 + variant)}
		}
		if v := w.text(t.Elem, variant); v != xenapi.Null {
			return []string{v}
		}
		return []string{}
	case datamodel.Map:
		return w.pairs(t, variant)
	}
	return nil
}

func (w *world) text(t *datamodel.Type, variant int) string {
	switch {
	case t.Kind == datamodel.EnumType:
		return t.Enum.Members[variant%len(t.Enum.Members)]
	case t.Kind == datamodel.Ref && variant == 0 && w.refs[t.Class.Name] != "":
		return w.refs[t.Class.Name]
	case t.Kind == datamodel.Ref:
		return xenapi.Null
	}
	return fmt.Sprintf("text <%d> & \"é\"", variant)
}

func (w *world) pairs(t *datamodel.Type, variant int) any {
	switch k := t.Key; {
	case k.Textual() && t.Elem.Textual():
		if key, v := w.text(k, variant), w.text(t.Elem, variant); key != xenapi.Null && v != xenapi.Null {
			return map[string]string{key: v}
		}
		return map[string]string{}
	case k.Textual() && t.Elem.Kind == datamodel.Int:
		return map[string]int64{w.text(k, 0): int64(variant)}
	case k.Textual() && t.Elem.Kind == datamodel.Set:
		return map[string][]string{w.text(k, 0): {w.text(t.Elem.Elem, variant)}}
	case k.Kind == datamodel.Int && t.Elem.Kind == datamodel.Float:
		return map[int64]float64{1: 0.5}
	case k.Kind == datamodel.Int && t.Elem.Kind == datamodel.Int:
		return map[int64]int64{1: 2}
	case k.Kind == datamodel.Int && t.Elem.Kind == datamodel.Set:
		return map[int64][]string{1: {"flag"}}
	}
	return nil
}

// TestImplicit calls every message that follows from the classes, over the
// wire.
func TestImplicit(t *testing.T) {
	w := populate(open(t))
	called := map[string]bool{}
	for _, c := range datamodel.Get().Classes {
		if w.refs[c.Name] == "" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			e := *w.env
			e.t = t
			k := &classTest{world: &world{&e, w.refs}, t: t, class: c, ref: w.refs[c.Name], called: called}
			token := k.token()
			k.reads()
			k.writes(token)
			k.ctor()
		})
	}
	n := 0
	for _, c := range datamodel.Get().Classes {
		for _, m := range c.Messages {
			if m.Kind == datamodel.Explicit {
				continue
			}
			n++
			if !called[m.WireName()] {
				t.Errorf("%s was not called", m.WireName())
			}
		}
	}
	same(t, "implicit messages", n, 1580)
}

// classTest is the test of one class.
type classTest struct {
	*world
	t      *testing.T
	class  *datamodel.Class
	ref    string
	called map[string]bool
}

// each calls a message if the class has it, by XML and JSON, and gives both
// answers.
func (k *classTest) each(name string, args ...any) []wire.Value {
	k.t.Helper()
	m := datamodel.Get().Message(k.class.Name + "." + name)
	if m == nil || m.Kind == datamodel.Explicit {
		return nil
	}
	k.called[m.WireName()] = true
	var out []wire.Value
	for _, call := range []func(string, ...any) (wire.Value, error){k.xml, k.json} {
		v, err := call(m.WireName(), append([]any{k.root}, args...)...)
		if m.Lifecycle == datamodel.Removed {
			fails(k.t, err, "MESSAGE_REMOVED")
			continue
		}
		if err != nil {
			k.t.Errorf("%s: %v", m.WireName(), err)
		}
		out = append(out, v)
	}
	return out
}

// equal compares values but for the names that they have as members.
func equal(a, b wire.Value) bool {
	a.Name, b.Name = "", ""
	return reflect.DeepEqual(a, b)
}

func hasText(v wire.Value, text string) bool {
	return slices.ContainsFunc(v.Items, func(i wire.Value) bool { return i.Text == text })
}

// reads checks that every way to read the object tells the same.
func (k *classTest) reads() {
	records := k.each("get_record", k.ref)
	row := k.DB.View().Find(k.class, k.ref)
	for _, f := range k.class.Fields {
		got := k.each("get_"+f.Name, k.ref)
		for i, v := range got {
			k.holds(f, v, row.Rec.Ptr(f.Index))
			if records == nil {
				continue // removed
			}
			member, there := records[i].Member(f.Name)
			if there == f.InternalOnly {
				k.t.Errorf("%s in the record: %v", f.Name, there)
			}
			if there && !equal(v, *member) {
				k.t.Errorf("get_%s gives %v, the record has %v", f.Name, v, *member)
			}
		}
	}
	if uuid := row.UUID(); uuid != "" {
		for _, v := range k.each("get_by_uuid", uuid) {
			same(k.t, "get_by_uuid", v.Text, k.ref)
		}
	}
	if f := k.class.FieldByName("name_label"); f != nil {
		for _, v := range k.each("get_by_name_label", *row.Rec.Ptr(f.Index).(*string)) {
			same(k.t, "get_by_name_label", hasText(v, k.ref), true)
		}
	}
	k.lists(records, row.UUID())
}

// lists checks the four calls that go through all objects.
func (k *classTest) lists(records []wire.Value, uuid string) {
	one := `field "uuid" = "` + uuid + `"`
	for _, args := range [][]any{nil, {one}, {"not " + one}} {
		suffix := ""
		if args != nil {
			suffix = "_where"
		}
		want := args == nil || args[0] == one
		for _, v := range k.each("get_all"+suffix, args...) {
			same(k.t, "get_all"+suffix, hasText(v, k.ref), want)
			if args != nil && args[0] == one {
				same(k.t, "objects of that uuid", len(v.Items), 1)
			}
		}
		for i, v := range k.each("get_all_records"+suffix, args...) {
			rec, there := v.Member(k.ref)
			same(k.t, "get_all_records"+suffix, there, want)
			if there && !equal(*rec, records[i]) {
				k.t.Errorf("get_all_records%s gives another record than get_record", suffix)
			}
		}
	}
}

// holds checks that a wire value is the value at p, as Record.Ptr gives it.
func (k *classTest) holds(f *datamodel.Field, v wire.Value, p any) {
	k.t.Helper()
	got, err := wire.Decode(f.Type, v, f.Name)
	if err != nil {
		k.t.Errorf("%s: %v", f.Name, err)
		return
	}
	if f.Type.Kind == datamodel.Option || f.Type.Kind == datamodel.Record {
		return
	}
	rec := xenapi.New(k.class.ID)
	xenapi.SetField(rec.Ptr(f.Index), got)
	if !xenapi.SameField(rec.Ptr(f.Index), p) {
		k.t.Errorf("%s is %v on the wire, %v in the graph", f.Name, got, reflect.ValueOf(p).Elem())
	}
}

// now checks that the field's getter gives a value.
func (k *classTest) now(f *datamodel.Field, want any) {
	k.t.Helper()
	rec := xenapi.New(k.class.ID)
	xenapi.SetField(rec.Ptr(f.Index), want)
	for _, v := range k.each("get_"+f.Name, k.ref) {
		k.holds(f, v, rec.Ptr(f.Index))
	}
}

// writes checks every setter by its getter, and the event that follows.
func (k *classTest) writes(token string) {
	written := false
	for _, f := range k.class.Fields {
		for variant := range 2 {
			v := k.value(f, 1-variant)
			if k.each("set_"+f.Name, k.ref, v) != nil {
				k.now(f, v)
				written = true
			}
		}
		k.members(f)
	}
	if !written || !k.class.GenEvents || k.class.Lifecycle == datamodel.Removed {
		return
	}
	k.event(token, "mod", k.ref)
}

// members checks add_to_, remove_from_, add_ and remove_.
func (k *classTest) members(f *datamodel.Field) {
	name := k.class.Name + "."
	if m := datamodel.Get().Message(name + "add_to_" + f.Name); m != nil && m.Kind != datamodel.Explicit {
		args := []any{k.ref, "fresh", k.typed(m.Params[2].Type, 1)}
		if m.Lifecycle == datamodel.Removed {
			k.each("add_to_"+f.Name, args...)
			k.each("remove_from_"+f.Name, args[:2]...)
			return
		}
		k.called[m.WireName()] = true
		k.must(m.WireName(), args...)
		_, err := k.call(m.WireName(), args...)
		fails(k.t, err, "MAP_DUPLICATE_KEY", k.class.Name, f.Name, k.ref, "fresh")
		for _, v := range k.each("get_"+f.Name, k.ref) {
			_, there := v.Member("fresh")
			same(k.t, name+f.Name+" has the key", there, true)
		}
		k.each("remove_from_"+f.Name, k.ref, "fresh")
		k.now(f, k.value(f, 0))
	}
	if m := datamodel.Get().Message(name + "add_" + f.Name); m != nil && m.Kind == datamodel.FieldAdd {
		v := k.typed(m.Params[1].Type, 0)
		k.each("add_"+f.Name, k.ref, v)
		k.now(f, k.value(f, 0))
		k.each("remove_"+f.Name, k.ref, v)
		for _, v := range k.each("get_"+f.Name, k.ref) {
			same(k.t, name+f.Name+" is empty", len(v.Items), 0)
		}
	}
}

// ctor checks create and destroy.
func (k *classTest) ctor() {
	create := datamodel.Get().Message(k.class.Name + ".create")
	if create == nil || create.Kind != datamodel.Create {
		return
	}
	token := k.token()
	var given wire.Object
	for _, f := range k.class.Fields {
		if f.CanCreate() && k.value(f, 0) != nil {
			given = append(given, wire.Member{Name: f.Name, Value: k.value(f, 0)})
		}
	}
	given = append(given, wire.Member{Name: "no_such_field", Value: "ignored"})
	made := k.each("create", given)
	if made == nil { // removed, like all of the class
		k.each("destroy", k.ref)
		return
	}
	for _, ref := range made {
		row := k.DB.View().Find(k.class, ref.Text)
		if row == nil {
			k.t.Fatalf("create gave %q", ref.Text)
		}
		for _, f := range k.class.Fields {
			if f.CanCreate() && k.value(f, 0) != nil {
				rec := xenapi.New(k.class.ID)
				xenapi.SetField(rec.Ptr(f.Index), k.value(f, 0))
				if !xenapi.SameField(rec.Ptr(f.Index), row.Rec.Ptr(f.Index)) {
					k.t.Errorf("create lost %s", f.Name)
				}
			}
		}
	}
	if k.class.GenEvents {
		k.event(token, "add", made[0].Text)
		token = k.token()
	}
	k.called[k.class.Name+".destroy"] = true
	k.must(k.class.Name+".destroy", made[0].Text)
	_, err := k.call(k.class.Name+".destroy", made[0].Text)
	fails(k.t, err, "HANDLE_INVALID", k.class.Name, made[0].Text)
	_, err = k.xml(k.class.Name+".destroy", k.root, made[1].Text)
	same(k.t, "destroy by XML", err, nil)
	if k.class.GenEvents {
		k.event(token, "del", made[1].Text)
	}
}

// token is that of a moment after all that happened so far.
func (k *classTest) token() string {
	v, err := k.json("event.from", k.login("root"), []string{}, "", 0.0)
	if err != nil {
		k.t.Fatal(err)
	}
	m, _ := v.Member("token")
	return m.Text
}

// event checks that one came for an object, with its record.
func (k *classTest) event(token, op, ref string) {
	k.t.Helper()
	v, err := k.json("event.from", k.login("root"), []string{k.class.Name + "/" + ref}, token, 5.0)
	if err != nil {
		k.t.Fatal(err)
	}
	list, _ := v.Member("events")
	if len(list.Items) != 1 {
		k.t.Fatalf("%d events of %s", len(list.Items), op)
	}
	got, _ := list.Items[0].Member("operation")
	same(k.t, "operation", got.Text, op)
	snapshot, there := list.Items[0].Member("snapshot")
	same(k.t, "has a snapshot", there, op != "del")
	if there {
		if rec, err := k.json(k.class.Name+".get_record", k.root, ref); err != nil || !equal(rec, *snapshot) {
			k.t.Errorf("the snapshot is not the record: %v", err)
		}
	}
}

// TestReferences: what names nothing says so, with its class as it is spelt.
func TestReferences(t *testing.T) {
	e := open(t)
	vm := e.vm("a")
	gone := e.vm("b")
	xapitest.Update(t, e.Env, func(tx *db.Tx) { db.Delete(tx, xenapi.VMRef(gone)) })
	uuid := e.must("VM.get_uuid", vm).(string)
	for name, ref := range map[string]string{
		"null": xenapi.Null, "empty": "", "a deleted object": gone, "another class": string(e.Host()),
		"upper case": "OPAQUEREF" + vm[9:], "with a space": " " + vm, "a uuid": uuid,
	} {
		t.Run(name, func(t *testing.T) {
			for _, call := range []string{"VM.get_record", "VM.get_name_label"} {
				_, err := e.call(call, ref)
				fails(t, err, "HANDLE_INVALID", "VM", ref)
			}
			_, err := e.call("VM.set_name_description", ref, "x")
			fails(t, err, "HANDLE_INVALID", "VM", ref)
			_, err = e.call("VBD.create", wire.Object{{Name: "VM", Value: ref}})
			if err == nil {
				t.Error("a VBD of no VM was made")
			}
		})
	}
	_, err := e.call("VM.get_by_uuid", "x")
	fails(t, err, "UUID_INVALID", "VM", "x")
	same(t, "nobody of that name", e.must("VM.get_by_name_label", "nobody"), []string{})
}
