package sm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// copyChunk is how much is read at a time; a VHD block, so that each is written at once.
	copyChunk = 2 << 20
	// zeroPiece is the unit in which zeros are left out.
	zeroPiece = 64 << 10
	// cleanupTime bounds the removal of a half-made copy.
	cleanupTime = time.Minute
)

// Copy makes a volume in dst that has all bytes of the volume srcID of src; the two may be one SR. Its size is
// spec.SizeBytes, or the source's if that is 0; less than the source's is code 79. What is zero in the source takes
// no room where the driver is thin. The source is held for reading meanwhile, so that one with a writer
// is ErrInUse. progress, if not nil, is called now and then from this goroutine with the position reached and the
// whole, in bytes. After a failure, or when ctx ends, nothing is left of the copy. When Copy returns it is on stable
// storage.
func Copy(ctx context.Context, src SR, srcID string, dst SR, spec VolumeSpec, progress func(done, total int64)) (Volume, error) {
	alloc, ok := dst.(Allocator)
	if !ok {
		return Volume{}, ErrNotSupported
	}
	from, err := src.OpenVolume(ctx, srcID, ReadOnly)
	if err != nil {
		return Volume{}, fmt.Errorf("copy from %s: %w", srcID, err)
	}
	defer from.Close() // only read: nothing to lose
	if spec.SizeBytes == 0 {
		spec.SizeBytes = from.Size()
	}
	if spec.SizeBytes < from.Size() {
		return Volume{}, Failure(CodeVolumeSize, "smaller than the source", nil)
	}
	if err := checkRoom(ctx, dst, from); err != nil {
		return Volume{}, err
	}
	made, err := alloc.CreateVolume(ctx, spec)
	if err != nil {
		return Volume{}, err
	}
	if err := fill(ctx, dst, made.ID, from, progress); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		return Volume{}, errors.Join(err, alloc.DestroyVolume(ctx, made.ID))
	}
	return made, nil
}

// checkRoom fails with a *FullError when the data of a volume is more than what is free.
func checkRoom(ctx context.Context, dst SR, from Blob) error {
	st, err := dst.Stat(ctx)
	if err != nil {
		return err
	}
	need := int64(0)
	for off := int64(0); ; {
		start, end, err := nextData(from, off)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		need, off = need+end-start, end
	}
	if free := st.PhysicalBytes - st.UsedBytes; need > free {
		return &FullError{RequestedBytes: need, MaxBytes: max(free, 0)}
	}
	return nil
}

func fill(ctx context.Context, dst SR, id string, from Blob, progress func(done, total int64)) error {
	to, err := dst.OpenVolume(ctx, id, ReadWrite)
	if err != nil {
		return fmt.Errorf("copy to %s: %w", id, err)
	}
	err = CopyData(ctx, to, from, true, progress)
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// CopyData writes all bytes of src to the beginning of dst, which must be at least as large (code 79). If empty is set,
// dst is known to be all zeros, and zeros are not written. It does not sync.
func CopyData(ctx context.Context, dst, src Blob, empty bool, progress func(done, total int64)) error {
	total := src.Size()
	if dst.Size() < total {
		return Failure(CodeVolumeSize, "smaller than the source", nil)
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	c := copier{dst: dst, src: src, empty: empty, buf: make([]byte, min(copyChunk, total))}
	for off := int64(0); off < total; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		start, end, err := nextData(src, off)
		if err == io.EOF {
			start, end, err = total, total, nil
		}
		switch {
		case err != nil:
		case start == off:
			off, err = c.data(off, end)
		case empty:
			off = start
		default:
			off, err = c.zeros(off, start)
		}
		if err != nil {
			return err
		}
		progress(off, total)
	}
	return nil
}

// copier moves a chunk at a time.
type copier struct {
	dst, src Blob
	empty    bool
	buf      []byte
}

// chunk returns the part of buf that reaches from off to end or the next multiple of copyChunk.
func (c *copier) chunk(off, end int64) []byte {
	return c.buf[:min(end-off, copyChunk-off%copyChunk, int64(len(c.buf)))]
}

func (c *copier) zeros(off, end int64) (int64, error) {
	b := c.chunk(off, end)
	clear(b)
	n, err := c.dst.WriteAt(b, off)
	return off + int64(n), err
}

func (c *copier) data(off, end int64) (int64, error) {
	b := c.chunk(off, end)
	if n, err := c.src.ReadAt(b, off); n < len(b) {
		return off, fmt.Errorf("copy: read at %d: %w", off, err)
	}
	next := off + int64(len(b))
	if !c.empty {
		_, err := c.dst.WriteAt(b, off)
		return next, err
	}
	for len(b) > 0 {
		n := dataPieces(b)
		if _, err := c.dst.WriteAt(b[:n], off); n > 0 && err != nil {
			return off, err
		}
		b, off = b[n:], off+int64(n)
		for len(b) > 0 && zeroStart(b) {
			n := min(zeroPiece, len(b))
			b, off = b[n:], off+int64(n)
		}
	}
	return next, nil
}

// dataPieces is the length of the pieces at the beginning of b that are not all zeros.
func dataPieces(b []byte) int {
	n := 0
	for n < len(b) && !zeroStart(b[n:]) {
		n += min(zeroPiece, len(b)-n)
	}
	return n
}

var zeroBytes [zeroPiece]byte

// zeroStart tells whether the first piece of b is all zeros.
func zeroStart(b []byte) bool {
	n := min(zeroPiece, len(b))
	return bytes.Equal(b[:n], zeroBytes[:n])
}

// nextData is Sparse.NextData, or all the rest for a blob that has no such knowledge.
func nextData(b Blob, off int64) (start, end int64, err error) {
	if s, ok := b.(Sparse); ok {
		return s.NextData(off)
	}
	if off >= b.Size() {
		return 0, 0, io.EOF
	}
	return off, b.Size(), nil
}
