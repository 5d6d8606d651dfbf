package file

import (
	"errors"
	"io"
	"syscall"

	"xapid/pkg/sm"
	"xapid/pkg/sm/vhd"
)

// Values of whence that Linux has for sparse files, lseek(2).
const (
	seekData = 3
	seekHole = 4
)

// imageBlob is an open VHD volume.
type imageBlob struct {
	*vhd.Image
	f       *handle
	release func()
}

// ReadAt reads, with the storage layer's errors.
func (b *imageBlob) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.Image.ReadAt(p, off)
	return n, ioError(err)
}

// WriteAt writes, with the storage layer's errors.
func (b *imageBlob) WriteAt(p []byte, off int64) (int, error) {
	n, err := b.Image.WriteAt(p, off)
	return n, ioError(err)
}

// NextData finds data, with the storage layer's errors.
func (b *imageBlob) NextData(off int64) (start, end int64, err error) {
	start, end, err = b.Image.NextData(off)
	return start, end, ioError(err)
}

// Sync syncs, with the storage layer's errors.
func (b *imageBlob) Sync() error { return ioError(b.Image.Sync()) }

// Close writes what is still to be written and ends the hold.
func (b *imageBlob) Close() error {
	defer b.release()
	return ioError(errors.Join(b.Image.Close(), b.f.Close()))
}

// rawBlob is an open raw volume.
type rawBlob struct {
	f        *handle
	size     int64
	writable bool
	release  func()
}

var (
	_ sm.Sparse = (*imageBlob)(nil)
	_ sm.Sparse = (*rawBlob)(nil)
)

// Size is the length of the file when it was opened; it does not change while it is held.
func (b *rawBlob) Size() int64 { return b.size }

// ReadAt reads.
func (b *rawBlob) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.f.ReadAt(p, off)
	return n, ioError(err)
}

// WriteAt writes within the volume.
func (b *rawBlob) WriteAt(p []byte, off int64) (int, error) {
	if !b.writable {
		return 0, vhd.ErrReadOnly
	}
	if off < 0 || int64(len(p)) > b.size || off > b.size-int64(len(p)) {
		return 0, vhd.ErrOutOfRange
	}
	n, err := b.f.WriteAt(p, off)
	return n, ioError(err)
}

// Sync makes what was written durable.
func (b *rawBlob) Sync() error { return ioError(b.f.Sync()) }

// Close syncs what was written and ends the hold.
func (b *rawBlob) Close() error {
	defer b.release()
	var err error
	if b.writable {
		err = b.f.Sync()
	}
	return ioError(errors.Join(err, b.f.Close()))
}

// NextData asks the file system where data is.
func (b *rawBlob) NextData(off int64) (start, end int64, err error) {
	start, err = b.f.Seek(off, seekData)
	if errors.Is(err, syscall.ENXIO) {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, ioError(err)
	}
	end, err = b.f.Seek(start, seekHole)
	if err != nil {
		return 0, 0, ioError(err)
	}
	return start, min(end, b.size), nil
}

// ioError gives a failed read or write its number.
func ioError(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, vhd.ErrOutOfRange) || errors.Is(err, vhd.ErrReadOnly) {
		return err
	}
	return sm.Failure(sm.CodeIO, reason(err), err)
}

// imageError is the storage layer's error for one of package vhd at opening.
func imageError(err error) error {
	if errors.Is(err, vhd.ErrDifferencing) || errors.Is(err, vhd.ErrLayout) {
		return errors.Join(sm.ErrNotSupported, err)
	}
	return sm.Failure(sm.CodeVolumeGone, reason(err), err)
}
