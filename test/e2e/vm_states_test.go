package e2e

import (
	"slices"
	"strings"
	"testing"

	"xapid/pkg/xenapi"
)

// possible says, by state, which operations a VM of its own disks and guest
// lists in allowed_operations.
var possible = map[xenapi.VMPowerState]string{
	xenapi.VMPowerStateHalted: "start start_on make_into_template changing_shadow_memory changing_NVRAM create_vtpm " +
		"changing_static_range changing_dynamic_range clone copy destroy export migrate_send snapshot metadata_export",
	xenapi.VMPowerStatePaused: "unpause hard_reboot hard_shutdown checkpoint snapshot metadata_export",
	xenapi.VMPowerStateRunning: "changing_dynamic_range pause suspend pool_migrate clean_shutdown clean_reboot sysprep " +
		"changing_VCPUs_live hard_reboot hard_shutdown checkpoint migrate_send snapshot metadata_export",
	xenapi.VMPowerStateSuspended: "destroy export resume resume_on hard_shutdown checkpoint migrate_send snapshot metadata_export",
}

// hidden work, but are never listed: the states in which they pass.
var hidden = map[xenapi.VMOperations]string{
	"create_template": "Halted Suspended", "csvm": "Suspended", "get_boot_record": "Paused Running Suspended",
	"send_sysrq": "Running", "send_trigger": "Running", "query_services": "Halted Paused Running Suspended",
	"shutdown": "Paused Running Suspended", "call_plugin": "Running", "changing_memory_live": "Running",
	"awaiting_memory_live": "Running", "changing_memory_limits": "Halted", "changing_shadow_memory_live": "Running",
	"changing_VCPUs": "Halted", "power_state_reset": "Halted Paused Running Suspended", "data_source_op": "Running",
	"assert_operation_valid":    "Halted Paused Running Suspended",
	"update_allowed_operations": "Halted Paused Running Suspended", "reverting": "Halted Paused Running Suspended",
}

// checkOperations asks about every operation there is, and compares it with
// the list.
func (w *world) checkOperations(vm xenapi.VMRef, state xenapi.VMPowerState) {
	w.Helper()
	w.becomes(vm, state)
	want := strings.Fields(possible[state])
	listed := xenapi.Texts(must(w.VM().GetAllowedOperations(w.ctx, vm))(w))
	for _, op := range operations() {
		err := w.VM().AssertOperationValid(w.ctx, vm, op)
		if in := slices.Contains(want, string(op)); in != slices.Contains(listed, string(op)) {
			w.Errorf("%s: %s is to be listed: %t; the list: %v", state, op, in, listed)
		}
		states, isHidden := hidden[op]
		passes := slices.Contains(want, string(op)) || isHidden && slices.Contains(strings.Fields(states), string(state))
		if passes != (err == nil) {
			w.Errorf("%s: %s is to pass: %t; it said %v", state, op, passes, err)
		}
	}
}

// TestOperationsByState is the table of operations and power states, over the
// wire.
func TestOperationsByState(t *testing.T) {
	w := start(t)
	vm := w.vm("every operation")
	w.ok(w.VM().UpdateAllowedOperations(w.ctx, vm))
	w.checkOperations(vm, xenapi.VMPowerStateHalted)
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.agent(vm)
	w.checkOperations(vm, xenapi.VMPowerStateRunning)
	w.ok(w.VM().Pause(w.ctx, vm))
	w.checkOperations(vm, xenapi.VMPowerStatePaused)
	w.ok(w.VM().Unpause(w.ctx, vm))
	w.ok(w.VM().Suspend(w.ctx, vm))
	w.checkOperations(vm, xenapi.VMPowerStateSuspended)
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	w.checkOperations(vm, xenapi.VMPowerStateHalted)
}

