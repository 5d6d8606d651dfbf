package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
)

const (
	crashes     = 20
	crashClient = 8
)

// worker is a client with a VM of its own, to which it does one thing after
// the other until the daemon is gone.
type worker struct {
	n    int
	vm   xenapi.VMRef
	step int
	// known is what the last acknowledged call left: the state, the name, and
	// the clones.
	state  xenapi.VMPowerState
	name   string
	clones []xenapi.VMRef
	done   int
	// doubt is set while a call has no answer: state, or a clone, may be
	// either.
	doubt bool
}

// work does one thing; it reports whether the daemon answered.
func (k *worker) work(ctx context.Context, c *client.Client) error {
	k.step++
	k.doubt = true
	err := k.call(ctx, c)
	if err == nil {
		k.doubt = false
		k.done++
	}
	return err
}

func (k *worker) call(ctx context.Context, c *client.Client) error {
	became := func(s xenapi.VMPowerState, err error) error {
		if err == nil {
			k.state = s
		}
		return err
	}
	switch {
	case k.step%5 == 4:
		name := fmt.Sprintf("worker %d, step %d", k.n, k.step)
		err := c.VM().SetNameLabel(ctx, k.vm, name)
		if err == nil {
			k.name = name
		}
		return err
	case k.state == xenapi.VMPowerStateHalted && k.step%3 == 0:
		made, err := c.VM().Clone(ctx, k.vm, fmt.Sprint("clone of ", k.n))
		if err == nil {
			k.clones = append(k.clones, made)
		}
		return err
	case k.state == xenapi.VMPowerStateHalted:
		return became(xenapi.VMPowerStateRunning, c.VM().Start(ctx, k.vm, false, false))
	case k.state == xenapi.VMPowerStateSuspended:
		return became(xenapi.VMPowerStateRunning, c.VM().Resume(ctx, k.vm, false, false))
	case k.step%2 == 0:
		return became(xenapi.VMPowerStateSuspended, c.VM().Suspend(ctx, k.vm))
	}
	return became(xenapi.VMPowerStateHalted, c.VM().HardShutdown(ctx, k.vm))
}

// TestCrashes kills the daemon again and again under clients that start,
// stop, suspend and clone VMs. Afterwards each VM is Running if and only if
// it has a domain, nobody's disk is left, no operation is stuck, and what was
// acknowledged is so.
func TestCrashes(t *testing.T) {
	w := start(t)
	workers := make([]*worker, crashClient)
	for i := range workers {
		vm := w.vmOf(fmt.Sprint("worker ", i), 16*mib)
		w.disk(vm, 2*mib, "0")
		workers[i] = &worker{n: i, vm: vm, state: xenapi.VMPowerStateHalted, name: fmt.Sprint("worker ", i)}
	}
	for round := range crashes {
		w.crashUnder(workers, time.Duration(10+17*round%150)*time.Millisecond)
		w.reconciled()
		for _, k := range workers {
			w.checkWorker(k)
		}
		w.checkDisks()
		if t.Failed() {
			t.Fatalf("after crash %d", round+1)
		}
	}
	done := 0
	for _, k := range workers {
		done += k.done
	}
	if done < crashes*crashClient {
		t.Errorf("only %d calls were acknowledged", done)
	}
	w.endOf(workers)
}

// crashUnder lets the workers work for a while, and kills the daemon.
func (w *world) crashUnder(workers []*worker, after time.Duration) {
	w.Helper()
	var wg sync.WaitGroup
	for _, k := range workers {
		c := w.d.Client(w)
		wg.Go(func() {
			for {
				if err := k.work(w.ctx, c); err != nil {
					if code := xenapi.Code(err); code != "" {
						w.Errorf("worker %d, step %d, %s: %v", k.n, k.step, k.state, err)
					}
					return
				}
			}
		})
	}
	<-time.After(after)
	w.restart(true)
	wg.Wait()
}

// reconciled waits until nothing is under way.
func (w *world) reconciled() {
	w.Helper()
	testenv.Eventually(w, "the SR plugged", 20*time.Second, func() bool {
		return must(w.PBD().GetCurrentlyAttached(w.ctx, must(w.SR().GetPBDs(w.ctx, w.sr()))(w)[0]))(w)
	})
	testenv.Eventually(w, "the end of what was under way", 20*time.Second, func() bool {
		for _, rec := range must(w.VM().GetAllRecordsWhere(w.ctx, `field "is_a_template" = "false" and field "is_control_domain" = "false"`))(w) {
			r := rec.(*xenapi.VM)
			if len(r.CurrentOperations) > 0 || (r.PowerState == xenapi.VMPowerStateRunning) != (r.Domid > 0) || len(r.AllowedOperations) == 0 {
				return false
			}
		}
		for _, rec := range must(w.VDI().GetAllRecords(w.ctx))(w) {
			if len(rec.(*xenapi.VDI).CurrentOperations) > 0 {
				return false
			}
		}
		return true
	})
}

