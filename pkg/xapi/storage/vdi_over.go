package storage

import (
	"bytes"
	"context"
	"errors"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// copyOver copies a disk over another one, or into a new one what differs from
// a base.
func (s *Storage) copyOver(ctx context.Context, p service.VDICopyParams, sr xenapi.SRRef, progress func(float64)) (xenapi.VDIRef, error) {
	rd := s.Env.DB.View()
	if p.IntoVDI != xenapi.Null {
		into, to, err := s.volumeOf(rd, p.IntoVDI)
		if err != nil {
			return "", err
		}
		err = saga.Run(ctx, saga.Options{Progress: progress, Log: s.Env.Log, Hook: s.Hook}, "VDI.copy", []saga.Step{
			{Name: "copy the bytes", Timeout: copyTime(into.VirtualSize), Do: func(ctx context.Context) error {
				return s.fill(ctx, rd, p, to.store, into.Location)
			}}})
		return p.IntoVDI, subject{sr: sr, vdi: p.IntoVDI, op: string(xenapi.VDIOperationsCopy)}.fault(err)
	}
	vdi, err := db.Get(rd, p.VDI)
	if err != nil {
		return "", err
	}
	to, err := s.placeOf(rd, sr)
	if err != nil {
		return "", err
	}
	spec := sm.VolumeSpec{UUID: xenapi.NewUUID(), SizeBytes: vdi.VirtualSize}
	step := saga.Step{Name: "copy what differs", Weight: 20, Timeout: copyTime(vdi.VirtualSize)}
	return s.make(ctx, to, spec, copied(vdi), progress, step, func(ctx context.Context) (sm.Volume, error) {
		alloc, err := to.allocator()
		if err != nil {
			return sm.Volume{}, err
		}
		v, err := alloc.CreateVolume(ctx, spec)
		if err != nil {
			return v, err
		}
		return v, s.fill(ctx, rd, p, to.store, v.ID)
	})
}

// fill writes the bytes of a copy's source into a volume: all of them, or
// those that differ from its base.
func (s *Storage) fill(ctx context.Context, rd db.Reader, p service.VDICopyParams, store sm.SR, location string) (err error) {
	src, err := s.open(ctx, rd, p.VDI)
	if err != nil {
		return err
	}
	defer src.Close() // only read: nothing to lose
	dst, err := store.OpenVolume(ctx, location, sm.ReadWrite)
	if err != nil {
		return subject{sr: p.SR, vdi: p.IntoVDI, op: string(xenapi.VDIOperationsCopy)}.fault(err)
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	var to sm.Blob = dst
	if p.BaseVDI != xenapi.Null {
		base, err := s.open(ctx, rd, p.BaseVDI)
		if err != nil {
			return err
		}
		defer base.Close() // only read: nothing to lose
		to = delta{dst, base}
	}
	if err := sm.CopyData(ctx, to, src, false, reporter(ctx)); err != nil {
		return err
	}
	return dst.Sync()
}

// open opens a VDI for reading.
func (s *Storage) open(ctx context.Context, rd db.Reader, ref xenapi.VDIRef) (sm.Blob, error) {
	vdi, p, err := s.volumeOf(rd, ref)
	if err != nil {
		return nil, err
	}
	b, err := p.store.OpenVolume(ctx, vdi.Location, sm.ReadOnly)
	return b, subject{sr: p.ref, vdi: ref, op: string(xenapi.VDIOperationsCopy)}.fault(err)
}

// delta is a blob to which only those writes go that differ from a base.
type delta struct {
	sm.Blob
	base sm.Blob
}

// WriteAt drops what the base has at the same place.
func (d delta) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) <= d.base.Size() {
		same := make([]byte, len(p))
		if _, err := d.base.ReadAt(same, off); err != nil {
			return 0, err
		}
		if bytes.Equal(same, p) {
			return len(p), nil
		}
	}
	return d.Blob.WriteAt(p, off)
}
