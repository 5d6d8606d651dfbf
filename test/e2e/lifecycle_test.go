package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/xenapi"
)

// TestOverview is the flow that must never break, from a default template.
func TestOverview(t *testing.T) {
	w := start(t)
	template := must(w.VM().GetByNameLabel(w.ctx, "Debian Bookworm 12"))(t)[0]
	if all := must(w.VM().GetAllRecords(w.ctx))(t); len(all) != 50 {
		t.Errorf("%d VMs at the first start, want 49 templates and the control domain", len(all))
	}
	testenv.Eventually(t, "the size of the local SR", 20*time.Second, func() bool {
		return must(w.SR().GetPhysicalSize(w.ctx, w.sr()))(t) > 0
	})
	vm := must(w.VM().Clone(w.ctx, template, "web"))(t)
	w.fails(w.VM().Start(w.ctx, vm, false, false), "VM_IS_TEMPLATE", string(vm), "start")
	w.fails(w.VM().Provision(w.ctx, vm), "UUID_INVALID", "sr", "")
	config := must(w.VM().GetOtherConfig(w.ctx, vm))(t)
	uuid := must(w.SR().GetUUID(w.ctx, w.sr()))(t)
	config["disks"] = strings.ReplaceAll(config["disks"], `sr=""`, `sr="`+uuid+`"`)
	w.ok(w.VM().SetOtherConfig(w.ctx, vm, config))
	w.ok(w.VM().Provision(w.ctx, vm))
	rec := must(w.VM().GetRecord(w.ctx, vm))(t)
	if rec.IsATemplate || len(rec.VBDs) != 1 || rec.OtherConfig["disks"] != "" || rec.OtherConfig["base_template_name"] != "Debian Bookworm 12" {
		t.Fatalf("after provision: %+v", rec)
	}
	w.ok(w.VM().SetMemory(w.ctx, vm, 1024*mib))
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	rec = must(w.VM().GetRecord(w.ctx, vm))(t)
	if rec.PowerState != xenapi.VMPowerStateRunning || rec.ResidentOn != w.host() || rec.Domid < 1 || len(rec.Consoles) == 0 {
		t.Fatalf("after start: %+v", rec)
	}
	disk := must(w.VBD().GetRecord(w.ctx, rec.VBDs[0]))(t)
	if !disk.CurrentlyAttached || disk.Device != "xvda" {
		t.Errorf("the disk: %+v", disk)
	}
	w.fails(w.VM().Start(w.ctx, vm, false, false), "VM_BAD_POWER_STATE", string(vm), "halted", "running")
	w.ok(w.VM().Pause(w.ctx, vm))
	w.ok(w.VM().Unpause(w.ctx, vm))
	w.ok(w.VM().Suspend(w.ctx, vm))
	rec = must(w.VM().GetRecord(w.ctx, vm))(t)
	if rec.PowerState != xenapi.VMPowerStateSuspended || rec.SuspendVDI == xenapi.Null || rec.ResidentOn != xenapi.Null {
		t.Fatalf("after suspend: %+v", rec)
	}
	image := rec.SuspendVDI
	w.ok(w.VM().Resume(w.ctx, vm, false, false))
	_, err := w.VDI().GetRecord(w.ctx, image)
	w.fails(err, "HANDLE_INVALID", "VDI", string(image))
	w.ok(w.VM().CleanReboot(w.ctx, vm))
	w.ok(w.VM().HardReboot(w.ctx, vm))
	w.ok(w.VM().CleanShutdown(w.ctx, vm))
	w.ok(w.VM().Start(w.ctx, vm, true, false))
	if s := w.state(vm); s != xenapi.VMPowerStatePaused {
		t.Errorf("started paused it is %s", s)
	}
	w.ok(w.VM().Shutdown(w.ctx, vm))
	rec = must(w.VM().GetRecord(w.ctx, vm))(t)
	if rec.PowerState != xenapi.VMPowerStateHalted || rec.Domid != -1 || rec.ResidentOn != xenapi.Null || len(rec.Consoles) != 0 {
		t.Fatalf("after shutdown: %+v", rec)
	}
	w.ok(w.VM().Destroy(w.ctx, vm))
	w.ok(w.VDI().Destroy(w.ctx, disk.VDI))
	w.ok(w.Session().Logout(w.ctx))
	_, err = w.VM().GetAll(w.ctx)
	w.fails(err, "SESSION_INVALID")
}

