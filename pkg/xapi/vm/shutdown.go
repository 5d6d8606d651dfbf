package vm

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xapi/timing"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// HardShutdown stops a VM without asking the guest; a suspended one loses its
// image.
func (s *VMs) HardShutdown(ctx context.Context, c *service.Call, p service.VMHardShutdownParams) error {
	return s.hard(ctx, c, p.VM, xenapi.VMOperationsHardShutdown)
}

func (s *VMs) hard(ctx context.Context, c *service.Call, ref xenapi.VMRef, op xenapi.VMOperations) error {
	return s.locked(ctx, c, ref, op, func(ctx context.Context, p *parts) error {
		if err := s.override(ctx, ref); err != nil {
			return err
		}
		if err := s.destroyDomain(ctx, p.vm.UUID); err != nil {
			return err
		}
		return s.halted(ctx, ref, "VM_SHUTDOWN")
	})
}

// locked runs fn on a VM that carries the operation.
func (s *VMs) locked(ctx context.Context, c *service.Call, ref xenapi.VMRef, op xenapi.VMOperations,
	fn func(ctx context.Context, p *parts) error) error {
	check := func(tx *db.Tx) error { return Check(tx, ref, op) }
	return s.do(ctx, c, ref, ops.WaitQuick, []ops.Target{ops.On("VM", ref, op)}, check, func(ctx context.Context) error {
		p, err := load(s.Env.DB.View(), ref)
		if err != nil {
			return err
		}
		return fn(ctx, p)
	})
}

// halted brings a VM whose domain is gone to Halted: disks detached, devices
// and consoles gone, a suspend image too. It may run twice for the same stop.
func (s *VMs) halted(ctx context.Context, ref xenapi.VMRef, message string) error {
	s.landed(ref)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saga.DefaultStepTimeout)
	defer cancel()
	p, err := load(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	detached := s.detachDisks(ctx, p)
	id, image := xenapi.NewUUID(), p.vm.SuspendVDI
	return errors.Join(detached, s.Env.Update(ctx, func(tx *db.Tx) error {
		vm, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		s.discard(tx, id, ref, image)
		if vm.PowerState != xenapi.VMPowerStateHalted && message != "" {
			s.Post(tx, message, xenapi.ClsVM, vm.UUID, "VM '"+vm.NameLabel+"' shut down")
		}
		return RecordHalted(tx, ref)
	}), s.discarded(ctx, id, image))
}

func (s *VMs) detachDisks(ctx context.Context, p *parts) error {
	var errs []error
	for ref, vbd := range p.vbds {
		if vbd.VDI != xenapi.Null {
			errs = append(errs, s.Disks.DetachVDI(ctx, vbd.VDI, holder(ref)))
		}
	}
	return errors.Join(errs...)
}

// RecordHalted writes what is true of a VM without a domain and without an
// image.
func RecordHalted(tx *db.Tx, ref xenapi.VMRef) error {
	vm, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	vm.PowerState, vm.Domid = xenapi.VMPowerStateHalted, -1
	vm.ResidentOn, vm.ScheduledToBeResidentOn = xenapi.Null, xenapi.Null
	vm.SuspendVDI = xenapi.Null
	if vm.GuestMetrics != xenapi.Null {
		db.Delete(tx, vm.GuestMetrics)
		vm.GuestMetrics = xenapi.Null
	}
	for _, r := range vm.Consoles {
		db.Delete(tx, r)
	}
	for _, r := range vm.VBDs {
		if vbd, err := db.Edit(tx, r); err == nil {
			vbd.CurrentlyAttached, vbd.Device, vbd.Reserved = false, "", false
		}
	}
	for _, r := range vm.VIFs {
		if vif, err := db.Edit(tx, r); err == nil {
			vif.CurrentlyAttached, vif.Reserved = false, false
		}
	}
	if m, err := db.Edit(tx, vm.Metrics); err == nil {
		m.MemoryActual, m.VCPUsNumber, m.State = 0, 0, nil
	}
	return nil
}

// CleanShutdown asks the guest to power off and waits until it has.
func (s *VMs) CleanShutdown(ctx context.Context, c *service.Call, p service.VMCleanShutdownParams) error {
	return s.locked(ctx, c, p.VM, xenapi.VMOperationsCleanShutdown, func(ctx context.Context, parts *parts) error {
		if err := s.ask(ctx, parts, xenctl.ShutdownPoweroff); err != nil {
			return err
		}
		return s.halted(ctx, p.VM, "VM_SHUTDOWN")
	})
}

// Shutdown asks the guest, and stops it when it does not comply.
func (s *VMs) Shutdown(ctx context.Context, c *service.Call, p service.VMShutdownParams) error {
	if err := Check(s.Env.DB.View(), p.VM, xenapi.VMOperationsShutdown); err != nil {
		return err
	}
	err := s.CleanShutdown(ctx, c, service.VMCleanShutdownParams(p))
	if err == nil || ctx.Err() != nil {
		return err
	}
	return s.HardShutdown(ctx, c, service.VMHardShutdownParams(p))
}

