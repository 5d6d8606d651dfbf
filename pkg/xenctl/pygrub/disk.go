package pygrub

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/loopdev"
)

// open opens a disk to read. pygrub opens what it is given several times and by name, so an inherited descriptor would
// do only if the user could open the disk itself. It gets a device node of its own, which its group may read and which
// has no name any more when it starts: it can be opened through the descriptor, by this one process. A file becomes a
// read-only loop device, which goes with its last descriptor.
func (u unprivileged) open(disk xenctl.DiskSource, gid int) (*os.File, error) {
	source, err := os.OpenFile(disk.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &st); err != nil {
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return u.node(st.Rdev, gid)
	case unix.S_IFREG:
	default:
		return nil, fmt.Errorf("%s is neither a file nor a block device", disk.Path)
	}
	loop, err := loopdev.Open(source, true)
	if err != nil {
		return nil, err
	}
	defer loop.Close()
	if err := unix.Fstat(int(loop.Fd()), &st); err != nil {
		return nil, err
	}
	return u.node(st.Rdev, gid)
}

// node opens a block device through a node that root owns, the group may read, and nobody finds.
func (u unprivileged) node(device uint64, gid int) (*os.File, error) {
	path := filepath.Join(u.deviceDir, ".xapid-pygrub-"+rand.Text())
	if err := unix.Mknod(path, unix.S_IFBLK, int(device)); err != nil {
		return nil, fmt.Errorf("a device node: %w", err)
	}
	f, err := func() (*os.File, error) {
		if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o440)); err != nil {
			return nil, err
		}
		return os.OpenFile(path, os.O_RDONLY, 0)
	}()
	if e := os.Remove(path); e != nil && err == nil {
		err = errors.Join(e, f.Close())
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}
