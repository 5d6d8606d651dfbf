package rpc_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
)

// event is one event as a client sees it.
type event struct {
	op, class, ref, id string
	snapshot           *wire.Value
}

// member is a member of the snapshot.
func (ev event) member(name string) string {
	if ev.snapshot == nil {
		return ""
	}
	m, _ := ev.snapshot.Member(name)
	return m.Text
}

func (ev event) String() string { return ev.op + " " + ev.class }

func eventsIn(v wire.Value) []event {
	var out []event
	for _, item := range v.Items {
		ev := event{}
		for i := range item.Items {
			m := &item.Items[i]
			switch m.Name {
			case "operation":
				ev.op = m.Text
			case "class":
				ev.class = m.Text
			case "ref":
				ev.ref = m.Text
			case "id":
				ev.id = m.Text
			case "snapshot":
				ev.snapshot = m
			}
		}
		out = append(out, ev)
	}
	return out
}

// events calls event.from and gives events and token.
func (e *env) events(session, token string, timeout float64, classes ...string) ([]event, string) {
	e.t.Helper()
	v, err := e.json("event.from", session, classes, token, timeout)
	if err != nil {
		e.t.Fatal(err)
	}
	list, _ := v.Member("events")
	next, _ := v.Member("token")
	return eventsIn(*list), next.Text
}

// rename changes a VM.
func (e *env) rename(vm, name string) {
	e.t.Helper()
	xapitest.Update(e.t, e.Env, func(tx *db.Tx) {
		rec, err := db.Edit(tx, xenapi.VMRef(vm))
		if err != nil {
			e.t.Fatal(err)
		}
		rec.NameLabel = name
	})
}

func (e *env) remove(vm string) {
	e.t.Helper()
	xapitest.Update(e.t, e.Env, func(tx *db.Tx) { db.Delete(tx, xenapi.VMRef(vm)) })
}

// TestEventFrom: additions first, then one event an object, coalesced.
func TestEventFrom(t *testing.T) {
	e := open(t)
	vm := e.vm("a")
	all, token := e.events(e.login("root"), "", 0, "*")
	count := 0
	for _, c := range datamodel.Get().Classes {
		if c.GenEvents {
			count += e.DB.View().Count(c)
		}
	}
	same(t, "events of everything", len(all), count)
	for _, ev := range all {
		if ev.op != "add" || ev.snapshot == nil || ev.class == "session" || ev.class != strings.ToLower(ev.class) {
			t.Fatalf("%+v", ev)
		}
	}
	steps := []struct {
		name, want string
		do         func()
	}{
		{"nothing", "[]", func() {}},
		{"two changes are one", "[mod vm]", func() { e.rename(vm, "b"); e.rename(vm, "c") }},
		{"made and changed is made", "[add vm]", func() { e.rename(e.vm("new"), "newer") }},
		{"came and went is nothing", "[]", func() { e.remove(e.vm("short")) }},
		{"changed and gone is gone", "[del vm]", func() { e.rename(vm, "d"); e.remove(vm) }},
		{"in their order", "[add vm mod pool del vm]", func() {
			gone := e.must("VM.get_by_name_label", "newer").([]string)[0]
			e.remove(gone)
			xapitest.Update(t, e.Env, func(tx *db.Tx) {
				class := datamodel.Get().Class("pool")
				for row := range tx.Snapshot().Rows(class) {
					if err := tx.Touch(class, row.Ref); err != nil {
						t.Error(err)
					}
				}
			})
			e.vm("last")
		}},
	}
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			s.do()
			var got []event
			got, token = e.events(e.login("root"), token, 0, "*")
			same(t, "events", got, s.want)
			for _, ev := range got {
				same(t, "snapshot", ev.snapshot == nil, ev.op == "del")
			}
		})
	}
}

