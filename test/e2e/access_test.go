package e2e

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
)

// passwd draws a new password for a user of the password file.
func (w *world) passwd(user string) string {
	w.Helper()
	out, err := exec.Command(w.d.Bin(), "passwd", "--state-dir", filepath.Join(w.d.Dir, "state"), user).CombinedOutput()
	if err != nil {
		w.Fatalf("passwd: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "PASSWORD="); ok {
			return p
		}
	}
	w.Fatalf("passwd printed %s", out)
	return ""
}

// subject makes a user known, in a role.
func (w *world) subject(user, role string) xenapi.SubjectRef {
	w.Helper()
	s := xenapi.NewSubject()
	s.SubjectIdentifier, s.OtherConfig = user, map[string]string{"subject-name": user}
	ref := must(w.Subject().Create(w.ctx, s))(w)
	if role != "" {
		w.ok(w.Subject().AddToRoles(w.ctx, ref, w.role(role)))
	}
	return ref
}

func (w *world) role(name string) xenapi.RoleRef {
	w.Helper()
	return must(w.Role().GetByNameLabel(w.ctx, name))(w)[0]
}

// user logs in as somebody with a role.
func (w *world) user(name, role string) *client.Client {
	w.Helper()
	password := w.passwd(name)
	w.subject(name, role)
	c := w.d.Anonymous(w)
	w.ok(c.Login(w.ctx, name, password))
	return c
}

// TestRoles tries calls of each strength in every role.
func TestRoles(t *testing.T) {
	w := start(t)
	roles := []string{"read-only", "vm-operator", "vm-admin", "vm-power-admin", "pool-operator", "pool-admin"}
	users := map[string]*client.Client{}
	for _, role := range roles {
		users[role] = w.user("u-"+role, role)
	}
	vm := w.vm("contested")
	for _, try := range []struct {
		weakest string
		call    func(c *client.Client) error
	}{
		{"read-only", func(c *client.Client) error { _, err := c.VM().GetRecord(w.ctx, vm); return err }},
		{"vm-operator", func(c *client.Client) error { return c.VM().AddTags(w.ctx, vm, "x") }},
		{"vm-operator", func(c *client.Client) error {
			if err := c.VM().Start(w.ctx, vm, false, false); err != nil {
				return err
			}
			return c.VM().HardShutdown(w.ctx, vm)
		}},
		{"vm-admin", func(c *client.Client) error { return c.VM().SetVCPUsMax(w.ctx, vm, 2) }},
		{"vm-power-admin", func(c *client.Client) error { return c.VM().SetMemory(w.ctx, vm, 64*mib) }},
		{"pool-operator", func(c *client.Client) error { return c.Host().Enable(w.ctx, w.host()) }},
		{"pool-operator", func(c *client.Client) error { return c.VM().SetHARestartPriority(w.ctx, vm, "") }},
		{"pool-admin", func(c *client.Client) error {
			_, err := c.Host().CallPlugin(w.ctx, w.host(), "none", "", nil)
			if xenapi.Code(err) == "XENAPI_MISSING_PLUGIN" {
				return nil
			}
			return err
		}},
		{"pool-admin", func(c *client.Client) error { return c.VM().AddToPlatform(w.ctx, vm, "hvm_serial", "pty") }},
	} {
		for i, role := range roles {
			err := try.call(users[role])
			if i >= slices.Index(roles, try.weakest) {
				if err != nil && xenapi.Code(err) != "MAP_DUPLICATE_KEY" {
					t.Errorf("%s as %s: %v", try.weakest, role, err)
				}
			} else if xenapi.Code(err) != "RBAC_PERMISSION_DENIED" {
				t.Errorf("%s as %s: %v, want a refusal", try.weakest, role, err)
			}
		}
	}
}

