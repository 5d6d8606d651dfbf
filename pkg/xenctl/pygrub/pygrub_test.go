package pygrub

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"xapid/pkg/xenctl"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// here is a jail without walls, for programs of the test's own.
type here struct{}

func (here) open(disk xenctl.DiskSource, _ int) (*os.File, error) { return os.Open(disk.Path) }
func (here) command(_ identity, argv []string) []string           { return argv }
func (here) namespaces() uintptr                                  { return 0 }

// play makes a Pygrub whose program is a shell script; $out is the folder to write to, descriptor 3 the disk.
func play(t *testing.T, script string) (*Pygrub, xenctl.DiskSource) {
	t.Helper()
	dir := t.TempDir()
	program, disk := filepath.Join(dir, "pygrub"), filepath.Join(dir, "disk")
	text := "#!/bin/sh\nfor a; do case $a in --output-directory=*) out=${a#*=} ;; esac; done\n" + script + "\n"
	if err := errors.Join(os.WriteFile(program, []byte(text), 0o755), os.WriteFile(disk, []byte("the disk"), 0o600)); err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Dir: filepath.Join(dir, "boot"), Program: program, Deadline: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	p.jail = here{}
	p.lookup = func(string) (*user.User, error) {
		return &user.User{Uid: strconv.Itoa(os.Getuid()), Gid: strconv.Itoa(os.Getgid())}, nil
	}
	return p, xenctl.DiskSource{Kind: xenctl.DiskFile, Path: disk}
}

// left lists what is in the folder of a Pygrub.
func left(t *testing.T, p *Pygrub) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(p.opts.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const good = `cat <&3 >$out/boot_kernel.abc; echo initrd >$out/boot_ramdisk.abc
printf 'kernel %s/boot_kernel.abc\0ramdisk %s/boot_ramdisk.abc\0args root=/dev/xvda1 ro\0\0' $out $out`

func TestExtract(t *testing.T) {
	p, disk := play(t, good)
	boot, remove, err := p.Extract(t.Context(), disk, "--entry=1 -q")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile(boot.Kernel)
	if err != nil || string(kernel) != "the disk" || boot.Cmdline != "root=/dev/xvda1 ro" || boot.Ramdisk == "" {
		t.Errorf("%+v, kernel %q, %v", boot, kernel, err)
	}
	if info, err := os.Stat(boot.Kernel); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the kernel's mode: %v, %v", info.Mode(), err)
	}
	if err := remove(); err != nil || len(left(t, p)) > 0 {
		t.Errorf("left: %v, %v", left(t, p), err)
	}
}

// TestWhatADiskMayDo plays a pygrub that a hostile disk has taken over.
func TestWhatADiskMayDo(t *testing.T) {
	for name, script := range map[string]string{
		"it says no":                 "echo no kernel here >&2; exit 1",
		"it hangs":                   "exec sleep 60",
		"it says nothing":            "exit 0",
		"it says too much":           "yes | head -c 100000",
		"a kernel of dom0":           `printf 'kernel /etc/shadow\0\0'`,
		"a link to a file of dom0":   `ln -s /etc/passwd $out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc\0\0' $out`,
		"a hard link":                `ln $0 $out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc\0\0' $out`,
		"a fifo":                     `mkfifo $out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc\0\0' $out`,
		"a folder":                   `mkdir $out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc\0\0' $out`,
		"an empty kernel":            `: >$out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc\0\0' $out`,
		"a path that climbs":         `echo k >$out/boot_kernel.abc; printf 'kernel %s/../out/boot_kernel.abc\0\0' $out`,
		"a command line with escape": `echo k >$out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc\0args a\033[2Jb\0\0' $out`,
		"an endless command line":    `echo k >$out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc\0args %05000d\0\0' $out 1`,
		"an answer cut short":        `echo k >$out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc' $out`,
		"an answer with more":        `echo k >$out/boot_kernel.abc; printf 'kernel %s/boot_kernel.abc\0bootloader /bin/sh\0\0' $out`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, disk := play(t, script)
			if _, _, err := p.Extract(t.Context(), disk, ""); !errors.Is(err, xenctl.ErrBootloader) {
				t.Errorf("got %v", err)
			}
			if all := left(t, p); len(all) > 0 {
				t.Errorf("left: %v", all)
			}
		})
	}
}

func TestArgumentsNameNothingOfDom0(t *testing.T) {
	p, disk := play(t, good)
	for _, args := range []string{"--output=/etc/passwd", "--output-directory=/etc", "--runas=0", "--entry=1;reboot", "--entry=-1",
		"--offset=0", "/dev/sda", "--kernel=../x y", "--args=x", strings.Repeat("--entry=1111", 9)} {
		if _, _, err := p.Extract(t.Context(), disk, args); !errors.Is(err, xenctl.ErrInvalid) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestExtractHonoursItsContext(t *testing.T) {
	p, disk := play(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := p.Extract(ctx, disk, ""); !errors.Is(err, xenctl.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	p.turn <- struct{}{} // waits until the run has ended
	if all := left(t, p); len(all) > 0 {
		t.Errorf("left: %v", all)
	}
}

func TestLeftoversOfAnEarlierProcess(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, prefix+"123", "out"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestTheNewestXensPygrub(t *testing.T) {
	for path, want := range map[string][2]int{"/usr/lib/xen-4.17/bin/pygrub": {4, 17}, "/usr/lib/xen-4.9/bin/pygrub": {4, 9}, "/usr/bin/pygrub": {}} {
		if got := versionOf(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}