// TestMemoryIsReservedAtomically starts 100 VMs at once on a host with room
// for 60.
func TestMemoryIsReservedAtomically(t *testing.T) {
	const fits, all = 60, 100
	w := start(t)
	probe := w.vmOf("probe", 256*mib)
	need := 256*mib + must(w.VM().ComputeMemoryOverhead(w.ctx, probe))(t)
	free := must(w.Host().ComputeFreeMemory(w.ctx, w.host()))(t)
	w.ok(w.VM().Destroy(w.ctx, probe))
	// A first VM takes what is more than 60 of the others need.
	filler := w.vmOf("filler", (free-need*fits-need/2)/2)
	over := must(w.VM().MaximiseMemory(w.ctx, filler, free-need*fits-need/2, false))(t)
	w.ok(w.VM().SetMemoryLimits(w.ctx, filler, over, over, over, over))
	w.ok(w.VM().Start(w.ctx, filler, false, false))
	vms := make([]xenapi.VMRef, all)
	for i := range vms {
		vms[i] = w.vmOf(fmt.Sprint("vm ", i), 256*mib)
	}
	var started, refused atomic.Int32
	var wg sync.WaitGroup
	for _, vm := range vms {
		wg.Go(func() {
			switch err := w.VM().Start(w.ctx, vm, false, false); {
			case err == nil:
				started.Add(1)
			case xenapi.Code(err) == "HOST_NOT_ENOUGH_FREE_MEMORY":
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if started.Load() != fits || refused.Load() != all-fits {
		t.Errorf("%d started and %d were refused, want %d and %d", started.Load(), refused.Load(), fits, all-fits)
	}
	running := must(w.VM().GetAllRecordsWhere(w.ctx, `field "power_state" = "Running" and field "is_control_domain" = "false"`))(t)
	if len(running) != fits+1 {
		t.Errorf("%d are Running", len(running))
	}
}

// TestGuestsStopByThemselves sees what guests do and obeys actions_after_*.
func TestGuestsStopByThemselves(t *testing.T) {
	w := start(t)
	off := w.vm("powers itself off", "poweroff-after-ms=50")
	crash := w.vm("crashes", "crash-after-ms=50")
	reboot := w.vm("reboots once and stays", "reboot-after-ms=200")
	again := w.vm("starts again after a poweroff", "poweroff-after-ms=200")
	w.ok(w.VM().SetActionsAfterShutdown(w.ctx, again, xenapi.OnNormalExitRestart))
	for _, vm := range []xenapi.VMRef{off, crash, reboot, again} {
		w.ok(w.VM().Start(w.ctx, vm, false, false))
	}
	domid := must(w.VM().GetDomid(w.ctx, reboot))(t)
	w.becomes(off, xenapi.VMPowerStateHalted)
	w.becomes(crash, xenapi.VMPowerStateHalted)
	for _, vm := range []xenapi.VMRef{reboot, again} {
		first := must(w.VM().GetDomid(w.ctx, vm))(t)
		testenv.Eventually(t, "another domain", 20*time.Second, func() bool {
			now := must(w.VM().GetDomid(w.ctx, vm))(t)
			return now != first && now > domid
		})
	}
	w.ok(w.VM().HardShutdown(w.ctx, reboot))
	w.ok(w.VM().HardShutdown(w.ctx, again))
	if s := w.state(again); s != xenapi.VMPowerStateHalted {
		t.Errorf("after hard_shutdown it is %s", s)
	}
}

// TestDeafGuest waits for a guest that ignores its shutdown, and is cancelled.
func TestDeafGuest(t *testing.T) {
	w := start(t, "--shutdown-timeout", "1s")
	vm := w.vm("deaf", "shutdown=ignore")
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.fails(w.VM().CleanShutdown(w.ctx, vm), "VM_SHUTDOWN_TIMEOUT", string(vm), "1")
	if s := w.state(vm); s != xenapi.VMPowerStateRunning {
		t.Errorf("after the timeout it is %s", s)
	}
	w.ok(w.VM().Shutdown(w.ctx, vm))
	if s := w.state(vm); s != xenapi.VMPowerStateHalted {
		t.Errorf("after shutdown it is %s", s)
	}
}

// TestOverlap waits for another operation to end, and can be cancelled while
// it waits.
func TestOverlap(t *testing.T) {
	w := start(t)
	vm := w.vm("slow to stop", "shutdown=ignore")
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	stopping := must(w.Async(w.ctx, "VM.clean_shutdown", string(vm)))(t)
	testenv.Eventually(t, "clean_shutdown in current_operations", 10*time.Second, func() bool {
		return slices.Contains(values(must(w.VM().GetCurrentOperations(w.ctx, vm))(t)), "clean_shutdown")
	})
	if w.allowed(vm, xenapi.VMOperationsPause) || !w.allowed(vm, xenapi.VMOperationsHardShutdown) {
		t.Error("during clean_shutdown only the hard way is allowed")
	}
	waiting := must(w.Async(w.ctx, "VM.pause", string(vm)))(t)
	w.ok(w.Task().Cancel(w.ctx, waiting))
	if rec := w.finish(waiting); rec.Status != xenapi.TaskStatusTypeCancelled || rec.ErrorInfo[0] != "TASK_CANCELLED" {
		t.Errorf("the one that waited: %+v", rec)
	}
	w.ok(w.Task().Cancel(w.ctx, stopping))
	if rec := w.finish(stopping); rec.Status != xenapi.TaskStatusTypeCancelled {
		t.Errorf("the one that was cancelled: %+v", rec)
	}
	w.ok(w.VM().Pause(w.ctx, vm))
	w.ok(w.VM().HardShutdown(w.ctx, vm))
}

func values(m map[string]string) []string {
	var out []string
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// TestRestart kills the daemon under running guests; they live on, and all is
// right afterwards.
func TestRestart(t *testing.T) {
	w := start(t)
	running, halted, suspended := w.vm("running"), w.vm("halted"), w.vm("suspended")
	_, vbd := w.disk(running, 8*mib, "0")
	for _, vm := range []xenapi.VMRef{running, suspended} {
		w.ok(w.VM().Start(w.ctx, vm, false, false))
	}
	w.ok(w.VM().Suspend(w.ctx, suspended))
	domid := must(w.VM().GetDomid(w.ctx, running))(t)
	pool := w.pool()
	for range 3 {
		w.d.Kill()
		w.d.Run(t)
		w.Client = w.d.Client(t)
		if p := w.pool(); p != pool {
			t.Fatalf("the pool's reference changed from %s to %s", pool, p)
		}
		for vm, want := range map[xenapi.VMRef]xenapi.VMPowerState{running: xenapi.VMPowerStateRunning,
			halted: xenapi.VMPowerStateHalted, suspended: xenapi.VMPowerStateSuspended} {
			w.becomes(vm, want)
		}
		if now := must(w.VM().GetDomid(w.ctx, running))(t); now != domid {
			t.Errorf("the running guest's domain was %d and is %d", domid, now)
		}
		if !must(w.VBD().GetCurrentlyAttached(w.ctx, vbd))(t) {
			t.Error("the running guest's disk is detached")
		}
		testenv.Eventually(t, "allowed operations", 10*time.Second, func() bool { return w.allowed(running, xenapi.VMOperationsPause) })
	}
	testenv.Eventually(t, "the SR plugged", 20*time.Second, func() bool {
		pbd := must(w.SR().GetPBDs(w.ctx, w.sr()))(t)[0]
		return must(w.PBD().GetCurrentlyAttached(w.ctx, pbd))(t)
	})
	w.ok(w.VM().Resume(w.ctx, suspended, false, false))
	w.ok(w.VM().HardShutdown(w.ctx, suspended))
	w.ok(w.VM().HardShutdown(w.ctx, running))
}

// TestSharedDisk starts two VMs that both want to write to one disk.
func TestSharedDisk(t *testing.T) {
	w := start(t)
	first, second := w.vm("first"), w.vm("second")
	vdi, _ := w.disk(first, 8*mib, "0")
	vbd := w.vbd(second, vdi, "0", xenapi.VBDModeRW)
	w.ok(w.VM().Start(w.ctx, first, false, false))
	w.fails(w.VM().Start(w.ctx, second, false, false), "VDI_IN_USE", string(vdi))
	if rec := must(w.VBD().GetRecord(w.ctx, vbd))(t); rec.CurrentlyAttached || w.state(second) != xenapi.VMPowerStateHalted {
		t.Errorf("after the refusal: %+v", rec)
	}
	w.ok(w.VM().HardShutdown(w.ctx, first))
	w.ok(w.VM().Start(w.ctx, second, false, false))
	w.ok(w.VM().HardShutdown(w.ctx, second))
}
