package vm

import (
	"context"
	"errors"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// Reconcile makes the records of this host's VMs agree with the domains that
// there are: at the start, and when events may have been lost. Each VM that
// doesn't is looked at by itself, so that one bad guest holds up nobody; those
// that do cost no question and no commit.
func (s *VMs) Reconcile(ctx context.Context) error {
	list, err := s.Env.Node.Hypervisor.List(ctx)
	if err != nil {
		return err
	}
	domains := map[string]xenctl.Domain{}
	for _, d := range list {
		domains[d.UUID] = d
	}
	notes := s.journal()
	left := s.leftBy(notes)
	snap := s.Env.DB.View()
	host := s.Env.Host()
	var errs []error
	for ref, vm := range db.All[xenapi.VMRef](snap) {
		if vm.IsControlDomain || vm.IsATemplate {
			continue
		}
		d, lives := domains[vm.UUID]
		delete(domains, vm.UUID)
		if s.settled.Load() && (atWork(vm) || lives && agrees(vm, d)) {
			continue
		}
		if lives || vm.ResidentOn == host || vm.ScheduledToBeResidentOn != xenapi.Null || stale(snap, vm) {
			errs = append(errs, s.reconcileOne(ctx, ref, left[ref]))
		}
	}
	errs = append(errs, s.endNotes(ctx, notes), s.reportStrangers(ctx, domains))
	err = errors.Join(errs...)
	if err == nil {
		s.settled.Store(true)
	}
	return err
}

// leftover is what a cut operation has left of a VM.
type leftover struct {
	image xenapi.VDIRef // which a suspend was writing, on this boot of the machine
	run   bool          // a start was to let it run: the domain may still be as it was made, paused
}

func (s *VMs) leftBy(notes map[string]note) map[xenapi.VMRef]leftover {
	left := map[xenapi.VMRef]leftover{}
	for _, n := range notes {
		switch {
		case n.Kind == kindSuspend && len(n.VDIs) > 0 && n.Boot == s.BootID:
			left[n.VM] = leftover{image: n.VDIs[0]}
		case n.Kind == kindStart:
			left[n.VM] = leftover{run: !n.Paused}
		}
	}
	return left
}

// reportStrangers tells, once each, of the domains that run and are no VM's: those that the hypervisor has beside
// the ones given by uuid, too. They are left alone.
func (s *VMs) reportStrangers(ctx context.Context, domains map[string]xenctl.Domain) error {
	if surveyor, ok := xenctl.As[xenctl.Surveyor](s.Env.Node.Hypervisor); ok {
		foreign, err := surveyor.Foreign(ctx)
		if err != nil {
			return err
		}
		for _, d := range foreign {
			if s.byUUID(d.UUID) == "" {
				domains[d.UUID] = d
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.strangers
	s.strangers = map[string]int{}
	for uuid, d := range domains {
		s.strangers[uuid] = d.ID
		if id, told := known[uuid]; !told || id != d.ID {
			s.Env.Log.Warn("a domain runs that no VM is of; it is left alone", "uuid", uuid, "domid", d.ID, "name", d.Name)
		}
	}
	return nil
}

// stale reports whether a halted VM has devices that say they are attached.
func stale(rd db.Reader, vm *xenapi.VM) bool {
	if vm.PowerState != xenapi.VMPowerStateHalted {
		return false
	}
	for _, r := range vm.VBDs {
		if vbd := db.Find(rd, r); vbd != nil && vbd.CurrentlyAttached {
			return true
		}
	}
	for _, r := range vm.VIFs {
		if vif := db.Find(rd, r); vif != nil && vif.CurrentlyAttached {
			return true
		}
	}
	return false
}

// errAtWork ends the reconciliation of a VM at which an operation is: that
// will leave it right, unless it began before the first reconciliation, which
// is tried again then.
var errAtWork = errors.New("vm: an operation is under way")

// reconcileOne brings one VM's record to what its domain is, while nobody else
// is at it; what the list of domains said may be old already, so that both are
// read afresh.
func (s *VMs) reconcileOne(ctx context.Context, ref xenapi.VMRef, left leftover) error {
	free := func(tx *db.Tx) error {
		vm, err := db.Get(tx, ref)
		switch {
		case err != nil || len(vm.CurrentOperations) == 0:
			return err
		case atWork(vm):
			return errAtWork
		}
		return ops.Busy("VM", string(ref), vm.CurrentOperations)
	}
	targets := []ops.Target{ops.On("VM", ref, xenapi.VMOperationsUpdateAllowedOperations)}
	err := s.do(ctx, s.ownCall(), ref, ops.WaitQuick, targets, free, func(ctx context.Context) error {
		return s.settle(ctx, ref, left)
	})
	if errors.Is(err, errAtWork) && s.settled.Load() || xenapi.Code(err) == "HANDLE_INVALID" {
		return nil // at work, or destroyed meanwhile
	}
	return err
}

// atWork reports whether a client's operation is at a VM, which is more than
// the agent's own putting right.
func atWork(vm *xenapi.VM) bool {
	for _, op := range vm.CurrentOperations {
		if op != string(xenapi.VMOperationsUpdateAllowedOperations) {
			return true
		}
	}
	return false
}

// agrees reports whether a VM's record is what its domain is.
func agrees(vm *xenapi.VM, d xenctl.Domain) bool {
	want := xenapi.VMPowerStateRunning
	if still(d) {
		want = xenapi.VMPowerStatePaused
	}
	return vm.PowerState == want && vm.Domid == int64(d.ID) && vm.ScheduledToBeResidentOn == xenapi.Null
}

// still reports whether a domain does not run: paused, or kept after a crash.
func still(d xenctl.Domain) bool {
	return d.State == xenctl.StatePaused || d.State == xenctl.StateCrashed
}

// settle brings a VM's record to what its domain is. A domain that lives is
// the truth: a start or a resume that was cut after it is finished, since the
// guest may have written to its disks already. Where the domain has gone, the
// image that a suspend was writing is whole, unless the whole machine went
// down.
func (s *VMs) settle(ctx context.Context, ref xenapi.VMRef, left leftover) error {
	image := left.image
	p, err := load(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	domain, err := s.Env.Node.Hypervisor.Lookup(ctx, p.vm.UUID)
	switch {
	case err == nil:
		if left.run && domain.State == xenctl.StatePaused {
			if err := s.Env.Node.Hypervisor.Unpause(ctx, p.vm.UUID); err != nil {
				return err
			}
			domain.State = xenctl.StateRunning
		}
		return s.adopt(ctx, ref, domain)
	case !errors.Is(err, xenctl.ErrNotFound):
		return err
	case image != "" && p.vm.PowerState == xenapi.VMPowerStateRunning:
		return errors.Join(s.Env.Update(ctx, func(tx *db.Tx) error { return s.recordSuspended(tx, ref, image) }),
			s.Disks.DetachVDI(ctx, image, imageHolder), s.detachDisks(ctx, p))
	case p.vm.PowerState == xenapi.VMPowerStateSuspended:
		return s.unreserve(ctx, ref)
	}
	return s.halted(ctx, ref, "")
}

func (s *VMs) unreserve(ctx context.Context, ref xenapi.VMRef) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		vm, err := db.Edit(tx, ref)
		if err == nil {
			vm.ScheduledToBeResidentOn = xenapi.Null
		}
		return err
	})
}

// adopt brings the record of a VM up to date whose domain lives.
func (s *VMs) adopt(ctx context.Context, ref xenapi.VMRef, domain xenctl.Domain) error {
	p, err := load(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	known := p.vm.PowerState == xenapi.VMPowerStateRunning || p.vm.PowerState == xenapi.VMPowerStatePaused
	for r, vbd := range p.vbds {
		if vbd.VDI == xenapi.Null || known && !vbd.CurrentlyAttached {
			continue
		}
		readOnly := vbd.Mode == xenapi.VBDModeRO || vbd.Type == xenapi.VBDTypeCD
		if _, err := s.Disks.AttachVDI(ctx, vbd.VDI, holder(r), readOnly); err != nil {
			s.Env.Log.Error("a running VM's disk can't be attached", "vm", ref, "vbd", r, "error", err)
		}
	}
	plan := &startPlan{ref: ref, host: s.Env.Host(), paused: still(domain)}
	id, image := xenapi.NewUUID(), p.vm.SuspendVDI
	err = s.Env.Update(ctx, func(tx *db.Tx) error {
		if !known {
			s.discard(tx, id, ref, image)
			return s.recordRunning(tx, p, plan, domain)
		}
		vm, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		vm.PowerState = xenapi.VMPowerStateRunning
		if plan.paused {
			vm.PowerState = xenapi.VMPowerStatePaused
		}
		vm.ResidentOn, vm.ScheduledToBeResidentOn, vm.Domid = plan.host, xenapi.Null, int64(domain.ID)
		return s.makeConsoles(tx, ref)
	})
	if err == nil && !known {
		err = s.discarded(ctx, id, image)
	}
	return err
}

// PowerStateReset makes the database say Halted, for a VM whose host is gone.
func (s *VMs) PowerStateReset(ctx context.Context, c *service.Call, p service.VMPowerStateResetParams) error {
	vm, err := db.Get(s.Env.DB.View(), p.VM)
	if err != nil {
		return err
	}
	if vm.IsControlDomain {
		return xenapi.ErrCannotResetControlDomain(string(p.VM))
	}
	if d, err := s.Env.Node.Hypervisor.Lookup(ctx, vm.UUID); err == nil {
		return xenapi.ErrDomainExists(string(p.VM), itoa(int64(d.ID)))
	} else if !errors.Is(err, xenctl.ErrNotFound) {
		return err
	}
	return s.locked(ctx, c, p.VM, xenapi.VMOperationsPowerStateReset, func(ctx context.Context, _ *parts) error {
		return s.halted(ctx, p.VM, "")
	})
}

// autoStart reports whether a VM starts with the host: it and the pool say so.
func autoStart(rd db.Reader, vm *xenapi.VM) bool {
	_, pool := xapi.Pool(rd)
	return pool != nil && truthy(pool.OtherConfig["auto_poweron"]) && truthy(vm.OtherConfig["auto_poweron"]) &&
		vm.PowerState == xenapi.VMPowerStateHalted && !vm.IsATemplate
}
