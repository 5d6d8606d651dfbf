package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"xapid/pkg/xenapi"
)

// The guests of frozenMany, and the least memory with which one boots.
const (
	frozenGuests = 5
	frozenBytes  = 112 * mib
)

// pace is how long things take with a VM that is not frozen.
type pace struct{ start, shutdown, list time.Duration }

func (p pace) String() string {
	return fmt.Sprintf("start %.1f s, clean_shutdown %.1f s, list %v", p.start.Seconds(), p.shutdown.Seconds(), p.list)
}

// frozenMany asks five guests to shut down that don't hear it.
func frozenMany(ctx context.Context, w *world) (note string, err error) {
	other, err := w.halted(ctx)
	if err != nil {
		return "", err
	}
	var guests []*guest
	defer func() {
		for _, g := range guests {
			err = errors.Join(err, w.destroy(ctx, g))
		}
	}()
	for n := range frozenGuests {
		g, err := w.spare(ctx, fmt.Sprintf("frozen-%d", n), frozenBytes)
		if g != nil {
			guests = append(guests, g)
		}
		if err != nil {
			return "", err
		}
		if err := w.freeze(ctx, g); err != nil {
			return "", err
		}
	}
	before, err := w.paceOf(ctx, other)
	if err != nil {
		return "", err
	}
	failures := make(chan error, len(guests))
	began := time.Now()
	for _, g := range guests {
		go func() { failures <- w.VM().CleanShutdown(ctx, g.ref) }()
	}
	during, err := w.paceOf(ctx, other)
	if err != nil {
		return "", err
	}
	early := len(failures)
	for range guests {
		if failure := <-failures; xenapi.Code(failure) != "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT" {
			return "", fmt.Errorf("VM.clean_shutdown: %w", failure)
		}
	}
	note = fmt.Sprintf("all failed within %.1f s; before: %v; during: %v", time.Since(began).Seconds(), before, during)
	if early > 0 {
		note += fmt.Sprintf(" (%d had failed by then)", early)
	}
	if during.start > 3*before.start {
		return "", errors.New(note)
	}
	return note, nil
}

// freeze starts a VM and pauses its domain behind xapid's back.
func (w *world) freeze(ctx context.Context, g *guest) error {
	if err := w.boots(ctx, g); err != nil {
		return fmt.Errorf("%s: %w", g.name, err)
	}
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err == nil {
		_, err = w.dom0.Run(ctx, "xl pause %d", id)
	}
	return err
}

// paceOf starts a VM, lists all and shuts it down.
func (w *world) paceOf(ctx context.Context, g *guest) (p pace, err error) {
	if err := w.unheard(ctx, g); err != nil {
		return p, err
	}
	began := time.Now()
	if err := w.VM().Start(ctx, g.ref, false, false); err != nil {
		return p, fmt.Errorf("VM.start: %w", err)
	}
	p.start = time.Since(began)
	if p.list, err = w.listing(ctx, 50); err != nil {
		return p, err
	}
	if err := w.says(ctx, g, 0, "MARK up"); err != nil {
		return p, err
	}
	began = time.Now()
	if err := w.VM().CleanShutdown(ctx, g.ref); err != nil {
		return p, fmt.Errorf("VM.clean_shutdown: %w", err)
	}
	p.shutdown = time.Since(began)
	return p, w.gone(ctx, g)
}
