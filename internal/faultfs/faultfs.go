// Package faultfs is a file system that forgets: it passes everything through
// and, at a power cut, takes back at random what nobody had synced.
//
// Its one invariant: what fsync covered survives every Cut, the contents of a
// file by an fsync of the file, a name by an fsync of its directory, as POSIX
// promises and no more. Start reading at FS, then Cut.
package faultfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// FS is the file system's memory; it outlives its mounts. The contents of its
// files lie in a directory of the real file system, one file each.
type FS struct {
	backing string

	mu      sync.Mutex // guards all that follows and all files and directories
	root    *dir
	lastID  uint64
	pending []nameChange
	files   []*file

	server *fuse.Server
}

// dir is a directory: the names as they are, and as a power cut leaves them.
type dir struct {
	id            uint64
	live, durable map[string]entry
}

// entry is what a name stands for: one of the two.
type entry struct {
	file *file
	dir  *dir
}

// nameChange is a creation, removal or renaming: edits that a power cut takes
// or leaves together.
type nameChange []nameEdit

type nameEdit struct {
	in   *dir
	name string
	to   entry // zero: the name is gone
}

// New makes an empty file system whose files' contents lie in backing.
func New(backing string) *FS {
	f := &FS{backing: backing}
	f.root = f.newDir()
	return f
}

// Missing says what this machine lacks to mount one, or is empty.
func Missing() string {
	if os.Geteuid() != 0 {
		return "root, to mount a file system"
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return "/dev/fuse"
	}
	return ""
}

// Mount shows the file system at a directory.
func (f *FS) Mount(at string) (err error) {
	opts := &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faultfs", Name: "faultfs", DisableXAttrs: true}}
	f.server, err = fs.Mount(at, &dirNode{fs: f, dir: f.root}, opts)
	return err
}

// Unmount takes it away again; nobody may have it open.
func (f *FS) Unmount() error {
	err := f.server.Unmount()
	if err == nil {
		f.server = nil
	}
	return err
}

// Close unmounts the file system, if it is mounted, and releases the files.
func (f *FS) Close() error {
	var errs []error
	if f.server != nil {
		errs = append(errs, f.Unmount())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, file := range f.files {
		errs = append(errs, file.data.Close())
	}
	return errors.Join(errs...)
}

func (f *FS) newDir() *dir {
	f.lastID++
	return &dir{id: f.lastID, live: map[string]entry{}, durable: map[string]entry{}}
}

func (f *FS) newFile() (*file, error) {
	f.lastID++
	data, err := os.Create(filepath.Join(f.backing, fmt.Sprint(f.lastID)))
	if err != nil {
		return nil, err
	}
	n := &file{id: f.lastID, data: data}
	f.files = append(f.files, n)
	return n, nil
}

// change carries out edits of names; under mu.
func (f *FS) change(edits ...nameEdit) {
	for _, e := range edits {
		e.apply(e.in.live)
	}
	f.pending = append(f.pending, edits)
}

func (e nameEdit) apply(names map[string]entry) {
	if e.to == (entry{}) {
		delete(names, e.name)
		return
	}
	names[e.name] = e.to
}

func (c nameChange) keep() {
	for _, e := range c {
		e.apply(e.in.durable)
	}
}

func (c nameChange) touches(d *dir) bool {
	for _, e := range c {
		if e.in == d {
			return true
		}
	}
	return false
}

// syncDir makes the names in a directory durable.
func (f *FS) syncDir(d *dir) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := f.pending[:0]
	for _, c := range f.pending {
		if c.touches(d) {
			c.keep()
		} else {
			rest = append(rest, c)
		}
	}
	f.pending = rest
}
