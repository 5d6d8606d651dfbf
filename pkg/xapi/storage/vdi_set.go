package storage

import (
	"context"
	"maps"

	"xapid/pkg/db"
	"xapid/pkg/sm"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// edit changes a disk's record and nothing else.
func (v *VDIs) edit(ctx context.Context, ref xenapi.VDIRef, change func(*xenapi.VDI)) error {
	return v.s.Env.Update(ctx, func(tx *db.Tx) error {
		vdi, err := db.Edit(tx, ref)
		if err == nil {
			change(vdi)
		}
		return err
	})
}

// SetNameLabel renames a disk.
func (v *VDIs) SetNameLabel(ctx context.Context, _ *service.Call, p service.VDISetNameLabelParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.NameLabel = p.Value })
}

// SetNameDescription describes a disk anew.
func (v *VDIs) SetNameDescription(ctx context.Context, _ *service.Call, p service.VDISetNameDescriptionParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.NameDescription = p.Value })
}

// SetManaged shows a disk to clients or hides it.
func (v *VDIs) SetManaged(ctx context.Context, _ *service.Call, p service.VDISetManagedParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.Managed = p.Value })
}

// SetSharable allows or forbids several writers.
func (v *VDIs) SetSharable(ctx context.Context, _ *service.Call, p service.VDISetSharableParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.Sharable = p.Value })
}

// SetReadOnly forbids or allows writing.
func (v *VDIs) SetReadOnly(ctx context.Context, _ *service.Call, p service.VDISetReadOnlyParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.ReadOnly = p.Value })
}

// SetMissing records whether a scan found the disk.
func (v *VDIs) SetMissing(ctx context.Context, _ *service.Call, p service.VDISetMissingParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.Missing = p.Value })
}

// SetVirtualSize corrects the recorded size.
func (v *VDIs) SetVirtualSize(ctx context.Context, _ *service.Call, p service.VDISetVirtualSizeParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.VirtualSize = p.Value })
}

// SetPhysicalUtilisation corrects the recorded use of storage.
func (v *VDIs) SetPhysicalUtilisation(ctx context.Context, _ *service.Call, p service.VDISetPhysicalUtilisationParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.PhysicalUtilisation = p.Value })
}

// SetIsASnapshot corrects whether a disk counts as a snapshot.
func (v *VDIs) SetIsASnapshot(ctx context.Context, _ *service.Call, p service.VDISetIsASnapshotParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.IsASnapshot = p.Value })
}

// SetSnapshotOf corrects which disk this is a snapshot of.
func (v *VDIs) SetSnapshotOf(ctx context.Context, _ *service.Call, p service.VDISetSnapshotOfParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.SnapshotOf = p.Value })
}

// SetSnapshotTime corrects when the snapshot was taken.
func (v *VDIs) SetSnapshotTime(ctx context.Context, _ *service.Call, p service.VDISetSnapshotTimeParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.SnapshotTime = p.Value })
}

// SetMetadataOfPool records whose database a disk holds.
func (v *VDIs) SetMetadataOfPool(ctx context.Context, _ *service.Call, p service.VDISetMetadataOfPoolParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.MetadataOfPool = p.Value })
}

// SetAllowCaching allows or forbids caching on local storage.
func (v *VDIs) SetAllowCaching(ctx context.Context, _ *service.Call, p service.VDISetAllowCachingParams) error {
	return v.edit(ctx, p.Self, func(r *xenapi.VDI) { r.AllowCaching = p.Value })
}

// SetOnBoot chooses whether writes survive a start, where the driver can
// forget them.
func (v *VDIs) SetOnBoot(ctx context.Context, c *service.Call, p service.VDISetOnBootParams) error {
	op := xenapi.VDIOperationsSetOnBoot
	return v.s.Env.Locks.Do(ctx, c, ops.WaitLong, nil, func(tx *db.Tx) error {
		vdi, err := db.Get(tx, p.Self)
		if err != nil || vdi.OnBoot == p.Value {
			return err
		}
		if err := CheckVDI(tx, p.Self, op); err != nil {
			return err
		}
		edit, err := db.Edit(tx, p.Self)
		if err == nil {
			edit.OnBoot = p.Value
		}
		return err
	}, func(context.Context) error { return nil })
}

