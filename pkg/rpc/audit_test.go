package rpc_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// line is a line of the audit file.
type line struct{ Call, User, Session, Address, Object, Task, Result string }

// lines reads the audit file.
func (e *env) lines() []line {
	e.t.Helper()
	b, err := os.ReadFile(e.audit)
	if err != nil {
		e.t.Fatal(err)
	}
	var out []line
	for _, text := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			e.t.Fatalf("%q: %v", text, err)
		}
		out = append(out, l)
	}
	return out
}

// TestAudit: a line for each change, login and refusal, with who, what, which
// object and how it ended; none for reads, and no secret in any.
func TestAudit(t *testing.T) {
	e, _ := openBlocking(t)
	vm := e.vm("a")
	alice := e.user("alice", "read-only")
	uuid := func(s string) string { return db.Find(e.DB.View(), xenapi.SessionRef(s)).UUID }
	root := line{User: "root", Session: uuid(e.root)}
	sent := func(l line, call, object, result string) line {
		l.Call, l.Object, l.Result = call, object, result
		return l
	}
	const hidden = "hunter2"
	for name, c := range map[string]struct {
		do   func() error
		want []line
	}{
		"a read": {func() error { _, err := e.call("VM.get_record", vm); return err }, nil},
		"a write": {func() error { _, err := e.call("network.set_name_label", e.network(), hidden); return err },
			[]line{sent(root, "network.create", "*", "ok"), sent(root, "network.set_name_label", "*", "ok")}},
		"a failure":              {func() error { e.call("VM.pause", vm); return nil }, []line{sent(root, "VM.pause", vm, "NOT_IMPLEMENTED")}},
		"a wrong role":           {func() error { e.as(alice, "VM.pause", vm); return nil }, []line{{Call: "VM.pause", User: "alice", Session: uuid(alice), Object: vm, Result: "RBAC_PERMISSION_DENIED"}}},
		"a read that is refused": {func() error { e.as(alice, "secret.get_all"); return nil }, []line{{Call: "secret.get_all", User: "alice", Session: uuid(alice), Result: "RBAC_PERMISSION_DENIED"}}},
		"a session that is none": {func() error { e.as(hidden, "VM.pause", vm); return nil }, []line{{Call: "VM.pause", Object: vm, Result: "SESSION_INVALID"}}},
		"a failed login": {func() error { e.json("session.login_with_password", "mallory", hidden); return nil },
			[]line{{Call: "session.login_with_password", User: "mallory", Result: "SESSION_AUTHENTICATION_FAILED"}}},
		"a secret's value": {func() error {
			_, err := e.call("secret.create", wire.Object{{Name: "value", Value: hidden}, {Name: "other_config", Value: wire.Object{}}})
			return err
		}, []line{sent(root, "secret.create", "*", "ok")}},
		"passwords":                            {func() error { e.call("session.change_password", hidden, hidden); return nil }, []line{sent(root, "session.change_password", "", "CHANGE_PASSWORD_REJECTED")}},
		"a password in an object's place":      {func() error { e.call("VM.pause", hidden); return nil }, []line{sent(root, "VM.pause", "no reference", "NOT_IMPLEMENTED")}},
		"a session in an object's place":       {func() error { e.call("VM.pause", alice); return nil }, []line{sent(root, "VM.pause", "session "+uuid(alice), "NOT_IMPLEMENTED")}},
		"a session's own fields":               {func() error { _, err := e.call("session.add_to_other_config", alice, "k", hidden); return err }, []line{sent(root, "session.add_to_other_config", "session "+uuid(alice), "ok")}},
		"an unknown method without permission": {func() error { e.as(alice, "VM.nothing"); return nil }, []line{{Call: "host.call_extension", User: "alice", Session: uuid(alice), Result: "RBAC_PERMISSION_DENIED"}}},
		"an Async call": {func() error {
			v, err := e.call("Async.VM.clone", vm, hidden)
			e.ended(v.(string))
			return err
		}, []line{{Call: "VM.clone", User: "root", Session: uuid(e.root), Object: vm, Result: "ok", Task: "*"}}},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(e.lines())
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			got := e.lines()[before:]
			blur(t, got, c.want)
			same(t, "lines", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", append([]line(nil), c.want...)))
		})
	}
	b, err := os.ReadFile(e.audit)
	if err != nil {
		t.Fatal(err)
	}
	leaks(t, "the audit file", string(b), hidden, alice, e.root)
}

// blur checks that the lines have an address, and makes those members like the
// wanted ones that may be anything.
func blur(t *testing.T, got, want []line) {
	t.Helper()
	for i := range got {
		if got[i].Address == "" {
			t.Error("no address")
		}
		got[i].Address = ""
		if i < len(want) && want[i].Object == "*" && got[i].Object != "" {
			got[i].Object = "*"
		}
		if i < len(want) && want[i].Task == "*" && got[i].Task != "" {
			got[i].Task = "*"
		}
	}
}

