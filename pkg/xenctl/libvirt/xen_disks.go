package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/loopdev"
)

// staged are the disks of one incarnation of a domain that are there because a loop device is: its device goes when
// nobody has it open any more, the domain's back end and this process.
type staged struct {
	id    int // of the domain, 0 while it is being made
	loops map[string]*os.File
}

// stage gives a disk the source that the domain's description names: a link that is called after the domain and the
// disk, and leads to a block device. So a saved domain, which libvirt restores as it was described, finds its disks
// wherever they are by then; and a raw file needs no QEMU to serve it (which a domain that started without has not).
func (x *Xen) stage(uuid string, t xenctl.DomainType, disk xenctl.Disk) (xenctl.Disk, error) {
	if disk.Source.Path == "" || t == xenctl.TypeHVM && disk.CDROM {
		return disk, nil
	}
	target := disk.Source.Path
	if disk.Source.Kind == xenctl.DiskFile {
		loop, err := openLoop(target, disk.ReadOnly || disk.CDROM)
		if err != nil {
			return disk, local(fmt.Errorf("%w: %w", xenctl.ErrInvalid, err))
		}
		target = loop.Name()
		x.hold(uuid, disk.Device, loop)
	}
	link := filepath.Join(x.run, uuid, disk.Device)
	if err := relink(target, link); err != nil {
		x.unstage(uuid, disk.Device)
		return disk, local(err)
	}
	disk.Source = xenctl.DiskSource{Kind: xenctl.DiskBlock, Path: link}
	return disk, nil
}

// stageAll stages the disks of a domain that is to be made.
func (x *Xen) stageAll(cfg *xenctl.DomainConfig) (*xenctl.DomainConfig, error) {
	x.mu.Lock()
	old := x.disks[cfg.UUID]
	delete(x.disks, cfg.UUID)
	x.mu.Unlock()
	old.close()
	out := *cfg
	out.Disks = nil
	for _, disk := range cfg.Disks {
		ready, err := x.stage(cfg.UUID, cfg.Type, disk)
		if err != nil {
			x.release(cfg.UUID, 0)
			return nil, err
		}
		out.Disks = append(out.Disks, ready)
	}
	return &out, nil
}

func (x *Xen) hold(uuid, device string, loop *os.File) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.disks[uuid]
	if s == nil {
		s = &staged{loops: map[string]*os.File{}}
		x.disks[uuid] = s
	}
	s.loops[device] = loop
}

// staying says which incarnation the disks that are staged belong to.
func (x *Xen) staying(uuid string, id int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.disks[uuid]; s != nil {
		s.id = id
	}
}

// release lets go of the disks of an incarnation that has gone, or was never made (0).
func (x *Xen) release(uuid string, id int) {
	x.mu.Lock()
	s := x.disks[uuid]
	if s != nil && s.id != id {
		x.mu.Unlock()
		return
	}
	delete(x.disks, uuid)
	x.mu.Unlock()
	s.close()
	if err := os.RemoveAll(filepath.Join(x.run, uuid)); err != nil {
		x.log.Warn("the links to a domain's disks stay", "domain", uuid, "error", err)
	}
}

// unstage lets go of one disk.
func (x *Xen) unstage(uuid, device string) {
	x.mu.Lock()
	var loop *os.File
	if s := x.disks[uuid]; s != nil {
		loop = s.loops[device]
		delete(s.loops, device)
	}
	x.mu.Unlock()
	if loop != nil {
		loop.Close()
	}
	if err := os.Remove(filepath.Join(x.run, uuid, device)); err != nil && !errors.Is(err, os.ErrNotExist) {
		x.log.Warn("the link to a disk stays", "domain", uuid, "device", device, "error", err)
	}
}

func (s *staged) close() {
	if s == nil {
		return
	}
	for _, loop := range s.loops {
		loop.Close()
	}
}

// relink makes a link, in place of one that is there.
func relink(target, link string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
		return err
	}
	fresh := link + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, link)
}

// openLoop makes a file of the host a block device.
func openLoop(path string, readOnly bool) (*os.File, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	file, err := os.OpenFile(path, mode|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is no file", path), err)
	}
	return loopdev.Open(file, readOnly)
}
