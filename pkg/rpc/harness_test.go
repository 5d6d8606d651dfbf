package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/rpc"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/host"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// clock is a clock that stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// env is a server with a graph of its own, and nothing else behind it.
type env struct {
	*xapi.Env
	t     testing.TB
	api   *rpc.Server
	url   string
	clock *clock
	audit string
	stop  func() // ends the server; the test's end does, too
	root  string // a session of root's
}

// open serves a graph with a pool, a host, templates and roles. change may
// alter the options.
func open(t testing.TB, change ...func(*rpc.Options)) *env {
	t.Helper()
	e := &env{t: t, Env: xapitest.Open(t, t.TempDir(), nil), clock: &clock{now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}}
	machine := host.Machine{Facts: facts.Facts{Hostname: "host", Timezone: "Etc/UTC"}, Address: "127.0.0.1",
		Hypervisor: xenctl.HostInfo{CPU: xenctl.CPUInfo{Count: 2, Sockets: 1}, MemoryTotalBytes: 8 << 30, ControlDomainBytes: 1 << 30}}
	if err := host.Ensure(t.Context(), e.Env, machine); err != nil {
		t.Fatal(err)
	}
	e.audit = filepath.Join(t.TempDir(), "audit.log")
	audit, err := rpc.OpenAudit(e.audit, 16<<20, 3)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	opts := rpc.Options{DB: e.DB, Services: service.New(), Audit: audit, Log: slog.New(slog.DiscardHandler),
		Login: login, ThisHost: e.Host, Now: e.clock.Now}
	for _, fn := range change {
		fn(&opts)
	}
	e.api = rpc.New(ctx, opts)
	done := make(chan error, 1)
	go func() { done <- e.api.Run(ctx) }()
	srv := httptest.NewServer(e.api)
	e.url = srv.URL
	e.stop = sync.OnceFunc(func() {
		cancel()
		err := <-done
		srv.Close()
		if err := errors.Join(err, audit.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(e.stop)
	e.root = e.login("root")
	return e
}

// serveRoot serves callers who are root, as the Unix socket does.
func serveRoot(t testing.TB, api *rpc.Server) string {
	srv := httptest.NewServer(api.RootHandler())
	t.Cleanup(srv.Close)
	return srv.URL
}

var errWrong = errors.New("wrong password")

// login knows root and everybody else by the password "pw", but for outsiders.
func login(_ context.Context, _, user, password string) (rpc.User, error) {
	switch {
	case password != "pw":
		return rpc.User{}, errWrong
	case user == "outsider":
		return rpc.User{}, rpc.ErrNotAuthorized
	}
	return rpc.User{Name: user, Root: user == "root"}, nil
}

// post sends a body and gives status, header and body of the answer.
func (e *env) post(path, body string) (*http.Response, []byte) {
	e.t.Helper()
	return e.do(http.MethodPost, path, body, nil)
}

func (e *env) do(method, path, body string, header map[string]string) (*http.Response, []byte) {
	e.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, e.url+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return resp, b
}

// xml and json make a call with these parameters, the session among them.
func (e *env) xml(method string, params ...any) (wire.Value, error) {
	e.t.Helper()
	resp, body := e.post("/", string(wire.AppendXMLCall(nil, method, params...)))
	if resp.StatusCode != http.StatusOK {
		e.t.Fatalf("%s: HTTP %s", method, resp.Status)
	}
	return wire.DecodeXMLResponse(body)
}

func (e *env) json(method string, params ...any) (wire.Value, error) {
	e.t.Helper()
	resp, body := e.post("/jsonrpc", string(wire.AppendJSONCall(nil, 1, method, params...)))
	if resp.StatusCode != http.StatusOK {
		e.t.Fatalf("%s: HTTP %s", method, resp.Status)
	}
	return wire.DecodeJSONResponse(body)
}

// call calls as root, by JSON, and gives the canonical result.
func (e *env) call(method string, args ...any) (any, error) {
	e.t.Helper()
	return e.as(e.root, method, args...)
}

// as calls in a session.
func (e *env) as(session, method string, args ...any) (any, error) {
	e.t.Helper()
	v, err := e.json(method, append([]any{session}, args...)...)
	if err != nil {
		return nil, err
	}
	typ := &datamodel.Type{Kind: datamodel.String}
	if m := datamodel.Get().Message(method); m != nil {
		typ = m.Result
	}
	if method == "event.from" || method == "event.next" {
		return v, nil
	}
	return wire.Decode(typ, v, "result")
}

// must is call for what has to succeed.
func (e *env) must(method string, args ...any) any {
	e.t.Helper()
	v, err := e.call(method, args...)
	if err != nil {
		e.t.Fatalf("%s: %v", method, err)
	}
	return v
}

// login logs a user in with the right password.
func (e *env) login(user string) string {
	e.t.Helper()
	v, err := e.json("session.login_with_password", user, "pw", "1.0", "test")
	if err != nil {
		e.t.Fatalf("login of %s: %v", user, err)
	}
	return v.Text
}

// subject makes a subject object with roles and gives its reference.
func (e *env) subject(name string, roles ...string) xenapi.SubjectRef {
	e.t.Helper()
	var ref xenapi.SubjectRef
	xapitest.Update(e.t, e.Env, func(tx *db.Tx) {
		s := xenapi.NewSubject()
		s.UUID, s.SubjectIdentifier, s.Roles = xenapi.NewUUID(), name, roleRefs(roles...)
		ref = db.Insert[xenapi.SubjectRef](tx, s)
	})
	return ref
}

// user makes a subject and logs it in.
func (e *env) user(name string, roles ...string) string {
	e.t.Helper()
	e.subject(name, roles...)
	return e.login(name)
}

func roleRefs(names ...string) []xenapi.RoleRef {
	var out []xenapi.RoleRef
	for _, r := range datamodel.Get().Roles {
		for _, name := range names {
			if r.Name == name {
				out = append(out, xenapi.RoleRef(xenapi.RefPrefix+r.UUID))
			}
		}
	}
	return out
}

// vm makes a VM in the graph.
func (e *env) vm(name string) string {
	e.t.Helper()
	var ref xenapi.VMRef
	xapitest.Update(e.t, e.Env, func(tx *db.Tx) {
		vm := xenapi.NewVM()
		vm.UUID, vm.NameLabel = xenapi.NewUUID(), name
		ref = db.Insert[xenapi.VMRef](tx, vm)
	})
	return string(ref)
}

// fails checks an error's code and parameters; "*" may be anything.
func fails(t testing.TB, err error, code string, params ...string) {
	t.Helper()
	xapitest.Fails(t, err, code, params...)
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("never: %s", what)
		}
	}
}

// same checks that got, printed, is want.
func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: %s, want %s", what, bytes.TrimSpace([]byte(g)), w)
	}
}
