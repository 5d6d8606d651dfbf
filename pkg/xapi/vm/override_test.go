package vm_test

import (
	"context"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// deaf makes a running VM whose guest ignores requests.
func (w *world) deaf() xenapi.VMRef {
	ref := w.halted()
	w.knobs(ref, map[string]string{"vm-data/sim/shutdown": "ignore", "vm-data/sim/reboot": "ignore"})
	w.ok(w.vms.Start(w.ctx, xapitest.Call(), service.VMStartParams{VM: ref}))
	return ref
}

func (w *world) knobs(ref xenapi.VMRef, knobs map[string]string) {
	xapitest.Update(w, w.env, func(tx *db.Tx) {
		rec, err := db.Edit(tx, ref)
		w.ok(err)
		rec.XenstoreData = knobs
	})
}

func (w *world) state(ref xenapi.VMRef) xenapi.VMPowerState {
	return db.Find(w.env.DB.View(), ref).PowerState
}

// until waits for a condition on the VM's record; it is back right after the
// commit that made it true.
func (w *world) until(ref xenapi.VMRef, what string, ok func(vm *xenapi.VM) bool) {
	w.Helper()
	var classes db.Classes
	classes.Add(datamodel.Get().Class("VM").ID)
	feed := w.env.DB.Feed()
	changed := feed.Wait(classes)
	defer feed.Done(changed)
	deadline := time.After(10 * time.Second)
	for !ok(db.Find(w.env.DB.View(), ref)) {
		select {
		case <-changed.C:
		case <-deadline:
			w.Fatalf("not within 10 s: %s: %+v", what, db.Find(w.env.DB.View(), ref))
		}
	}
}

// TestHardOperationsOverride lets a hard operation come over each one that it
// may come over: that one ends cancelled, and the hard one has the last word.
func TestHardOperationsOverride(t *testing.T) {
	soft := map[string]func(w *world, ref xenapi.VMRef) error{
		"clean_shutdown": func(w *world, ref xenapi.VMRef) error {
			return w.vms.CleanShutdown(w.ctx, xapitest.Call(), service.VMCleanShutdownParams{VM: ref})
		},
		"clean_reboot": func(w *world, ref xenapi.VMRef) error {
			return w.vms.CleanReboot(w.ctx, xapitest.Call(), service.VMCleanRebootParams{VM: ref})
		},
	}
	for name, run := range soft {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for range 5 {
				ref := w.deaf()
				done := make(chan error, 1)
				go func() { done <- run(w, ref) }()
				w.until(ref, name, func(vm *xenapi.VM) bool { return len(vm.CurrentOperations) > 0 })
				w.ok(w.vms.HardShutdown(w.ctx, xapitest.Call(), service.VMHardShutdownParams{VM: ref}))
				xapitest.Fails(t, <-done, "TASK_CANCELLED", "*")
				w.agree("after hard_shutdown")
				if got := w.state(ref); got != xenapi.VMPowerStateHalted {
					t.Errorf("after hard_shutdown over %s: %s", name, got)
				}

				w.ok(w.vms.Start(w.ctx, xapitest.Call(), service.VMStartParams{VM: ref}))
				before := db.Find(w.env.DB.View(), ref).Domid
				go func() { done <- run(w, ref) }()
				w.until(ref, name, func(vm *xenapi.VM) bool { return len(vm.CurrentOperations) > 0 })
				w.ok(w.vms.HardReboot(w.ctx, xapitest.Call(), service.VMHardRebootParams{VM: ref}))
				xapitest.Fails(t, <-done, "TASK_CANCELLED", "*")
				w.agree("after hard_reboot")
				if vm := db.Find(w.env.DB.View(), ref); vm.PowerState != xenapi.VMPowerStateRunning || vm.Domid != before+1 {
					t.Errorf("after hard_reboot over %s: %s, domain %d after %d", name, vm.PowerState, vm.Domid, before)
				}
				w.ok(w.vms.HardShutdown(w.ctx, xapitest.Call(), service.VMHardShutdownParams{VM: ref}))
			}
		})
	}
}

