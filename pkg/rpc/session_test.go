package rpc_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// TestLogin: who gets in, and what the others are told.
func TestLogin(t *testing.T) {
	e := open(t)
	e.subject("alice", "vm-admin")
	e.subject("nobody")
	for name, c := range map[string]struct {
		user, password string
		want           []string
	}{
		"root":                        {"root", "pw", nil},
		"a subject":                   {"alice", "pw", nil},
		"a subject without roles":     {"nobody", "pw", nil},
		"a wrong password":            {"root", "x", []string{"SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"}},
		"an empty password":           {"root", "", []string{"SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"}},
		"a password of 1 MiB":         {"root", strings.Repeat("x", 1<<20), []string{"SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"}},
		"who may not manage the host": {"outsider", "pw", []string{"SESSION_AUTHORIZATION_FAILED", "outsider", "the user may not manage this host"}},
		"without a subject":           {"bob", "pw", []string{"SESSION_AUTHORIZATION_FAILED", "bob", "no subject of that name"}},
		"a filter for a directory":    {"*)(uid=*))(|(uid=*", "x", []string{"SESSION_AUTHENTICATION_FAILED", "*)(uid=*))(|(uid=*", "Authentication failure"}},
		"a name of 1 MiB":             {strings.Repeat("x", 1<<20), "x", []string{"SESSION_AUTHENTICATION_FAILED", strings.Repeat("x", 256), "Authentication failure"}},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := e.json("session.login_with_password", c.user, c.password)
			if c.want != nil {
				fails(t, err, c.want[0], c.want[1:]...)
				return
			}
			if err != nil || len(v.Text) != len(xenapi.RefPrefix)+36 {
				t.Fatal(v, err)
			}
			root := c.user == "root"
			rec := db.Find(e.DB.View(), xenapi.SessionRef(v.Text))
			same(t, "superuser", rec.IsLocalSuperuser, root)
			same(t, "name", rec.AuthUserName, c.user)
			same(t, "host", rec.ThisHost, e.Host())
			same(t, "last_active", rec.LastActive, e.clock.Now())
			same(t, "permissions", len(rec.RBACPermissions) > 100, c.user == "alice")
			same(t, "start", slices.Contains(rec.RBACPermissions, "vm.clone"), c.user == "alice")
			if strings.Contains(v.Text, rec.UUID) {
				t.Error("the uuid gives the reference away")
			}
		})
	}
}

// TestRootSocket: on the Unix socket anybody is root, but sessions count.
func TestRootSocket(t *testing.T) {
	e := open(t)
	alice := e.user("alice", "read-only")
	root := &env{Env: e.Env, t: t, api: e.api, url: serveRoot(t, e.api)}
	v, err := root.json("session.login_with_password", "root", "whatever")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.as(v.Text, "VM.get_all"); err != nil {
		t.Error(err)
	}
	_, err = root.as("x", "VM.get_all")
	fails(t, err, "SESSION_INVALID", "x")
	_, err = e.as(alice, "network.set_name_label", "x", "y")
	fails(t, err, "RBAC_PERMISSION_DENIED", "*", "*")
	_, err = root.as(alice, "network.set_name_label", "x", "y")
	fails(t, err, "HANDLE_INVALID", "network", "x")
}

// TestLogout: the session is gone, and so is all that waited in it.
func TestLogout(t *testing.T) {
	e := open(t)
	for _, c := range []struct {
		name string
		call func(session string) error
	}{
		{"event.from", func(s string) error {
			_, err := e.as(s, "event.from", []string{"VBD_metrics"}, "", 60.0)
			return err
		}},
		{"event.next", func(s string) error {
			if _, err := e.as(s, "event.register", []string{"VBD_metrics"}); err != nil {
				return err
			}
			_, err := e.as(s, "event.next")
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			session := e.login("root")
			got := make(chan error, 1)
			go func() { got <- c.call(session) }()
			other := e.login("root")
			eventually(t, "it waits", func() bool { return waits(e, session, c.name) })
			if _, err := e.as(session, "session.logout"); err != nil {
				t.Fatal(err)
			}
			fails(t, <-got, "SESSION_INVALID", session)
			_, err := e.as(session, "VM.get_all")
			fails(t, err, "SESSION_INVALID", session)
			same(t, "the object", db.Find(e.DB.View(), xenapi.SessionRef(session)) == nil, true)
			if _, err := e.as(other, "VM.get_all"); err != nil {
				t.Error("another session ended, too:", err)
			}
		})
	}
}

// waits reports whether a call of this kind is waiting.
func waits(e *env, session, call string) bool {
	if call == "event.from" {
		return e.DB.Feed().Waiting() > 0
	}
	return rpc.Subscribed(e.api, session)
}

