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
)

// PBDs serves class PBD.
type PBDs struct {
	service.UnimplementedPBD
	s *Storage
}

// createPBDHook records how a host reaches an SR.
func (s *Storage) createPBDHook(ctx context.Context, _ *service.Call, rec xenapi.Record, _ func(string) bool) (string, error) {
	like := rec.(*xenapi.PBD)
	if master, ok := like.DeviceConfig["SRmaster"]; ok {
		return "", xenapi.ErrValueNotSupported("device_config", "SRmaster="+master, "the key is set by the host itself")
	}
	ref, uuid := xenapi.NewRef[xenapi.PBDRef](), xenapi.NewUUID()
	return string(ref), s.Env.Update(ctx, func(tx *db.Tx) error {
		if _, err := db.Get(tx, like.Host); err != nil {
			return err
		}
		sr, err := db.Get(tx, like.SR)
		if err != nil {
			return err
		}
		for _, r := range sr.PBDs {
			if other := db.Find(tx, r); other != nil && other.Host == like.Host {
				return xenapi.ErrPBDExists(string(like.SR), string(like.Host), string(r))
			}
		}
		pbd := like.Clone().(*xenapi.PBD)
		pbd.UUID, pbd.CurrentlyAttached = uuid, false
		pbd.DeviceConfig = withSecrets(tx, like.DeviceConfig)
		tx.Insert(string(ref), pbd)
		return nil
	})
}

// destroyPBDHook forgets a connection that is not attached.
func (s *Storage) destroyPBDHook(ctx context.Context, _ *service.Call, ref string) error {
	self := xenapi.PBDRef(ref)
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		pbd, err := db.Get(tx, self)
		if err != nil {
			return err
		}
		if pbd.CurrentlyAttached {
			return xenapi.ErrOperationNotAllowed("PBD is currently attached")
		}
		dropSecrets(tx, pbd.DeviceConfig)
		db.Delete(tx, self)
		return nil
	})
}

// SetDeviceConfig changes how the storage is reached from the next plug on.
func (v *PBDs) SetDeviceConfig(ctx context.Context, _ *service.Call, p service.PBDSetDeviceConfigParams) error {
	return v.s.Env.Update(ctx, func(tx *db.Tx) error {
		pbd, err := db.Edit(tx, p.Self)
		if err != nil {
			return err
		}
		if pbd.CurrentlyAttached {
			return xenapi.ErrOperationNotAllowed("PBD is currently attached")
		}
		for key, value := range pbd.DeviceConfig {
			if p.Value[key] != value {
				dropSecrets(tx, map[string]string{key: value})
			}
		}
		pbd.DeviceConfig = withSecrets(tx, p.Value)
		return nil
	})
}

// Plug attaches an SR on its host.
func (v *PBDs) Plug(ctx context.Context, c *service.Call, p service.PBDPlugParams) error {
	pbd, err := db.Get(v.s.Env.DB.View(), p.Self)
	if err != nil {
		return err
	}
	op := xenapi.StorageOperationsPlug
	return v.s.Env.Locks.Do(ctx, c, ops.WaitLong, []ops.Target{ops.On("SR", pbd.SR, op)}, func(tx *db.Tx) error {
		if err := CheckSR(tx, pbd.SR, op); err != nil {
			return err
		}
		return sharable(look(tx), p.Self)
	}, func(ctx context.Context) error {
		if err := v.s.plugPBD(ctx, p.Self); err != nil {
			return err
		}
		v.s.settle(ctx, pbd.SR)
		return nil
	})
}

// sharable checks that an SR for one host is attached on no other.
func sharable(g graph, ref xenapi.PBDRef) (err error) {
	pbd, err := db.Get(g, ref)
	if err != nil {
		return err
	}
	sr, err := db.Get(g, pbd.SR)
	if err != nil || sr.Shared {
		return err
	}
	g.pbdsOf(pbd.SR, sr, func(r xenapi.PBDRef, other *xenapi.PBD) bool {
		if r != ref && other.CurrentlyAttached {
			err = xenapi.ErrSRNotSharable(string(pbd.SR), string(pbd.Host))
		}
		return err == nil
	})
	return err
}

