// Package e2e drives the real daemon over the wire, as a client does.
package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
)

const mib = 1 << 20

// world is a daemon, and a client that is logged in to it.
type world struct {
	*testing.T
	*client.Client
	d   *testenv.Daemon
	ctx context.Context
}

func start(t *testing.T, args ...string) *world {
	t.Parallel()
	d := testenv.Start(t, args...)
	return &world{t, d.Client(t), d, t.Context()}
}

// must fails the test on an error.
func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// ok fails the test on an error.
func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// fails wants an error of the API: its code, and its parameters as far as
// they are given; "*" is any.
func (w *world) fails(err error, code string, params ...string) {
	w.Helper()
	e, ok := err.(*xenapi.Error)
	if !ok || e.Code != code {
		w.Errorf("%v, want %s %q", err, code, params)
		return
	}
	for i, p := range params {
		if p != "*" && (i >= len(e.Params) || e.Params[i] != p) {
			w.Errorf("%v, want %s %q", err, code, params)
		}
	}
}

// pool is the pool's reference.
func (w *world) pool() xenapi.PoolRef { return must(w.Pool().GetAll(w.ctx))(w)[0] }

// sr is the pool's default SR.
func (w *world) sr() xenapi.SRRef { return must(w.Pool().GetDefaultSR(w.ctx, w.pool()))(w) }

// host is the only host.
func (w *world) host() xenapi.HostRef { return must(w.Host().GetAll(w.ctx))(w)[0] }

// vm makes a small VM without devices; knobs go to the simulated guest.
func (w *world) vm(name string, knobs ...string) xenapi.VMRef {
	w.Helper()
	return w.vmOf(name, 64*mib, knobs...)
}

func (w *world) vmOf(name string, memory int64, knobs ...string) xenapi.VMRef {
	w.Helper()
	r := xenapi.NewVM()
	r.NameLabel = name
	r.MemoryStaticMin, r.MemoryDynamicMin, r.MemoryDynamicMax, r.MemoryStaticMax = memory, memory, memory, memory
	r.VCPUsMax, r.VCPUsAtStartup = 2, 1
	r.HVMBootPolicy, r.HVMBootParams, r.HVMShadowMultiplier = "BIOS order", map[string]string{"order": "c"}, 1
	r.ActionsAfterShutdown, r.ActionsAfterReboot = xenapi.OnNormalExitDestroy, xenapi.OnNormalExitRestart
	r.ActionsAfterCrash = xenapi.OnCrashBehaviourDestroy
	r.XenstoreData = map[string]string{}
	for _, k := range knobs {
		key, value, _ := strings.Cut(k, "=")
		r.XenstoreData["vm-data/sim/"+key] = value
	}
	return must(w.VM().Create(w.ctx, r))(w)
}

// disk makes a VDI of so many bytes and attaches it to a VM.
func (w *world) disk(vm xenapi.VMRef, size int64, device string) (xenapi.VDIRef, xenapi.VBDRef) {
	w.Helper()
	vdi := xenapi.NewVDI()
	vdi.NameLabel, vdi.SR, vdi.VirtualSize, vdi.Type = "disk "+device, w.sr(), size, xenapi.VDITypeUser
	ref := must(w.VDI().Create(w.ctx, vdi))(w)
	return ref, w.vbd(vm, ref, device, xenapi.VBDModeRW)
}

func (w *world) vbd(vm xenapi.VMRef, vdi xenapi.VDIRef, device string, mode xenapi.VBDMode) xenapi.VBDRef {
	w.Helper()
	vbd := xenapi.NewVBD()
	vbd.VM, vbd.VDI, vbd.Userdevice, vbd.Mode, vbd.Type = vm, vdi, device, mode, xenapi.VBDTypeDisk
	vbd.Unpluggable = true
	return must(w.VBD().Create(w.ctx, vbd))(w)
}

func (w *world) state(vm xenapi.VMRef) xenapi.VMPowerState {
	w.Helper()
	return must(w.VM().GetPowerState(w.ctx, vm))(w)
}

// becomes waits until a VM is in a state.
func (w *world) becomes(vm xenapi.VMRef, want xenapi.VMPowerState) {
	w.Helper()
	testenv.Eventually(w, string(want), 20*time.Second, func() bool { return w.state(vm) == want })
}

// allowed reports whether a VM lists an operation.
func (w *world) allowed(vm xenapi.VMRef, op xenapi.VMOperations) bool {
	w.Helper()
	return slices.Contains(must(w.VM().GetAllowedOperations(w.ctx, vm))(w), op)
}

// finish waits for a task and returns its record.
func (w *world) finish(task xenapi.TaskRef) *xenapi.Task {
	w.Helper()
	var rec *xenapi.Task
	testenv.Eventually(w, "the end of a task", 60*time.Second, func() bool {
		rec = must(w.Task().GetRecord(w.ctx, task))(w)
		return rec.Status != xenapi.TaskStatusTypePending
	})
	return rec
}
