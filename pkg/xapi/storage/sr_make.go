package storage

import (
	"context"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Create lays an SR out, records it and attaches it.
func (v *SRs) Create(ctx context.Context, _ *service.Call, p service.SRCreateParams) (xenapi.SRRef, error) {
	rd := v.s.Env.DB.View()
	if _, err := db.Get(rd, p.Host); err != nil {
		return "", err
	}
	if p.Host != v.s.Env.Host() {
		return "", xenapi.ErrHostOffline(string(p.Host))
	}
	driver, err := v.s.driver(p.Type)
	if err != nil {
		return "", err
	}
	hosts := []xenapi.HostRef{p.Host}
	if p.Shared {
		for ref := range db.All[xenapi.HostRef](rd) {
			if ref != p.Host {
				hosts = append(hosts, ref)
			}
		}
	}
	ref, uuid := xenapi.NewRef[xenapi.SRRef](), xenapi.NewUUID()
	sr := newSR(uuid, service.SRIntroduceParams{NameLabel: p.NameLabel, NameDescription: p.NameDescription, Type: p.Type,
		ContentType: p.ContentType, Shared: p.Shared, SMConfig: p.SMConfig})
	about := subject{sr: ref, srType: p.Type}
	spec := sm.Spec{UUID: uuid, Config: p.DeviceConfig}
	steps := append([]saga.Step{v.recordSR(ref, sr, hosts, p.DeviceConfig)}, v.layOut(driver, spec, p.PhysicalSize, about)...)
	op := v.s.begin(kindSRCreate, note{SR: uuid, Type: p.Type, Config: moved(p.DeviceConfig)})
	steps = append(steps, saga.Step{Name: "mark it attached", Do: func(ctx context.Context) error {
		return v.s.Env.Update(ctx, func(tx *db.Tx) error {
			op.done(tx)
			return markAttached(tx, ref, p.Host, true)
		})
	}})
	if err := about.fault(op.run(ctx, steps)); err != nil {
		return "", err
	}
	if err := v.s.scan(ctx, ref); err != nil {
		v.s.Env.Log.Warn("a new SR cannot be scanned", "sr", uuid, "error", err)
	}
	return ref, nil
}

// recordSR makes the records of an SR and its connections.
func (v *SRs) recordSR(ref xenapi.SRRef, sr *xenapi.SR, hosts []xenapi.HostRef, config map[string]string) saga.Step {
	return saga.Step{Name: "record it", Partial: true,
		Do: func(ctx context.Context) error {
			return v.s.Env.Update(ctx, func(tx *db.Tx) error {
				tx.Insert(string(ref), sr.Clone())
				for _, host := range hosts {
					pbd := xenapi.NewPBD()
					pbd.UUID, pbd.Host, pbd.SR = xenapi.NewUUID(), host, ref
					pbd.DeviceConfig = withSecrets(tx, config)
					db.Insert[xenapi.PBDRef](tx, pbd)
				}
				return nil
			})
		},
		Undo: func(ctx context.Context) error {
			return v.s.Env.Update(ctx, func(tx *db.Tx) error { return dropSR(tx, ref) })
		}}
}

// layOut makes the storage and attaches it here.
func (v *SRs) layOut(driver sm.Driver, spec sm.Spec, size int64, about subject) []saga.Step {
	store := v.s.Env.Node.Storage
	return []saga.Step{
		{Name: "lay out the storage",
			Do:   func(ctx context.Context) error { return about.fault(driver.Create(ctx, spec, size)) },
			Undo: func(ctx context.Context) error { return forgiven(driver.Destroy(ctx, spec)) }},
		{Name: "attach it",
			Do: func(ctx context.Context) error {
				_, err := store.Attach(ctx, about.srType, spec)
				return about.fault(err)
			},
			Undo: func(ctx context.Context) error { return store.Detach(ctx, spec.UUID) }},
	}
}

// markAttached records whether an SR is attached on a host.
func markAttached(tx *db.Tx, ref xenapi.SRRef, host xenapi.HostRef, is bool) error {
	sr, err := db.Get(tx, ref)
	if err != nil {
		return err
	}
	for _, r := range sr.PBDs {
		if pbd := db.Find(tx, r); pbd != nil && pbd.Host == host {
			edit, err := db.Edit(tx, r)
			if err != nil {
				return err
			}
			edit.CurrentlyAttached = is
		}
	}
	return nil
}

// Destroy erases an SR's storage and its records.
func (v *SRs) Destroy(ctx context.Context, c *service.Call, p service.SRDestroyParams) error {
	op := xenapi.StorageOperationsDestroy
	return v.s.Env.Locks.Do(ctx, c, ops.WaitLong, []ops.Target{ops.On("SR", p.SR, op)}, func(tx *db.Tx) error {
		if err := CheckSR(tx, p.SR, op); err != nil {
			return err
		}
		return empty(tx, p.SR)
	}, func(ctx context.Context) error { return v.s.destroySR(ctx, p.SR) })
}

// empty checks that an SR has no disks that clients see.
func empty(rd db.Reader, ref xenapi.SRRef) error {
	sr, err := db.Get(rd, ref)
	if err != nil {
		return err
	}
	for _, r := range sr.VDIs {
		if vdi := db.Find(rd, r); vdi != nil && vdi.Managed {
			return xenapi.ErrSRNotEmpty()
		}
	}
	return nil
}

func (s *Storage) destroySR(ctx context.Context, ref xenapi.SRRef) error {
	rd := s.Env.DB.View()
	sr, err := db.Get(rd, ref)
	if err != nil {
		return err
	}
	driver, err := s.driver(sr.Type)
	if err != nil {
		return err
	}
	pbd, err := db.Get(rd, sr.PBDs[0])
	if err != nil {
		return err
	}
	about := subject{sr: ref, srType: sr.Type}
	spec := sm.Spec{UUID: sr.UUID, Config: revealed(rd, pbd.DeviceConfig)}
	op := s.begin(kindSRDestroy, note{SR: sr.UUID, Type: sr.Type, Config: pbd.DeviceConfig})
	return about.fault(op.run(ctx, []saga.Step{
		{Name: "erase the storage", Undo: noWayBack,
			Do: func(ctx context.Context) error { return about.fault(driver.Destroy(ctx, spec)) }},
		{Name: "forget it", Do: func(ctx context.Context) error {
			return s.Env.Update(context.WithoutCancel(ctx), func(tx *db.Tx) error {
				op.done(tx)
				return dropSR(tx, ref)
			})
		}},
	}))
}

// Make lays storage out without recording it, in the place of create.
func (v *SRs) Make(context.Context, *service.Call, service.SRMakeParams) (string, error) {
	return "", xenapi.ErrMessageDeprecated()
}
