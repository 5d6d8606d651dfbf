package storage

import (
	"context"
	"errors"

	"xapid/pkg/db"
	"xapid/pkg/sm"
	"xapid/pkg/xapi/blob"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// SRs serves class SR.
type SRs struct {
	service.UnimplementedSR
	s *Storage
}

// onSR runs fn while an SR carries an operation that the table allows.
func (s *Storage) onSR(ctx context.Context, c *service.Call, ref xenapi.SRRef, op xenapi.StorageOperations,
	fn func(ctx context.Context) error) error {
	return s.Env.Locks.Do(ctx, c, ops.WaitLong, []ops.Target{ops.On("SR", ref, op)},
		func(tx *db.Tx) error { return CheckSR(tx, ref, op) }, fn)
}

// newSR is the record of an SR that clients have described.
func newSR(uuid string, p service.SRIntroduceParams) *xenapi.SR {
	sr := xenapi.NewSR()
	sr.UUID, sr.NameLabel, sr.NameDescription = uuid, p.NameLabel, p.NameDescription
	sr.Type, sr.ContentType, sr.Shared, sr.SMConfig = p.Type, p.ContentType, p.Shared, p.SMConfig
	sr.DefaultVDIVisibility = true
	return sr
}

// Introduce records an SR that exists on some storage.
func (v *SRs) Introduce(ctx context.Context, _ *service.Call, p service.SRIntroduceParams) (xenapi.SRRef, error) {
	if p.UUID == "" {
		p.UUID = xenapi.NewUUID()
	}
	if !sm.IsUUID(p.UUID) {
		return "", xenapi.ErrInvalidValue("uuid", p.UUID)
	}
	if _, err := v.s.driver(p.Type); err != nil {
		return "", err
	}
	ref := xenapi.NewRef[xenapi.SRRef]()
	return ref, v.s.Env.Update(ctx, func(tx *db.Tx) error {
		if tx.Snapshot().ByUUID(xenapi.Class((*xenapi.SR)(nil)), p.UUID) != "" {
			return xenapi.ErrSRUUIDExists(p.UUID)
		}
		tx.Insert(string(ref), newSR(p.UUID, p))
		return nil
	})
}

// driver finds a driver by its type; SR_UNKNOWN_DRIVER if there is none.
func (s *Storage) driver(srType string) (sm.Driver, error) {
	d, err := s.Env.Node.Storage.Driver(srType)
	return d, subject{srType: srType}.fault(err)
}

// Forget removes the records of an SR and leaves the storage alone.
func (v *SRs) Forget(ctx context.Context, c *service.Call, p service.SRForgetParams) error {
	return v.s.onSR(ctx, c, p.SR, xenapi.StorageOperationsForget, func(ctx context.Context) error {
		return v.s.Env.Update(ctx, func(tx *db.Tx) error { return dropSR(tx, p.SR) })
	})
}

// dropSR removes an SR's record within a transaction, with its disks and
// connections.
func dropSR(tx *db.Tx, ref xenapi.SRRef) error {
	sr := db.Find(tx, ref)
	if sr == nil {
		return nil
	}
	for _, vdi := range sr.VDIs {
		if err := dropVDI(tx, vdi); err != nil {
			return err
		}
	}
	for _, r := range sr.PBDs {
		if pbd := db.Find(tx, r); pbd != nil {
			dropSecrets(tx, pbd.DeviceConfig)
			db.Delete(tx, r)
		}
	}
	for _, r := range sr.Blobs {
		db.Delete(tx, xenapi.BlobRef(r))
	}
	db.Delete(tx, ref)
	return nil
}

// Scan brings the records of an SR's disks in line with the storage.
func (v *SRs) Scan(ctx context.Context, c *service.Call, p service.SRScanParams) error {
	return v.s.onSR(ctx, c, p.SR, xenapi.StorageOperationsScan, func(ctx context.Context) error {
		return v.s.scan(ctx, p.SR)
	})
}

// Update reads the sizes of an SR again.
func (v *SRs) Update(ctx context.Context, c *service.Call, p service.SRUpdateParams) error {
	return v.s.onSR(ctx, c, p.SR, xenapi.StorageOperationsUpdate, func(ctx context.Context) error {
		at, err := v.s.placeOf(v.s.Env.DB.View(), p.SR)
		if err != nil {
			return err
		}
		ctx, cancel := reading(ctx)
		defer cancel()
		st, err := at.store.Stat(ctx)
		if err != nil {
			return subject{sr: p.SR}.fault(err)
		}
		return v.edit(ctx, p.SR, func(sr *xenapi.SR) { setSizes(sr, st) })
	})
}

func setSizes(sr *xenapi.SR, st sm.Stat) {
	sr.PhysicalSize, sr.PhysicalUtilisation, sr.VirtualAllocation = st.PhysicalBytes, st.UsedBytes, st.VirtualBytes
}

// GetSupportedTypes lists the drivers.
func (v *SRs) GetSupportedTypes(context.Context, *service.Call) ([]string, error) {
	var types []string
	for _, d := range v.s.Env.Node.Storage.Drivers() {
		types = append(types, d.Info().Type)
	}
	return types, nil
}

// Probe asks a driver what a place holds.
func (v *SRs) Probe(ctx context.Context, _ *service.Call, p service.SRProbeParams) (string, error) {
	d, err := v.prober(p.Host, p.Type)
	if err != nil {
		return "", err
	}
	ctx, cancel := reading(ctx)
	defer cancel()
	xml, err := d.Probe(ctx, sm.Spec{Config: p.DeviceConfig})
	return xml, subject{sr: xenapi.Null, srType: p.Type}.fault(err)
}

func (v *SRs) prober(host xenapi.HostRef, srType string) (sm.Prober, error) {
	if _, err := db.Get(v.s.Env.DB.View(), host); err != nil {
		return nil, err
	}
	d, err := v.s.driver(srType)
	if err != nil {
		return nil, err
	}
	prober, ok := d.(sm.Prober)
	if !ok {
		return nil, xenapi.ErrSROperationNotSupported(xenapi.Null)
	}
	return prober, nil
}

// ProbeExt is for drivers that answer in records, of which there are none.
func (v *SRs) ProbeExt(_ context.Context, _ *service.Call, p service.SRProbeExtParams) ([]xenapi.Record, error) {
	if _, err := db.Get(v.s.Env.DB.View(), p.Host); err != nil {
		return nil, err
	}
	if _, err := v.s.driver(p.Type); err != nil {
		return nil, err
	}
	return nil, xenapi.ErrSROperationNotSupported(xenapi.Null)
}

// edit changes an SR's record and nothing else.
func (v *SRs) edit(ctx context.Context, ref xenapi.SRRef, change func(*xenapi.SR)) error {
	return v.s.Env.Update(ctx, func(tx *db.Tx) error {
		sr, err := db.Edit(tx, ref)
		if err == nil {
			change(sr)
		}
		return err
	})
}

// SetNameLabel renames an SR.
func (v *SRs) SetNameLabel(ctx context.Context, _ *service.Call, p service.SRSetNameLabelParams) error {
	return v.edit(ctx, p.SR, func(sr *xenapi.SR) { sr.NameLabel = p.Value })
}

// SetNameDescription describes an SR anew.
func (v *SRs) SetNameDescription(ctx context.Context, _ *service.Call, p service.SRSetNameDescriptionParams) error {
	return v.edit(ctx, p.SR, func(sr *xenapi.SR) { sr.NameDescription = p.Value })
}

// SetPhysicalSize corrects the recorded capacity.
func (v *SRs) SetPhysicalSize(ctx context.Context, _ *service.Call, p service.SRSetPhysicalSizeParams) error {
	return v.edit(ctx, p.Self, func(sr *xenapi.SR) { sr.PhysicalSize = p.Value })
}

// SetVirtualAllocation corrects the recorded sum of virtual sizes.
func (v *SRs) SetVirtualAllocation(ctx context.Context, _ *service.Call, p service.SRSetVirtualAllocationParams) error {
	return v.edit(ctx, p.Self, func(sr *xenapi.SR) { sr.VirtualAllocation = p.Value })
}

// SetPhysicalUtilisation corrects the recorded bytes in use.
func (v *SRs) SetPhysicalUtilisation(ctx context.Context, _ *service.Call, p service.SRSetPhysicalUtilisationParams) error {
	return v.edit(ctx, p.Self, func(sr *xenapi.SR) { sr.PhysicalUtilisation = p.Value })
}

// SetShared marks an SR as one for several hosts, or for one.
func (v *SRs) SetShared(ctx context.Context, _ *service.Call, p service.SRSetSharedParams) error {
	return v.s.Env.Update(ctx, func(tx *db.Tx) error {
		sr, err := db.Edit(tx, p.SR)
		if err != nil {
			return err
		}
		if !p.Value && len(sr.PBDs) > 1 {
			return xenapi.ErrSRHasMultiplePBDs(string(sr.PBDs[0]))
		}
		sr.Shared = p.Value
		return nil
	})
}

// AssertCanHostHAStatefile says why an SR can't hold the state file of HA.
func (v *SRs) AssertCanHostHAStatefile(_ context.Context, _ *service.Call, p service.SRAssertCanHostHAStatefileParams) error {
	return v.has(p.SR, "VDI_GENERATE_CONFIG", true)
}

// AssertSupportsDatabaseReplication says why the pool's database can't be
// replicated to an SR.
func (v *SRs) AssertSupportsDatabaseReplication(_ context.Context, _ *service.Call, p service.SRAssertSupportsDatabaseReplicationParams) error {
	return v.has(p.SR, "SR_METADATA", false)
}

// has checks that an SR is attached and its driver has a feature.
func (v *SRs) has(ref xenapi.SRRef, feature string, shared bool) error {
	g := look(v.s.Env.DB.View())
	sr, err := db.Get(g, ref)
	switch {
	case err != nil:
		return err
	case !g.attached(ref, sr):
		return xenapi.ErrSRHasNoPBDs(string(ref))
	case shared && !sr.Shared:
		return xenapi.ErrHAConstraintViolationSRNotShared(string(ref))
	case g.features(sr)[feature] == 0:
		return xenapi.ErrSROperationNotSupported(string(ref))
	}
	return nil
}

// CreateNewBlob attaches an empty blob.
func (v *SRs) CreateNewBlob(ctx context.Context, _ *service.Call, p service.SRCreateNewBlobParams) (xenapi.BlobRef, error) {
	return blob.Attach(ctx, v.s.Env, p.SR, p.Name, p.MimeType, p.Public)
}

// GetLiveHosts lists the live, enabled hosts on which an SR is attached.
func (v *SRs) GetLiveHosts(_ context.Context, _ *service.Call, p service.SRGetLiveHostsParams) ([]xenapi.HostRef, error) {
	g := look(v.s.Env.DB.View())
	sr, err := db.Get(g, p.SR)
	if err != nil {
		return nil, err
	}
	hosts := []xenapi.HostRef{}
	g.pbdsOf(p.SR, sr, func(_ xenapi.PBDRef, pbd *xenapi.PBD) bool {
		host := db.Find(g, pbd.Host)
		if pbd.CurrentlyAttached && host != nil && host.Enabled {
			if metrics := db.Find(g, host.Metrics); metrics != nil && metrics.Live {
				hosts = append(hosts, pbd.Host)
			}
		}
		return true
	})
	return hosts, nil
}

// forgiven drops the errors of undoing that mean that there is nothing left
// to undo, or that what is there belongs to somebody else.
func forgiven(err error) error {
	if errors.Is(err, sm.ErrNotEmpty) || errors.Is(err, sm.ErrSRInUse) {
		return nil
	}
	return err
}
