package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Clone makes a VM like another, with clones of its disks.
func (s *VMs) Clone(ctx context.Context, c *service.Call, p service.VMCloneParams) (xenapi.VMRef, error) {
	return s.duplicate(ctx, c, p.VM, p.NewName, xenapi.VMOperationsClone, xenapi.Null)
}

// Copy makes a VM like another, with full copies of its disks in an SR.
func (s *VMs) Copy(ctx context.Context, c *service.Call, p service.VMCopyParams) (xenapi.VMRef, error) {
	rd := s.Env.DB.View()
	if p.SR != xenapi.Null && p.SR != "" {
		if _, err := db.Get(rd, p.SR); err != nil {
			return "", err
		}
	}
	return s.duplicate(ctx, c, p.VM, p.NewName, xenapi.VMOperationsCopy, p.SR)
}

// copied pairs a device with the disk that its duplicate gets.
type copied struct {
	vbd *xenapi.VBD
	vdi xenapi.VDIRef
}

func (s *VMs) duplicate(ctx context.Context, c *service.Call, ref xenapi.VMRef, name string, op xenapi.VMOperations, sr xenapi.SRRef) (made xenapi.VMRef, err error) {
	check := func(tx *db.Tx) error { return Check(tx, ref, op) }
	err = s.Env.Locks.Do(ctx, c, ops.WaitLong, []ops.Target{ops.On("VM", ref, op)}, check, func(ctx context.Context) error {
		p, err := load(s.Env.DB.View(), ref)
		if err != nil {
			return err
		}
		disks := make([]copied, 0, len(p.vbds))
		var image xenapi.VDIRef = xenapi.Null
		id, n := string(c.Task.Ref()), &note{Kind: kindDisks, VM: ref}
		steps := s.copySteps(p, sr, &disks, id, n)
		if p.vm.PowerState == xenapi.VMPowerStateSuspended && p.vm.SuspendVDI != xenapi.Null {
			steps = append(steps, s.copyStep("copy the suspend image", p.vm.SuspendVDI, sr, &image, id, n))
		}
		steps = append(steps, saga.Step{Name: "make the records", Do: func(ctx context.Context) error {
			return s.Env.Update(ctx, func(tx *db.Tx) (err error) {
				tx.SetJournal(id, nil)
				made, err = s.insertCopy(tx, p, name, disks, image)
				return err
			})
		}})
		opts := s.options(c)
		opts.StepTimeout = ops.WaitLong
		return s.owned(ctx, id, n, saga.Run(ctx, opts, string(op), steps))
	})
	return made, err
}

// copySteps copy every disk of a VM that isn't a CD, one step each.
func (s *VMs) copySteps(p *parts, sr xenapi.SRRef, disks *[]copied, id string, n *note) []saga.Step {
	var steps []saga.Step
	for _, ref := range slices.Sorted(maps.Keys(p.vbds)) {
		vbd := p.vbds[ref]
		at := len(*disks)
		*disks = append(*disks, copied{vbd, vbd.VDI})
		if vbd.Type == xenapi.VBDTypeCD || vbd.VDI == xenapi.Null {
			continue
		}
		steps = append(steps, s.copyStep("copy disk "+vbd.Userdevice, vbd.VDI, sr, &(*disks)[at].vdi, id, n))
	}
	return steps
}

// copyStep copies one VDI and puts the copy's reference into out.
func (s *VMs) copyStep(name string, vdi xenapi.VDIRef, sr xenapi.SRRef, out *xenapi.VDIRef, id string, n *note) saga.Step {
	return saga.Step{Name: name, Weight: 10,
		Do: func(ctx context.Context) error {
			made, err := s.Disks.CloneVDI(owning(ctx, id, n), vdi, sr, func(done float64) { saga.Report(ctx, done) })
			if err == nil {
				*out = made
			}
			return err
		},
		Undo: func(ctx context.Context) error { return s.Disks.DestroyVDI(ctx, *out) }}
}

