package storage

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// copyRate is the least that a copy must do, in bytes a second, before it
// counts as stuck.
const copyRate = 4 << 20

// CreateVDI makes a volume and then its record, from a record that says SR,
// virtual_size, type, names and what else a client may choose. After an error
// there is neither.
func (s *Storage) CreateVDI(ctx context.Context, rec *xenapi.VDI) (xenapi.VDIRef, error) {
	if rec.Type == xenapi.VDITypeCBTMetadata {
		return "", xenapi.ErrVDIIncompatibleType(xenapi.Null, string(rec.Type))
	}
	p, err := s.placeOf(s.Env.DB.View(), rec.SR)
	if err != nil {
		return "", err
	}
	alloc, err := p.allocator()
	if err != nil {
		return "", err
	}
	spec := sm.VolumeSpec{UUID: xenapi.NewUUID(), SizeBytes: rec.VirtualSize, Format: asked(rec.SMConfig)}
	return s.make(ctx, p, spec, rec, nil, saga.Step{Name: "make the volume"}, func(ctx context.Context) (sm.Volume, error) {
		return alloc.CreateVolume(ctx, spec)
	})
}

// asked is the format that sm_config asks for; empty leaves it to the driver.
func asked(config map[string]string) sm.Format {
	if t := config["type"]; t != "" {
		return sm.Format(t)
	}
	return ""
}

// make is the saga behind everything that makes a VDI: fill makes the volume
// in p, step says how long it may take.
func (s *Storage) make(ctx context.Context, p place, spec sm.VolumeSpec, like *xenapi.VDI, progress func(float64),
	step saga.Step, fill func(ctx context.Context) (sm.Volume, error)) (xenapi.VDIRef, error) {
	alloc, err := p.allocator()
	if err != nil {
		return "", err
	}
	about := subject{sr: p.ref, op: string(xenapi.StorageOperationsVDICreate)}
	op := s.begin(kindMake, note{SR: p.sr.UUID, Volume: spec.UUID})
	op.progress = progress
	defer s.moving.add(spec.UUID)()
	ref := xenapi.NewRef[xenapi.VDIRef]()
	var made sm.Volume
	step.Partial = true // the driver may fail after the volume is there
	step.Do = func(ctx context.Context) (err error) {
		made, err = fill(ctx)
		return about.fault(err)
	}
	step.Undo = func(ctx context.Context) error { return alloc.DestroyVolume(ctx, spec.UUID) }
	err = op.run(ctx, []saga.Step{step, {Name: "record it", Partial: true,
		Do: func(ctx context.Context) error {
			return s.Env.Update(ctx, func(tx *db.Tx) error {
				op.done(tx)
				rec := recordOf(like, made)
				rec.SR = p.ref
				tx.Insert(string(ref), rec)
				ops.Committing(ctx, tx, string(ref))
				return account(tx, p.ref, made.VirtualBytes, made.PhysicalBytes)
			})
		},
		Undo: func(ctx context.Context) error {
			return s.Env.Update(ctx, func(tx *db.Tx) error { return dropVDI(tx, ref) })
		}}})
	if err != nil {
		return "", about.fault(err)
	}
	return ref, nil
}

// recordOf makes a new VDI's record: what the client chose, and what the
// driver made of it.
func recordOf(like *xenapi.VDI, v sm.Volume) *xenapi.VDI {
	rec := like.Clone().(*xenapi.VDI)
	rec.UUID, rec.Location = v.UUID, v.ID
	if rec.UUID == "" {
		rec.UUID = xenapi.NewUUID()
	}
	rec.VirtualSize, rec.PhysicalUtilisation = v.VirtualBytes, v.PhysicalBytes
	rec.Managed, rec.Missing = !v.Hidden, false
	rec.SMConfig = maps.Clone(like.SMConfig)
	if rec.SMConfig == nil {
		rec.SMConfig = map[string]string{}
	}
	maps.Copy(rec.SMConfig, v.SMConfig)
	return rec
}

// account adds to the figures of an SR.
func account(tx *db.Tx, ref xenapi.SRRef, virtual, physical int64) error {
	sr, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	sr.VirtualAllocation = max(sr.VirtualAllocation+virtual, 0)
	sr.PhysicalUtilisation = max(sr.PhysicalUtilisation+physical, 0)
	return nil
}

