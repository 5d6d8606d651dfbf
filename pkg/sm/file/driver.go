// Package file is the storage driver "file": volumes are files in a local directory, <uuid>.vhd (sparse dynamic
// images) and <uuid>.raw, laid out as XenServer's file driver does, so that its SRs can be attached as they are.
//
// The invariant: a file with a volume's name is a whole volume. It is made under another name (.xapid-…), synced, and
// renamed; what is found under such a name at Attach is what a crash left, and goes.
//
// Nothing outside of the SR's directory is ever opened, and no symbolic link in it is followed. Start with Driver
// here; scan.go tells how files become volumes, volume.go how they are made and grow.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"xapid/pkg/sm"
)

// Options shape a driver. The zero value is for production.
type Options struct {
	// Now gives the time for the images' headers; nil means time.Now.
	Now func() time.Time
	// Fault, for tests, is called before each system call on an SR with what it does ("open", "read", "write",
	// "truncate", "sync", "rename", "remove", "stat", "list", "statfs") and the file's name in the SR. An error
	// makes the call fail with it.
	Fault func(op, name string) error
}

// Driver makes and attaches file SRs.
type Driver struct {
	opts Options

	mu       sync.Mutex
	attached map[string]*sr // by uuid
}

// New returns the driver.
func New(opts Options) *Driver {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Fault == nil {
		opts.Fault = func(string, string) error { return nil }
	}
	return &Driver{opts: opts, attached: map[string]*sr{}}
}

var _ sm.Driver = (*Driver)(nil)

// Info describes the driver.
func (d *Driver) Info() sm.Info {
	return sm.Info{
		Type: "file", Label: "Local directory", Description: "Volumes are files in a local directory",
		Vendor: "xapid", Copyright: "xapid authors", Version: "1.0", RequiredAPIVersion: "1.0", Thin: true,
		Config: []sm.ConfigKey{{Name: "location", Description: "absolute path of the directory, absent or empty at first"}},
	}
}

// Model returns an SR of this driver's kind, for looking at its method set.
func (d *Driver) Model() sm.SR { return (*sr)(nil) }

// location takes the directory out of a device_config.
func location(spec sm.Spec) (string, error) {
	if err := sm.CheckConfig(spec.Config); err != nil {
		return "", err
	}
	if !sm.IsUUID(spec.UUID) {
		return "", sm.Failure(sm.CodeInvalidArgument, "the SR's uuid is none", nil)
	}
	path := spec.Config["location"]
	if path == "" {
		return "", sm.Failure(sm.CodeLocation, "", nil)
	}
	return sm.CheckLocation(path)
}

// Create makes the directory, or takes an empty one.
func (d *Driver) Create(ctx context.Context, spec sm.Spec, _ int64) error {
	path, err := location(spec)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d.isAttached(spec.UUID) {
		return sm.ErrSRInUse
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return sm.Failure(sm.CodeSRCreate, "the directory cannot be made", err)
	}
	dir, err := d.open(path)
	if err != nil {
		return err
	}
	defer dir.close()
	names, err := dir.names()
	if err != nil {
		return sm.Failure(sm.CodeSRCreate, "the directory cannot be read", err)
	}
	if len(names) > 0 {
		return sm.Failure(sm.CodeSRExists, "the directory is not empty", nil)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return sm.Failure(sm.CodeSRCreate, "the directory cannot be synced", err)
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *Driver) isAttached(uuid string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attached[uuid] != nil
}

// open opens and locks the directory of an SR.
func (d *Driver) open(path string) (*dir, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sm.Failure(sm.CodeSRGone, "the directory is not there", err)
	}
	if err != nil {
		return nil, sm.Failure(sm.CodeSRGone, "the directory cannot be reached", err)
	}
	if !info.IsDir() {
		return nil, sm.Failure(sm.CodeSRGone, "the location is not a directory", nil)
	}
	dir, err := openDir(path, d.opts.Fault)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: %s", sm.ErrSRInUse, path)
	}
	if err != nil {
		return nil, sm.Failure(sm.CodeSRGone, "the directory cannot be opened", err)
	}
	return dir, nil
}

// Attach opens the directory and clears away what a crash left in it.
func (d *Driver) Attach(ctx context.Context, spec sm.Spec) (sm.SR, error) {
	path, err := location(spec)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.attached[spec.UUID]; s != nil {
		if s.path != path {
			return nil, fmt.Errorf("%w: attached at another place", sm.ErrSRInUse)
		}
		return s, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	dir, err := d.open(path)
	if err != nil {
		return nil, err
	}
	if err := dir.removeLeftovers(); err != nil {
		dir.close()
		return nil, sm.Failure(sm.CodeSRGone, "what a crash left cannot be removed", err)
	}
	s := &sr{driver: d, uuid: spec.UUID, path: path, dir: dir, now: d.opts.Now}
	d.attached[spec.UUID] = s
	return s, nil
}

// Destroy clears an SR without volumes out of its directory, which stays.
func (d *Driver) Destroy(ctx context.Context, spec sm.Spec) error {
	path, err := location(spec)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d.isAttached(spec.UUID) {
		return sm.ErrSRInUse
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	dir, err := d.open(path)
	if err != nil {
		return err
	}
	defer dir.close()
	names, err := dir.names()
	if err != nil {
		return sm.Failure(sm.CodeSRDelete, "the directory cannot be read", err)
	}
	for _, name := range names {
		if _, _, ok := parseName(name); ok {
			return sm.ErrNotEmpty
		}
	}
	if err := dir.removeLeftovers(); err != nil {
		return sm.Failure(sm.CodeSRDelete, "", err)
	}
	return nil
}