// TestEventFilters: classes in any case, single objects, unknown ones.
func TestEventFilters(t *testing.T) {
	e := open(t)
	vm, other := e.vm("a"), e.vm("b")
	_, token := e.events(e.login("root"), "", 0)
	e.rename(vm, "c")
	e.rename(other, "d")
	host := string(e.Host())
	for name, c := range map[string]struct {
		classes []string
		want    int
	}{
		"a class": {[]string{"VM"}, 2}, "in any case": {[]string{"vM"}, 2}, "an object": {[]string{"vm/" + vm}, 1},
		"two objects": {[]string{"vm/" + vm, "VM/" + other}, 2}, "all of an object": {[]string{"*/" + vm}, 1},
		"unknown": {[]string{"nothing"}, 0}, "none": {nil, 0}, "session never": {[]string{"session"}, 0},
		"another": {[]string{"host/" + host}, 0}, "an object of another class": {[]string{"host/" + vm}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, next := e.events(e.login("root"), token, 0, c.classes...)
			same(t, "events", len(got), c.want)
			same(t, "token", len(next), 41)
		})
	}
	for _, bad := range []string{"", "/", "VM/", "/" + vm, "VM/a/b"} {
		_, err := e.call("event.from", []string{bad}, "", 0.0)
		fails(t, err, "EVENT_SUBSCRIPTION_PARSE_FAILURE", bad)
	}
}

// TestTokens is T1 for tokens.
func TestTokens(t *testing.T) {
	e := open(t)
	_, now := e.events(e.login("root"), "", 0)
	gen := e.DB.View().Gen()
	for name, c := range map[string]struct {
		token string
		full  bool
	}{
		"of now": {now, false}, "zero": {"00000000000000000000,00000000000000000000", true},
		"of the future":            {fmt.Sprintf("%020d,%020d", 1, gen+1_000_000), true},
		"of another life or pool":  {fmt.Sprintf("%020d,%020d", 1, gen-1_000_000_000), true},
		"the greatest that parses": {"0,18446744073709551615", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := e.events(e.login("root"), c.token, 0, "host")
			same(t, "full", len(got) == 1, c.full)
		})
	}
	for _, bad := range []string{"x", ";", "1", "1;2", "-1,5", "5,-1", "1,18446744073709551616", "1,2,3", "1, 2", ","} {
		_, err := e.call("event.from", []string{"*"}, bad, 0.0)
		fails(t, err, "EVENT_FROM_TOKEN_PARSE_FAILURE", bad)
	}
}

