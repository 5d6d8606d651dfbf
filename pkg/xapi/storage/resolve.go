package storage

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xenapi"
)

// leftovers are the journal's entries of an earlier process that a choice
// accepts; the others are none of a resume's concern.
type leftovers struct {
	saga.Journal
	s      *Storage
	accept func(kind string, n note) bool
}

// Unfinished lists those that are unfinished still.
func (l leftovers) Unfinished(ctx context.Context) ([]saga.Entry, error) {
	open, err := l.Journal.Unfinished(ctx)
	return slices.DeleteFunc(open, func(e saga.Entry) bool {
		var n note
		old := slices.ContainsFunc(l.s.unfinished, func(u saga.Entry) bool { return u.ID == e.ID })
		return !old || json.Unmarshal(e.Data, &n) != nil || !l.accept(e.Kind, n)
	}), err
}

// recall reads what sagas of an earlier process left, and keeps scans away
// from their volumes.
func (s *Storage) recall(ctx context.Context) (err error) {
	if s.unfinished, err = s.journal.Unfinished(ctx); err != nil {
		return err
	}
	for _, e := range s.unfinished {
		var n note
		if json.Unmarshal(e.Data, &n) == nil && n.Volume != "" {
			s.moving.add(n.Volume)
		}
	}
	return nil
}

// resolve puts right what sagas of an earlier process left, as far as accept
// takes it.
func (s *Storage) resolve(ctx context.Context, accept func(kind string, n note) bool) {
	err := saga.Resume(ctx, leftovers{s.journal, s, accept}, s.resolvers(), s.PlugTimeout, s.Env.Log)
	if err != nil {
		s.Env.Log.Error("an operation on storage stays unfinished", "error", err)
	}
}

// ofSR accepts what concerns an SR by itself.
func ofSR(uuid string) func(string, note) bool {
	return func(kind string, n note) bool {
		return n.SR == uuid && (kind == kindSRCreate || kind == kindSRDestroy)
	}
}

// onVolumesOf accepts what concerns the volumes of an SR, which must be
// attached for it.
func onVolumesOf(uuid string) func(string, note) bool {
	return func(kind string, n note) bool { return n.SR == uuid && !ofSR(uuid)(kind, n) }
}

func (s *Storage) resolvers() map[string]saga.Resolver {
	out := map[string]saga.Resolver{}
	for kind, f := range map[string]func(ctx context.Context, n note) error{
		kindMake: s.resolveMake, kindDestroy: s.resolveDestroy, kindResize: s.resolveResize,
		kindPlug: s.resolvePlug, kindUnplug: s.resolveUnplug, kindMedia: s.resolveMedia,
		kindSRCreate: s.resolveSRCreate, kindSRDestroy: s.resolveSRDestroy,
	} {
		out[kind] = func(ctx context.Context, e saga.Entry) error {
			var n note
			if err := json.Unmarshal(e.Data, &n); err != nil {
				return err
			}
			err := f(ctx, n)
			if err == nil && n.Volume != "" {
				s.moving.drop(n.Volume) // recall added it
			}
			return err
		}
	}
	return out
}

// allocatorOf is the attached SR of a note.
func (s *Storage) allocatorOf(n note) (sm.Allocator, error) {
	store, err := s.Env.Node.Storage.SR(n.SR)
	if err != nil {
		return nil, err
	}
	alloc, ok := store.(sm.Allocator)
	if !ok {
		return nil, sm.ErrNotSupported
	}
	return alloc, nil
}

// resolveMake removes a volume that has got no record.
func (s *Storage) resolveMake(ctx context.Context, n note) error {
	if s.Env.DB.View().ByUUID(xenapi.Class((*xenapi.VDI)(nil)), n.Volume) != "" {
		return nil
	}
	alloc, err := s.allocatorOf(n)
	if err != nil {
		return err
	}
	return alloc.DestroyVolume(ctx, n.Volume)
}

