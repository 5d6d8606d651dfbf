// Package pygrub takes a guest's kernel, ramdisk and command line out of its disk, with the pygrub of Xen's tools.
//
// The invariant: what reads a guest's disk is nobody in dom0. pygrub's parsers of file systems meet what a guest's
// root wrote on purpose, so it runs as a user of its own without capabilities, in its own namespaces of processes and
// networks, with limits and a deadline, and the disk is a descriptor that can only be read. Nothing that it leaves is
// trusted but regular files of a bounded size.
//
// Start reading at Pygrub.Extract; run.go has the process, disk.go the descriptor and result.go what is believed.
package pygrub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"xapid/pkg/xenctl"
)

// DefaultUser is the system user that the package's sysusers file makes.
const DefaultUser = "xapid-pygrub"

// prefix begins the names of our folders, so that only these are removed.
const prefix = "boot-"

// Options say where things are. Zero values give the defaults in brackets.
type Options struct {
	// Dir holds a folder for each guest that is being started. Others must be able to pass through it.
	Dir     string
	Program string // pygrub's path [what Find finds]
	User    string // who it runs as [DefaultUser]
	// DeviceDir is where device nodes may be made [/dev].
	DeviceDir string
	Deadline  time.Duration // for one disk [30 s]
}

// Pygrub runs pygrub. One at a time: all run as the same user, so that one that a hostile disk has taken over could
// reach the files and the memory of another.
type Pygrub struct {
	opts   Options
	turn   chan struct{}
	jail   jail
	lookup func(name string) (*user.User, error)
}

// New makes the folder and removes what an earlier process left in it.
func New(opts Options) (*Pygrub, error) {
	if opts.User == "" {
		opts.User = DefaultUser
	}
	if opts.DeviceDir == "" {
		opts.DeviceDir = "/dev"
	}
	if opts.Deadline == 0 {
		opts.Deadline = 30 * time.Second
	}
	if err := os.MkdirAll(opts.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("pygrub: %w", err)
	}
	if err := os.Chmod(opts.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("pygrub: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(opts.Dir, prefix+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("pygrub: what an earlier process left: %w", err)
	}
	return &Pygrub{opts: opts, turn: make(chan struct{}, 1), jail: unprivileged{opts.DeviceDir}, lookup: user.Lookup}, nil
}

// Find gives pygrub's path: the one that is given, if it is there, or where Xen's packages put it, the newest Xen
// before others.
func Find(program string) (string, error) {
	if program != "" {
		return program, executable(program)
	}
	found, err := filepath.Glob("/usr/lib/xen-*/bin/pygrub") // Debian: a folder for each version of Xen
	if err != nil {
		return "", err
	}
	best, highest := "", [2]int{}
	for _, path := range found {
		if v := versionOf(path); executable(path) == nil && (v[0] > highest[0] || v[0] == highest[0] && v[1] >= highest[1]) {
			best, highest = path, v
		}
	}
	for _, path := range []string{best, "/usr/lib/xen/bin/pygrub", "/usr/libexec/xen/bin/pygrub", "/usr/bin/pygrub"} {
		if path != "" && executable(path) == nil {
			return path, nil
		}
	}
	return "", errors.New("pygrub is not installed (Debian's package xen-utils-4.17 has it)")
}

// versionOf reads the numbers of /usr/lib/xen-4.17/bin/pygrub; 4.9 is before 4.17.
func versionOf(path string) (v [2]int) {
	_, name, _ := strings.Cut(path, "/xen-")
	name, _, _ = strings.Cut(name, "/")
	major, minor, _ := strings.Cut(name, ".")
	v[0], _ = strconv.Atoi(major) // what is no number is the oldest
	v[1], _ = strconv.Atoi(minor)
	return v
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0) {
		err = fmt.Errorf("%s is no program", path)
	}
	return err
}

// Ready says with which program and as which user disks are read, or what is missing for it.
func (o Options) Ready() (string, error) {
	program, err := Find(o.Program)
	if err != nil {
		return "", err
	}
	name := o.User
	if name == "" {
		name = DefaultUser
	}
	if _, err := user.Lookup(name); err != nil {
		return "", errNoUser(name)
	}
	return program + " as " + name, nil
}

func errNoUser(name string) error {
	return fmt.Errorf("there is no system user %s to run pygrub as (systemd-sysusers makes it)", name)
}

// failed says that the bootloader did, and why.
func failed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", xenctl.ErrBootloader, fmt.Errorf(format, args...))
}

// Extract reads a disk and returns the files and the command line to boot with. args are PV_bootloader_args, of which
// only those that name things inside of the disk are allowed (ErrInvalid). remove takes the files away again; it is
// nil when there is an error, which then wraps xenctl.ErrBootloader or is the context's.
func (p *Pygrub) Extract(ctx context.Context, disk xenctl.DiskSource, args string) (boot xenctl.Boot, remove func() error, err error) {
	options, err := parseArgs(args)
	if err != nil {
		return boot, nil, err
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return boot, nil, xenctl.ContextError(ctx)
	}
	type outcome struct {
		boot   xenctl.Boot
		remove func() error
		err    error
	}
	done := make(chan outcome)
	go func() { // the disk's storage may have stalled, and then nothing below returns
		defer func() { <-p.turn }()
		boot, remove, err := p.extract(ctx, disk, options)
		select {
		case done <- outcome{boot, remove, err}:
		case <-ctx.Done():
			if remove != nil {
				_ = remove() // nobody is left to be told; the next start removes it
			}
		}
	}()
	select {
	case o := <-done:
		return o.boot, o.remove, o.err
	case <-ctx.Done():
		return boot, nil, xenctl.ContextError(ctx)
	}
}

// extract does it, in a folder that only remove or an error takes away.
func (p *Pygrub) extract(ctx context.Context, disk xenctl.DiskSource, options []string) (boot xenctl.Boot, remove func() error, err error) {
	program, err := Find(p.opts.Program)
	if err != nil {
		return boot, nil, failed("%w", err)
	}
	who, err := p.who()
	if err != nil {
		return boot, nil, failed("%w", err)
	}
	work, err := os.MkdirTemp(p.opts.Dir, prefix)
	if err != nil {
		return boot, nil, failed("%w", err)
	}
	remove = func() error { return os.RemoveAll(work) }
	defer func() {
		if err != nil {
			err, remove = errors.Join(err, remove()), nil
		}
	}()
	out := filepath.Join(work, "out")
	if err := errors.Join(os.Chmod(work, 0o711), os.Mkdir(out, 0o700), os.Chown(out, who.uid, who.gid)); err != nil {
		return boot, nil, failed("%w", err)
	}
	file, err := p.jail.open(disk, who.gid)
	if err != nil {
		return boot, remove, failed("the disk: %w", err)
	}
	defer file.Close()
	argv := append([]string{program, "-q", "--output-format=simple0", "--output-directory=" + out}, options...)
	text, err := p.run(ctx, who, append(argv, "/proc/self/fd/3"), file, out)
	if err != nil {
		return boot, remove, err
	}
	boot, err = believe(text, out, work, who.uid)
	return boot, remove, err
}

// identity is a user by number.
type identity struct{ uid, gid int }

func (p *Pygrub) who() (identity, error) {
	u, err := p.lookup(p.opts.User)
	if err != nil {
		return identity{}, errNoUser(p.opts.User)
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID); err != nil {
		return identity{}, err
	}
	return identity{uid, gid}, nil
}
