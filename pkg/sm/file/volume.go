package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"xapid/pkg/sm"
	"xapid/pkg/sm/vhd"
)

// sectorSize is what the size of a raw volume is rounded to.
const sectorSize = 512

// roundSize gives the size that a volume of a format gets.
func roundSize(format sm.Format, size int64) (int64, error) {
	rounded, ok := vhd.RoundSize(size)
	if !ok {
		return 0, sm.Failure(sm.CodeVolumeSize, "VDI size must be between 1 MB and 2088960 MB", nil)
	}
	if format == sm.FormatRaw {
		rounded = (size + sectorSize - 1) / sectorSize * sectorSize
	}
	return rounded, nil
}

// CreateVolume makes a sparse file. A raw volume is refused when the medium has not its whole size free, as its user
// counts on that; an image needs room for its metadata alone.
func (s *sr) CreateVolume(ctx context.Context, spec sm.VolumeSpec) (sm.Volume, error) {
	if err := s.enter(ctx); err != nil {
		return sm.Volume{}, err
	}
	defer s.leave()
	if !sm.IsUUID(spec.UUID) {
		return sm.Volume{}, sm.Failure(sm.CodeInvalidArgument, "the uuid is none", nil)
	}
	if spec.Format == "" {
		spec.Format = sm.FormatVHD
	}
	if spec.Format != sm.FormatVHD && spec.Format != sm.FormatRaw {
		return sm.Volume{}, sm.Failure(sm.CodeVolumeType, "", nil)
	}
	size, err := roundSize(spec.Format, spec.SizeBytes)
	if err != nil {
		return sm.Volume{}, err
	}
	spec.SizeBytes = size
	release, err := s.holders.Exclusive(spec.UUID)
	if err != nil {
		return sm.Volume{}, err
	}
	defer release()
	if _, err := s.find(spec.UUID); err == nil {
		return sm.Volume{}, sm.Failure(sm.CodeVolumeExists, "", nil)
	} else if !errors.Is(err, sm.ErrMissing) {
		return sm.Volume{}, err
	}
	if err := s.create(spec); err != nil {
		return sm.Volume{}, sm.Failure(sm.CodeVolumeCreate, "", err)
	}
	return s.look(spec.UUID, spec.Format)
}

// create writes the file under a name that is no volume's and renames it when it is durable.
func (s *sr) create(spec sm.VolumeSpec) (err error) {
	need := spec.SizeBytes
	if spec.Format == sm.FormatVHD {
		need = vhd.MetadataBytes(spec.SizeBytes)
	}
	if err := s.checkFree(need); err != nil {
		return err
	}
	name := fileName(spec.UUID, spec.Format)
	temp := tempPrefix + name
	defer func() {
		if err != nil {
			s.dir.remove(temp) // what cannot be removed now goes at the next attach
		}
	}()
	if err := s.writeNew(temp, spec); err != nil {
		return err
	}
	if err := s.dir.rename(temp, name); err != nil {
		return err
	}
	if err := s.dir.sync(); err != nil {
		s.dir.remove(name) // empty, and nobody knows of it
		return err
	}
	return nil
}

func (s *sr) writeNew(temp string, spec sm.VolumeSpec) error {
	f, err := s.dir.open(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if spec.Format == sm.FormatVHD {
		err = vhd.Create(f, spec.SizeBytes, s.now())
	} else if err = f.Truncate(spec.SizeBytes); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (s *sr) checkFree(need int64) error {
	_, free, err := s.dir.space()
	if err != nil {
		return err
	}
	if need > free {
		return &sm.FullError{RequestedBytes: need, MaxBytes: free}
	}
	return nil
}

// DestroyVolume removes the file. A hidden image may be what others are differences to, and is refused (80).
func (s *sr) DestroyVolume(ctx context.Context, id string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	release, err := s.holders.Exclusive(id)
	if err != nil {
		return err
	}
	defer release()
	format, err := s.find(id)
	if errors.Is(err, sm.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	if v, _ := s.look(id, format); v.Hidden {
		return sm.Failure(sm.CodeHidden, "it is a base copy", nil)
	}
	if err := s.dir.remove(fileName(id, format)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return sm.Failure(sm.CodeVolumeDelete, "", err)
	}
	if err := s.dir.sync(); err != nil {
		return sm.Failure(sm.CodeVolumeDelete, "", err)
	}
	return nil
}

// ResizeVolume grows the image or the file.
func (s *sr) ResizeVolume(ctx context.Context, id string, sizeBytes int64) (sm.Volume, error) {
	if err := s.enter(ctx); err != nil {
		return sm.Volume{}, err
	}
	defer s.leave()
	format, err := s.find(id)
	if err != nil {
		return sm.Volume{}, err
	}
	size, err := roundSize(format, sizeBytes)
	if err != nil {
		return sm.Volume{}, err
	}
	release, err := s.holders.Exclusive(id)
	if err != nil {
		return sm.Volume{}, err
	}
	defer release()
	if err := s.grow(id, format, size); err != nil {
		return sm.Volume{}, err
	}
	return s.look(id, format)
}

func (s *sr) grow(id string, format sm.Format, size int64) error {
	f, im, err := s.openFile(id, format, true)
	if err != nil {
		return err
	}
	if im != nil {
		err = errors.Join(im.Resize(size), im.Close())
	} else {
		err = s.growRaw(f, size)
	}
	switch err = errors.Join(err, f.Close()); {
	case err == nil:
		return nil
	case errors.Is(err, vhd.ErrShrink):
		return sm.Failure(sm.CodeVolumeSize, "shrinking not allowed", nil)
	case errors.Is(err, vhd.ErrLayout):
		return fmt.Errorf("%w: %w", sm.ErrNotSupported, err)
	}
	return sm.Failure(sm.CodeVolumeResize, reason(err), err)
}

func (s *sr) growRaw(f *handle, size int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size < info.Size() {
		return vhd.ErrShrink
	}
	if err := s.checkFree(size - info.Size()); err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}
