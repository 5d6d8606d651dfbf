package vm

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// Reconciliation is tried again, at growing intervals, while the hypervisor
// does not answer.
const (
	reconcileSoon  = time.Second
	reconcileLate  = 30 * time.Second
	reconcileEvery = 5 * time.Minute
)

// Run follows the hypervisor's events until ctx ends: guests that stop,
// reboot or crash by themselves, and what they say of themselves.
func (s *VMs) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	events, err := s.Env.Node.Hypervisor.Subscribe(ctx)
	if err != nil {
		return err
	}
	wait := reconcileSoon
	timer := time.NewTimer(0)
	defer timer.Stop()
	first := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			if err := s.Reconcile(ctx); err != nil && ctx.Err() == nil {
				s.Env.Log.Error("the VMs are not reconciled with the hypervisor; trying again", "error", err, "wait", wait)
				timer.Reset(wait)
				wait = min(2*wait, reconcileLate)
				continue
			}
			if first && s.FreshBoot {
				wg.Go(func() { s.startAll(ctx) })
			}
			first = false
			wait = reconcileSoon
			timer.Reset(reconcileEvery)
		case e, ok := <-events:
			if !ok {
				return nil
			}
			if e.Kind == xenctl.EventResync {
				timer.Reset(0)
				continue
			}
			s.dispatch(ctx, &wg, e)
		}
	}
}

// dispatch hands an event to who waits for it, or to a goroutine of its own.
func (s *VMs) dispatch(ctx context.Context, wg *sync.WaitGroup, e xenctl.Event) {
	switch e.Kind {
	case xenctl.EventStopped, xenctl.EventCrashed:
		if !s.awaited(e) {
			wg.Go(func() { s.stopped(ctx, e) })
		}
	case xenctl.EventPaused, xenctl.EventResumed:
		if ref := s.byUUID(e.UUID); ref != "" && s.settled.Load() {
			wg.Go(func() { s.follow(ctx, ref) })
		}
	case xenctl.EventGuestChanged, xenctl.EventBalloonChanged:
		wg.Go(func() { s.refreshGuest(ctx, e.UUID) })
	}
}

// follow brings the record of a VM up to date that somebody has paused or let
// go on behind the agent's back. Most such events are of the agent's own doing.
func (s *VMs) follow(ctx context.Context, ref xenapi.VMRef) {
	vm := db.Find(s.Env.DB.View(), ref)
	if vm == nil || atWork(vm) || !up(vm) {
		return
	}
	d, err := s.Env.Node.Hypervisor.Lookup(ctx, vm.UUID)
	if err != nil || agrees(vm, d) {
		return // it has gone, of which another event tells, or all is well
	}
	if err := s.reconcileOne(ctx, ref, leftover{}); err != nil && ctx.Err() == nil {
		s.Env.Log.Warn("a VM is not brought up to date after an event", "vm", ref, "error", err)
	}
}

// awaited hands the stop of a domain to the operations that wait for it.
func (s *VMs) awaited(e xenctl.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, w := range s.stopping[e.UUID] {
		if w.wants(e) {
			found = true
			select {
			case w.ch <- e:
			default:
			}
		}
	}
	return found
}

// byUUID finds the VM of a domain.
func (s *VMs) byUUID(uuid string) xenapi.VMRef {
	return xenapi.VMRef(s.Env.DB.View().ByUUID(datamodel.Get().Class("VM"), uuid))
}

// ownJob is the task of work that nobody called for.
type ownJob struct{ ref xenapi.TaskRef }

func (j ownJob) Ref() xenapi.TaskRef { return j.ref }
func (ownJob) Progress(float64)      {}

// ownCall is the call of the agent itself.
func (s *VMs) ownCall() *service.Call {
	return &service.Call{Task: ownJob{xenapi.NewRef[xenapi.TaskRef]()}, Log: s.Env.Log,
		Session: service.Identity{User: "xapid", Root: true}}
}

// stopped obeys actions_after_* for a domain that stopped by itself.
func (s *VMs) stopped(ctx context.Context, e xenctl.Event) {
	ref := s.byUUID(e.UUID)
	c := s.ownCall()
	err := s.do(ctx, c, ref, ops.WaitLong, []ops.Target{ops.On("VM", ref, xenapi.VMOperationsHardShutdown)},
		func(tx *db.Tx) error { return s.stillThat(tx, ref, e) },
		func(ctx context.Context) error { return s.after(ctx, c, ref, e) })
	if err != nil && !errors.Is(err, errOldNews) && ctx.Err() == nil {
		s.Env.Log.Error("a VM that stopped is not put right", "vm", ref, "reason", e.Reason, "error", err)
	}
}

var errOldNews = errors.New("vm: the event is of an earlier incarnation")

// stillThat lets the follow-up of a stop go on only when the VM is the
// incarnation that stopped, and nobody else is at it. Which incarnation it is
// can't be told before a start that is under way has written it down.
func (s *VMs) stillThat(tx *db.Tx, ref xenapi.VMRef, e xenctl.Event) error {
	vm := db.Find(tx, ref)
	switch {
	case vm == nil:
		return errOldNews
	case len(vm.CurrentOperations) > 0:
		return ops.Busy("VM", string(ref), vm.CurrentOperations)
	case e.ID > 0 && vm.Domid != int64(e.ID), !up(vm):
		return errOldNews
	}
	return nil
}