// TestSubjects: a role that is taken away is gone at the next call, a
// subject that is deleted at once.
func TestSubjects(t *testing.T) {
	w := start(t)
	password := w.passwd("ann")
	ann := w.d.Anonymous(t)
	if err := ann.Login(w.ctx, "ann", password); err == nil {
		t.Error("a user without a subject logged in")
	}
	ref := w.subject("ann", "")
	_, err := w.Subject().Create(w.ctx, must(w.Subject().GetRecord(w.ctx, ref))(t))
	w.fails(err, "SUBJECT_ALREADY_EXISTS")
	w.ok(w.Subject().AddToRoles(w.ctx, ref, w.role("vm-admin")))
	w.fails(w.Subject().AddToRoles(w.ctx, ref, w.role("vm-admin")), "ROLE_ALREADY_EXISTS")
	w.fails(w.Subject().AddToRoles(w.ctx, ref, "OpaqueRef:none"), "ROLE_NOT_FOUND")
	w.fails(w.Subject().RemoveFromRoles(w.ctx, ref, w.role("pool-admin")), "ROLE_NOT_FOUND")
	w.ok(ann.Login(w.ctx, "ann", password))
	if who := must(w.Session().GetAllSubjectIdentifiers(w.ctx))(t); !slices.Equal(who, []string{"ann"}) {
		t.Errorf("logged in: %v", who)
	}
	permissions := must(w.Subject().GetPermissionsNameLabel(w.ctx, ref))(t)
	if !slices.Contains(permissions, "vm.start") || slices.Contains(permissions, "host.enable") {
		t.Errorf("%d permissions", len(permissions))
	}
	vm := w.vm("hers")
	w.ok(ann.VM().SetVCPUsMax(w.ctx, vm, 3))
	w.ok(w.Subject().RemoveFromRoles(w.ctx, ref, w.role("vm-admin")))
	w.ok(w.Subject().AddToRoles(w.ctx, ref, w.role("read-only")))
	w.fails(ann.VM().SetVCPUsMax(w.ctx, vm, 4), "RBAC_PERMISSION_DENIED")
	w.ok(w.Session().LogoutSubjectIdentifier(w.ctx, "ann"))
	_, err = ann.VM().GetAll(w.ctx)
	w.fails(err, "SESSION_INVALID")
	w.ok(ann.Login(w.ctx, "ann", password))
	w.ok(w.Subject().Destroy(w.ctx, ref))
	if _, err = ann.VM().GetAll(w.ctx); err == nil {
		t.Error("who is no subject any more still reads")
	}
}

// TestOthersTasks: one's own tasks alone can be cancelled and destroyed.
func TestOthersTasks(t *testing.T) {
	w := start(t)
	ann, bob := w.user("ann", "vm-admin"), w.user("bob", "vm-admin")
	task := must(ann.Task().Create(w.ctx, "ann's", ""))(t)
	w.fails(bob.Task().Cancel(w.ctx, task), "RBAC_PERMISSION_DENIED")
	w.fails(bob.Task().Destroy(w.ctx, task), "RBAC_PERMISSION_DENIED")
	w.ok(ann.Task().Cancel(w.ctx, task))
	w.ok(w.Task().Destroy(w.ctx, task))
}

// TestSecrets are for those who may read them.
func TestSecrets(t *testing.T) {
	w := start(t)
	reader := w.user("ann", "read-only")
	s := xenapi.NewSecret()
	s.Value = "hunter2"
	ref := must(w.Secret().Create(w.ctx, s))(t)
	_, err := reader.Secret().GetValue(w.ctx, ref)
	w.fails(err, "RBAC_PERMISSION_DENIED")
	_, err = reader.Secret().GetAllRecords(w.ctx)
	w.fails(err, "RBAC_PERMISSION_DENIED")
	if v := must(w.Secret().GetValue(w.ctx, ref))(t); v != "hunter2" {
		t.Errorf("the secret is %q", v)
	}
	if log := w.get("/audit_log"); strings.Contains(log, "hunter2") {
		t.Error("the secret is in the audit log")
	}
}

// TestChangePassword sets root's own.
func TestChangePassword(t *testing.T) {
	w := start(t)
	ann := w.user("ann", "pool-admin")
	if err := ann.Session().ChangePassword(w.ctx, "", "x"); err == nil {
		t.Error("somebody else changed root's password")
	}
	w.ok(w.Session().ChangePassword(w.ctx, w.d.Password, "a new password"))
	again := w.d.Anonymous(t)
	if xenapi.Code(again.Login(w.ctx, "root", w.d.Password)) != "SESSION_AUTHENTICATION_FAILED" {
		t.Error("the old password is good")
	}
	w.ok(again.Login(w.ctx, "root", "a new password"))
	w.ok(again.Session().LocalLogout(w.ctx))
	_, err := again.VM().GetAll(w.ctx)
	w.fails(err, "SESSION_INVALID")
	if log := w.getAs("a new password", "/audit_log"); !strings.Contains(log, "change_password") || strings.Contains(log, "a new password") {
		t.Error("the audit log tells nothing of it, or too much")
	}
}