// insertCopy makes the records of a duplicate.
func (s *VMs) insertCopy(tx *db.Tx, p *parts, name string, disks []copied, image xenapi.VDIRef) (xenapi.VMRef, error) {
	vm := p.vm.Clone().(*xenapi.VM)
	vm.UUID, vm.NameLabel, vm.Domid = xenapi.NewUUID(), name, -1
	vm.IsDefaultTemplate = false
	vm.OtherConfig = withSeed(vm.OtherConfig, true)
	delete(vm.OtherConfig, "default_template")
	delete(vm.OtherConfig, "xensource_internal")
	if p.vm.IsATemplate && !p.vm.IsASnapshot {
		vm.OtherConfig["base_template_name"] = p.vm.NameLabel
	}
	if p.vm.IsASnapshot {
		vm.IsASnapshot, vm.SnapshotOf, vm.SnapshotTime, vm.SnapshotMetadata = false, xenapi.Null, xenapi.Epoch, ""
	}
	vm.AllowedOperations, vm.CurrentOperations, vm.BlockedOperations = nil, nil, nil
	vm.Parent, vm.Appliance, vm.ProtectionPolicy, vm.SnapshotSchedule = xenapi.Null, xenapi.Null, xenapi.Null, xenapi.Null
	vm.SuspendSR, vm.SuspendVDI, vm.ResidentOn, vm.ScheduledToBeResidentOn = xenapi.Null, image, xenapi.Null, xenapi.Null
	vm.HAAlwaysRun, vm.Order, vm.StartDelay, vm.ShutdownDelay = false, 0, 0, 0
	vm.SnapshotInfo = map[string]string{"power-state-at-snapshot": string(p.vm.PowerState)}
	vm.GuestMetrics, vm.Blobs = xenapi.Null, nil
	if vm.GenerationID != "" {
		vm.GenerationID = fmt.Sprintf("%s:%s", xenapi.NewUUID(), xenapi.NewUUID())
	}
	ref := insert(tx, vm)
	for _, d := range disks {
		insertVBD(tx, d, ref)
	}
	for _, vif := range p.vifs {
		if err := s.insertVIF(tx, vif, ref, vm.OtherConfig["mac_seed"]); err != nil {
			return "", err
		}
	}
	return ref, nil
}

// insertVBD gives a duplicate the like of a VBD; disks made for it are its
// own.
func insertVBD(tx *db.Tx, d copied, vm xenapi.VMRef) {
	vbd := d.vbd.Clone().(*xenapi.VBD)
	vbd.UUID, vbd.VM, vbd.VDI = xenapi.NewUUID(), vm, d.vdi
	vbd.AllowedOperations, vbd.CurrentOperations = nil, nil
	vbd.CurrentlyAttached, vbd.Reserved, vbd.Device = false, false, ""
	vbd.Metrics = xenapi.Null
	if vbd.Type == xenapi.VBDTypeDisk {
		config := maps.Clone(vbd.OtherConfig)
		if config == nil {
			config = map[string]string{}
		}
		config["owner"] = ""
		vbd.OtherConfig = config
	}
	db.Insert[xenapi.VBDRef](tx, vbd)
}

// insertVIF gives a duplicate the like of a VIF, under a MAC of its own.
func (s *VMs) insertVIF(tx *db.Tx, old *xenapi.VIF, vm xenapi.VMRef, seed string) error {
	vif := old.Clone().(*xenapi.VIF)
	vif.UUID, vif.VM = xenapi.NewUUID(), vm
	vif.AllowedOperations, vif.CurrentOperations = nil, nil
	vif.CurrentlyAttached, vif.Reserved = false, false
	vif.Metrics = xenapi.Null
	device, err := parseDevice(vif.Device)
	if err != nil {
		return err
	}
	vif.MAC, vif.MACAutogenerated = s.MAC(seed, device), true
	db.Insert[xenapi.VIFRef](tx, vif)
	return nil
}

var errDevice = errors.New("vm: a VIF's device is no number")