// ForceUnlock is of the past.
func (v *VDIs) ForceUnlock(context.Context, *service.Call, service.VDIForceUnlockParams) error {
	return xenapi.ErrMessageDeprecated()
}

// Introduce records a volume that is on the storage already.
func (v *VDIs) Introduce(ctx context.Context, c *service.Call, p service.VDIIntroduceParams) (xenapi.VDIRef, error) {
	if p.UUID == "" {
		p.UUID = xenapi.NewUUID()
	}
	if !sm.IsUUID(p.UUID) {
		return "", xenapi.ErrInvalidValue("uuid", p.UUID)
	}
	op, ref := xenapi.StorageOperationsVDIIntroduce, xenapi.NewRef[xenapi.VDIRef]()
	return ref, v.s.Env.Locks.Do(ctx, c, ops.WaitLong, []ops.Target{ops.On("SR", p.SR, op)}, func(tx *db.Tx) error {
		if err := CheckSR(tx, p.SR, op); err != nil {
			return err
		}
		if tx.Snapshot().ByUUID(xenapi.Class((*xenapi.VDI)(nil)), p.UUID) != "" {
			return xenapi.ErrInvalidValue("uuid", p.UUID)
		}
		return unique(tx, p.SR, p.Location)
	}, func(ctx context.Context) error { return v.introduce(ctx, ref, p) })
}

// unique checks that an SR has no disk at a location yet.
func unique(rd db.Reader, ref xenapi.SRRef, location string) error {
	sr, err := db.Get(rd, ref)
	if err != nil {
		return err
	}
	for _, r := range sr.VDIs {
		if vdi := db.Find(rd, r); vdi != nil && vdi.Location == location {
			return xenapi.ErrLocationNotUnique(string(ref), location)
		}
	}
	return nil
}

func (v *VDIs) introduce(ctx context.Context, ref xenapi.VDIRef, p service.VDIIntroduceParams) error {
	at, err := v.s.placeOf(v.s.Env.DB.View(), p.SR)
	if err != nil {
		return err
	}
	volume, err := findVolume(ctx, at.store, p.Location)
	if err != nil {
		return subject{sr: p.SR, vdi: xenapi.VDIRef(p.Location)}.fault(err)
	}
	rec := xenapi.NewVDI()
	rec.UUID, rec.NameLabel, rec.NameDescription, rec.SR, rec.Type = p.UUID, p.NameLabel, p.NameDescription, p.SR, p.Type
	rec.Sharable, rec.ReadOnly, rec.OtherConfig, rec.Location = p.Sharable, p.ReadOnly || volume.ReadOnly, p.OtherConfig, p.Location
	rec.XenstoreData, rec.SMConfig, rec.Managed = p.XenstoreData, maps.Clone(p.SMConfig), p.Managed && !volume.Hidden
	rec.VirtualSize, rec.PhysicalUtilisation = volume.VirtualBytes, volume.PhysicalBytes
	rec.IsASnapshot, rec.SnapshotTime = p.IsASnapshot, p.SnapshotTime
	if p.SnapshotOf != "" {
		rec.SnapshotOf = p.SnapshotOf
	}
	if p.MetadataOfPool != "" {
		rec.MetadataOfPool = p.MetadataOfPool
	}
	if rec.SMConfig == nil {
		rec.SMConfig = map[string]string{}
	}
	maps.Copy(rec.SMConfig, volume.SMConfig)
	return v.s.Env.Update(ctx, func(tx *db.Tx) error {
		if err := unique(tx, p.SR, p.Location); err != nil {
			return err
		}
		tx.Insert(string(ref), rec.Clone())
		return account(tx, p.SR, rec.VirtualSize, rec.PhysicalUtilisation)
	})
}