// resolveDestroy finishes the removal of a disk.
func (s *Storage) resolveDestroy(ctx context.Context, n note) error {
	alloc, err := s.allocatorOf(n)
	if err != nil {
		return err
	}
	if err := alloc.DestroyVolume(ctx, n.Volume); err != nil {
		return err
	}
	return s.Env.Update(ctx, func(tx *db.Tx) error { return dropVDI(tx, n.VDI) })
}

// resolveResize records the size that a volume has got.
func (s *Storage) resolveResize(ctx context.Context, n note) error {
	if db.Find(s.Env.DB.View(), n.VDI) == nil {
		return nil
	}
	return s.refresh(ctx, n.VDI)
}

// driveOf is the drive of a note, and whether its record is still there.
func (s *Storage) driveOf(n note) (hotDrive, bool) {
	vbd := db.Find(s.Env.DB.View(), n.VBD)
	return hotDrive{ref: n.VBD, vbd: vbd, uuid: n.UUID, device: n.Device}, vbd != nil
}

// resolvePlug unplugs a disk that was not recorded as plugged.
func (s *Storage) resolvePlug(ctx context.Context, n note) error {
	d, there := s.driveOf(n)
	if there && d.vbd.CurrentlyAttached {
		return nil
	}
	return s.detachDisk(ctx, d, true)
}

// resolveUnplug finishes an unplug, if the guest lets go; else the drive stays
// plugged.
func (s *Storage) resolveUnplug(ctx context.Context, n note) error {
	d, there := s.driveOf(n)
	if !there || !d.vbd.CurrentlyAttached {
		return nil
	}
	err := s.detachDisk(ctx, d, false)
	if xenapi.Code(err) == "DEVICE_DETACH_REJECTED" {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		vbd, err := db.Edit(tx, n.VBD)
		if err == nil {
			vbd.CurrentlyAttached, vbd.Device = false, ""
		}
		return err
	})
}

// resolveMedia makes a domain's drive hold what its record says.
func (s *Storage) resolveMedia(ctx context.Context, n note) error {
	d, there := s.driveOf(n)
	if !there || !d.vbd.CurrentlyAttached {
		return nil
	}
	if d.vbd.Empty {
		return s.setMedium(ctx, d, diskSource(sm.Attachment{}))
	}
	at, err := s.AttachVDI(ctx, d.vbd.VDI, Holder(d.ref), true)
	if err != nil {
		return err
	}
	return s.setMedium(ctx, d, diskSource(at))
}

// resolveSRCreate removes an SR whose making was cut; what lies at its place
// and is somebody else's stays.
func (s *Storage) resolveSRCreate(ctx context.Context, n note) error {
	if err := s.eraseSR(ctx, n); forgiven(err) != nil {
		return err
	}
	return s.forgetSR(ctx, n)
}

// resolveSRDestroy finishes the removal of an SR. One that has volumes after
// all stays.
func (s *Storage) resolveSRDestroy(ctx context.Context, n note) error {
	err := s.eraseSR(ctx, n)
	if errors.Is(err, sm.ErrNotEmpty) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.forgetSR(ctx, n)
}

func (s *Storage) eraseSR(ctx context.Context, n note) error {
	rd := s.Env.DB.View()
	driver, err := s.driver(n.Type)
	if err != nil {
		return err
	}
	spec := sm.Spec{UUID: n.SR, Config: revealed(rd, n.Config)}
	if sr := db.Find(rd, srByUUID(rd, n.SR)); sr != nil && len(sr.PBDs) > 0 {
		if pbd := db.Find(rd, sr.PBDs[0]); pbd != nil {
			spec.Config = revealed(rd, pbd.DeviceConfig)
		}
	}
	return driver.Destroy(ctx, spec)
}

func (s *Storage) forgetSR(ctx context.Context, n note) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error { return dropSR(tx, srByUUID(tx, n.SR)) })
}

func srByUUID(rd db.Reader, uuid string) xenapi.SRRef {
	return xenapi.SRRef(rd.Snapshot().ByUUID(xenapi.Class((*xenapi.SR)(nil)), uuid))
}
