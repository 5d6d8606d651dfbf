package vm_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"xapid/pkg/saga"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// operation is a saga of VMs: how to get ready for it, how to run it, and what
// the VM is when it has failed.
type operation struct {
	prepare func(w *world) xenapi.VMRef
	run     func(w *world, ref xenapi.VMRef) error
	failed  xenapi.VMPowerState
}

var operations = map[string]operation{
	"start": {(*world).halted, func(w *world, ref xenapi.VMRef) error {
		return w.vms.Start(w.ctx, xapitest.Call(), service.VMStartParams{VM: ref})
	}, xenapi.VMPowerStateHalted},
	"suspend": {(*world).running, func(w *world, ref xenapi.VMRef) error {
		return w.vms.Suspend(w.ctx, xapitest.Call(), service.VMSuspendParams{VM: ref})
	}, xenapi.VMPowerStateRunning},
	"resume": {(*world).suspended, func(w *world, ref xenapi.VMRef) error {
		return w.vms.Resume(w.ctx, xapitest.Call(), service.VMResumeParams{VM: ref})
	}, xenapi.VMPowerStateSuspended},
	"clone": {(*world).halted, func(w *world, ref xenapi.VMRef) error {
		_, err := w.vms.Clone(w.ctx, xapitest.Call(), service.VMCloneParams{VM: ref, NewName: "copy"})
		return err
	}, xenapi.VMPowerStateHalted},
	"provision": {(*world).template, func(w *world, ref xenapi.VMRef) error {
		return w.vms.Provision(w.ctx, xapitest.Call(), service.VMProvisionParams{VM: ref})
	}, xenapi.VMPowerStateHalted},
	"hard_reboot": {(*world).running, func(w *world, ref xenapi.VMRef) error {
		return w.vms.HardReboot(w.ctx, xapitest.Call(), service.VMHardRebootParams{VM: ref})
	}, xenapi.VMPowerStateHalted},
}

// final are the steps after which there is no way back: once they are done the
// operation has succeeded.
var final = map[string]bool{"record that it runs": true, "save the domain": true, "make the records": true}

var errInjected = errors.New("injected")

// TestEveryStepFails fails and cuts each saga at every one of its points.
func TestEveryStepFails(t *testing.T) {
	for name, op := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newWorld(t).failsAnywhere(op)
		})
	}
}

// TestStartFailsAnywhereOnXen does it to VM.start on real Xen.
func TestStartFailsAnywhereOnXen(t *testing.T) {
	if os.Getenv("XAPID_XEN") == "" {
		t.Skip("missing: real Xen with a guest's kernel in /lab/guest, and XAPID_XEN=1 that says so; scripts/saga-on-xen runs it in a lab")
	}
	newWorldOn(t, realXen{}).failsAnywhere(operations["start"])
}

// failsAnywhere runs an operation again and again: it fails at its first point,
// then at its second and so on until it comes through, and then the same with
// crashes.
func (w *world) failsAnywhere(op operation) {
	for _, injected := range []error{errInjected, saga.ErrCrash} {
		for n := 1; w.failsAt(op, injected, n); n++ {
		}
	}
}

// failsAt runs an operation that is to fail at its n-th point, and reports
// whether it has so many.
func (w *world) failsAt(op operation, injected error, n int) bool {
	w.Helper()
	ref := op.prepare(w)
	reached, where := 0, ""
	w.hook = func(p saga.Point) error {
		if p.Undo || !ours(p) || p.After && injected == errInjected && final[p.Name] {
			return nil
		}
		if reached++; reached == n {
			where = map[bool]string{false: "before ", true: "after "}[p.After] + p.Name
			return injected
		}
		return nil
	}
	err := op.run(w, ref)
	w.hook = nil
	defer w.retire(ref)
	if reached < n {
		w.ok(err)
		w.agree("at the end")
		return false
	}
	when := fmt.Sprintf("%v at point %d, %s", injected, n, where)
	if !errors.Is(err, injected) {
		w.Errorf("%s: it ended with %v", when, err)
	}
	if injected == saga.ErrCrash {
		w.restart()
		when += ", after the restart"
	} else if is := w.state(ref); is != op.failed {
		w.Errorf("%s: the VM is %s, not %s", when, is, op.failed)
	}
	w.agree(when)
	w.Logf("%s: the VM is %s", when, w.state(ref))
	return true
}

// retire stops a VM that was left running.
func (w *world) retire(ref xenapi.VMRef) {
	if is := w.state(ref); is == xenapi.VMPowerStateRunning || is == xenapi.VMPowerStatePaused {
		w.ok(w.vms.HardShutdown(w.ctx, xapitest.Call(), service.VMHardShutdownParams{VM: ref}))
	}
}

// ours leaves out the points of storage's own sagas, which have their test.
func ours(p saga.Point) bool {
	return !slices.ContainsFunc([]string{"make the volume", "copy the volume", "record it"}, func(s string) bool { return strings.HasPrefix(p.Name, s) })
}

// TestAnImageOfAnEarlierBoot cuts a suspend when the guest is in its image
// already. That holds while the machine is up; what was written last may be
// lost with it.
func TestAnImageOfAnEarlierBoot(t *testing.T) {
	for boot, want := range map[string]xenapi.VMPowerState{"one": xenapi.VMPowerStateSuspended, "two": xenapi.VMPowerStateHalted} {
		t.Run(boot, func(t *testing.T) {
			w := newWorld(t)
			w.boot = "one"
			w.restart()
			ref := w.running()
			w.hook = func(p saga.Point) error {
				if p.Name == "save the domain" && p.After {
					w.stop() // before anybody hears that the domain has stopped
					return saga.ErrCrash
				}
				return nil
			}
			if err := operations["suspend"].run(w, ref); err == nil {
				t.Fatal("the suspend was not cut")
			}
			w.hook, w.boot = nil, boot
			w.restart()
			w.until(ref, string(want), func(vm *xenapi.VM) bool { return vm.PowerState == want })
			w.agree("after a boot")
		})
	}
}
