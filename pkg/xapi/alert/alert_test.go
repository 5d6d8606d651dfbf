package alert_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/alert"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

const stranger = "11111111-2222-3333-4444-555555555555"

func open(t *testing.T) (*xapi.Env, *alert.Messages) {
	t.Helper()
	env := xapitest.Open(t, t.TempDir(), nil)
	xapitest.Host(t, env)
	where := func(class *datamodel.Class, expr string) (func(rec xenapi.Record) bool, error) {
		if class.Name != "message" {
			t.Errorf("class %s", class.Name)
		}
		return func(rec xenapi.Record) bool { return rec.(*xenapi.Message).Name == expr }, nil
	}
	return env, alert.New(env, where)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, s *alert.Messages, change func(p *service.MessageCreateParams)) (xenapi.MessageRef, error) {
	t.Helper()
	p := service.MessageCreateParams{Name: "ALERT", Priority: 3, Cls: xenapi.ClsHost, ObjUUID: xapitest.HostUUID, Body: "<x/>"}
	if change != nil {
		change(&p)
	}
	return s.Create(t.Context(), xapitest.Call(), p)
}

func TestCreateAndRead(t *testing.T) {
	env, s := open(t)
	ctx, c := t.Context(), xapitest.Call()
	ref, err := create(t, s, nil)
	must(t, err)
	rec, err := s.GetRecord(ctx, c, service.MessageGetRecordParams{Self: ref})
	must(t, err)
	if rec.Name != "ALERT" || rec.Priority != 3 || rec.Body != "<x/>" || !rec.Timestamp.Equal(xapitest.Now) {
		t.Errorf("%+v", rec)
	}
	if got, err := s.GetByUUID(ctx, c, service.MessageGetByUUIDParams{UUID: rec.UUID}); got != ref || err != nil {
		t.Errorf("%s %v", got, err)
	}
	_, err = s.GetByUUID(ctx, c, service.MessageGetByUUIDParams{UUID: stranger})
	xapitest.Fails(t, err, "UUID_INVALID", "message", stranger)
	_, err = s.GetRecord(ctx, c, service.MessageGetRecordParams{Self: "OpaqueRef:x"})
	xapitest.Fails(t, err, "HANDLE_INVALID", "message", "OpaqueRef:x")

	_, pool := xapi.Pool(env.DB.View())
	_, err = create(t, s, func(p *service.MessageCreateParams) { p.Cls, p.ObjUUID, p.Name = xenapi.ClsPool, pool.UUID, "OTHER" })
	must(t, err)
	about := func(cls xenapi.Cls, uuid string, since time.Time) int {
		got, err := s.Get(ctx, c, service.MessageGetParams{Cls: cls, ObjUUID: uuid, Since: since})
		must(t, err)
		return len(got)
	}
	if n := about(xenapi.ClsHost, xapitest.HostUUID, xapitest.Now); n != 1 {
		t.Errorf("%d about the host", n)
	}
	if n := about(xenapi.ClsHost, xapitest.HostUUID, xapitest.Now.Add(time.Second)); n != 0 {
		t.Errorf("%d from the future", n)
	}
	if n := about(xenapi.ClsVM, xapitest.HostUUID, xenapi.Epoch); n != 0 {
		t.Errorf("%d about a VM", n)
	}
	if got, err := s.GetSince(ctx, c, service.MessageGetSinceParams{Since: xenapi.Epoch}); len(got) != 2 || err != nil {
		t.Errorf("%d since ever, %v", len(got), err)
	}
	if got, err := s.GetAllRecords(ctx, c); len(got) != 2 || err != nil {
		t.Errorf("%d records, %v", len(got), err)
	}
	if got, err := s.GetAllRecordsWhere(ctx, c, service.MessageGetAllRecordsWhereParams{Expr: "OTHER"}); len(got) != 1 || err != nil {
		t.Errorf("%d records where, %v", len(got), err)
	}
	if got, err := s.GetAll(ctx, c); len(got) != 2 || err != nil {
		t.Errorf("%d refs, %v", len(got), err)
	}
}

func TestCreateRefuses(t *testing.T) {
	_, s := open(t)
	for name, row := range map[string]struct {
		change func(p *service.MessageCreateParams)
		code   string
		params []string
	}{
		"no object":     {func(p *service.MessageCreateParams) { p.ObjUUID = stranger }, "UUID_INVALID", []string{"Host", stranger}},
		"another class": {func(p *service.MessageCreateParams) { p.Cls = xenapi.ClsVM }, "UUID_INVALID", []string{"VM", xapitest.HostUUID}},
		"body":          {func(p *service.MessageCreateParams) { p.Body = "\xff" }, "INVALID_VALUE", []string{"body", "\xff"}},
		"long body":     {func(p *service.MessageCreateParams) { p.Body = strings.Repeat("x", 1<<17) }, "INVALID_VALUE", []string{"body", "131072 bytes"}},
		"no name":       {func(p *service.MessageCreateParams) { p.Name = "" }, "INVALID_VALUE", []string{"name", "0 bytes"}},
		"priority":      {func(p *service.MessageCreateParams) { p.Priority = -1 }, "INVALID_VALUE", []string{"priority", "-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := create(t, s, row.change)
			xapitest.Fails(t, err, row.code, row.params...)
		})
	}
}