// CloneVDI makes a copy of a VDI in sr, its own SR if that is null. Everything
// is copied, since no driver can share blocks; progress, if not nil, hears how
// far it is.
func (s *Storage) CloneVDI(ctx context.Context, ref xenapi.VDIRef, sr xenapi.SRRef, progress func(float64)) (xenapi.VDIRef, error) {
	rd := s.Env.DB.View()
	vdi, from, err := s.volumeOf(rd, ref)
	if err != nil {
		return "", err
	}
	to := from
	if sr != xenapi.Null && sr != "" && sr != from.ref {
		if to, err = s.placeOf(rd, sr); err != nil {
			return "", err
		}
	}
	spec := sm.VolumeSpec{UUID: xenapi.NewUUID()}
	if to.sr.Type == from.sr.Type && vdi.SMConfig["vdi_type"] == "aio" {
		spec.Format = sm.FormatRaw
	}
	about := subject{sr: from.ref, vdi: ref, op: string(xenapi.VDIOperationsClone)}
	step := saga.Step{Name: "copy the volume", Weight: 20, Timeout: copyTime(vdi.VirtualSize)}
	return s.make(ctx, to, spec, copied(vdi), progress, step, func(ctx context.Context) (sm.Volume, error) {
		v, err := sm.Copy(ctx, from.store, vdi.Location, to.store, spec, reporter(ctx))
		return v, about.fault(err)
	})
}

// copyTime is how long a copy of so many bytes may take.
func copyTime(bytes int64) time.Duration {
	return 10*time.Minute + time.Duration(bytes/copyRate)*time.Second
}

// reporter passes a copy's progress on to its saga.
func reporter(ctx context.Context) func(done, total int64) {
	return func(done, total int64) {
		if total > 0 {
			saga.Report(ctx, float64(done)/float64(total))
		}
	}
}

// copied is the record of a copy: what people gave the original, and none of
// what belongs to the original's volume.
func copied(vdi *xenapi.VDI) *xenapi.VDI {
	rec := xenapi.NewVDI()
	rec.NameLabel, rec.NameDescription, rec.Type, rec.Sharable = vdi.NameLabel, vdi.NameDescription, vdi.Type, vdi.Sharable
	rec.OtherConfig, rec.XenstoreData, rec.Tags = vdi.OtherConfig, vdi.XenstoreData, vdi.Tags
	rec.AllowCaching = vdi.AllowCaching
	rec.SMConfig = map[string]string{}
	for k, v := range vdi.SMConfig {
		switch k {
		case "type", "vdi_type", "vhd-parent", "paused", "relinking", "activating", "xs-tools":
		default:
			if !strings.HasPrefix(k, "host_") {
				rec.SMConfig[k] = v
			}
		}
	}
	return rec
}

// DestroyVDI removes a volume and its record; its drives go too, but those for
// CDs, which are left empty. One that is not there is no error.
func (s *Storage) DestroyVDI(ctx context.Context, ref xenapi.VDIRef) error {
	rd := s.Env.DB.View()
	if db.Find(rd, ref) == nil {
		return nil
	}
	vdi, p, err := s.volumeOf(rd, ref)
	if err != nil {
		return err
	}
	alloc, err := p.allocator()
	if err != nil {
		return err
	}
	op := s.begin(kindDestroy, note{SR: p.sr.UUID, Volume: vdi.Location, VDI: ref})
	defer s.moving.add(vdi.Location)()
	about := subject{sr: p.ref, vdi: ref, op: string(xenapi.VDIOperationsDestroy)}
	return about.fault(op.run(ctx, []saga.Step{
		{Name: "remove the volume", Do: func(ctx context.Context) error {
			return about.fault(alloc.DestroyVolume(ctx, vdi.Location))
		}, Undo: noWayBack},
		{Name: "forget it", Do: func(ctx context.Context) error {
			return s.Env.Update(context.WithoutCancel(ctx), func(tx *db.Tx) error {
				op.done(tx)
				return dropVDI(tx, ref)
			})
		}},
	}))
}

// errDone says that the work of a step can't be taken back. It keeps the entry
// in the journal, so that the rest is done at the next start.
var errDone = errors.New("storage: what was done to the volume can't be taken back")

// noWayBack is the undo of such a step.
func noWayBack(context.Context) error { return errDone }

// dropVDI removes a VDI's record within a transaction, with what refers to it.
func dropVDI(tx *db.Tx, ref xenapi.VDIRef) error {
	vdi := db.Find(tx, ref)
	if vdi == nil {
		return nil
	}
	for _, r := range vdi.VBDs {
		vbd := db.Find(tx, r)
		if vbd == nil || vbd.VDI != ref {
			continue
		}
		if vbd.Type != xenapi.VBDTypeCD {
			db.Delete(tx, r)
			continue
		}
		edit, err := db.Edit(tx, r)
		if err != nil {
			return err
		}
		edit.VDI, edit.Empty = xenapi.Null, true
	}
	for _, r := range vdi.CrashDumps {
		db.Delete(tx, r)
	}
	if db.Find(tx, vdi.SR) != nil {
		if err := account(tx, vdi.SR, -vdi.VirtualSize, -vdi.PhysicalUtilisation); err != nil {
			return err
		}
	}
	db.Delete(tx, ref)
	return nil
}