// up reports whether a VM's record says that it has a domain.
func up(vm *xenapi.VM) bool {
	return vm.PowerState == xenapi.VMPowerStateRunning || vm.PowerState == xenapi.VMPowerStatePaused
}

// action is what becomes of a VM after its guest stopped it.
type action struct {
	restart, preserve bool
	message           string
}

func actionFor(vm *xenapi.VM, e xenctl.Event) action {
	switch e.Reason {
	case xenctl.StopReboot:
		return action{vm.ActionsAfterReboot == xenapi.OnNormalExitRestart, false, "VM_REBOOTED"}
	case xenctl.StopCrash:
		switch vm.ActionsAfterCrash {
		case xenapi.OnCrashBehaviourRestart, xenapi.OnCrashBehaviourCoredumpAndRestart, xenapi.OnCrashBehaviourRenameRestart:
			return action{true, false, "VM_CRASHED"}
		case xenapi.OnCrashBehaviourPreserve:
			return action{false, true, "VM_CRASHED"}
		}
		return action{false, false, "VM_CRASHED"}
	case xenctl.StopPoweroff:
		return action{vm.ActionsAfterShutdown == xenapi.OnNormalExitRestart, false, "VM_SHUTDOWN"}
	}
	return action{message: "VM_SHUTDOWN"}
}

func (s *VMs) after(ctx context.Context, c *service.Call, ref xenapi.VMRef, e xenctl.Event) error {
	vm, err := db.Get(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	do := actionFor(vm, e)
	s.Env.Log.Info("a guest stopped by itself", "vm", ref, "reason", e.Reason, "restart", do.restart)
	switch {
	case do.preserve && e.Kind == xenctl.EventCrashed:
		return s.recordCrashed(ctx, ref)
	case do.restart && e.Reason == xenctl.StopCrash && s.bounces(ref, vm):
		return s.giveUp(ctx, ref, do.message)
	case do.restart:
		if do.message != "VM_REBOOTED" { // of which again tells
			if err := s.postAbout(ctx, ref, do.message, "stopped and is started again"); err != nil {
				return err
			}
		}
		return s.again(ctx, c, ref)
	}
	return s.halted(ctx, ref, do.message)
}

// recordCrashed keeps a crashed domain for whoever wants to look at it.
func (s *VMs) recordCrashed(ctx context.Context, ref xenapi.VMRef) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		vm, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		vm.PowerState = xenapi.VMPowerStatePaused
		s.Post(tx, "VM_CRASHED", xenapi.ClsVM, vm.UUID, "VM '"+vm.NameLabel+"' crashed and is kept")
		return nil
	})
}

func (s *VMs) postAbout(ctx context.Context, ref xenapi.VMRef, message, text string) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		vm, err := db.Get(tx, ref)
		if err == nil {
			s.Post(tx, message, xenapi.ClsVM, vm.UUID, "VM '"+vm.NameLabel+"' "+text)
		}
		return err
	})
}

// refreshGuest writes what a guest says of itself into VM_guest_metrics.
func (s *VMs) refreshGuest(ctx context.Context, uuid string) {
	informer, ok := xenctl.As[xenctl.GuestInformer](s.Env.Node.Hypervisor)
	ref := s.byUUID(uuid)
	if !ok || ref == "" {
		return
	}
	info, err := informer.GuestInfo(ctx, uuid)
	if err != nil {
		return // it has stopped meanwhile, and an event of that follows
	}
	err = s.Env.Update(ctx, func(tx *db.Tx) error { return s.recordGuest(tx, ref, info) })
	if err != nil && ctx.Err() == nil {
		s.Env.Log.Warn("guest metrics are not brought up to date", "vm", ref, "error", err)
	}
}

func (s *VMs) recordGuest(tx *db.Tx, ref xenapi.VMRef, info xenctl.GuestInfo) error {
	vm := db.Find(tx, ref)
	if vm == nil || vm.PowerState == xenapi.VMPowerStateHalted || !info.PVDetected && len(info.OS)+len(info.Features)+len(info.PVDrivers) == 0 {
		return nil
	}
	if db.Find(tx, vm.GuestMetrics) == nil {
		fresh := xenapi.NewVMGuestMetrics()
		fresh.UUID = xenapi.NewUUID()
		edit, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		edit.GuestMetrics = db.Insert[xenapi.VMGuestMetricsRef](tx, fresh)
		vm = edit
	}
	m, err := db.Edit(tx, vm.GuestMetrics)
	if err != nil {
		return err
	}
	m.OSVersion, m.Networks, m.PVDriversVersion = info.OS, info.Networks, info.PVDrivers
	m.PVDriversDetected = info.PVDetected || len(info.PVDrivers) > 0
	m.PVDriversUpToDate, m.Memory = m.PVDriversDetected, info.Memory
	m.Live, m.LastUpdated = true, s.Env.Time()
	m.Other = map[string]string{}
	for k, v := range info.Other {
		m.Other[k] = v
	}
	for k, v := range info.Features {
		if v {
			m.Other[k] = "1"
		}
	}
	return nil
}

// startAll starts the VMs that start with the host.
func (s *VMs) startAll(ctx context.Context) {
	snap := s.Env.DB.View()
	for ref, vm := range db.All[xenapi.VMRef](snap) {
		if !autoStart(snap, vm) {
			continue
		}
		if err := s.Start(ctx, s.ownCall(), service.VMStartParams{VM: ref}); err != nil {
			s.Env.Log.Error("a VM does not start with the host", "vm", ref, "error", err)
		}
	}
}
