package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"xapid/pkg/xenapi"
)

// long is the patience with a scenario of many steps.
func long(*world) time.Duration { return 15 * time.Minute }

// aPull is the patience with all power pulls.
func aPull(w *world) time.Duration { return time.Duration(w.pulls) * 6 * time.Minute }

// over makes the machine's command do something to it, which says on standard error what it did.
func (w *world) over(ctx context.Context, verb string) error {
	if len(w.machine) == 0 {
		return errors.New("the suite was started without -machine")
	}
	cmd := exec.CommandContext(ctx, w.machine[0], append(w.machine[1:], verb)...)
	cmd.Stderr = os.Stderr // a file: the ssh connection that it leaves behind can't hold up Wait
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the machine: %s: %w", verb, err)
	}
	return nil
}

// boot boots the machine that has ended and logs in to it.
func (w *world) boot(ctx context.Context) (took time.Duration, err error) {
	began := time.Now()
	if err := w.over(ctx, "boot"); err != nil {
		return 0, err
	}
	w.Close()
	err = w.loginAgain(ctx)
	return time.Since(began), err
}

// loginAgain waits for a daemon that is about to serve.
func (w *world) loginAgain(ctx context.Context) error {
	return eventually(ctx, "log in again", 2*time.Minute, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := w.Login(ctx, "root", w.password)
		return err == nil, err
	})
}

// spare makes one more PV VM with a disk, which its scenario destroys.
func (w *world) spare(ctx context.Context, name string, memoryBytes int64) (*guest, error) {
	r := w.record(name)
	r.DomainType = xenapi.DomainTypePV
	r.MemoryStaticMin, r.MemoryDynamicMin, r.MemoryDynamicMax, r.MemoryStaticMax = 32*mib, memoryBytes, memoryBytes, memoryBytes
	g, err := w.created(ctx, r)
	if err == nil {
		_, g.vdi, err = w.extraDisk(ctx, g, "0", diskBytes)
	}
	return g, err
}

// destroy removes a spare VM and its disk, whatever state it is in.
func (w *world) destroy(ctx context.Context, g *guest) error {
	if g == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if state, err := w.VM().GetPowerState(ctx, g.ref); err == nil && state != xenapi.VMPowerStateHalted {
		if err := w.VM().HardShutdown(ctx, g.ref); err != nil {
			return fmt.Errorf("VM.hard_shutdown of %s: %w", g.name, err)
		}
	}
	if err := w.VM().Destroy(ctx, g.ref); err != nil {
		return fmt.Errorf("VM.destroy of %s: %w", g.name, err)
	}
	if g.vdi == "" {
		return nil
	}
	return w.VDI().Destroy(ctx, g.vdi)
}

// logEnd is where the service's log ends now.
func (w *world) logEnd(ctx context.Context) (cursor string, err error) {
	out, err := w.dom0.Run(ctx, "journalctl -q -u xapid -n 1 --show-cursor | tail -n 1")
	return strings.TrimPrefix(out, "-- cursor: "), err
}

// logged counts the lines with a text that the service has logged after a place in its log.
func (w *world) logged(ctx context.Context, cursor, text string) (lines int, err error) {
	out, err := w.dom0.Run(ctx, "journalctl -q -u xapid -o cat --after-cursor=%q | grep -cF -- %q || true", cursor, text)
	if err == nil {
		_, err = fmt.Sscan(out, &lines)
	}
	return lines, err
}

// logs waits until the service logs a text after a place in its log.
func (w *world) logs(ctx context.Context, cursor, text string) error {
	return eventually(ctx, "in the service's log: "+text, time.Minute, func() (bool, error) {
		err := w.comes(ctx, text, "journalctl -q -u xapid -o cat --no-tail -f --after-cursor=%q", cursor)
		return err == nil, err
	})
}
