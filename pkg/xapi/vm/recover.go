package vm

import (
	"context"
	"encoding/json"
	"errors"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// journalEntry is what a start leaves in the journal while it is under way.
type journalEntry struct {
	Kind string
	VM   xenapi.VMRef
}

const startKind = "VM.start"

func journalOf(ref xenapi.VMRef) []byte {
	b, err := json.Marshal(journalEntry{startKind, ref})
	if err != nil {
		panic(err) // two strings
	}
	return b
}

// Reconcile makes the records of this host's VMs agree with the domains that
// there are: at the start, and when events may have been lost. Each VM is
// looked at by itself, so that one bad guest holds up nobody.
func (s *VMs) Reconcile(ctx context.Context) error {
	list, err := s.Env.Node.Hypervisor.List(ctx)
	if err != nil {
		return err
	}
	domains := map[string]xenctl.Domain{}
	for _, d := range list {
		domains[d.UUID] = d
	}
	snap := s.Env.DB.View()
	host := s.Env.Host()
	var errs []error
	for ref, vm := range db.All[xenapi.VMRef](snap) {
		if vm.IsControlDomain || vm.IsATemplate || len(vm.CurrentOperations) > 0 {
			continue
		}
		domain, lives := domains[vm.UUID]
		delete(domains, vm.UUID)
		if lives || vm.ResidentOn == host || vm.ScheduledToBeResidentOn != xenapi.Null || stale(snap, vm) {
			errs = append(errs, s.reconcileOne(ctx, ref, vm, domain, lives))
		}
	}
	for uuid, d := range domains {
		s.Env.Log.Warn("a domain runs that no VM is of; it is left alone", "uuid", uuid, "domid", d.ID, "name", d.Name)
	}
	errs = append(errs, s.endJournal(ctx))
	return errors.Join(errs...)
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

// reconcileOne brings one VM's record to what its domain is.
func (s *VMs) reconcileOne(ctx context.Context, ref xenapi.VMRef, vm *xenapi.VM, domain xenctl.Domain, lives bool) error {
	switch {
	case lives && vm.PowerState == xenapi.VMPowerStateHalted, lives && vm.PowerState == xenapi.VMPowerStateSuspended:
		// A start or a suspend was cut; what the record says is the state
		// before it, and the domain's disks may be in use by nobody else.
		if vm.ScheduledToBeResidentOn == xenapi.Null && vm.PowerState == xenapi.VMPowerStateHalted {
			s.Env.Log.Warn("a domain runs whose VM is halted; it is stopped", "vm", ref, "domid", domain.ID)
		}
		if err := s.destroyDomain(ctx, vm.UUID); err != nil {
			return err
		}
		return s.unreserve(ctx, ref)
	case lives:
		return s.adopt(ctx, ref, domain)
	case vm.PowerState == xenapi.VMPowerStateSuspended:
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

// adopt brings the record of a VM up to date whose domain lived on.
func (s *VMs) adopt(ctx context.Context, ref xenapi.VMRef, domain xenctl.Domain) error {
	p, err := load(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	for r, vbd := range p.vbds {
		if vbd.VDI == xenapi.Null || !vbd.CurrentlyAttached {
			continue
		}
		readOnly := vbd.Mode == xenapi.VBDModeRO || vbd.Type == xenapi.VBDTypeCD
		if _, err := s.Disks.AttachVDI(ctx, vbd.VDI, holder(r), readOnly); err != nil {
			s.Env.Log.Error("a running VM's disk can't be attached", "vm", ref, "vbd", r, "error", err)
		}
	}
	host := s.Env.Host()
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		vm, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		vm.PowerState = xenapi.VMPowerStateRunning
		if domain.State == xenctl.StatePaused {
			vm.PowerState = xenapi.VMPowerStatePaused
		}
		vm.ResidentOn, vm.ScheduledToBeResidentOn, vm.Domid = host, xenapi.Null, int64(domain.ID)
		return s.makeConsoles(tx, ref)
	})
}

// endJournal forgets the starts that a crash cut: reconciliation has put
// their VMs right.
func (s *VMs) endJournal(ctx context.Context) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		for id, data := range tx.Snapshot().Journal() {
			var e journalEntry
			if json.Unmarshal(data, &e) != nil || e.Kind != startKind {
				continue
			}
			if vm := db.Find(tx, e.VM); vm == nil || len(vm.CurrentOperations) == 0 {
				tx.SetJournal(id, nil)
			}
		}
		return nil
	})
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
