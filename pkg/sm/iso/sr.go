package iso

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unicode/utf8"

	"xapid/pkg/sm"
)

// sr is an attached library.
type sr struct {
	driver *Driver
	uuid   string
	path   string
	root   *os.Root

	holders sm.Holders
	blobs   atomic.Int64 // counts OpenVolume, for the holders' names

	life     sync.RWMutex // held for reading by every call, for writing by Detach
	detached bool
}

var _ sm.SR = (*sr)(nil)

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

// isImage tells whether a file name is a volume's.
func isImage(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return (ext == ".iso" || ext == ".img") && utf8.ValidString(name) && !strings.ContainsRune(name, '/')
}

// look describes a volume, or fails with ErrMissing for what is no regular file of an image's name.
func (s *sr) look(name string) (sm.Volume, error) {
	if !isImage(name) {
		return sm.Volume{}, fmt.Errorf("%w: %q", sm.ErrMissing, name)
	}
	info, err := s.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return sm.Volume{}, fmt.Errorf("%w: %s", sm.ErrMissing, name)
	}
	v := sm.Volume{ID: name, Format: sm.FormatRaw, ReadOnly: true, SMConfig: map[string]string{}}
	if err != nil {
		return v, sm.Failure(sm.CodeVolumeGone, "", err)
	}
	if id := strings.TrimSuffix(name, filepath.Ext(name)); sm.IsUUID(id) {
		v.UUID = id
	}
	v.VirtualBytes = info.Size()
	v.PhysicalBytes = info.Sys().(*syscall.Stat_t).Blocks * 512
	return v, nil
}

// Scan lists the images. Their labels are their file names.
func (s *sr) Scan(ctx context.Context) ([]sm.Volume, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	return s.scan(ctx)
}

func (s *sr) scan(ctx context.Context) ([]sm.Volume, error) {
	names, err := s.names()
	if err != nil {
		return nil, sm.Failure(sm.CodeScanFailed, "", err)
	}
	var out []sm.Volume
	for _, name := range names {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		v, err := s.look(name)
		if errors.Is(err, sm.ErrMissing) {
			continue
		}
		v.Err = err
		out = append(out, v)
	}
	return out, nil
}

// names lists the directory, sorted.
func (s *sr) names() ([]string, error) {
	f, err := s.root.Open(".")
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, f.Close())
}

// Stat shows a library that is as large as its images, and full.
func (s *sr) Stat(ctx context.Context) (sm.Stat, error) {
	volumes, err := s.Scan(ctx)
	if err != nil {
		return sm.Stat{}, err
	}
	var st sm.Stat
	for _, v := range volumes {
		st.VirtualBytes += v.VirtualBytes
	}
	st.PhysicalBytes, st.UsedBytes = st.VirtualBytes, st.VirtualBytes
	return st, nil
}

// hold finds a volume and makes holder one of its readers.
func (s *sr) hold(id, holder string, mode sm.Mode) (sm.Volume, error) {
	v, err := s.look(id)
	if err != nil {
		return v, err
	}
	if mode != sm.ReadOnly {
		return v, fmt.Errorf("%w: an ISO library is read-only", sm.ErrNotSupported)
	}
	_, err = s.holders.Acquire(id, holder, mode)
	return v, err
}

// AttachVolume gives the image's path, for reading alone.
func (s *sr) AttachVolume(ctx context.Context, id, holder string, mode sm.Mode) (sm.Attachment, error) {
	if err := s.enter(ctx); err != nil {
		return sm.Attachment{}, err
	}
	defer s.leave()
	if _, err := s.hold(id, holder, mode); err != nil {
		return sm.Attachment{}, err
	}
	return sm.Attachment{Path: filepath.Join(s.path, id), Format: sm.FormatRaw}, nil
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

// OpenVolume opens an image's bytes for reading.
func (s *sr) OpenVolume(ctx context.Context, id string, mode sm.Mode) (sm.Blob, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	holder := fmt.Sprintf("\x00open %d", s.blobs.Add(1))
	v, err := s.hold(id, holder, mode)
	if err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { s.holders.Release(id, holder) })
	f, err := s.root.Open(id)
	if err != nil {
		release()
		return nil, sm.Failure(sm.CodeVolumeGone, "", err)
	}
	return &blob{File: f, size: v.VirtualBytes, release: release}, nil
}

// Detach closes the directory.
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
	return s.root.Close()
}

// blob is an open image. Writes fail, since the file is open for reading.
type blob struct {
	*os.File
	size    int64
	release func()
}

// Size is the length of the image.
func (b *blob) Size() int64 { return b.size }

// Sync has nothing to do.
func (b *blob) Sync() error { return nil }

// Close ends the hold.
func (b *blob) Close() error {
	defer b.release()
	return b.File.Close()
}
