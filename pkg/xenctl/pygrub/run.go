package pygrub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"xapid/pkg/xenctl"
)

// The limits of a run.
const (
	maxAnswer    = 16 << 10  // of standard output
	maxComplaint = 64 << 10  // of standard error that is kept
	maxFile      = 256 << 20 // of a kernel or a ramdisk
	maxMemory    = 512 << 20
	maxCPU       = 25 // seconds
	grace        = 2 * time.Second
)

// jail is how a run is cut off from dom0.
type jail interface {
	// open gives a descriptor of the disk which a process of the group can open anew through /proc/self/fd, to read.
	open(disk xenctl.DiskSource, gid int) (*os.File, error)
	// command wraps argv so that it runs as who, and limits it.
	command(who identity, argv []string) []string
	// namespaces are the flags of clone(2).
	namespaces() uintptr
}

// unprivileged is the jail of a daemon that is root.
type unprivileged struct{ deviceDir string }

// limits are those of prlimit(1).
func limits() []string {
	return []string{"/usr/bin/prlimit", "--as=" + strconv.Itoa(maxMemory), "--cpu=" + strconv.Itoa(maxCPU),
		"--fsize=" + strconv.Itoa(maxFile), "--core=0", "--memlock=0", "--nofile=64"}
}

// command has the programs of util-linux, which every Debian has, set what Go's os/exec can't. One process is all that
// the user may have, so it can't fork.
func (unprivileged) command(who identity, argv []string) []string {
	line := append(limits(), "--nproc=1", "--", "/usr/bin/setpriv", "--reuid="+strconv.Itoa(who.uid), "--regid="+strconv.Itoa(who.gid),
		"--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--pdeathsig=KILL", "--")
	return append(line, argv...)
}

// namespaces: the end of the first process of a namespace of processes is the end of all of them.
func (unprivileged) namespaces() uintptr {
	return syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC
}

// run runs pygrub with the disk as descriptor 3, in the folder for what it writes, and returns what it printed.
func (p *Pygrub) run(ctx context.Context, who identity, argv []string, disk *os.File, dir string) (string, error) {
	deadline, cancel := context.WithTimeout(ctx, p.opts.Deadline)
	defer cancel()
	line := p.jail.command(who, argv)
	stdout, stderr := &bounded{limit: maxAnswer, full: cancel}, &bounded{limit: maxComplaint}
	cmd := exec.CommandContext(deadline, line[0], line[1:]...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = dir, []string{}, []*os.File{disk}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: p.jail.namespaces()}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = grace
	// The thread that forks is the parent whose death the child is killed at.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", xenctl.ContextError(ctx)
	case stdout.over:
		return "", failed("pygrub says more than %d bytes", maxAnswer)
	case deadline.Err() != nil:
		return "", failed("pygrub did not end within %v", p.opts.Deadline)
	case err != nil:
		return "", failed("pygrub: %s", complaint(stderr.kept.Bytes(), err))
	}
	return stdout.kept.String(), nil
}

// bounded keeps the beginning of what is written to it, and tells when there is more.
type bounded struct {
	kept  bytes.Buffer
	limit int
	over  bool
	full  func()
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	room := max(0, b.limit-b.kept.Len())
	b.kept.Write(p[:min(room, len(p))])
	if len(p) > room && !b.over {
		b.over = true
		if b.full != nil {
			b.full()
		}
	}
	return len(p), nil
}

// complaint is the last line of what pygrub said, which of a Python program is its exception, made fit for a message.
func complaint(stderr []byte, err error) string {
	const longest = 200
	lines := strings.Split(strings.TrimSpace(string(stderr)), "\n")
	last := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, lines[len(lines)-1])
	last = strings.TrimPrefix(last, "RuntimeError: ")
	if len(last) > longest {
		last = strings.ToValidUTF8(last[:longest], "")
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && last != "" {
		return fmt.Sprintf("%s (%v)", last, exit)
	}
	return err.Error()
}
