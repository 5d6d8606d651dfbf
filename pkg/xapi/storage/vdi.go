package storage

import (
	"context"
	"slices"
	"strconv"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// VDIs serves class VDI.
type VDIs struct {
	service.UnimplementedVDI
	s *Storage
}

// createVDIHook makes a disk.
func (s *Storage) createVDIHook(ctx context.Context, c *service.Call, rec xenapi.Record, _ func(string) bool) (ref string, err error) {
	vdi := rec.(*xenapi.VDI)
	if vdi.Type == xenapi.VDITypeCBTMetadata {
		return "", xenapi.ErrVDIIncompatibleType(xenapi.Null, string(vdi.Type))
	}
	op := xenapi.StorageOperationsVDICreate
	err = s.Env.Locks.Do(ctx, c, ops.WaitLong, []ops.Target{ops.On("SR", vdi.SR, op)},
		func(tx *db.Tx) error { return CheckSR(tx, vdi.SR, op) },
		func(ctx context.Context) error {
			made, err := s.CreateVDI(ctx, vdi)
			ref = string(made)
			return err
		})
	return ref, err
}

// destroyVDIHook removes a disk and its data.
func (s *Storage) destroyVDIHook(ctx context.Context, c *service.Call, ref string) error {
	self := xenapi.VDIRef(ref)
	return s.onVDI(ctx, c, self, xenapi.VDIOperationsDestroy, xenapi.StorageOperationsVDIDestroy, func(ctx context.Context) error {
		return s.DestroyVDI(ctx, self)
	})
}

// onVDI runs fn while a disk carries an operation and its SR the one that goes
// with it, if the tables allow both.
func (s *Storage) onVDI(ctx context.Context, c *service.Call, ref xenapi.VDIRef, op xenapi.VDIOperations,
	srOp xenapi.StorageOperations, fn func(ctx context.Context) error) error {
	vdi, err := db.Get(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	targets := []ops.Target{ops.On("VDI", ref, op), ops.On("SR", vdi.SR, srOp)}
	return s.Env.Locks.Do(ctx, c, ops.WaitLong, targets, func(tx *db.Tx) error {
		if err := CheckVDI(tx, ref, op); err != nil {
			return err
		}
		return CheckSR(tx, vdi.SR, srOp)
	}, fn)
}

// Clone makes a writable copy in the same SR.
func (v *VDIs) Clone(ctx context.Context, c *service.Call, p service.VDICloneParams) (made xenapi.VDIRef, err error) {
	err = v.s.onVDI(ctx, c, p.VDI, xenapi.VDIOperationsClone, xenapi.StorageOperationsVDIClone, func(ctx context.Context) error {
		made, err = v.s.CloneVDI(ctx, p.VDI, xenapi.Null, c.Task.Progress)
		return err
	})
	return made, err
}

// Resize makes a disk larger.
func (v *VDIs) Resize(ctx context.Context, c *service.Call, p service.VDIResizeParams) error {
	return v.s.onVDI(ctx, c, p.VDI, xenapi.VDIOperationsResize, xenapi.StorageOperationsVDIResize, func(ctx context.Context) error {
		return v.s.resize(ctx, p.VDI, p.Size)
	})
}

// ResizeOnline makes a disk larger while a VM has it, where the driver can.
func (v *VDIs) ResizeOnline(ctx context.Context, c *service.Call, p service.VDIResizeOnlineParams) error {
	return v.s.onVDI(ctx, c, p.VDI, xenapi.VDIOperationsResizeOnline, xenapi.StorageOperationsVDIResizeOnline,
		func(ctx context.Context) error { return v.s.resize(ctx, p.VDI, p.Size) })
}

// resize grows the volume, then the record. There is no way back: what is cut
// between the two is finished when it is found.
func (s *Storage) resize(ctx context.Context, ref xenapi.VDIRef, size int64) error {
	vdi, p, err := s.volumeOf(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	about := subject{sr: p.ref, vdi: ref, op: string(xenapi.VDIOperationsResize)}
	resizer, ok := p.store.(sm.Resizer)
	if !ok {
		return xenapi.ErrSROperationNotSupported(string(p.ref))
	}
	op := s.begin(kindResize, note{SR: p.sr.UUID, Volume: vdi.Location, VDI: ref})
	var v sm.Volume
	return about.fault(op.run(ctx, []saga.Step{
		{Name: "grow the volume", Do: func(ctx context.Context) (err error) {
			v, err = resizer.ResizeVolume(ctx, vdi.Location, size)
			return about.fault(err)
		}, Undo: noWayBack},
		{Name: "record it", Do: func(ctx context.Context) error {
			return s.Env.Update(context.WithoutCancel(ctx), func(tx *db.Tx) error {
				op.done(tx)
				return recordSize(tx, ref, v)
			})
		}},
	}))
}

// recordSize brings a record's sizes, and the sums of its SR, in line with a
// volume.
func recordSize(tx *db.Tx, ref xenapi.VDIRef, v sm.Volume) error {
	vdi, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	virtual, physical := v.VirtualBytes-vdi.VirtualSize, v.PhysicalBytes-vdi.PhysicalUtilisation
	if virtual == 0 && physical == 0 {
		return nil
	}
	vdi.VirtualSize, vdi.PhysicalUtilisation = v.VirtualBytes, v.PhysicalBytes
	return account(tx, vdi.SR, virtual, physical)
}

// Update brings a disk's record in line with its volume.
func (v *VDIs) Update(ctx context.Context, c *service.Call, p service.VDIUpdateParams) error {
	return v.s.onVDI(ctx, c, p.VDI, xenapi.VDIOperationsUpdate, xenapi.StorageOperationsVDIUpdate, func(ctx context.Context) error {
		return v.s.refresh(ctx, p.VDI)
	})
}

// refresh reads a volume's sizes again.
func (s *Storage) refresh(ctx context.Context, ref xenapi.VDIRef) error {
	vdi, p, err := s.volumeOf(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	about := subject{sr: p.ref, vdi: ref, op: string(xenapi.VDIOperationsUpdate)}
	v, err := findVolume(ctx, p.store, vdi.Location)
	if err != nil {
		return about.fault(err)
	}
	return s.Env.Update(ctx, func(tx *db.Tx) error { return recordSize(tx, ref, v) })
}

// findVolume looks a volume up on the storage; sm.ErrMissing if it isn't
// there, its own error if it is damaged.
func findVolume(ctx context.Context, store sm.SR, location string) (sm.Volume, error) {
	ctx, cancel := reading(ctx)
	defer cancel()
	volumes, err := store.Scan(ctx)
	if err != nil {
		return sm.Volume{}, err
	}
	i := slices.IndexFunc(volumes, func(v sm.Volume) bool { return v.ID == location })
	if i < 0 {
		return sm.Volume{}, sm.ErrMissing
	}
	return volumes[i], volumes[i].Err
}

// Forget removes a disk's record and leaves its data alone.
func (v *VDIs) Forget(ctx context.Context, c *service.Call, p service.VDIForgetParams) error {
	return v.s.onVDI(ctx, c, p.VDI, xenapi.VDIOperationsForget, xenapi.StorageOperationsVDIForget, func(ctx context.Context) error {
		return v.s.Env.Update(ctx, func(tx *db.Tx) error { return dropVDI(tx, p.VDI) })
	})
}

// Copy copies a disk into another SR, or over a disk that is there.
func (v *VDIs) Copy(ctx context.Context, c *service.Call, p service.VDICopyParams) (made xenapi.VDIRef, err error) {
	rd := v.s.Env.DB.View()
	vdi, err := db.Get(rd, p.VDI)
	if err != nil {
		return "", err
	}
	if p.BaseVDI != xenapi.Null {
		if _, err := db.Get(rd, p.BaseVDI); err != nil {
			return "", err
		}
	}
	sr := p.SR
	if p.IntoVDI != xenapi.Null {
		into, err := checkInto(rd, vdi, p.IntoVDI)
		if err != nil {
			return "", err
		}
		sr = into.SR
	}
	if sr == xenapi.Null {
		sr = vdi.SR
	}
	targets := []ops.Target{ops.On("VDI", p.VDI, xenapi.VDIOperationsCopy), ops.On("SR", sr, xenapi.StorageOperationsVDICopy)}
	if p.IntoVDI != xenapi.Null {
		targets = append(targets, ops.On("VDI", p.IntoVDI, xenapi.VDIOperationsBlocked))
	}
	err = v.s.Env.Locks.Do(ctx, c, ops.WaitLong, targets, func(tx *db.Tx) error {
		return checkCopy(tx, p, sr)
	}, func(ctx context.Context) error {
		if p.IntoVDI == xenapi.Null && p.BaseVDI == xenapi.Null {
			made, err = v.s.CloneVDI(ctx, p.VDI, sr, c.Task.Progress)
			return err
		}
		made, err = v.s.copyOver(ctx, p, sr, c.Task.Progress)
		return err
	})
	return made, err
}

// checkInto checks the disk that a copy is to overwrite.
func checkInto(rd db.Reader, from *xenapi.VDI, ref xenapi.VDIRef) (*xenapi.VDI, error) {
	into, err := db.Get(rd, ref)
	switch {
	case err != nil:
		return nil, err
	case into.ReadOnly:
		return nil, xenapi.ErrVDIReadonly(string(ref))
	case into.VirtualSize < from.VirtualSize:
		return nil, xenapi.ErrVDITooSmall(string(ref), strconv.FormatInt(from.VirtualSize, 10))
	}
	return into, nil
}

// checkCopy is the check that goes with the locks of a copy.
func checkCopy(tx *db.Tx, p service.VDICopyParams, sr xenapi.SRRef) error {
	if err := CheckVDI(tx, p.VDI, xenapi.VDIOperationsCopy); err != nil {
		return err
	}
	if p.IntoVDI == xenapi.Null {
		if err := CheckSR(tx, sr, xenapi.StorageOperationsVDICreate); err != nil {
			return err
		}
		return CheckSR(tx, sr, xenapi.StorageOperationsVDICopy)
	}
	into, err := db.Get(tx, p.IntoVDI)
	if err != nil {
		return err
	}
	if len(into.CurrentOperations) > 0 {
		return ops.Busy("VDI", string(p.IntoVDI), into.CurrentOperations)
	}
	if err := CheckVDI(tx, p.IntoVDI, xenapi.VDIOperationsBlocked); err != nil {
		return err
	}
	return CheckSR(tx, sr, xenapi.StorageOperationsVDICopy)
}
