package e2e

import (
	"slices"
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// agent waits until the guest's agent has said that it has PV drivers.
func (w *world) agent(vm xenapi.VMRef) {
	w.Helper()
	testenv.Eventually(w, "the guest's agent", 20*time.Second, func() bool {
		metrics := must(w.VM().GetGuestMetrics(w.ctx, vm))(w)
		return metrics != xenapi.Null && must(w.VMGuestMetrics().GetPVDriversDetected(w.ctx, metrics))(w)
	})
}

// underWay waits until an operation is in a VM's current_operations.
func (w *world) underWay(vm xenapi.VMRef, op string) {
	w.Helper()
	testenv.Eventually(w, op+" in current_operations", 20*time.Second, func() bool {
		return slices.Contains(values(must(w.VM().GetCurrentOperations(w.ctx, vm))(w)), op)
	})
}

// operations are all operations of a VM that the datamodel knows.
func operations() []xenapi.VMOperations {
	var out []xenapi.VMOperations
	for _, v := range datamodel.Get().Enum("vm_operations").Members {
		out = append(out, xenapi.VMOperations(v))
	}
	return out
}

// TestGuestMetrics shows what a guest says of itself.
func TestGuestMetrics(t *testing.T) {
	w := start(t)
	vm := w.vm("talks", "ip=192.0.2.7", "os-name=A system")
	mute := w.vm("mute", "agent=no")
	w.vif(vm, "0", w.network("lan"))
	for _, v := range []xenapi.VMRef{vm, mute} {
		w.ok(w.VM().Start(w.ctx, v, false, false))
	}
	w.agent(vm)
	r := must(w.VMGuestMetrics().GetRecord(w.ctx, w.rec(vm).GuestMetrics))(t)
	if !r.Live || r.OSVersion["name"] != "A system" || !slices.Contains(values(r.Networks), "192.0.2.7") {
		t.Errorf("it says %+v", r)
	}
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	w.ok(w.VM().HardShutdown(w.ctx, mute))
}
