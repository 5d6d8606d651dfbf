package vm

import (
	"context"
	"maps"

	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Create makes a VM of a constructor's record. Values are not validated until
// the VM starts.
func (s *VMs) Create(ctx context.Context, _ *service.Call, rec xenapi.Record, given func(string) bool) (string, error) {
	vm := rec.(*xenapi.VM)
	switch {
	case vm.PowerState == xenapi.VMPowerStateSuspended && given("suspend_VDI") && given("last_booted_record") && given("last_boot_CPU_flags"):
	case vm.PowerState != xenapi.VMPowerStateHalted:
		return "", xenapi.ErrVMBadPowerState("new VM", "halted", string(vm.PowerState))
	}
	vm.UUID, vm.Domid = xenapi.NewUUID(), -1
	vm.DomainType = domainType(vm)
	vm.BlockedOperations = nil
	vm.OtherConfig = withSeed(vm.OtherConfig, false)
	var ref xenapi.VMRef
	err := s.Env.Update(ctx, func(tx *db.Tx) error {
		ref = insert(tx, vm)
		return nil
	})
	return string(ref), err
}

// withSeed gives other_config a seed for MAC addresses, a fresh one if asked.
func withSeed(config map[string]string, fresh bool) map[string]string {
	out := maps.Clone(config)
	if out == nil {
		out = map[string]string{}
	}
	if out["mac_seed"] == "" || fresh {
		out["mac_seed"] = xenapi.NewUUID()
	}
	return out
}

// insert adds a VM with its metrics. The record is copied, since Update may
// run its function again.
func insert(tx *db.Tx, vm *xenapi.VM) xenapi.VMRef {
	rec := vm.Clone().(*xenapi.VM)
	metrics := xenapi.NewVMMetrics()
	metrics.UUID = xenapi.NewUUID()
	rec.Metrics = db.Insert[xenapi.VMMetricsRef](tx, metrics)
	return db.Insert[xenapi.VMRef](tx, rec)
}

// Destroy removes a VM's objects. Its VDIs stay: they are the client's.
func (s *VMs) Destroy(ctx context.Context, c *service.Call, ref string) error {
	vmRef := xenapi.VMRef(ref)
	vm, err := db.Get(s.Env.DB.View(), vmRef)
	if err != nil {
		return err
	}
	id, image := xenapi.NewUUID(), vm.SuspendVDI
	targets := []ops.Target{ops.On("VM", vmRef, xenapi.VMOperationsDestroy)}
	check := func(tx *db.Tx) error { return Check(tx, vmRef, xenapi.VMOperationsDestroy) }
	err = s.Env.Locks.Do(ctx, c, ops.WaitQuick, targets, check, func(ctx context.Context) error {
		return s.Env.Update(ctx, func(tx *db.Tx) error {
			s.discard(tx, id, vmRef, image)
			return deleteVM(tx, vmRef)
		})
	})
	if err == nil {
		err = s.discarded(ctx, id, image)
	}
	return err
}

// deleteVM deletes a VM and what belongs to it alone.
func deleteVM(tx *db.Tx, ref xenapi.VMRef) error {
	vm, err := db.Get(tx, ref)
	if err != nil {
		return err
	}
	for _, r := range vm.VBDs {
		if vbd := db.Find(tx, r); vbd != nil {
			db.Delete(tx, vbd.Metrics)
		}
		db.Delete(tx, r)
	}
	for _, r := range vm.VIFs {
		if vif := db.Find(tx, r); vif != nil {
			db.Delete(tx, vif.Metrics)
		}
		db.Delete(tx, r)
	}
	for _, r := range vm.VGPUs {
		db.Delete(tx, r)
	}
	for _, r := range vm.VUSBs {
		db.Delete(tx, r)
	}
	for _, r := range vm.VTPMs {
		db.Delete(tx, r)
	}
	for _, r := range vm.Consoles {
		db.Delete(tx, r)
	}
	db.Delete(tx, vm.Metrics)
	db.Delete(tx, vm.GuestMetrics)
	for _, r := range vm.Blobs {
		db.Delete(tx, xenapi.BlobRef(r))
	}
	db.Delete(tx, ref)
	return nil
}

// SetIsATemplate makes a halted VM a template, or a template a VM ("installed
// now").
func (s *VMs) SetIsATemplate(ctx context.Context, c *service.Call, args []any) error {
	ref, value := xenapi.VMRef(args[0].(string)), args[1].(bool)
	vm, err := db.Get(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	if vm.IsATemplate == value {
		return nil
	}
	if !value {
		return s.Env.Update(ctx, func(tx *db.Tx) error {
			vm, err := db.Edit(tx, ref)
			if err != nil {
				return err
			}
			vm.IsATemplate, vm.IsDefaultTemplate = false, false
			if m, err := db.Edit(tx, vm.Metrics); err == nil {
				m.InstallTime = s.Env.Time()
			}
			return nil
		})
	}
	return s.locked(ctx, c, ref, xenapi.VMOperationsMakeIntoTemplate, func(ctx context.Context, _ *parts) error {
		return s.Env.Update(ctx, func(tx *db.Tx) error { return makeTemplate(tx, ref) })
	})
}

func makeTemplate(tx *db.Tx, ref xenapi.VMRef) error {
	vm, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	if vm.HAAlwaysRun {
		return xenapi.ErrVMIsProtected(string(ref))
	}
	for _, r := range vm.VUSBs {
		db.Delete(tx, r)
	}
	db.Delete(tx, vm.GuestMetrics)
	vm.IsATemplate, vm.GuestMetrics = true, xenapi.Null
	vm.HARestartPriority, vm.Groups = "", nil
	return nil
}