// ask requests a shutdown or reboot of the guest and waits for its domain to
// stop, as long as Options.ShutdownTimeout.
func (s *VMs) ask(ctx context.Context, p *parts, kind xenctl.ShutdownKind) error {
	stopped, done := s.awaitStop(p.vm)
	err := s.request(ctx, p, kind, stopped)
	done()
	select {
	case <-stopped: // at the very end, or in spite of the error
		err = nil
	default:
	}
	if err == nil && errors.Is(context.Cause(ctx), errOverridden) {
		return errOverridden
	}
	return err
}

func (s *VMs) request(ctx context.Context, p *parts, kind xenctl.ShutdownKind, stopped chan xenctl.Event) error {
	request, cancel := context.WithTimeout(ctx, saga.DefaultStepTimeout)
	err := s.Env.Node.Hypervisor.RequestShutdown(request, p.vm.UUID, kind)
	cancel()
	switch {
	case errors.Is(err, xenctl.ErrRefused), errors.Is(err, xenctl.ErrTimeout):
		return errors.Join(xenapi.ErrVMFailedShutdownAcknowledgment(string(p.ref)), err)
	case errors.Is(err, xenctl.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	defer timing.Measure(ctx, timing.Guest)()
	timeout := time.NewTimer(s.ShutdownTimeout)
	defer timeout.Stop()
	look := time.NewTicker(stopLook)
	defer look.Stop()
	for {
		select {
		case <-stopped:
			return nil
		case <-look.C: // an event may have been missed
			if s.gone(ctx, p.vm) {
				return nil
			}
		case <-timeout.C:
			return xenapi.ErrVMShutdownTimeout(string(p.ref), strconv.Itoa(int(s.ShutdownTimeout.Seconds())))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stopLook is how often a domain that is to stop is looked for.
const stopLook = 10 * time.Second

// gone reports whether the domain that a record speaks of is there no more.
func (s *VMs) gone(ctx context.Context, vm *xenapi.VM) bool {
	ctx, cancel := context.WithTimeout(ctx, stopLook)
	defer cancel()
	d, err := s.Env.Node.Hypervisor.Lookup(ctx, vm.UUID)
	return errors.Is(err, xenctl.ErrNotFound) || err == nil && int64(d.ID) != vm.Domid
}

// waiter is who waits for one incarnation of a domain to stop.
type waiter struct {
	id int64
	ch chan xenctl.Event
}

// wants reports whether an event is of the domain that is waited for.
func (w waiter) wants(e xenctl.Event) bool { return e.ID <= 0 || int64(e.ID) == w.id }

// awaitStop registers for the stop of a VM's domain; done must be called.
func (s *VMs) awaitStop(vm *xenapi.VM) (stopped chan xenctl.Event, done func()) {
	uuid, w := vm.UUID, waiter{vm.Domid, make(chan xenctl.Event, 1)}
	s.mu.Lock()
	s.stopping[uuid] = append(s.stopping[uuid], w)
	s.mu.Unlock()
	return w.ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		kept := slices.DeleteFunc(s.stopping[uuid], func(o waiter) bool { return o == w })
		if s.stopping[uuid] = kept; len(kept) == 0 {
			delete(s.stopping, uuid)
		}
	}
}

// CleanReboot asks the guest to reboot; its domain is made anew.
func (s *VMs) CleanReboot(ctx context.Context, c *service.Call, p service.VMCleanRebootParams) error {
	return s.locked(ctx, c, p.VM, xenapi.VMOperationsCleanReboot, func(ctx context.Context, parts *parts) error {
		if err := s.ask(ctx, parts, xenctl.ShutdownReboot); err != nil {
			return err
		}
		return s.again(ctx, c, p.VM)
	})
}

// HardReboot stops the domain at once and makes it anew.
func (s *VMs) HardReboot(ctx context.Context, c *service.Call, p service.VMHardRebootParams) error {
	return s.locked(ctx, c, p.VM, xenapi.VMOperationsHardReboot, func(ctx context.Context, parts *parts) error {
		if err := s.override(ctx, p.VM); err != nil {
			return err
		}
		vm, err := db.Get(s.Env.DB.View(), p.VM)
		if err == nil { // what was overridden may have been done already
			err = powerState(p.VM, vm, xenapi.VMOperationsHardReboot)
		}
		if err != nil {
			return err
		}
		if err := s.destroyDomain(ctx, parts.vm.UUID); err != nil {
			return err
		}
		return s.again(ctx, c, p.VM)
	})
}

// again makes the domain of a VM anew where it was: its disks are attached
// still. Static settings are read afresh. When it fails the VM is halted.
func (s *VMs) again(ctx context.Context, c *service.Call, ref xenapi.VMRef) error {
	p, err := load(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	plan := &startPlan{ref: ref, op: xenapi.VMOperationsHardReboot, host: p.vm.ResidentOn}
	if plan.host == xenapi.Null {
		plan.host = s.Env.Host()
	}
	journal := string(c.Task.Ref())
	err = s.Env.Update(ctx, func(tx *db.Tx) error {
		tx.SetJournal(journal, note{Kind: kindStart, VM: ref}.encode())
		return nil
	})
	if err == nil {
		err = s.release(ctx, ref, journal, s.launch(ctx, c, plan, p, journal))
	}
	if err != nil {
		return errors.Join(err, s.halted(ctx, ref, "VM_SHUTDOWN"))
	}
	return nil
}