// TestAuditRotation: by size, a number of files is kept, none is cut.
func TestAuditRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	audit, err := rpc.OpenAudit(path, 4096, 2)
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, func(o *rpc.Options) { o.Audit = audit })
	for range 100 {
		e.call("VM.pause", e.root)
	}
	if err := audit.Close(); err != nil {
		t.Fatal(err)
	}
	for name, there := range map[string]bool{path: true, path + ".1": true, path + ".2": true, path + ".3": false} {
		b, err := os.ReadFile(name)
		if (err == nil) != there || len(b) > 4096 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		for _, text := range strings.Split(strings.TrimSpace(string(b)), "\n") {
			if there && !json.Valid([]byte(text)) {
				t.Errorf("%s: %q", name, text)
			}
		}
	}
}

// TestGetAuditLog: who may fetch the file, and by which credentials.
func TestGetAuditLog(t *testing.T) {
	e := open(t)
	e.subject("alice", "read-only")
	nobody := e.user("nobody")
	e.call("VM.pause", "x")
	for name, c := range map[string]struct {
		query  string
		header map[string]string
		status int
	}{
		"by cookie":                       {"", map[string]string{"Cookie": "session_id=" + e.root}, 200},
		"by query":                        {"?session_id=" + e.root, nil, 200},
		"the cookie comes first":          {"?session_id=" + e.root, map[string]string{"Cookie": "session_id=OpaqueRef:x"}, 401},
		"a bad session beside a password": {"?session_id=x", map[string]string{"Authorization": basic("root", "pw")}, 401},
		"by password":                     {"", map[string]string{"Authorization": basic("root", "pw")}, 200},
		"by a subject's password":         {"", map[string]string{"Authorization": basic("alice", "pw")}, 200},
		"a wrong password":                {"", map[string]string{"Authorization": basic("root", "x")}, 401},
		"no subject":                      {"", map[string]string{"Authorization": basic("bob", "pw")}, 401},
		"nothing":                         {"", nil, 401},
		"without a role":                  {"?session_id=" + nobody, nil, 403},
		"nothing that old":                {"?since=20991231T00:00:00Z&session_id=" + e.root, nil, 200},
		"a bad time":                      {"?since=yesterday&session_id=" + e.root, nil, 500},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(e.lines())
			resp, body := e.do(http.MethodGet, "/audit_log"+c.query, "", c.header)
			same(t, "status", resp.StatusCode, c.status)
			if strings.Contains(string(body), `"call":"VM.pause"`) != (c.status == 200 && !strings.Contains(c.query, "2099")) {
				t.Errorf("%s", body)
			}
			if c.status == 401 {
				same(t, "challenge", resp.Header.Get("WWW-Authenticate"), `Basic realm="get_audit_log"`)
			}
			got := e.lines()[before:]
			same(t, "lines", len(got), 1)
			same(t, "call", got[0].Call, "http/get_audit_log")
			same(t, "ok", got[0].Result == "ok", c.status == 200)
		})
	}
	same(t, "sessions left", e.DB.View().Count(datamodel.Get().Class("session")), 2)
}

func basic(user, password string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// TestTransferTask: a handler completes the task that the request names, if
// it is the caller's.
func TestTransferTask(t *testing.T) {
	e, vms := openBlocking(t)
	e.subject("alice", "read-only")
	alice := e.login("alice")
	nobody := e.user("nobody")
	status := func(ref any) string {
		task := e.task(ref)
		return fmt.Sprint(task.Status, " ", strings.Join(task.ErrorInfo[:min(1, len(task.ErrorInfo))], ""))
	}
	mine := func() string { return e.must("task.create", "t", "").(string) }
	get := func(session, task string) {
		e.do(http.MethodGet, "/audit_log?session_id="+session+"&task_id="+task, "", nil)
	}
	task := mine()
	get(e.root, task)
	same(t, "done", status(task), "success ")
	task = mine()
	get("x", task)
	same(t, "no session", status(task), "failure SESSION_AUTHENTICATION_FAILED")
	task = mine()
	get(alice, task)
	same(t, "another's", status(task), "pending ")
	running := e.start(e.root, vms, e.vm("a"))
	get(e.root, running)
	same(t, "a call's own", status(running), "pending ")
	close(vms.release)
	e.ended(running)
	xs := e.must("task.create", "t", "").(string)
	get(nobody, xs)
	same(t, "a refusal of another's", status(xs), "pending ")
	e.do(http.MethodGet, "/audit_log", "", map[string]string{"Cookie": "session_id=" + e.root + "; task_id=" + xs})
	same(t, "by cookie", status(xs), "success ")
	at := e.task(xs).Finished
	e.clock.move(time.Hour)
	get(e.root, xs)
	same(t, "only once", e.task(xs).Finished, at)
}
