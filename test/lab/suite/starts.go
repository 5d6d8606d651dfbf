package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"xapid/pkg/xenapi"
)

// footprint is what failed starts could leave behind.
type footprint struct {
	freeMiB                        int // of Xen's memory
	xapidKiB, libvirtdKiB          int // resident
	runFiles                       int
	xapidHandles, libvirtdHandles  int
	domains, backends, consoleLogs int
}

func (f footprint) String() string {
	return fmt.Sprintf("%d MiB free, xapid %d KiB and %d descriptors, libvirtd %d KiB and %d, %d files in /run",
		f.freeMiB, f.xapidKiB, f.xapidHandles, f.libvirtdKiB, f.libvirtdHandles, f.runFiles)
}

// footprint looks at all of it.
func (w *world) footprint(ctx context.Context) (f footprint, err error) {
	out, err := w.dom0.Run(ctx, `x=$(systemctl show -P MainPID xapid) l=$(systemctl show -P MainPID libvirtd)
		xl info | awk '/^free_memory/ {print $3}'
		awk '/^VmRSS/ {print $2}' /proc/$x/status /proc/$l/status
		find /run -path /run/log -prune -o -type f -print | wc -l
		ls /proc/$x/fd | wc -l; ls /proc/$l/fd | wc -l
		xl list | wc -l; xenstore-list /local/domain/0/backend/vbd 2>/dev/null | wc -l; ls /var/log/libvirt/libxl | wc -l`)
	if err == nil {
		_, err = fmt.Sscan(out, &f.freeMiB, &f.xapidKiB, &f.libvirtdKiB, &f.runFiles, &f.xapidHandles, &f.libvirtdHandles,
			&f.domains, &f.backends, &f.consoleLogs)
	}
	return f, err
}

// flat says what has grown. A daemon's memory may by a tenth or 4 MiB, its collector's rhythm, and /run by the few
// files of daemons that have nothing to do with it.
func (f footprint) flat(later footprint) error {
	var errs []error
	grown := func(what string, before, after, slack int) {
		if after > before+slack {
			errs = append(errs, fmt.Errorf("%s: %d, then %d", what, before, after))
		}
	}
	grown("memory taken from Xen in MiB", -f.freeMiB, -later.freeMiB, 0)
	grown("xapid's memory in KiB", f.xapidKiB, later.xapidKiB, max(4096, f.xapidKiB/10))
	grown("libvirtd's memory in KiB", f.libvirtdKiB, later.libvirtdKiB, max(4096, f.libvirtdKiB/10))
	grown("files in /run", f.runFiles, later.runFiles, 3)
	grown("descriptors of xapid", f.xapidHandles, later.xapidHandles, 4)
	grown("descriptors of libvirtd", f.libvirtdHandles, later.libvirtdHandles, 4)
	grown("domains", f.domains, later.domains, 0)
	grown("back-ends of disks", f.backends, later.backends, 0)
	return errors.Join(errs...)
}

// How many starts fail, and after which the first look is taken.
const (
	failures  = 100
	firstLook = 20
)

// failedStarts starts a VM whose kernel is a file of garbage.
func failedStarts(ctx context.Context, w *world) (note string, err error) {
	g, err := w.halted(ctx)
	if err != nil {
		return "", err
	}
	kernel, err := w.VM().GetPVKernel(ctx, g.ref)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "head -c 1048576 /dev/urandom >/lab/guest/garbage"); err != nil {
		return "", err
	}
	if err := w.VM().SetPVKernel(ctx, g.ref, "/lab/guest/garbage"); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.VM().SetPVKernel(context.WithoutCancel(ctx), g.ref, kernel)) }()
	var first footprint
	var failure error
	began := time.Now()
	for n := 1; n <= failures; n++ {
		failure = w.VM().Start(ctx, g.ref, false, false)
		if xenapi.Code(failure) == "" || !strings.Contains(failure.Error(), "Invalid kernel") {
			return "", fmt.Errorf("start %d: %w", n, failure)
		}
		if n == firstLook {
			if first, err = w.footprint(ctx); err != nil {
				return "", err
			}
		}
	}
	took := time.Since(began) / failures
	if err := w.gone(ctx, g); err != nil {
		return "", err
	}
	last, err := w.footprint(ctx)
	if err != nil {
		return "", err
	}
	note = fmt.Sprintf("%.1f s each; after the %dth: %v; after the %dth: %v; each said: %v", took.Seconds(), firstLook, first, failures, last, failure)
	if err := first.flat(last); err != nil {
		return "", fmt.Errorf("%w (%s)", err, note)
	}
	return note, nil
}

