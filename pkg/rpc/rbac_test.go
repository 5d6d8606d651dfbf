package rpc_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
)

// may says, from the datamodel's words alone, whether a role has a permission
// whose weakest role is given.
func may(role datamodel.Role, weakest string) bool {
	if name, ok := strings.CutSuffix(weakest, "+client-cert"); ok {
		return role.Name == "client-cert" || may(role, name)
	}
	if weakest == "read-only" {
		return true
	}
	for _, r := range datamodel.Get().Roles {
		if r.Name == weakest {
			return role.Rank <= r.Rank && !role.Internal
		}
	}
	return false // local-root
}

// direct calls without a network.
func (e *env) direct(path string, body []byte) []byte {
	w := httptest.NewRecorder()
	e.api.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(string(body))))
	return w.Body.Bytes()
}

// TestRoles is R4: every message, by every role, in both encodings, direct
// and Async, is refused exactly where the datamodel says so.
func TestRoles(t *testing.T) {
	e := open(t)
	// TestLogout has these; and event.next waits.
	skip := map[string]bool{"session.logout": true, "session.local_logout": true, "event.next": true}
	for _, role := range datamodel.Get().Roles {
		t.Run(role.Name, func(t *testing.T) {
			session := e.user("user of "+role.Name, role.Name)
			refused := 0
			for _, c := range datamodel.Get().Classes {
				for _, m := range c.Messages {
					if !m.Session() || skip[m.WireName()] {
						continue
					}
					want := may(role, m.Role) || m.Lifecycle == datamodel.Removed
					if !want {
						refused++
					}
					e.decide(t, session, m, want)
				}
			}
			t.Logf("%s is refused %d messages", role.Name, refused)
		})
	}
}

// decide makes a call in all its forms and checks whether the role stops it.
func (e *env) decide(t *testing.T, session string, m *datamodel.Message, want bool) {
	t.Helper()
	params := []any{session}
	for i := range m.Params {
		params = append(params, sample(m.Params[i].Type))
	}
	name := m.WireName()
	_, xml := wire.DecodeXMLResponse(e.direct("/", wire.AppendXMLCall(nil, name, params...)))
	_, json := wire.DecodeJSONResponse(e.direct("/jsonrpc", wire.AppendJSONCall(nil, 1, name, params...)))
	answers := map[string]error{"XML": xml, "JSON": json}
	if m.Async {
		_, answers["Async"] = wire.DecodeJSONResponse(e.direct("/jsonrpc", wire.AppendJSONCall(nil, 1, "Async."+name, params...)))
	}
	for form, err := range answers {
		if denied := xenapi.Code(err) == "RBAC_PERMISSION_DENIED"; denied == want {
			t.Errorf("%s by %s: %v, want allowed: %v", name, form, err, want)
		}
	}
}

// TestKeyRoles is R2: keys with a role of their own, by every way to write
// them.
func TestKeyRoles(t *testing.T) {
	e := open(t)
	vm := e.vm("a")
	network := e.must("network.create", wire.Object{{Name: "name_label", Value: "n"}, {Name: "name_description", Value: ""}, {Name: "MTU", Value: int64(1500)}, {Name: "other_config", Value: wire.Object{}}, {Name: "bridge", Value: ""}}).(string)
	setOther := func(config map[string]string) {
		xapitest.Update(t, e.Env, func(tx *db.Tx) {
			rec, err := db.Edit(tx, xenapi.VMRef(vm))
			if err != nil {
				t.Fatal(err)
			}
			rec.OtherConfig = config
		})
	}
	sessions := map[string]string{}
	for _, r := range datamodel.Get().Roles {
		sessions[r.Name] = e.user(r.Name, r.Name)
	}
	for name, c := range map[string]struct {
		role, call string
		args       []any
		before     map[string]string
		permission string // that is missing; "" if none
	}{
		"add a key of pool-admins":               {"vm-admin", "VM.add_to_other_config", []any{vm, "pci", "x"}, nil, "vm.add_to_other_config/key:pci"},
		"as a pool-admin":                        {"pool-admin", "VM.add_to_other_config", []any{vm, "pci", "x"}, nil, ""},
		"take one away":                          {"pool-operator", "VM.remove_from_other_config", []any{vm, "hvm_serial"}, nil, "vm.remove_from_other_config/key:hvm_serial"},
		"by the whole map":                       {"vm-admin", "VM.set_other_config", []any{vm, map[string]string{"pci": "x"}}, nil, "vm.add_to_other_config/key:pci"},
		"changed by the whole map":               {"vm-admin", "VM.set_other_config", []any{vm, map[string]string{"pci": "y"}}, map[string]string{"pci": "x"}, "vm.add_to_other_config/key:pci"},
		"dropped by the whole map":               {"vm-admin", "VM.set_other_config", []any{vm, map[string]string{}}, map[string]string{"pci": "x"}, "vm.remove_from_other_config/key:pci"},
		"left as it is":                          {"vm-admin", "VM.set_other_config", []any{vm, map[string]string{"pci": "x", "a": "b"}}, map[string]string{"pci": "x"}, ""},
		"in platform":                            {"vm-admin", "VM.set_platform", []any{vm, map[string]string{"hvm_serial": "x"}}, nil, "vm.add_to_platform/key:hvm_serial"},
		"Async":                                  {"read-only", "Async.task.add_to_other_config", []any{vm, "applies_to", "x"}, nil, "task.add_to_other_config/key:applies_to"},
		"in a new VM":                            {"vm-admin", "VM.create", []any{wire.Object{{Name: "other_config", Value: map[string]string{"pci": "x"}}}}, nil, "vm.add_to_other_config/key:pci"},
		"in a new VM's platform":                 {"vm-admin", "VM.create", []any{wire.Object{{Name: "platform", Value: map[string]string{"hvm_serial": "x"}}}}, nil, "vm.add_to_platform/key:hvm_serial"},
		"a weaker key":                           {"vm-operator", "VM.add_to_other_config", []any{vm, "folder", "/a"}, nil, ""},
		"a weaker key by its prefix":             {"vm-operator", "VM.add_to_other_config", []any{vm, "XenCenter.CustomFields.x", "a"}, nil, ""},
		"a plain key":                            {"vm-operator", "VM.add_to_other_config", []any{vm, "a", "b"}, nil, "vm.add_to_other_config"},
		"weaker keys by the whole map":           {"vm-operator", "VM.set_other_config", []any{vm, map[string]string{"folder": "/a"}}, nil, ""},
		"a plain key beside":                     {"vm-operator", "VM.set_other_config", []any{vm, map[string]string{"folder": "/a", "a": "b"}}, nil, "vm.set_other_config"},
		"nothing changes":                        {"vm-operator", "VM.set_other_config", []any{vm, map[string]string{}}, nil, "vm.set_other_config"},
		"a weaker key of a generated call":       {"vm-operator", "network.add_to_other_config", []any{network, "XenCenterCreateInProgress", "x"}, nil, ""},
		"a generated set_ has a role of its own": {"vm-operator", "network.set_other_config", []any{network, map[string]string{"folder": "/a"}}, nil, "network.set_other_config"},
		"read-only may not add a weaker one":     {"read-only", "VM.add_to_other_config", []any{vm, "folder", "/a"}, nil, "vm.add_to_other_config/key:folder"},
	} {
		t.Run(name, func(t *testing.T) {
			setOther(c.before)
			_, err := e.as(sessions[c.role], c.call, c.args...)
			if c.permission != "" {
				fails(t, err, "RBAC_PERMISSION_DENIED", c.permission, "*")
				return
			}
			if xenapi.Code(err) == "RBAC_PERMISSION_DENIED" {
				t.Error(err)
			}
		})
	}
}

