package access_test

import (
	"crypto/md5"
	"slices"
	"testing"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/access"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// world has the seven roles.
type world struct {
	*testing.T
	env   *xapi.Env
	hooks xapi.Hooks
	s     *service.Services
}

func open(t *testing.T) *world {
	t.Helper()
	w := &world{t, xapitest.Open(t, t.TempDir(), nil), xapi.NewHooks(), &service.Services{}}
	access.New(w.env).Register(w.hooks, w.s)
	xapitest.Update(t, w.env, func(tx *db.Tx) {
		for _, r := range datamodel.Get().Roles {
			rec := xenapi.NewRole()
			rec.UUID, rec.NameLabel, rec.IsInternal = r.UUID, r.Name, r.Internal
			tx.Insert(string(role(r.Name)), rec)
		}
	})
	return w
}

func role(name string) xenapi.RoleRef {
	for _, r := range datamodel.Get().Roles {
		if r.Name == name {
			return xenapi.RoleRef(xenapi.RefPrefix + r.UUID)
		}
	}
	return ""
}

func permission(name string) xenapi.RoleRef {
	return xenapi.RoleRef(xenapi.RefPrefix + xenapi.FormatUUID(md5.Sum([]byte(name))))
}

func (w *world) labels(self xenapi.RoleRef) []string {
	w.Helper()
	got, err := w.s.Role.GetPermissionsNameLabel(w.Context(), xapitest.Call(), service.RoleGetPermissionsNameLabelParams{Self: self})
	if err != nil {
		w.Fatal(err)
	}
	return got
}

func TestRolesHoldPermissions(t *testing.T) {
	w := open(t)
	for name, row := range map[string]struct{ has, lacks []string }{
		"pool-admin": {[]string{"vm.start", "host.call_plugin", "vm.add_to_other_config/key:pci", "task.destroy/any", "http/get_export"}, []string{"session.change_password"}},
		"vm-operator": {[]string{"vm.start", "vm.get_record", "task.add_to_other_config/key:applies_to"},
			[]string{"vm.create", "host.call_plugin", "vm.add_to_other_config/key:pci", "task.destroy/any"}},
		"read-only":   {[]string{"vm.get_record", "vm.get_all_records", "event.from"}, []string{"vm.start", "secret.get_value"}},
		"client-cert": {[]string{"host.evacuate", "vm.get_record"}, []string{"host.reboot"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.labels(role(name))
			for _, p := range row.has {
				if !slices.Contains(got, p) {
					t.Errorf("lacks %s", p)
				}
			}
			for _, p := range row.lacks {
				if slices.Contains(got, p) {
					t.Errorf("has %s", p)
				}
			}
			refs, err := w.s.Role.GetPermissions(t.Context(), xapitest.Call(), service.RoleGetPermissionsParams{Self: role(name)})
			if err != nil || len(refs) != len(got) || refs[0] != permission(got[0]) {
				t.Errorf("%d references for %d names, %v", len(refs), len(got), err)
			}
		})
	}
	if got := w.labels(permission("vm.start")); !slices.Equal(got, []string{"vm.start"}) {
		t.Errorf("a permission holds %v", got)
	}
	_, err := w.s.Role.GetPermissions(t.Context(), xapitest.Call(), service.RoleGetPermissionsParams{Self: "OpaqueRef:x"})
	xapitest.Fails(t, err, "HANDLE_INVALID", "role", "OpaqueRef:x")
}

func TestRolesByPermission(t *testing.T) {
	w := open(t)
	ctx, c := t.Context(), xapitest.Call()
	for name, want := range map[string][]string{
		"vm.start":         {"pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator"},
		"host.call_plugin": {"pool-admin"},
		"host.evacuate":    {"pool-admin", "pool-operator", "client-cert"},
	} {
		refs, err := w.s.Role.GetByPermissionNameLabel(ctx, c, service.RoleGetByPermissionNameLabelParams{Label: name})
		same, err2 := w.s.Role.GetByPermission(ctx, c, service.RoleGetByPermissionParams{Permission: permission(name)})
		var expected []xenapi.RoleRef
		for _, n := range want {
			expected = append(expected, role(n))
		}
		slices.Sort(refs)
		slices.Sort(same)
		slices.Sort(expected)
		if err != nil || err2 != nil || !slices.Equal(refs, expected) || !slices.Equal(same, expected) {
			t.Errorf("%s: %v, %v; want %v", name, refs, same, expected)
		}
	}
	if refs, err := w.s.Role.GetByPermissionNameLabel(ctx, c, service.RoleGetByPermissionNameLabelParams{Label: "no.such"}); len(refs) != 0 || err != nil {
		t.Errorf("%v %v", refs, err)
	}
	_, err := w.s.Role.GetByPermission(ctx, c, service.RoleGetByPermissionParams{Permission: "OpaqueRef:x"})
	xapitest.Fails(t, err, "HANDLE_INVALID", "role", "OpaqueRef:x")
}

func TestSubjects(t *testing.T) {
	w := open(t)
	ctx, c := t.Context(), xapitest.Call()
	create := func(identifier string) (xenapi.SubjectRef, error) {
		rec := xenapi.NewSubject()
		rec.SubjectIdentifier = identifier
		ref, err := w.hooks.Create["subject.create"](ctx, c, rec, nil)
		return xenapi.SubjectRef(ref), err
	}
	ref, err := create("alice")
	if err != nil {
		t.Fatal(err)
	}
	if got := db.Find(w.env.DB.View(), ref); len(got.Roles) != 0 || got.UUID == "" {
		t.Errorf("a new subject has %v", got.Roles)
	}
	_, err = create("alice")
	xapitest.Fails(t, err, "SUBJECT_ALREADY_EXISTS")
	_, err = create("")
	xapitest.Fails(t, err, "INVALID_VALUE", "subject_identifier", "")

	add := func(r xenapi.RoleRef) error {
		return w.s.Subject.AddToRoles(ctx, c, service.SubjectAddToRolesParams{Self: ref, Role: r})
	}
	remove := func(r xenapi.RoleRef) error {
		return w.s.Subject.RemoveFromRoles(ctx, c, service.SubjectRemoveFromRolesParams{Self: ref, Role: r})
	}
	for _, r := range []string{"vm-operator", "read-only"} {
		if err := add(role(r)); err != nil {
			t.Fatal(err)
		}
	}
	xapitest.Fails(t, add(role("vm-operator")), "ROLE_ALREADY_EXISTS")
	xapitest.Fails(t, add(role("client-cert")), "ROLE_NOT_FOUND")
	xapitest.Fails(t, add("OpaqueRef:x"), "ROLE_NOT_FOUND")
	got, err := w.s.Subject.GetPermissionsNameLabel(ctx, c, service.SubjectGetPermissionsNameLabelParams{Self: ref})
	if err != nil || !slices.Contains(got, "vm.start") || slices.Contains(got, "vm.create") || !slices.IsSorted(got) {
		t.Errorf("%d permissions, %v", len(got), err)
	}
	if err := remove(role("vm-operator")); err != nil {
		t.Fatal(err)
	}
	xapitest.Fails(t, remove(role("vm-operator")), "ROLE_NOT_FOUND")
	xapitest.Fails(t, w.s.Subject.AddToRoles(ctx, c, service.SubjectAddToRolesParams{Self: "OpaqueRef:x"}), "HANDLE_INVALID", "subject", "OpaqueRef:x")
}

func TestNoDirectory(t *testing.T) {
	s := open(t).s.Auth
	_, err := s.GetSubjectIdentifier(t.Context(), xapitest.Call(), service.AuthGetSubjectIdentifierParams{SubjectName: "*)(uid=*"})
	xapitest.Fails(t, err, "AUTH_IS_DISABLED")
	_, err = s.GetSubjectInformationFromIdentifier(t.Context(), xapitest.Call(), service.AuthGetSubjectInformationFromIdentifierParams{})
	xapitest.Fails(t, err, "AUTH_IS_DISABLED")
	_, err = s.GetGroupMembership(t.Context(), xapitest.Call(), service.AuthGetGroupMembershipParams{})
	xapitest.Fails(t, err, "AUTH_IS_DISABLED")
}
