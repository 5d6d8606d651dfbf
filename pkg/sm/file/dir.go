package file

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"xapid/pkg/sm"
)

// tempPrefix begins the names of files that are not volumes yet.
const tempPrefix = ".xapid-"

// dir is an SR's directory, locked for this process. All names are base names.
type dir struct {
	root  *os.Root
	lock  *os.File // the directory itself
	fault func(op, name string) error
}

// openDir fails with EWOULDBLOCK when another SR or process has the directory.
func openDir(path string, fault func(op, name string) error) (*dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	lock, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, lock.Close(), root.Close())
	}
	return &dir{root: root, lock: lock, fault: fault}, nil
}

func (d *dir) close() error { return errors.Join(d.lock.Close(), d.root.Close()) }

// names lists the directory, sorted.
func (d *dir) names() ([]string, error) {
	if err := d.fault("list", ""); err != nil {
		return nil, err
	}
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, f.Close())
}

// stat looks at a regular file; anything else, a symbolic link above all, is errNotRegular.
func (d *dir) stat(name string) (fs.FileInfo, error) {
	if err := d.fault("stat", name); err != nil {
		return nil, err
	}
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	return info, nil
}

var errNotRegular = errors.New("not a regular file")

// open opens a regular file.
func (d *dir) open(name string, flag int) (*handle, error) {
	if flag&os.O_CREATE == 0 {
		if _, err := d.stat(name); err != nil {
			return nil, err
		}
	}
	if err := d.fault("open", name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, flag|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	return &handle{File: f, name: name, fault: d.fault}, nil
}

func (d *dir) remove(name string) error {
	if err := d.fault("remove", name); err != nil {
		return err
	}
	return d.root.Remove(name)
}

func (d *dir) rename(from, to string) error {
	if err := d.fault("rename", to); err != nil {
		return err
	}
	return d.root.Rename(from, to)
}

// sync makes names durable.
func (d *dir) sync() error {
	if err := d.fault("sync", ""); err != nil {
		return err
	}
	return d.lock.Sync()
}

// space tells the size of the file system and what is free for us, in bytes.
func (d *dir) space() (size, free int64, err error) {
	if err := d.fault("statfs", ""); err != nil {
		return 0, 0, err
	}
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(d.lock.Fd()), &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// removeLeftovers removes files that a crash left: our own, and the "<uuid>.vhd.new" of a snapshot in XenServer that
// had not yet taken the place of <uuid>.vhd. On a read-only medium it does nothing.
func (d *dir) removeLeftovers() error {
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		old, isNew := strings.CutSuffix(name, ".new")
		_, _, isVolume := parseName(old)
		replaced := isNew && isVolume && slices.Contains(names, old)
		if !strings.HasPrefix(name, tempPrefix) && !replaced {
			continue
		}
		if err := d.remove(name); errors.Is(err, syscall.EROFS) {
			return nil
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// parseName takes a file name apart; ok is false for one that is no volume's.
func parseName(name string) (id string, format sm.Format, ok bool) {
	id, ext, _ := strings.Cut(name, ".")
	if !sm.IsUUID(id) {
		return "", "", false
	}
	format = sm.Format(ext)
	return id, format, format == sm.FormatVHD || format == sm.FormatRaw
}

func fileName(id string, format sm.Format) string { return id + "." + string(format) }

// handle is an open file under the fault hook. It satisfies vhd.File.
type handle struct {
	*os.File
	name  string
	fault func(op, name string) error
}

// ReadAt reads.
func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.fault("read", h.name); err != nil {
		return 0, err
	}
	return h.File.ReadAt(p, off)
}

// WriteAt writes.
func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	if err := h.fault("write", h.name); err != nil {
		return 0, err
	}
	return h.File.WriteAt(p, off)
}

// Truncate sets the length.
func (h *handle) Truncate(size int64) error {
	if err := h.fault("truncate", h.name); err != nil {
		return err
	}
	return h.File.Truncate(size)
}

// Sync makes the contents durable.
func (h *handle) Sync() error {
	if err := h.fault("sync", h.name); err != nil {
		return err
	}
	return h.File.Sync()
}