// plugPBD attaches an SR here and records it; one that is attached stays so.
func (s *Storage) plugPBD(ctx context.Context, ref xenapi.PBDRef) error {
	rd := s.Env.DB.View()
	pbd, err := db.Get(rd, ref)
	if err != nil {
		return err
	}
	sr, err := db.Get(rd, pbd.SR)
	if err != nil {
		return err
	}
	if pbd.Host != s.Env.Host() {
		return xenapi.ErrHostOffline(string(pbd.Host))
	}
	spec := sm.Spec{UUID: sr.UUID, Config: revealed(rd, pbd.DeviceConfig)}
	ctx, cancel := context.WithTimeout(ctx, s.PlugTimeout)
	defer cancel()
	store, err := s.Env.Node.Storage.Attach(ctx, sr.Type, spec)
	if err != nil {
		return subject{sr: pbd.SR, srType: sr.Type}.fault(err)
	}
	st, err := store.Stat(ctx)
	if err != nil { // it is attached all the same; a scan asks again
		s.Env.Log.Warn("the sizes of an SR are unknown", "sr", pbd.SR, "error", err)
	}
	err = s.recordPlugged(ctx, ref, true, st)
	if err != nil && !pbd.CurrentlyAttached {
		err = errors.Join(err, s.Env.Node.Storage.Detach(context.WithoutCancel(ctx), sr.UUID))
	}
	return err
}

// recordPlugged writes whether a PBD is plugged, and the sizes of its SR if
// they are known.
func (s *Storage) recordPlugged(ctx context.Context, ref xenapi.PBDRef, is bool, st sm.Stat) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		pbd, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		pbd.CurrentlyAttached = is
		if st == (sm.Stat{}) {
			return nil
		}
		sr, err := db.Edit(tx, pbd.SR)
		if err == nil {
			setSizes(sr, st)
		}
		return err
	})
}

// Unplug detaches an SR on its host, unless a VM there uses it.
func (v *PBDs) Unplug(ctx context.Context, c *service.Call, p service.PBDUnplugParams) error {
	pbd, err := db.Get(v.s.Env.DB.View(), p.Self)
	if err != nil {
		return err
	}
	op := xenapi.StorageOperationsUnplug
	return v.s.Env.Locks.Do(ctx, c, ops.WaitLong, []ops.Target{ops.On("SR", pbd.SR, op)}, func(tx *db.Tx) error {
		if err := CheckSR(tx, pbd.SR, op); err != nil {
			return err
		}
		return unused(look(tx), p.Self)
	}, func(ctx context.Context) error { return v.s.unplugPBD(ctx, p.Self) })
}

// unused checks that no running VM has a disk of the SR.
func unused(g graph, ref xenapi.PBDRef) error {
	pbd, err := db.Get(g, ref)
	if err != nil || !pbd.CurrentlyAttached {
		return err
	}
	sr, err := db.Get(g, pbd.SR)
	if err != nil {
		return err
	}
	var used []string
	for _, r := range sr.VDIs {
		vdi := db.Find(g, r)
		if vdi == nil {
			continue
		}
		g.vbdsOf(r, vdi, func(_ xenapi.VBDRef, vbd *xenapi.VBD) bool {
			vm := db.Find(g, vbd.VM)
			if !holds(vbd) || vm == nil || vm.PowerState == xenapi.VMPowerStateSuspended {
				return true
			}
			used = append(used, string(r))
			return false
		})
	}
	if len(used) > 0 {
		return &xenapi.Error{Code: "VDI_IN_USE", Params: used}
	}
	return nil
}

func (s *Storage) unplugPBD(ctx context.Context, ref xenapi.PBDRef) error {
	rd := s.Env.DB.View()
	pbd, err := db.Get(rd, ref)
	if err != nil || !pbd.CurrentlyAttached {
		return err
	}
	sr, err := db.Get(rd, pbd.SR)
	if err != nil {
		return err
	}
	about := subject{sr: pbd.SR, srType: sr.Type}
	err = saga.Run(ctx, saga.Options{Log: s.Env.Log, Hook: s.Hook}, "PBD.unplug", []saga.Step{
		{Name: "detach the storage",
			Do: func(ctx context.Context) error { return about.fault(s.Env.Node.Storage.Detach(ctx, sr.UUID)) },
			Undo: func(ctx context.Context) error {
				_, err := s.Env.Node.Storage.Attach(ctx, sr.Type, sm.Spec{UUID: sr.UUID, Config: revealed(rd, pbd.DeviceConfig)})
				return err
			}},
		{Name: "record it", Partial: true,
			Do:   func(ctx context.Context) error { return s.recordPlugged(ctx, ref, false, sm.Stat{}) },
			Undo: func(ctx context.Context) error { return s.recordPlugged(ctx, ref, true, sm.Stat{}) }},
	})
	if err == nil {
		s.rederive(ctx, pbd.SR)
	}
	return about.fault(err)
}
