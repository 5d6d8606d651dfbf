package e2e

import (
	"slices"
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/xenapi"
)

// TestMessages makes, finds and destroys messages.
func TestMessages(t *testing.T) {
	w := start(t)
	vm := w.vm("talked about")
	uuid := w.rec(vm).UUID
	before := time.Now().Add(-time.Minute)
	m := must(w.Message().Create(w.ctx, "ALARM", 3, xenapi.ClsVM, uuid, "body & <soul>"))(t)
	r := must(w.Message().GetRecord(w.ctx, m))(t)
	if r.Name != "ALARM" || r.Priority != 3 || r.Cls != xenapi.ClsVM || r.ObjUUID != uuid || r.Body != "body & <soul>" || r.Timestamp.Before(before) {
		t.Errorf("%+v", r)
	}
	if by := must(w.Message().GetByUUID(w.ctx, r.UUID))(t); by != m {
		t.Errorf("by uuid it is %s", by)
	}
	_, err := w.Message().Create(w.ctx, "ALARM", 3, xenapi.ClsVM, "no-such", "")
	w.fails(err, "UUID_INVALID", "VM", "no-such")
	_, err = w.Message().Create(w.ctx, "", 3, xenapi.ClsVM, uuid, "")
	w.fails(err, "INVALID_VALUE", "name")
	about := must(w.Message().Get(w.ctx, xenapi.ClsVM, uuid, before))(t)
	if len(about) != 1 || about[string(m)] == nil {
		t.Errorf("about the VM: %v", about)
	}
	if later := must(w.Message().GetSince(w.ctx, time.Now().Add(time.Hour)))(t); len(later) > 0 {
		t.Errorf("from the future: %v", later)
	}
	if since := must(w.Message().GetSince(w.ctx, before))(t); since[string(m)] == nil {
		t.Error("it is not among those since a minute ago")
	}
	more := []xenapi.MessageRef{must(w.Message().Create(w.ctx, "a", 1, xenapi.ClsPool, must(w.Pool().GetUUID(w.ctx, w.pool()))(t), ""))(t),
		must(w.Message().Create(w.ctx, "b", 1, xenapi.ClsVM, uuid, ""))(t)}
	w.ok(w.Message().Destroy(w.ctx, m))
	w.fails(w.Message().Destroy(w.ctx, m), "HANDLE_INVALID", "message", string(m))
	w.fails(w.Message().DestroyMany(w.ctx, append(slices.Clone(more), m)), "HANDLE_INVALID", "message", string(m))
	if all := must(w.Message().GetAllRecords(w.ctx))(t); all[string(more[0])] == nil || all[string(m)] != nil {
		t.Errorf("%d are left", len(all))
	}
	w.ok(w.Message().DestroyMany(w.ctx, more))
	if all := must(w.Message().GetAllRecords(w.ctx))(t); all[string(more[0])] != nil || all[string(more[1])] != nil {
		t.Error("they are still there")
	}
}

// TestLifeLeavesMessages: what happens to a VM is written down.
func TestLifeLeavesMessages(t *testing.T) {
	w := start(t)
	vm := w.vm("lives")
	crashing := w.vm("dies", "crash-after-ms=20")
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.ok(w.VM().Suspend(w.ctx, vm))
	w.ok(w.VM().Resume(w.ctx, vm, false, false))
	w.ok(w.VM().CleanReboot(w.ctx, vm))
	w.ok(w.VM().CleanShutdown(w.ctx, vm))
	w.ok(w.VM().Start(w.ctx, crashing, false, false))
	w.becomes(crashing, xenapi.VMPowerStateHalted)
	heard := func(vm xenapi.VMRef, want ...string) {
		t.Helper()
		uuid := w.rec(vm).UUID
		testenv.Eventually(t, "messages", 10*time.Second, func() bool {
			var names []string
			for _, m := range must(w.Message().Get(w.ctx, xenapi.ClsVM, uuid, xenapi.Epoch))(t) {
				names = append(names, m.(*xenapi.Message).Name)
			}
			return !slices.ContainsFunc(want, func(n string) bool { return !slices.Contains(names, n) })
		})
	}
	heard(vm, "VM_STARTED", "VM_SUSPENDED", "VM_RESUMED", "VM_REBOOTED", "VM_SHUTDOWN")
	heard(crashing, "VM_STARTED", "VM_CRASHED")
}