// noDisk removes the file of a VM's disk.
func noDisk(ctx context.Context, w *world) (note string, err error) {
	g, err := w.spare(ctx, "no-disk", 160*mib)
	if err != nil {
		return "", errors.Join(err, w.destroy(ctx, g))
	}
	defer func() { err = errors.Join(err, w.destroy(ctx, g)) }()
	uuid, err := w.VDI().GetUUID(ctx, g.vdi)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "rm $(find /var/lib/xapid/sr -name '%s.*')", uuid); err != nil {
		return "", err
	}
	failure := w.VM().Start(ctx, g.ref, false, false)
	if xenapi.Code(failure) == "" {
		return "", fmt.Errorf("VM.start: %w", failure)
	}
	return failure.Error(), w.gone(ctx, g)
}

// libvirtdKilled kills libvirtd while it makes a domain, at another moment each time.
func libvirtdKilled(ctx context.Context, w *world) (string, error) {
	g, err := w.halted(ctx)
	if err != nil {
		return "", err
	}
	note := ""
	for _, after := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 1500 * time.Millisecond} {
		failure := make(chan error, 1)
		go func() { failure <- w.VM().Start(ctx, g.ref, false, false) }()
		if _, err := w.dom0.Run(ctx, "sleep %.1f; kill -9 $(pidof libvirtd)", after.Seconds()); err != nil {
			return "", err
		}
		said := <-failure
		if said != nil && xenapi.Code(said) == "" {
			return "", fmt.Errorf("VM.start: %w", said)
		}
		if _, err := w.dom0.Run(ctx, "for n in $(seq 300); do virsh -q -c xen:///system list >/dev/null 2>&1 && exit 0; sleep 0.2; done; exit 1"); err != nil {
			return "", err
		}
		state, err := w.truth(ctx, g)
		if err != nil {
			return "", fmt.Errorf("killed after %v, VM.start said %w, then: %w", after, said, err)
		}
		note += fmt.Sprintf("killed after %v: %s (%v); ", after, state, said)
		if state != xenapi.VMPowerStateHalted {
			if err := w.VM().HardShutdown(ctx, g.ref); err != nil {
				return "", err
			}
		}
	}
	if err := w.boots(ctx, g); err != nil {
		return "", fmt.Errorf("afterwards: %w (%s)", err, note)
	}
	return note + "then it starts", nil
}

// truth waits until a VM's record is what Xen says: Running with a domain, or Halted with nothing left.
func (w *world) truth(ctx context.Context, g *guest) (state xenapi.VMPowerState, err error) {
	uuid, err := w.VM().GetUUID(ctx, g.ref)
	if err != nil {
		return "", err
	}
	err = eventually(ctx, "the record of "+g.name+" is what Xen says", time.Minute, func() (bool, error) {
		if state, err = w.VM().GetPowerState(ctx, g.ref); err != nil {
			return false, err
		}
		lives, err := w.dom0.Run(ctx, "xl list -v | grep -cF %s || true", uuid)
		return err == nil && (lives == "1") == (state == xenapi.VMPowerStateRunning), err
	})
	if err == nil && state == xenapi.VMPowerStateHalted {
		err = w.gone(ctx, g)
	}
	return state, err
}