// TestSessionLimit: 500 for each originator, the least recently used goes when
// the 501st comes; those with a task under way stay.
func TestSessionLimit(t *testing.T) {
	e := open(t)
	enter := func(originator string) string {
		e.clock.move(time.Second)
		v, err := e.json("session.login_with_password", "root", "pw", "", originator)
		if err != nil {
			t.Fatal(err)
		}
		return v.Text
	}
	other := enter("another")
	var all []string
	for range 500 {
		all = append(all, enter("xo"))
	}
	e.clock.move(time.Second)
	if _, err := e.as(all[0], "VM.get_all"); err != nil {
		t.Fatal(err)
	}
	all = append(all, enter("xo"))
	_, err := e.as(all[1], "VM.get_all")
	fails(t, err, "SESSION_INVALID", all[1])
	for _, session := range []string{all[0], all[2], all[500], other} {
		if _, err := e.as(session, "VM.get_all"); err != nil {
			t.Error(err)
		}
	}
	same(t, "sessions", e.DB.View().Count(datamodel.Get().Class("session")), 502) // and the harness's own
}

// TestIdle: a day without a call ends a session; last_active is written every
// ten minutes.
func TestIdle(t *testing.T) {
	e := open(t)
	idle, used := e.login("root"), e.login("root")
	active := func() time.Time { return db.Find(e.DB.View(), xenapi.SessionRef(used)).LastActive }
	at := active()
	call := func() {
		if _, err := e.as(used, "VM.get_all"); err != nil {
			t.Fatal(err)
		}
	}
	e.clock.move(9 * time.Minute)
	call()
	same(t, "last_active after 9 minutes", active(), at)
	e.clock.move(2 * time.Minute)
	call()
	same(t, "last_active after 11 minutes", active(), e.clock.Now())
	e.clock.move(24*time.Hour - 10*time.Minute)
	rpc.Collect(e.api)
	_, err := e.as(idle, "VM.get_all")
	fails(t, err, "SESSION_INVALID", idle)
	call()
}

// TestChangePassword: superusers alone, and only where passwords are kept.
func TestChangePassword(t *testing.T) {
	var changed []string
	e := open(t, func(o *rpc.Options) {
		o.SetPassword = func(user, password string) error {
			if password == "bad" {
				return errors.New("too short")
			}
			changed = append(changed, user, password)
			return nil
		}
	})
	alice := e.user("alice", "pool-admin")
	_, err := e.as(alice, "session.change_password", "pw", "new")
	fails(t, err, "RBAC_PERMISSION_DENIED", "session.change_password", "*")
	e.must("session.change_password", "the old one is not checked", "new")
	same(t, "changed", changed, []string{"root", "new"})
	_, err = e.call("session.change_password", "", "bad")
	fails(t, err, "CHANGE_PASSWORD_REJECTED", "too short")
	pam := open(t)
	_, err = pam.call("session.change_password", "", "new")
	fails(t, err, "CHANGE_PASSWORD_REJECTED", "*")
}

// TestSubjectIdentifiers: who is logged in, and how to end that.
func TestSubjectIdentifiers(t *testing.T) {
	e := open(t)
	alice, bob := e.user("alice", "vm-admin"), e.user("bob", "pool-operator")
	same(t, "users", e.must("session.get_all_subject_identifiers"), "[alice bob]")
	if _, err := e.as(bob, "session.logout_subject_identifier", "alice"); err != nil {
		t.Fatal(err)
	}
	_, err := e.as(alice, "VM.get_all")
	fails(t, err, "SESSION_INVALID", alice)
	for _, who := range []string{"root", "bob"} { // neither root nor the caller
		if _, err := e.as(bob, "session.logout_subject_identifier", who); err != nil {
			t.Fatal(err)
		}
	}
	e.must("VM.get_all")
	if _, err := e.as(bob, "session.local_logout"); err == nil {
		t.Error("local_logout is for pool-admins")
	}
	if _, err := e.as(bob, "session.logout"); err != nil {
		t.Error(err)
	}
}

// TestSessionByUUID: a uuid, which stands in the audit file, gives no one
// another's session.
func TestSessionByUUID(t *testing.T) {
	e := open(t)
	alice := e.user("alice", "pool-admin")
	uuid := func(s string) string { return db.Find(e.DB.View(), xenapi.SessionRef(s)).UUID }
	same(t, "root's, by root", e.must("session.get_by_uuid", uuid(alice)), alice)
	_, err := e.as(alice, "session.get_by_uuid", uuid(e.root))
	fails(t, err, "UUID_INVALID", "session", uuid(e.root))
	v, err := e.as(alice, "session.get_by_uuid", uuid(alice))
	same(t, "her own", v, alice)
	same(t, "error", err, nil)
}

