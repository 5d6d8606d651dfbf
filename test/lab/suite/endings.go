package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"xapid/pkg/xenapi"
)

func shutting(ctx context.Context, w *world) (string, error) {
	return w.cleanly(ctx, xenapi.DomainTypePV)
}

func shuttingPVH(ctx context.Context, w *world) (string, error) {
	return w.cleanly(ctx, xenapi.DomainTypePVH)
}

func (w *world) cleanly(ctx context.Context, kind xenapi.DomainType) (string, error) {
	g, err := w.running(ctx, kind)
	if err != nil {
		return "", err
	}
	if err := w.VM().CleanShutdown(ctx, g.ref); err != nil {
		return "", fmt.Errorf("VM.clean_shutdown: %w", err)
	}
	return "", w.gone(ctx, g)
}

// frozen pauses a guest behind xapid's back: it hears nothing.
func frozen(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "xl pause %d", id); err != nil {
		return "", err
	}
	began := time.Now()
	failure := make(chan error, 1)
	go func() { failure <- w.VM().CleanShutdown(ctx, g.ref) }()
	var slowest time.Duration
	for {
		asked := time.Now()
		if _, err := w.VM().GetAllRecords(ctx); err != nil {
			return "", err
		}
		slowest = max(slowest, time.Since(asked))
		select {
		case err := <-failure:
			if xenapi.Code(err) != "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT" {
				return "", fmt.Errorf("VM.clean_shutdown: %w", err)
			}
			note := fmt.Sprintf("after %.1f s; meanwhile the slowest list took %v", time.Since(began).Seconds(), slowest.Round(time.Millisecond))
			return note, w.woken(ctx, g, id)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// woken lets a frozen guest go on: the request was taken back, so it runs.
func (w *world) woken(ctx context.Context, g *guest, id int64) error {
	from, err := w.mark(ctx, g)
	if err != nil {
		return err
	}
	if _, err := w.dom0.Run(ctx, "xl unpause %d", id); err != nil {
		return err
	}
	return w.says(ctx, g, from, "MARK tick")
}

func hard(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	if err := w.VM().HardShutdown(ctx, g.ref); err != nil {
		return "", fmt.Errorf("VM.hard_shutdown: %w", err)
	}
	return "", w.gone(ctx, g)
}

func poweroff(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	if err := w.typed(ctx, g, "poweroff -f"); err != nil {
		return "", err
	}
	if err := w.becomes(ctx, g, xenapi.VMPowerStateHalted, time.Minute); err != nil {
		return "", err
	}
	return "", w.gone(ctx, g)
}

func behind(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "xl destroy %d", id); err != nil {
		return "", err
	}
	began := time.Now()
	if err := w.becomes(ctx, g, xenapi.VMPowerStateHalted, 10*time.Second); err != nil {
		return "", err
	}
	return fmt.Sprintf("Halted %.1f s after xl returned", time.Since(began).Seconds()), w.gone(ctx, g)
}

func noKernel(ctx context.Context, w *world) (note string, err error) {
	g, err := w.halted(ctx)
	if err != nil {
		return "", err
	}
	kernel, err := w.VM().GetPVKernel(ctx, g.ref)
	if err != nil {
		return "", err
	}
	if err := w.VM().SetPVKernel(ctx, g.ref, "/lab/guest/none"); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.VM().SetPVKernel(ctx, g.ref, kernel)) }()
	failure := w.VM().Start(ctx, g.ref, false, false)
	if code := xenapi.Code(failure); code != "OPERATION_NOT_ALLOWED" || !strings.Contains(failure.Error(), "/lab/guest/none") {
		return "", fmt.Errorf("VM.start: %w", failure)
	}
	return xenapi.Code(failure), w.gone(ctx, g)
}

func noMemory(ctx context.Context, w *world) (note string, err error) {
	g, err := w.halted(ctx)
	if err != nil {
		return "", err
	}
	const much, usual = 64 << 30, 160 * mib
	if err := w.VM().SetMemoryLimits(ctx, g.ref, 64*mib, much, much, much); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.VM().SetMemoryLimits(ctx, g.ref, 64*mib, usual, usual, usual)) }()
	failure := w.VM().Start(ctx, g.ref, false, false)
	if code := xenapi.Code(failure); code != "HOST_NOT_ENOUGH_FREE_MEMORY" {
		return "", fmt.Errorf("VM.start: %w", failure)
	}
	return failure.Error(), w.gone(ctx, g)
}

// halted gives a VM that is off.
func (w *world) halted(ctx context.Context) (*guest, error) {
	g, err := w.make(ctx, xenapi.DomainTypePV)
	if err != nil {
		return nil, err
	}
	state, err := w.VM().GetPowerState(ctx, g.ref)
	if err == nil && state != xenapi.VMPowerStateHalted {
		err = w.VM().HardShutdown(ctx, g.ref)
	}
	return g, err
}

// upgrade installs the package anew, removes it and purges it.
func upgrade(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "apt-get install -q -y --reinstall -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io /root/xapid_*.deb >/root/apt.log 2>&1"); err != nil {
		return "", err
	}
	err = eventually(ctx, "log in again", time.Minute, func() (bool, error) {
		err := w.Login(ctx, "root", w.password)
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	if err := w.state(ctx, g, xenapi.VMPowerStateRunning); err != nil {
		return "", fmt.Errorf("after the upgrade: %w", err)
	}
	if err := w.VM().HardShutdown(ctx, g.ref); err != nil {
		return "", err
	}
	_, err = w.dom0.Run(ctx, "apt-get remove -q -y -o Dpkg::Options::=--force-unsafe-io xapid >>/root/apt.log 2>&1 && [ -s /var/lib/xapid/state.db ] && [ -s /etc/xapid/xapid.toml ] && "+
		"! systemctl is-active -q xapid && apt-get purge -q -y -o Dpkg::Options::=--force-unsafe-io xapid >>/root/apt.log 2>&1 && [ ! -e /var/lib/xapid/state.db ] && "+
		"[ ! -e /etc/xapid ] && [ ! -e /var/log/xapid ] && [ ! -e /etc/pam.d/xapid ] && "+
		"[ $(find /var/lib/xapid/sr -name '*.raw' | wc -l) = %d ]", len(w.vms))
	return "", err
}