// TestWrongState calls each message in a state in which it can't be.
func TestWrongState(t *testing.T) {
	w := start(t)
	halted, running, suspended := w.vm("halted"), w.vm("running"), w.vm("suspended")
	for _, vm := range []xenapi.VMRef{running, suspended} {
		w.ok(w.VM().Start(w.ctx, vm, false, false))
	}
	w.ok(w.VM().Suspend(w.ctx, suspended))
	bad := func(err error, vm xenapi.VMRef, expected, actual string) {
		t.Helper()
		w.fails(err, "VM_BAD_POWER_STATE", string(vm), expected, actual)
	}
	for _, call := range []func(xenapi.VMRef) error{
		func(v xenapi.VMRef) error { return w.VM().Pause(w.ctx, v) }, func(v xenapi.VMRef) error { return w.VM().Suspend(w.ctx, v) },
		func(v xenapi.VMRef) error { return w.VM().CleanShutdown(w.ctx, v) }, func(v xenapi.VMRef) error { return w.VM().CleanReboot(w.ctx, v) },
	} {
		bad(call(halted), halted, "running", "halted")
		bad(call(suspended), suspended, "running", "suspended")
	}
	bad(w.VM().HardShutdown(w.ctx, halted), halted, "paused, running, suspended", "halted")
	bad(w.VM().Shutdown(w.ctx, halted), halted, "paused, running, suspended", "halted")
	bad(w.VM().HardReboot(w.ctx, suspended), suspended, "paused, running", "suspended")
	bad(w.VM().Unpause(w.ctx, running), running, "paused", "running")
	bad(w.VM().Resume(w.ctx, running, false, false), running, "suspended", "running")
	bad(w.VM().Start(w.ctx, suspended, false, false), suspended, "halted", "suspended")
	bad(w.VM().StartOn(w.ctx, running, w.host(), false, false), running, "halted", "running")
	bad(w.VM().Destroy(w.ctx, running), running, "halted, suspended", "running")
	_, err := w.VM().Clone(w.ctx, running, "x")
	bad(err, running, "halted", "running")
	_, err = w.VM().Copy(w.ctx, suspended, "x", xenapi.Null)
	bad(err, suspended, "halted", "suspended")
	bad(w.VM().SetIsATemplate(w.ctx, running, true), running, "halted", "running")
	bad(w.VM().SetSuspendVDI(w.ctx, running, xenapi.Null), running, "suspended", "running")
	_, err = w.VM().GetBootRecord(w.ctx, halted)
	bad(err, halted, "paused, running, suspended", "halted")
}

// TestBlockedOperations refuses them before anything else is looked at.
func TestBlockedOperations(t *testing.T) {
	w := start(t)
	vm := w.vm("blocked")
	w.ok(w.VM().AddToBlockedOperations(w.ctx, vm, xenapi.VMOperationsStart, "not today"))
	w.ok(w.VM().AddToBlockedOperations(w.ctx, vm, xenapi.VMOperationsPause, "never"))
	w.fails(w.VM().Start(w.ctx, vm, false, true), "OPERATION_BLOCKED", string(vm), "not today")
	// Its state is wrong too; being blocked is checked first.
	w.fails(w.VM().Pause(w.ctx, vm), "OPERATION_BLOCKED", string(vm), "never")
	w.fails(w.VM().AssertOperationValid(w.ctx, vm, xenapi.VMOperationsStart), "OPERATION_BLOCKED", string(vm), "not today")
	if w.allowed(vm, xenapi.VMOperationsStart) || !w.allowed(vm, xenapi.VMOperationsStartOn) {
		t.Error("start is blocked, start_on is not")
	}
	clone := must(w.VM().Clone(w.ctx, vm, "free"))(t)
	if b := w.rec(clone).BlockedOperations; len(b) > 0 {
		t.Errorf("a clone is blocked: %v", b)
	}
	w.ok(w.VM().RemoveFromBlockedOperations(w.ctx, vm, xenapi.VMOperationsStart))
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.ok(w.VM().SetBlockedOperations(w.ctx, vm, map[string]string{"hard_shutdown": "wait"}))
	w.ok(w.VM().Pause(w.ctx, vm))
	w.fails(w.VM().HardShutdown(w.ctx, vm), "OPERATION_BLOCKED", string(vm), "wait")
	w.ok(w.VM().SetBlockedOperations(w.ctx, vm, map[string]string{}))
	w.ok(w.VM().HardShutdown(w.ctx, vm))
}

