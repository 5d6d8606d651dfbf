package storage

import (
	"context"
	"errors"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// locked runs fn while a drive carries an operation that the table allows.
func (v *VBDs) locked(ctx context.Context, c *service.Call, ref xenapi.VBDRef, op xenapi.VBDOperations, into xenapi.VDIRef,
	fn func(ctx context.Context) error) error {
	return v.s.Env.Locks.Do(ctx, c, ops.WaitLong, []ops.Target{ops.On("VBD", ref, op)},
		func(tx *db.Tx) error { return checkVBD(look(tx), ref, op, into) }, fn)
}

// Plug attaches a drive to its running VM.
func (v *VBDs) Plug(ctx context.Context, c *service.Call, p service.VBDPlugParams) error {
	return v.locked(ctx, c, p.Self, xenapi.VBDOperationsPlug, xenapi.Null, func(ctx context.Context) error {
		return v.s.plugVBD(ctx, p.Self)
	})
}

// Unplug detaches a drive when the guest lets go of it.
func (v *VBDs) Unplug(ctx context.Context, c *service.Call, p service.VBDUnplugParams) error {
	return v.locked(ctx, c, p.Self, xenapi.VBDOperationsUnplug, xenapi.Null, func(ctx context.Context) error {
		return v.s.unplugVBD(ctx, p.Self, false)
	})
}

// UnplugForce detaches a drive whatever the guest says.
func (v *VBDs) UnplugForce(ctx context.Context, c *service.Call, p service.VBDUnplugForceParams) error {
	return v.locked(ctx, c, p.Self, xenapi.VBDOperationsUnplugForce, xenapi.Null, func(ctx context.Context) error {
		return v.s.unplugVBD(ctx, p.Self, true)
	})
}

// hotDrive is a drive of a running VM.
type hotDrive struct {
	ref    xenapi.VBDRef
	vbd    *xenapi.VBD
	uuid   string // of the domain
	device string
}

func (s *Storage) hotDriveOf(rd db.Reader, ref xenapi.VBDRef) (hotDrive, error) {
	vbd, err := db.Get(rd, ref)
	if err != nil {
		return hotDrive{}, err
	}
	vm, err := db.Get(rd, vbd.VM)
	if err != nil {
		return hotDrive{}, err
	}
	d := hotDrive{ref: ref, vbd: vbd, uuid: vm.UUID, device: vbd.Device}
	if d.device == "" {
		d.device, err = DeviceName(vbd.Userdevice)
	}
	return d, err
}

// diskSource is how the hypervisor finds what a driver has attached.
func diskSource(at sm.Attachment) xenctl.DiskSource {
	if at.Path == "" {
		return xenctl.DiskSource{}
	}
	return xenctl.DiskSource{Kind: xenctl.DiskFile, Path: at.Path}
}

func (d hotDrive) disk(rd db.Reader, at sm.Attachment) xenctl.Disk {
	isCD := d.vbd.Type == xenapi.VBDTypeCD
	disk := xenctl.Disk{Device: d.device, Source: diskSource(at), CDROM: isCD,
		ReadOnly: isCD || d.vbd.Mode == xenapi.VBDModeRO, Bootable: d.vbd.Bootable}
	if vdi := db.Find(rd, d.vbd.VDI); vdi != nil {
		disk.Shared = vdi.Sharable
	}
	return disk
}

func (s *Storage) plugger() (xenctl.DiskPlugger, error) {
	p, ok := xenctl.As[xenctl.DiskPlugger](s.Env.Node.Hypervisor)
	if !ok {
		return nil, xenctl.ErrNotSupported
	}
	return p, nil
}

// attachDisk plugs a disk into a domain. foreign tells that the name is
// another device's, which stays.
func (s *Storage) attachDisk(ctx context.Context, d hotDrive, disk xenctl.Disk) (foreign bool, err error) {
	p, err := s.plugger()
	if err == nil {
		err = p.AttachDisk(ctx, d.uuid, disk)
	}
	return errors.Is(err, xenctl.ErrExists), deviceFault(d.ref, d.device, true, err)
}

// detachDisk unplugs it; one that has gone, or whose domain has, is no error.
func (s *Storage) detachDisk(ctx context.Context, d hotDrive, force bool) error {
	p, err := s.plugger()
	if err == nil {
		err = p.DetachDisk(ctx, d.uuid, d.device, force)
	}
	if errors.Is(err, xenctl.ErrNoDevice) || errors.Is(err, xenctl.ErrNotFound) {
		return nil
	}
	return deviceFault(d.ref, d.device, false, err)
}

// plugVBD is the saga of a plug: volume, domain, record.
func (s *Storage) plugVBD(ctx context.Context, ref xenapi.VBDRef) error {
	rd := s.Env.DB.View()
	d, err := s.hotDriveOf(rd, ref)
	if err != nil {
		return err
	}
	var at sm.Attachment
	var foreign bool
	op := s.begin(kindPlug, note{VBD: ref, UUID: d.uuid, Device: d.device})
	return op.run(ctx, []saga.Step{
		s.attachStep(d, d.vbd.VDI, &at),
		{Name: "plug the disk", Partial: true,
			Do: func(ctx context.Context) (err error) {
				foreign, err = s.attachDisk(ctx, d, d.disk(rd, at))
				return err
			},
			Undo: func(ctx context.Context) error {
				if foreign {
					return nil
				}
				return s.detachDisk(ctx, d, true)
			}},
		s.recordStep(op, ref, func(vbd *xenapi.VBD) { vbd.CurrentlyAttached, vbd.Device = true, d.device },
			func(vbd *xenapi.VBD) { vbd.CurrentlyAttached, vbd.Device = false, "" }),
	})
}

// attachStep attaches a drive's volume; an empty drive has none.
func (s *Storage) attachStep(d hotDrive, vdi xenapi.VDIRef, at *sm.Attachment) saga.Step {
	return saga.Step{Name: "attach the volume", Partial: true,
		Do: func(ctx context.Context) (err error) {
			if vdi != xenapi.Null {
				readOnly := d.vbd.Type == xenapi.VBDTypeCD || d.vbd.Mode == xenapi.VBDModeRO
				*at, err = s.AttachVDI(ctx, vdi, Holder(d.ref), readOnly)
			}
			return err
		},
		Undo: func(ctx context.Context) error { return s.DetachVDI(ctx, vdi, Holder(d.ref)) }}
}

// recordStep ends a saga on a drive by a change to its record.
func (s *Storage) recordStep(op *operation, ref xenapi.VBDRef, do, undo func(*xenapi.VBD)) saga.Step {
	edit := func(ctx context.Context, change func(*xenapi.VBD)) error {
		return s.Env.Update(ctx, func(tx *db.Tx) error {
			op.done(tx)
			vbd, err := db.Edit(tx, ref)
			if err == nil {
				change(vbd)
			}
			return err
		})
	}
	return saga.Step{Name: "record it", Partial: true,
		Do:   func(ctx context.Context) error { return edit(ctx, do) },
		Undo: func(ctx context.Context) error { return edit(ctx, undo) }}
}

// unplugVBD is the saga of an unplug: domain, volume, record.
func (s *Storage) unplugVBD(ctx context.Context, ref xenapi.VBDRef, force bool) error {
	rd := s.Env.DB.View()
	d, err := s.hotDriveOf(rd, ref)
	if err != nil {
		return err
	}
	op := s.begin(kindUnplug, note{VBD: ref, UUID: d.uuid, Device: d.device})
	return op.run(ctx, []saga.Step{
		{Name: "unplug the disk",
			Do:   func(ctx context.Context) error { return s.detachDisk(ctx, d, force) },
			Undo: func(ctx context.Context) error { return s.plugAgain(ctx, d) }},
		{Name: "detach the volume",
			Do: func(ctx context.Context) error { return s.DetachVDI(ctx, d.vbd.VDI, Holder(ref)) }},
		s.recordStep(op, ref, func(vbd *xenapi.VBD) { vbd.CurrentlyAttached, vbd.Device = false, "" },
			func(vbd *xenapi.VBD) { vbd.CurrentlyAttached, vbd.Device = true, d.device }),
	})
}

// plugAgain takes an unplug back.
func (s *Storage) plugAgain(ctx context.Context, d hotDrive) error {
	var at sm.Attachment
	if err := s.attachStep(d, d.vbd.VDI, &at).Do(ctx); err != nil {
		return err
	}
	_, err := s.attachDisk(ctx, d, d.disk(s.Env.DB.View(), at))
	return err
}