func TestDestroy(t *testing.T) {
	env, s := open(t)
	ctx, c := t.Context(), xapitest.Call()
	var refs []xenapi.MessageRef
	for priority := range int64(5) {
		ref, err := create(t, s, func(p *service.MessageCreateParams) { p.Priority = priority })
		must(t, err)
		refs = append(refs, ref)
	}
	count := func() int { return env.DB.View().Count(datamodel.Get().Class("message")) }
	must(t, s.Destroy(ctx, c, service.MessageDestroyParams{Self: refs[0]}))
	xapitest.Fails(t, s.Destroy(ctx, c, service.MessageDestroyParams{Self: refs[0]}), "HANDLE_INVALID", "message", string(refs[0]))
	many := func(refs ...xenapi.MessageRef) error {
		return s.DestroyMany(ctx, c, service.MessageDestroyManyParams{Messages: refs})
	}
	xapitest.Fails(t, many(refs[1], refs[0]), "HANDLE_INVALID", "message", string(refs[0]))
	if count() != 4 {
		t.Errorf("%d left after a refusal", count())
	}
	must(t, many(refs[1], refs[2], refs[1]))
	all := func(filters map[string]string) error {
		return s.DestroyAll(ctx, c, service.MessageDestroyAllParams{Filters: filters})
	}
	must(t, all(map[string]string{"priority": "4", "class": "VM"}))
	must(t, all(map[string]string{"before": "20261123T12:00:00Z"}))
	must(t, all(map[string]string{"after": "20261123T12:00:00Z"}))
	must(t, all(map[string]string{"object": stranger}))
	if count() != 2 {
		t.Errorf("%d left, none was meant", count())
	}
	must(t, all(map[string]string{"priority": "4", "class": "Host", "object": xapitest.HostUUID, "before": "20261123T12:00:01Z"}))
	if count() != 1 {
		t.Errorf("%d left", count())
	}
	for key, value := range map[string]string{"before": "yesterday", "priority": "high", "colour": "red"} {
		xapitest.Fails(t, all(map[string]string{key: value}), "INVALID_VALUE", "filters", "*")
	}
	must(t, all(nil))
	if count() != 0 {
		t.Errorf("%d left of all", count())
	}
}

func TestKeepsTheNewest(t *testing.T) {
	env, _ := open(t)
	var first xenapi.MessageRef
	const batch = 1000
	for i := range alert.Keep / batch {
		xapitest.Update(t, env, func(tx *db.Tx) {
			for j := range batch {
				at := xapitest.Now.Add(time.Duration(i*batch+j) * time.Second)
				ref := alert.Post(tx, "VM_STARTED", xenapi.ClsVM, stranger, "", at)
				if i+j == 0 {
					first = ref
				}
			}
		})
	}
	if m := db.Find(env.DB.View(), first); m == nil || m.Priority != 5 {
		t.Errorf("%+v", m)
	}
	var last xenapi.MessageRef
	xapitest.Update(t, env, func(tx *db.Tx) {
		last = alert.Post(tx, "VM_CRASHED", xenapi.ClsVM, stranger, "", xapitest.Now.Add(24*time.Hour))
	})
	rd := env.DB.View()
	if n := rd.Count(datamodel.Get().Class("message")); n > alert.Keep || n < alert.Keep*9/10 {
		t.Errorf("%d are kept", n)
	}
	if db.Find(rd, first) != nil || db.Find(rd, last) == nil {
		t.Error("not the oldest went")
	}
}

func TestMessagesAreNoOrdinaryObjects(t *testing.T) {
	class := datamodel.Get().Class("message")
	if !class.Stored() || class.InDatabase {
		t.Error("messages outlive the daemon, but have no implicit messages")
	}
	for _, m := range class.Messages {
		if m.Kind != datamodel.Explicit {
			t.Errorf("%s is implicit", m.Name)
		}
	}
	if slices.ContainsFunc(class.Fields, func(f *datamodel.Field) bool { return !f.Persistent() }) {
		t.Error("a field does not persist")
	}
}

func TestSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	t.Run("before", func(t *testing.T) {
		env := xapitest.Open(t, dir, nil)
		xapitest.Host(t, env)
		_, err := create(t, alert.New(env, nil), nil)
		must(t, err)
	})
	env := xapitest.Open(t, dir, nil)
	got, err := alert.New(env, nil).GetAllRecords(t.Context(), xapitest.Call())
	if err != nil || len(got) != 1 {
		t.Errorf("%d alerts after the restart, %v", len(got), err)
	}
}
