package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"xapid/pkg/sm"
	"xapid/pkg/sm/vhd"
)

// sr is an attached SR.
type sr struct {
	driver *Driver
	uuid   string
	path   string
	dir    *dir
	now    func() time.Time

	holders sm.Holders
	blobs   atomic.Int64 // counts OpenVolume, for the holders' names

	life     sync.RWMutex // held for reading by every call, for writing by Detach
	detached bool
}

var (
	_ sm.SR        = (*sr)(nil)
	_ sm.Allocator = (*sr)(nil)
	_ sm.Resizer   = (*sr)(nil)
)

// enter begins a call; after success leave ends it.
func (s *sr) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.life.RLock()
	if s.detached {
		s.life.RUnlock()
		return sm.Failure(sm.CodeSRGone, "detached", nil)
	}
	return nil
}

func (s *sr) leave() { s.life.RUnlock() }

// Stat gives the sizes of the file system.
func (s *sr) Stat(ctx context.Context) (sm.Stat, error) {
	if err := s.enter(ctx); err != nil {
		return sm.Stat{}, err
	}
	defer s.leave()
	size, free, err := s.dir.space()
	if err != nil {
		return sm.Stat{}, sm.Failure(sm.CodeSRGone, "", err)
	}
	volumes, err := s.scan(ctx)
	if err != nil {
		return sm.Stat{}, err
	}
	st := sm.Stat{PhysicalBytes: size, UsedBytes: size - free}
	for _, v := range volumes {
		st.VirtualBytes += v.VirtualBytes
	}
	return st, nil
}

// AttachVolume gives the path of the volume's file, once it was found to be sound. An image with blocks in
// impossible places can be attached for reading alone.
func (s *sr) AttachVolume(ctx context.Context, id, holder string, mode sm.Mode) (sm.Attachment, error) {
	if err := s.enter(ctx); err != nil {
		return sm.Attachment{}, err
	}
	defer s.leave()
	format, err := s.find(id)
	if err != nil {
		return sm.Attachment{}, err
	}
	if mode == sm.Shared && format != sm.FormatRaw {
		return sm.Attachment{}, fmt.Errorf("%w: %s images have one writer", sm.ErrNotSupported, format)
	}
	added, err := s.holders.Acquire(id, holder, mode)
	if err != nil {
		return sm.Attachment{}, err
	}
	if err := s.checkSound(id, format, mode); err != nil {
		if added {
			s.holders.Release(id, holder)
		}
		return sm.Attachment{}, err
	}
	return sm.Attachment{Path: filepath.Join(s.path, fileName(id, format)), Format: format}, nil
}

func (s *sr) checkSound(id string, format sm.Format, mode sm.Mode) error {
	f, im, err := s.openFile(id, format, false)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	if im == nil || mode == sm.ReadOnly {
		return nil
	}
	if broken := im.Broken(); len(broken) > 0 {
		return sm.Failure(sm.CodeVolumeGone, reason(broken[0]), broken[0])
	}
	return nil
}

// openFile opens a volume's file, and the image in it if it is one.
func (s *sr) openFile(id string, format sm.Format, writable bool) (*handle, *vhd.Image, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	f, err := s.dir.open(fileName(id, format), flag)
	if err != nil {
		return nil, nil, sm.Failure(sm.CodeVolumeGone, reason(err), err)
	}
	if format == sm.FormatRaw {
		return f, nil, nil
	}
	im, err := vhd.Open(f, writable)
	if err == nil {
		return f, im, nil
	}
	f.Close() // nothing was written
	return nil, nil, imageError(err)
}

// DetachVolume ends a hold.
func (s *sr) DetachVolume(ctx context.Context, id, holder string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	s.holders.Release(id, holder)
	return nil
}

// OpenVolume opens a volume's bytes.
func (s *sr) OpenVolume(ctx context.Context, id string, mode sm.Mode) (sm.Blob, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	format, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if mode == sm.Shared && format != sm.FormatRaw {
		return nil, fmt.Errorf("%w: %s images have one writer", sm.ErrNotSupported, format)
	}
	holder := fmt.Sprintf("\x00open %d", s.blobs.Add(1))
	if _, err := s.holders.Acquire(id, holder, mode); err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { s.holders.Release(id, holder) })
	f, im, err := s.openFile(id, format, mode != sm.ReadOnly)
	if err != nil {
		release()
		return nil, err
	}
	if im != nil {
		return &imageBlob{Image: im, f: f, release: release}, nil
	}
	info, err := f.Stat()
	if err != nil {
		release()
		f.Close() // nothing was written
		return nil, sm.Failure(sm.CodeVolumeGone, "", err)
	}
	return &rawBlob{f: f, size: info.Size(), writable: mode != sm.ReadOnly, release: release}, nil
}

// Detach unlocks the directory.
func (s *sr) Detach(context.Context) error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.detached {
		return nil
	}
	if s.holders.Busy() {
		return sm.ErrSRInUse
	}
	s.detached = true
	s.driver.forget(s)
	if err := s.dir.close(); err != nil {
		return sm.Failure(sm.CodeIO, "", err)
	}
	return nil
}

func (d *Driver) forget(s *sr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.attached, s.uuid)
}