// TestSecretsStayHidden is R6: a read-only session learns of a secret neither
// its value nor anything else, and of another's session nothing to use.
func TestSecretsStayHidden(t *testing.T) {
	e := open(t)
	const value = "hunter2"
	secret := e.must("secret.create", wire.Object{{Name: "value", Value: value}, {Name: "other_config", Value: wire.Object{}}}).(string)
	task := e.must("task.create", "label", "").(string)
	reader, operator := e.user("reader", "read-only"), e.user("operator", "pool-operator")
	for _, call := range []string{"secret.get_record", "secret.get_value", "secret.get_by_uuid", "secret.get_uuid"} {
		_, err := e.as(reader, call, secret)
		fails(t, err, "RBAC_PERMISSION_DENIED", "*", "*")
	}
	_, err := e.as(reader, "event.inject", "secret", secret)
	fails(t, err, "HANDLE_INVALID", "secret", secret)
	_, err = e.as(reader, "event.register", []string{"*", "secret", "secret/" + secret})
	same(t, "register", err, nil)
	e.must("secret.set_value", secret, value+"!")
	e.must("pool.set_name_label", e.must("pool.get_all").([]string)[0], "p")

	read := func(session, method string, args ...any) string {
		body := e.direct("/", wire.AppendXMLCall(nil, method, append([]any{session}, args...)...))
		if _, err := wire.DecodeXMLResponse(body); err != nil && xenapi.Code(err) != "RBAC_PERMISSION_DENIED" && xenapi.Code(err) != "MESSAGE_REMOVED" {
			t.Fatalf("%s: %v", method, err)
		}
		return string(body)
	}
	for _, c := range datamodel.Get().Classes {
		for _, m := range c.Messages {
			var got string
			switch m.Kind {
			case datamodel.GetAll, datamodel.GetAllRecords:
				got = read(reader, m.WireName())
			case datamodel.GetAllRecordsWhere, datamodel.GetAllWhere:
				got = read(reader, m.WireName(), "true")
			}
			leaks(t, m.WireName(), got, value, secret, e.root)
		}
	}
	leaks(t, "event.from *", read(reader, "event.from", []string{"*"}, "", 0.0), value, secret, e.root)
	leaks(t, "event.from secret", read(reader, "event.from", []string{"secret", "secret/" + secret}, "", 0.0), value, secret)
	leaks(t, "event.next", read(reader, "event.next"), value, secret, e.root)
	leaks(t, "task.get_record", read(reader, "task.get_record", task), e.root)
	leaks(t, "task.get_all_records_where", string(e.direct("/", wire.AppendXMLCall(nil, "task.get_all_records_where", reader, `field "session" = "`+e.root+`"`))), task)
	if got := read(operator, "secret.get_value", secret); !strings.Contains(got, value) {
		t.Error("an operator does not see the secret:", got)
	}
}

// leaks checks that a text holds none of the words.
func leaks(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if strings.Contains(text, w) {
			t.Errorf("%s gives away %s", what, w)
		}
	}
}