// TestSubjectChanges is R8: roles that are taken away are gone at the next
// call, also for what is under way.
func TestSubjectChanges(t *testing.T) {
	started := make(chan struct{}, 10)
	e := open(t, func(o *rpc.Options) { o.Services.VM = &blockingVM{started: started} })
	vm := e.vm("a")
	subject := e.subject("alice", "vm-admin")
	alice := e.login("alice")
	task, err := e.as(alice, "Async.VM.start", vm, false, false)
	if err != nil {
		t.Fatal(err)
	}
	<-started
	e.setRoles(subject, "vm-operator")
	if _, err := e.as(alice, "VM.get_all"); err != nil {
		t.Fatal(err)
	}
	_, err = e.as(alice, "VM.set_name_label", vm, "x")
	fails(t, err, "RBAC_PERMISSION_DENIED", "vm.set_name_label", "*")
	same(t, "what she may still do goes on", e.task(task).Status, xenapi.TaskStatusTypePending)
	e.setRoles(subject, "read-only")
	_, err = e.as(alice, "VM.start", vm, false, false)
	fails(t, err, "RBAC_PERMISSION_DENIED", "vm.start", "*")
	eventually(t, "the task is cancelled", func() bool { return e.task(task).Status == xenapi.TaskStatusTypeCancelled })
	rec := db.Find(e.DB.View(), xenapi.SessionRef(alice))
	same(t, "session.rbac_permissions", slices.Contains(rec.RBACPermissions, "vm.start"), false)

	e.setRoles(subject, "vm-operator")
	if task, err = e.as(alice, "Async.VM.start", vm, false, false); err != nil {
		t.Fatal(err)
	}
	<-started
	waiting := make(chan error, 1)
	go func() {
		_, err := e.as(alice, "event.from", []string{"VBD_metrics"}, "", 60.0)
		waiting <- err
	}()
	eventually(t, "she waits", func() bool { return e.DB.Feed().Waiting() > 0 })
	xapitest.Update(t, e.Env, func(tx *db.Tx) { db.Delete(tx, subject) })
	rpc.Collect(e.api) // comes by itself every half minute
	fails(t, <-waiting, "SESSION_INVALID", alice)
	eventually(t, "the task is cancelled", func() bool { return e.task(task).Status == xenapi.TaskStatusTypeCancelled })
	_, err = e.as(alice, "VM.get_all")
	fails(t, err, "SESSION_INVALID", alice)
}

func (e *env) setRoles(subject xenapi.SubjectRef, roles ...string) {
	e.t.Helper()
	xapitest.Update(e.t, e.Env, func(tx *db.Tx) {
		s, err := db.Edit(tx, subject)
		if err != nil {
			e.t.Fatal(err)
		}
		s.Roles = roleRefs(roles...)
	})
}

// task gives a task's object.
func (e *env) task(ref any) *xenapi.Task {
	e.t.Helper()
	task := db.Find(e.DB.View(), xenapi.TaskRef(ref.(string)))
	if task == nil {
		e.t.Fatalf("no task %v", ref)
	}
	return task
}

// blockingVM starts VMs until the call is cancelled, and does other things
// that tests need.
type blockingVM struct {
	service.UnimplementedVM
	started chan struct{}
	release chan struct{}
	running atomic.Int32
}

// Start waits for the end of its context, or for its release.
func (b *blockingVM) Start(ctx context.Context, c *service.Call, p service.VMStartParams) error {
	b.running.Add(1)
	defer b.running.Add(-1)
	b.started <- struct{}{}
	c.Task.Progress(0.25)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.release:
		return nil
	}
}

// HardShutdown panics.
func (b *blockingVM) HardShutdown(context.Context, *service.Call, service.VMHardShutdownParams) error {
	panic("a defect")
}

// CleanShutdown fails with an error that the API does not know.
func (b *blockingVM) CleanShutdown(context.Context, *service.Call, service.VMCleanShutdownParams) error {
	return errors.New("secret detail")
}

// GetAllowedVBDDevices gives a set.
func (b *blockingVM) GetAllowedVBDDevices(context.Context, *service.Call, service.VMGetAllowedVBDDevicesParams) ([]string, error) {
	return []string{"0", "1"}, nil
}

// Clone gives a reference.
func (b *blockingVM) Clone(_ context.Context, _ *service.Call, p service.VMCloneParams) (xenapi.VMRef, error) {
	return p.VM, nil
}

// GetPossibleHosts gives a set of references.
func (b *blockingVM) GetPossibleHosts(context.Context, *service.Call, service.VMGetPossibleHostsParams) ([]xenapi.HostRef, error) {
	return []xenapi.HostRef{"OpaqueRef:a", "OpaqueRef:b"}, nil
}