// again does the next thing to a VM whose last call had no answer, until it
// works: whichever way that call went, the VM is whole.
func (w *world) again(k *worker) {
	w.Helper()
	var err error
	defer func() {
		if err != nil {
			w.Logf("worker %d: %v", k.n, err)
		}
	}()
	testenv.Eventually(w, "a call that works", 20*time.Second, func() bool {
		switch w.state(k.vm) {
		case xenapi.VMPowerStateHalted:
			err = w.VM().Start(w.ctx, k.vm, false, false)
		case xenapi.VMPowerStateSuspended:
			err = w.VM().Resume(w.ctx, k.vm, false, false)
		default:
			err = w.VM().WaitMemoryTargetLive(w.ctx, k.vm)
		}
		return err == nil
	})
}

// checkWorker compares a VM with what was acknowledged of it.
func (w *world) checkWorker(k *worker) {
	w.Helper()
	r := w.rec(k.vm)
	if k.doubt {
		w.again(k)
		r = w.rec(k.vm)
	} else {
		testenv.Eventually(w, fmt.Sprintf("worker %d %s", k.n, k.state), 20*time.Second, func() bool { return w.state(k.vm) == k.state })
		if r.NameLabel != k.name {
			w.Errorf("worker %d is called %q, want %q", k.n, r.NameLabel, k.name)
		}
	}
	for _, clone := range k.clones {
		if _, err := w.VM().GetRecord(w.ctx, clone); err != nil {
			w.Errorf("an acknowledged clone of worker %d: %v", k.n, err)
		}
	}
	k.state, k.name, k.doubt = w.state(k.vm), r.NameLabel, false
	running := k.state == xenapi.VMPowerStateRunning
	if err := w.VM().AssertOperationValid(w.ctx, k.vm, xenapi.VMOperationsHardShutdown); (err == nil) != (k.state != xenapi.VMPowerStateHalted) {
		w.Errorf("worker %d is %s, and a hard shutdown: %v", k.n, k.state, err)
	}
	if w.allowed(k.vm, xenapi.VMOperationsHardReboot) != running || w.allowed(k.vm, xenapi.VMOperationsStart) != (k.state == xenapi.VMPowerStateHalted) {
		w.Errorf("worker %d is %s and allows %v", k.n, k.state, r.AllowedOperations)
	}
	for _, vbd := range r.VBDs {
		w.attached(vbd, k.state != xenapi.VMPowerStateHalted)
	}
}

// checkDisks wants every disk to be some VM's, and every drive's disk there.
func (w *world) checkDisks() {
	w.Helper()
	testenv.Eventually(w, "no disk that is nobody's", 20*time.Second, func() bool { return len(w.orphans()) == 0 })
	w.ok(w.SR().Scan(w.ctx, w.sr()))
	if left := w.orphans(); len(left) > 0 {
		w.Errorf("a scan finds disks that are nobody's: %v", left)
	}
}

// orphans lists the disks of the default SR that neither a drive nor a
// suspended VM has.
func (w *world) orphans() []string {
	w.Helper()
	var images []xenapi.VDIRef
	for _, rec := range must(w.VM().GetAllRecords(w.ctx))(w) {
		images = append(images, rec.(*xenapi.VM).SuspendVDI)
	}
	var out []string
	for ref, rec := range must(w.VDI().GetAllRecords(w.ctx))(w) {
		r := rec.(*xenapi.VDI)
		if r.SR == w.sr() && len(r.VBDs) == 0 && !slices.Contains(images, xenapi.VDIRef(ref)) {
			out = append(out, fmt.Sprintf("%s %q %s", ref, r.NameLabel, r.Type))
		}
	}
	return out
}

// endOf shuts everything down and takes it away: all of it obeys.
func (w *world) endOf(workers []*worker) {
	w.Helper()
	for ref, rec := range must(w.VM().GetAllRecordsWhere(w.ctx, `field "is_a_template" = "false" and field "is_control_domain" = "false"`))(w) {
		vm := xenapi.VMRef(ref)
		if rec.(*xenapi.VM).PowerState != xenapi.VMPowerStateHalted {
			w.ok(w.VM().HardShutdown(w.ctx, vm))
		}
		w.ok(w.VM().Start(w.ctx, vm, false, false))
		w.ok(w.VM().HardShutdown(w.ctx, vm))
		disks := must(w.VM().GetVBDs(w.ctx, vm))(w)
		for _, vbd := range disks {
			w.ok(w.VDI().Destroy(w.ctx, must(w.VBD().GetVDI(w.ctx, vbd))(w)))
		}
		w.ok(w.VM().Destroy(w.ctx, vm))
	}
	if free := w.orphans(); len(free) > 0 {
		w.Errorf("left: %v", free)
	}
	for _, k := range workers {
		_, err := w.VM().GetRecord(w.ctx, k.vm)
		w.fails(err, "HANDLE_INVALID", "VM", string(k.vm))
	}
}
