package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"xapid/pkg/xenapi"
)

// autoPoweron is the key of other_config by which a pool lets VMs start with their host, and a VM asks for it.
const autoPoweron = "auto_poweron"

// dom0Reboots reboots dom0 under two running VMs, of which one is to start with the host.
func dom0Reboots(ctx context.Context, w *world) (note string, err error) {
	wanted, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	other, err := w.spare(ctx, "stays-off", 160*mib)
	if err != nil {
		return "", errors.Join(err, w.destroy(ctx, other))
	}
	defer func() { err = errors.Join(err, w.destroy(ctx, other)) }()
	if err := w.VM().Start(ctx, other.ref, false, false); err != nil {
		return "", fmt.Errorf("VM.start: %w", err)
	}
	undo, err := w.autoStarting(ctx, wanted)
	defer func() { err = errors.Join(err, undo(context.WithoutCancel(ctx))) }()
	if err != nil {
		return "", err
	}
	from, err := w.mark(ctx, wanted)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "systemctl reboot --no-block"); err != nil {
		return "", err
	}
	if err := w.over(ctx, "wait"); err != nil {
		return "", err
	}
	took, err := w.boot(ctx)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := w.becomes(ctx, wanted, xenapi.VMPowerStateRunning, time.Minute); err != nil {
		return "", err
	}
	started := time.Since(began)
	if err := w.says(ctx, wanted, from, "MARK up"); err != nil {
		return "", err
	}
	note = fmt.Sprintf("boot to API %.1f s, the VM runs %.1f s later", took.Seconds(), started.Seconds())
	return note, w.gone(ctx, other)
}

// autoStarting makes a VM start with the host; undo takes that back.
func (w *world) autoStarting(ctx context.Context, g *guest) (undo func(context.Context) error, err error) {
	undo = func(context.Context) error { return nil }
	pools, err := w.Pool().GetAll(ctx)
	if err != nil {
		return undo, err
	}
	undo = func(ctx context.Context) error {
		return errors.Join(w.Pool().RemoveFromOtherConfig(ctx, pools[0], autoPoweron), w.VM().RemoveFromOtherConfig(ctx, g.ref, autoPoweron))
	}
	return undo, errors.Join(w.Pool().AddToOtherConfig(ctx, pools[0], autoPoweron, "true"),
		w.VM().AddToOtherConfig(ctx, g.ref, autoPoweron, "true"))
}
