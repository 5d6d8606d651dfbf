package agent

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"xapid/pkg/config"
	"xapid/pkg/doctor"
	"xapid/pkg/xenctl/libvirt"
	"xapid/pkg/xenctl/pygrub"
	"xapid/pkg/xenctl/xenstore"
)

// Doctor gives what looks at this machine with the eyes of the daemon that the configuration describes.
func Doctor(cfg *config.Config) (*doctor.Host, error) {
	uri, socket, err := splitURI(cfg.LibvirtURI)
	if err != nil {
		return nil, err
	}
	h := &doctor.Host{Root: "/", Xen: cfg.Hypervisor == "libvirt" && strings.HasPrefix(uri, "xen:"),
		StateDir: cfg.StateDir, LogDir: cfg.LogDir, ReserveBytes: uint64(cfg.ReserveMiB) << 20,
		Xenstore: askXenstore, Libvirt: func(ctx context.Context) (string, error) { return askLibvirt(ctx, uri, socket) },
		Bootloader: pygrub.Options{}.Ready, Command: command, FreeBytes: freeBytes, Synchronised: synchronised, Now: time.Now}
	for _, address := range []string{cfg.HTTPS, cfg.HTTP} {
		if address != "" {
			h.Listen = append(h.Listen, address)
		}
	}
	return h, nil
}

func askXenstore(ctx context.Context) error {
	store := xenstore.New("")
	defer store.Close()
	_, err := store.List(ctx, "/local/domain")
	return err
}

func askLibvirt(ctx context.Context, uri, socket string) (version string, err error) {
	info, err := libvirt.Probe(ctx, libvirt.Options{URI: uri, Socket: socket, Connections: 1})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("libvirtd answers, on %s %s with %d MiB free for guests", info.Hypervisor.Name, info.Hypervisor.Version,
		info.MemoryFreeBytes>>20), nil
}

// command runs a program of the host, in the C locale, whose words we read.
func command(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		first, _, _ := strings.Cut(strings.TrimSpace(string(exit.Stderr)), "\n")
		err = fmt.Errorf("%w: %s", err, first)
	}
	return string(out), err
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// synchronised reads the state of the kernel's clock (adjtimex(2)).
func synchronised() (bool, error) {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return err == nil && state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0, err
}