// TestGuestDiesDuringStart ends guests as early as they can, so that the event
// may come before the record says that the VM runs.
func TestGuestDiesDuringStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, knob := range []string{"poweroff-after-ms", "crash-after-ms"} {
		for range 20 {
			ref := w.halted()
			w.knobs(ref, map[string]string{"vm-data/sim/boot-ms": "0", "vm-data/sim/" + knob: "0"})
			xapitest.Update(w, w.env, func(tx *db.Tx) {
				rec, err := db.Edit(tx, ref)
				w.ok(err)
				rec.ActionsAfterCrash, rec.ActionsAfterShutdown = xenapi.OnCrashBehaviourDestroy, xenapi.OnNormalExitDestroy
			})
			w.ok(w.vms.Start(w.ctx, xapitest.Call(), service.VMStartParams{VM: ref}))
			w.until(ref, "halted", func(vm *xenapi.VM) bool {
				return vm.PowerState == xenapi.VMPowerStateHalted && len(vm.CurrentOperations) == 0
			})
		}
	}
	w.agree("after guests died young")
}

// TestCrashLoop starts a guest that crashes at once each time and is to be
// restarted: in the end it is left alone, and a start by hand counts anew.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := w.halted()
	w.knobs(ref, map[string]string{"vm-data/sim/boot-ms": "0", "vm-data/sim/crash-after-ms": "0"})
	xapitest.Update(w, w.env, func(tx *db.Tx) {
		rec, err := db.Edit(tx, ref)
		w.ok(err)
		rec.ActionsAfterCrash = xenapi.OnCrashBehaviourRestart
	})
	for range 2 {
		before := w.lastDomain()
		w.ok(w.vms.Start(w.ctx, xapitest.Call(), service.VMStartParams{VM: ref}))
		w.until(ref, "halted", func(vm *xenapi.VM) bool {
			return vm.PowerState == xenapi.VMPowerStateHalted && len(vm.CurrentOperations) == 0
		})
		if made := w.lastDomain() - before; made != 1+3 { // a probe's, and three of the guest
			t.Errorf("%d domains were made", made-1)
		}
	}
	w.agree("after a crash loop")

	w.tick.Store(int64(3 * time.Minute)) // longer than a bounce
	before := w.lastDomain()
	w.ok(w.vms.Start(w.ctx, xapitest.Call(), service.VMStartParams{VM: ref}))
	w.until(ref, "restarted for the sixth time", func(vm *xenapi.VM) bool { return vm.Domid > before+6 })
	w.ok(w.vms.HardShutdown(w.ctx, xapitest.Call(), service.VMHardShutdownParams{VM: ref}))
	w.agree("after crashes of a guest that had run for long")
}

// lastDomain is the number of the newest domain, found by making one.
func (w *world) lastDomain() int64 {
	w.Helper()
	ref := w.running()
	id := db.Find(w.env.DB.View(), ref).Domid
	w.ok(w.vms.HardShutdown(w.ctx, xapitest.Call(), service.VMHardShutdownParams{VM: ref}))
	return id
}

// TestReconcileBesideStarts looks at the hypervisor all the time while VMs
// start and stop: no list of domains may be taken for newer than it is.
func TestReconcileBesideStarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := w.halted()
	ctx, stop := context.WithCancel(w.ctx)
	done := make(chan struct{})
	defer func() { stop(); <-done }()
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			w.check(w.vms.Reconcile(ctx))
		}
	}()
	for range 50 {
		w.ok(w.vms.Start(w.ctx, xapitest.Call(), service.VMStartParams{VM: ref}))
		w.ok(w.vms.HardShutdown(w.ctx, xapitest.Call(), service.VMHardShutdownParams{VM: ref}))
	}
	stop()
	<-done
	w.until(ref, "at rest", func(vm *xenapi.VM) bool { return len(vm.CurrentOperations) == 0 })
	w.agree("after starts beside Reconcile")
}

// TestPausedBehindItsBack pauses a guest and lets it go on with another tool.
func TestPausedBehindItsBack(t *testing.T) {
	w := newWorld(t)
	ref := w.running()
	uuid := db.Find(w.env.DB.View(), ref).UUID
	w.ok(w.env.Node.Hypervisor.Pause(w.ctx, uuid))
	w.until(ref, "paused", func(vm *xenapi.VM) bool { return vm.PowerState == xenapi.VMPowerStatePaused })
	w.ok(w.env.Node.Hypervisor.Unpause(w.ctx, uuid))
	w.until(ref, "running", func(vm *xenapi.VM) bool { return vm.PowerState == xenapi.VMPowerStateRunning })
}