// TestRefCounts: four-byte integers, of every table.
func TestRefCounts(t *testing.T) {
	e := open(t)
	body := string(e.direct("/", wire.AppendXMLCall(nil, "event.from", e.root, []string{}, "", 0.0)))
	for class, n := range map[string]int{"host": 1, "pool": 1, "vm": 50, "role": 7, "vbd": 0} {
		if want := fmt.Sprintf("<member><name>%s</name><value><i4>%d</i4></value></member>", class, n); !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
}

// TestInject: the token is from before the touch; wrong names are told.
func TestInject(t *testing.T) {
	e := open(t)
	host := string(e.Host())
	token := e.must("event.inject", "host", host).(string)
	got, _ := e.events(e.login("root"), token, 0, "*")
	same(t, "events", got, "[mod host]")
	same(t, "ref", got[0].ref, host)
	for _, c := range [][2]string{{"Host", host}, {"VM", host}, {"nothing", host}, {"session", e.root}, {"host", "x"}} {
		_, err := e.call("event.inject", c[0], c[1])
		fails(t, err, "HANDLE_INVALID", c[0], c[1])
	}
}

// TestEventTimeout: an empty answer with a token that goes on.
func TestEventTimeout(t *testing.T) {
	e := open(t)
	_, token := e.events(e.login("root"), "", 0)
	begun := time.Now()
	got, next := e.events(e.login("root"), token, 0.2, "VM")
	if took := time.Since(begun); len(got) != 0 || took < 200*time.Millisecond {
		t.Errorf("%d events after %s", len(got), took)
	}
	e.vm("a")
	got, _ = e.events(e.login("root"), next, 0, "VM")
	same(t, "events", got, "[add vm]")
}

// TestPacing: after an answer the next one comes no sooner than 50 ms later,
// with all that has happened meanwhile.
func TestPacing(t *testing.T) {
	e := open(t)
	session := e.login("root")
	vm := e.vm("a")
	_, token := e.events(e.login("root"), "", 0)
	waiting := e.wait(session, token, "VM")
	changed := time.Now()
	e.rename(vm, "b")
	first := <-waiting
	same(t, "events", first.events, "[mod vm]")
	waiting = e.wait(session, first.token, "VM")
	for i := range 5 {
		e.rename(vm, fmt.Sprint(i))
	}
	second := <-waiting
	if apart := second.at.Sub(changed); apart < 50*time.Millisecond { // the first answer came after the change
		t.Errorf("answers %s apart", apart)
	}
	same(t, "events", second.events, "[mod vm]")
	same(t, "name", second.events[0].member("name_label"), "4")
}

type answer struct {
	at     time.Time
	events []event
	token  string
}

// wait calls event.from in the background, and returns once it waits.
func (e *env) wait(session, token string, classes ...string) <-chan answer {
	e.t.Helper()
	before := e.DB.Feed().Waiting()
	out := make(chan answer, 1)
	go func() {
		v, err := e.json("event.from", session, classes, token, 60.0)
		if err != nil {
			e.t.Error(err)
			close(out)
			return
		}
		list, _ := v.Member("events")
		next, _ := v.Member("token")
		out <- answer{time.Now(), eventsIn(*list), next.Text}
	}()
	eventually(e.t, "it waits", func() bool { return e.DB.Feed().Waiting() > before || len(out) > 0 })
	return out
}

// TestThousandWaiters: each costs its connection and nothing while nothing of
// its own happens; all of them hear of a change.
func TestThousandWaiters(t *testing.T) {
	e := open(t)
	vm := e.vm("a")
	_, token := e.events(e.login("root"), "", 0)
	before := runtime.NumGoroutine()
	const n = 1000
	session := e.login("root")
	got := make(chan string, n)
	body := wire.AppendXMLCall(nil, "event.from", session, []string{"VM"}, token, 60.0)
	for range n {
		go func() { got <- string(e.direct("/", body)) }()
	}
	eventually(t, "all wait", func() bool { return e.DB.Feed().Waiting() == n })
	if extra := runtime.NumGoroutine() - before; extra > n+20 {
		t.Errorf("%d goroutines for %d waiters", extra, n)
	}
	e.must("event.inject", "host", string(e.Host())) // none of theirs
	same(t, "answers", len(got), 0)
	e.rename(vm, "b")
	for range n {
		if text := <-got; !strings.Contains(text, "<value>mod</value>") {
			t.Fatalf("%.300s", text)
		}
	}
	same(t, "waiters left", e.DB.Feed().Waiting(), 0)
}

// TestSleeper: a client with more behind it than the feed remembers starts
// over with everything; another notices nothing of it.
func TestSleeper(t *testing.T) {
	e := open(t)
	_, old := e.events(e.login("root"), "", 0)
	network := datamodel.Get().Class("role")
	var roles []string
	for row := range e.DB.View().Rows(network) {
		roles = append(roles, row.Ref)
	}
	for range 100_000/len(roles) + 1 {
		xapitest.Update(t, e.Env, func(tx *db.Tx) {
			for _, ref := range roles {
				if err := tx.Touch(network, ref); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	_, token := e.events(e.login("root"), "", 0)
	got, _ := e.events(e.login("root"), old, 0, "host")
	same(t, "events", got, "[add host]")
	e.must("event.inject", "host", string(e.Host()))
	got, _ = e.events(e.login("root"), token, 0, "host")
	same(t, "events", got, "[mod host]")
}

// TestClassicEvents: register, next, unregister.
func TestClassicEvents(t *testing.T) {
	e := open(t)
	session := e.login("root")
	next := func() []event {
		t.Helper()
		v, err := e.as(session, "event.next")
		if err != nil {
			t.Fatal(err)
		}
		return eventsIn(v.(wire.Value))
	}
	_, err := e.as(session, "event.next")
	fails(t, err, "SESSION_NOT_REGISTERED", "*")
	if _, err := e.as(session, "event.register", []string{"VM"}); err != nil {
		t.Fatal(err)
	}
	vm := e.vm("a")
	e.rename(vm, "b")
	e.rename(vm, "c")
	got := next()
	same(t, "every write is an event", got, "[add vm mod vm mod vm]")
	same(t, "ids", []string{got[0].id, got[1].id, got[2].id}, []string{"1", "2", "3"})
	same(t, "names", got[1].member("name_label")+got[2].member("name_label"), "bc")

	waiting := make(chan []event, 1)
	go func() { waiting <- next() }()
	if _, err := e.as(session, "event.register", []string{"pool"}); err != nil { // while it waits
		t.Fatal(err)
	}
	rpc.Collect(e.api)
	same(t, "the heartbeat", <-waiting, "[mod pool]")
	if _, err := e.as(session, "event.unregister", []string{"vm"}); err != nil {
		t.Fatal(err)
	}
	e.rename(vm, "d")
	e.must("event.inject", "pool", e.must("pool.get_all").([]string)[0])
	same(t, "without VMs", next(), "[mod pool]")
	if _, err := e.as(session, "event.unregister", []string{"*"}); err != nil {
		t.Fatal(err)
	}
	_, err = e.as(session, "event.next")
	fails(t, err, "SESSION_NOT_REGISTERED", "*")
	_, err = e.as(session, "event.register", []string{""})
	fails(t, err, "EVENT_SUBSCRIPTION_PARSE_FAILURE", "")
}

// TestEventsLost: who doesn't read loses events, and nobody else does.
func TestEventsLost(t *testing.T) {
	e := open(t)
	sleeper, reader := e.login("root"), e.login("root")
	for _, s := range []string{sleeper, reader} {
		if _, err := e.as(s, "event.register", []string{"host"}); err != nil {
			t.Fatal(err)
		}
	}
	class, host := datamodel.Get().Class("host"), string(e.Host())
	total := 0
	for i := range 5100 {
		xapitest.Update(t, e.Env, func(tx *db.Tx) {
			if err := tx.Touch(class, host); err != nil {
				t.Fatal(err)
			}
		})
		if i%1000 == 999 {
			v, err := e.as(reader, "event.next")
			if err != nil {
				t.Fatal(err)
			}
			total += len(v.(wire.Value).Items)
		}
	}
	same(t, "events read", total, 5000)
	_, err := e.as(sleeper, "event.next")
	fails(t, err, "EVENTS_LOST")
	e.must("event.inject", "host", host)
	v, err := e.as(sleeper, "event.next")
	if err != nil || len(v.(wire.Value).Items) != 1 {
		t.Errorf("afterwards: %v, %v", v, err)
	}
	same(t, "generation", e.must("event.get_current_id"), e.DB.View().Gen())
}

// TestRelations: both ends of a relation change, and both are told of.
func TestRelations(t *testing.T) {
	e := open(t)
	vm := e.vm("a")
	_, token := e.events(e.login("root"), "", 0)
	vbd := e.must("VBD.create", wire.Object{{Name: "VM", Value: vm}, {Name: "VDI", Value: xenapi.Null}, {Name: "userdevice", Value: "0"},
		{Name: "bootable", Value: false}, {Name: "mode", Value: "RO"}, {Name: "type", Value: "CD"}, {Name: "empty", Value: true},
		{Name: "other_config", Value: wire.Object{}}, {Name: "qos_algorithm_type", Value: ""}, {Name: "qos_algorithm_params", Value: wire.Object{}}}).(string)
	same(t, "VM.VBDs", e.must("VM.get_VBDs", vm), []string{vbd})
	got, token := e.events(e.login("root"), token, 0, "VM", "VBD")
	same(t, "events", got, "[add vbd mod vm]")
	e.must("VBD.destroy", vbd)
	same(t, "VM.VBDs", e.must("VM.get_VBDs", vm), []string{})
	got, _ = e.events(e.login("root"), token, 0, "VM", "VBD")
	same(t, "events", got, "[mod vm del vbd]")
}