// TestTemplates: what they allow, their own and the default ones.
func TestTemplates(t *testing.T) {
	w := start(t)
	byDefault := must(w.VM().GetByNameLabel(w.ctx, "Other install media"))(t)[0]
	own := must(w.VM().Clone(w.ctx, byDefault, "own"))(t)
	for _, vm := range []xenapi.VMRef{byDefault, own} {
		w.fails(w.VM().Start(w.ctx, vm, false, false), "VM_IS_TEMPLATE", string(vm), "start")
		w.fails(w.VM().StartOn(w.ctx, vm, w.host(), false, false), "VM_IS_TEMPLATE", string(vm), "start_on")
		// A wrong state comes first.
		w.fails(w.VM().Pause(w.ctx, vm), "VM_BAD_POWER_STATE", string(vm), "running", "halted")
		if !w.allowed(vm, xenapi.VMOperationsProvision) || w.allowed(vm, xenapi.VMOperationsStart) {
			t.Error("a template is provisioned, not started")
		}
	}
	w.fails(w.VM().Destroy(w.ctx, byDefault), "VM_CANNOT_DELETE_DEFAULT_TEMPLATE", string(byDefault))
	if w.allowed(byDefault, xenapi.VMOperationsDestroy) || !w.allowed(own, xenapi.VMOperationsDestroy) {
		t.Error("only one's own template can be destroyed")
	}
	if r := w.rec(own); !r.IsATemplate || r.IsDefaultTemplate || r.OtherConfig["default_template"] != "" ||
		r.OtherConfig["base_template_name"] != "Other install media" {
		t.Errorf("the clone of a template: %+v", r)
	}
	w.ok(w.VM().SetIsATemplate(w.ctx, own, false))
	w.fails(w.VM().Provision(w.ctx, own), "PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
	if installed := must(w.VMMetrics().GetInstallTime(w.ctx, w.rec(own).Metrics))(t); installed.Year() < 2020 {
		t.Errorf("installed at %s", installed)
	}
	w.ok(w.VM().SetIsATemplate(w.ctx, own, true))
	w.ok(w.VM().Destroy(w.ctx, own))
}

// TestControlDomain: dom0 is no guest.
func TestControlDomain(t *testing.T) {
	w := start(t)
	dom0 := must(w.Host().GetControlDomain(w.ctx, w.host()))(t)
	r := w.rec(dom0)
	if !r.IsControlDomain || r.Domid != 0 || r.PowerState != xenapi.VMPowerStateRunning || r.ResidentOn != w.host() {
		t.Errorf("the control domain: %+v", r)
	}
	for _, err := range []error{w.VM().HardShutdown(w.ctx, dom0), w.VM().Pause(w.ctx, dom0), w.VM().Suspend(w.ctx, dom0),
		w.VM().HardReboot(w.ctx, dom0), w.VM().SetVCPUsMax(w.ctx, dom0, 1)} {
		w.fails(err, "OPERATION_NOT_ALLOWED")
	}
	w.fails(w.VM().Destroy(w.ctx, dom0), "VM_BAD_POWER_STATE", string(dom0), "halted, suspended", "running")
	w.fails(w.VM().PowerStateReset(w.ctx, dom0), "CANNOT_RESET_CONTROL_DOMAIN", string(dom0))
	if n := len(must(w.VM().GetAllowedVBDDevices(w.ctx, dom0))(t)); n != 256 {
		t.Errorf("the control domain has %d free devices, want 256", n)
	}
}

// TestOrderOfChecks: the first failure is the answer.
func TestOrderOfChecks(t *testing.T) {
	w := start(t)
	vm := w.vm("checked", "shutdown=ignore")
	w.ok(w.VM().AddToPlatform(w.ctx, vm, "nomigrate", "true"))
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.fails(w.VM().Suspend(w.ctx, vm), "VM_IS_IMMOBILE", string(vm))
	if w.allowed(vm, xenapi.VMOperationsSuspend) {
		t.Error("an immobile VM lists suspend")
	}
	task := must(w.Async(w.ctx, "VM.clean_shutdown", string(vm)))(t)
	w.underWay(vm, "clean_shutdown")
	err := w.VM().AssertOperationValid(w.ctx, vm, xenapi.VMOperationsSuspend)
	w.fails(err, "OTHER_OPERATION_IN_PROGRESS", "VM", string(vm), "clean_shutdown", string(task))
	w.fails(w.VM().AssertOperationValid(w.ctx, vm, xenapi.VMOperationsResume), "VM_BAD_POWER_STATE", string(vm), "suspended", "running")
	w.ok(w.VM().AddToBlockedOperations(w.ctx, vm, xenapi.VMOperationsResume, "no"))
	w.fails(w.VM().AssertOperationValid(w.ctx, vm, xenapi.VMOperationsResume), "OPERATION_BLOCKED", string(vm), "no")
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	if rec := w.finish(task); rec.Status == xenapi.TaskStatusTypePending {
		t.Errorf("the shutdown that was overtaken: %+v", rec)
	}
	w.becomes(vm, xenapi.VMPowerStateHalted)
}

// TestBootRecord: what needs a live VM, and what must not find one.
func TestBootRecord(t *testing.T) {
	w := start(t)
	vm := w.vm("booted")
	w.ok(w.VM().StartOn(w.ctx, vm, w.host(), false, false))
	if r := must(w.VM().GetBootRecord(w.ctx, vm))(t); r.UUID != w.rec(vm).UUID || r.PowerState != xenapi.VMPowerStateRunning {
		t.Errorf("the boot record: %+v", r)
	}
	domid := w.rec(vm).Domid
	w.fails(w.VM().PowerStateReset(w.ctx, vm), "DOMAIN_EXISTS", string(vm))
	w.ok(w.VM().Suspend(w.ctx, vm))
	image := w.rec(vm).SuspendVDI
	w.ok(w.VM().SetSuspendVDI(w.ctx, vm, image))
	w.ok(w.VM().ResumeOn(w.ctx, vm, w.host(), true, false))
	if r := w.rec(vm); r.PowerState != xenapi.VMPowerStatePaused || r.Domid == domid || r.SuspendVDI != xenapi.Null {
		t.Errorf("resumed: %+v", r)
	}
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	w.ok(w.VM().PowerStateReset(w.ctx, vm))
	if s := w.state(vm); s != xenapi.VMPowerStateHalted {
		t.Errorf("reset to %s", s)
	}
	_, err := w.VM().RetrieveWLBRecommendations(w.ctx, vm)
	w.fails(err, "WLB_NOT_INITIALIZED")
}

// TestPlacement asks where a VM can start, and why not.
func TestPlacement(t *testing.T) {
	w := start(t)
	vm, huge := w.vm("small"), w.vmOf("huge", 1<<50)
	w.ok(w.VM().AssertCanBootHere(w.ctx, vm, w.host()))
	if hosts := must(w.VM().GetPossibleHosts(w.ctx, vm))(t); !slices.Equal(hosts, []xenapi.HostRef{w.host()}) {
		t.Errorf("possible hosts: %v", hosts)
	}
	w.fails(w.VM().AssertCanBootHere(w.ctx, huge, w.host()), "HOST_NOT_ENOUGH_FREE_MEMORY")
	if hosts := must(w.VM().GetPossibleHosts(w.ctx, huge))(t); len(hosts) > 0 {
		t.Errorf("a huge VM could start on %v", hosts)
	}
	w.fails(w.VM().Start(w.ctx, huge, false, false), "HOST_NOT_ENOUGH_FREE_MEMORY")
	w.ok(w.Host().Disable(w.ctx, w.host(), true))
	w.fails(w.VM().AssertCanBootHere(w.ctx, vm, w.host()), "HOST_DISABLED", string(w.host()))
	w.fails(w.VM().Start(w.ctx, vm, false, false), "HOST_DISABLED", string(w.host()))
	w.ok(w.Host().Enable(w.ctx, w.host()))
	w.fails(w.VM().AssertCanBootHere(w.ctx, vm, "OpaqueRef:none"), "HANDLE_INVALID", "host", "OpaqueRef:none")
	w.ok(w.VM().Start(w.ctx, vm, false, false))
}
