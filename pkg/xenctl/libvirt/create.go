package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
)

// Create implements xenctl.Hypervisor.
func (d *Driver) Create(ctx context.Context, cfg *xenctl.DomainConfig) (xenctl.Domain, error) {
	const op = "create"
	if err := cfg.Validate(); err != nil {
		return xenctl.Domain{}, opError(op, cfg.UUID, err)
	}
	cfg, built, err := d.bootFiles(ctx, cfg)
	if err != nil {
		return xenctl.Domain{}, opError(op, cfg.UUID, err)
	}
	defer built()
	if d.kind == KindXen { // whose own error doesn't say what is missing
		if err := d.onFile(ctx, func() error { return checkBoot(&cfg.Boot) }); err != nil {
			return xenctl.Domain{}, opError(op, cfg.UUID, err)
		}
	}
	return d.make(ctx, op, cfg, func(l *libvirt.Libvirt, cfg *xenctl.DomainConfig) error {
		text, err := DomainXML(d.kind, cfg)
		if err != nil {
			return local(err)
		}
		var flags libvirt.DomainCreateFlags
		if d.kind == KindXen { // finish lets it run
			flags |= libvirt.DomainStartPaused
		}
		_, err = l.DomainCreateXML(text, flags)
		return err
	})
}

// checkBoot sees whether the files that a guest boots from are there.
func checkBoot(boot *xenctl.Boot) error {
	for what, path := range map[string]string{"kernel": boot.Kernel, "ramdisk": boot.Ramdisk} {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: %s: %w", xenctl.ErrInvalid, what, err)
		} else if !info.Mode().IsRegular() {
			return fmt.Errorf("%w: %s %s is no file", xenctl.ErrInvalid, what, path)
		}
	}
	return nil
}

// Of a domain that has just stopped libvirt says for a moment that it is active still: what would make the
// next one is tried again at intervals of activePause, activeTries times.
const (
	activePause = 200 * time.Millisecond
	activeTries = 25
)

// persist makes calls of how until it isn't refused because of a domain that is about to go.
func persist(ctx context.Context, l *libvirt.Libvirt, uuid string, how func(*libvirt.Libvirt) error) error {
	for n := 1; ; n++ {
		err := how(l)
		if err == nil || !refused(err) {
			return err
		}
		if _, e := lookup(l, uuid); e == nil {
			return errTaken // somebody else was faster
		} else if n == activeTries || !strings.Contains(err.Error(), "already active") {
			return err
		}
		select {
		case <-time.After(activePause):
		case <-ctx.Done():
			return local(xenctl.ContextError(ctx))
		}
	}
}

// make lets a domain come to be by the call how, if there is none and there is room for it. how gets the config with
// the disks as libvirt is to know them.
func (d *Driver) make(ctx context.Context, op string, cfg *xenctl.DomainConfig, how func(*libvirt.Libvirt, *xenctl.DomainConfig) error) (made xenctl.Domain, err error) {
	ctx, cancel := withDefault(ctx, d.opts.SlowTimeout)
	defer cancel()
	err = d.slow.call(ctx, false, func(l *libvirt.Libvirt) error {
		if _, err := lookup(l, cfg.UUID); err == nil {
			return errTaken
		}
		need := cfg.Memory.TargetBytes + overhead(cfg)
		leave, err := d.admit(l, need)
		if err != nil {
			return err
		}
		defer leave()
		made, err = d.build(ctx, l, cfg, how)
		return d.memoryShort(l, need, err)
	})
	return made, opError(op, cfg.UUID, err)
}

// build makes the domain, whose disks are there from before it is until it has gone.
func (d *Driver) build(ctx context.Context, l *libvirt.Libvirt, cfg *xenctl.DomainConfig, how func(*libvirt.Libvirt, *xenctl.DomainConfig) error) (xenctl.Domain, error) {
	ready := cfg
	if d.xen != nil {
		defer d.xen.making(cfg.UUID)()
		if err := d.xen.sweep(ctx, l, cfg.UUID); err != nil {
			return xenctl.Domain{}, err
		}
		var err error
		if ready, err = d.xen.stageAll(cfg); err != nil {
			return xenctl.Domain{}, err
		}
	}
	from := size(libxlLog)
	err := persist(ctx, l, cfg.UUID, func(l *libvirt.Libvirt) error { return how(l, ready) })
	if err == nil {
		return d.finish(ctx, l, cfg)
	}
	if d.xen != nil {
		d.xen.release(cfg.UUID, 0)
		err = cause(err, libxlLog, from)
	}
	return xenctl.Domain{}, err
}

// overhead is what Xen takes for a domain beside its memory, in bytes: its own tables, those for paging (as libxl
// counts them), and a video card.
func overhead(cfg *xenctl.DomainConfig) int64 {
	const mib = 1 << 20
	bytes := int64(2 * mib)
	if cfg.Type != xenctl.TypePV {
		bytes += 4096 * (256*int64(cfg.VCPUs.Max) + 2*(cfg.Memory.StaticMaxBytes/mib))
	}
	if cfg.Graphics != nil {
		bytes += int64(max(videoMiB, cfg.Graphics.VideoMiB)) * mib
	}
	return bytes
}

// memoryShort says whether it was the memory that libvirt's error, which doesn't tell, is about.
func (d *Driver) memoryShort(l *libvirt.Libvirt, need int64, failure error) error {
	if d.kind != KindXen || failure == nil || errors.Is(failure, xenctl.ErrNotEnoughMemory) {
		return failure
	}
	if free, err := l.NodeGetFreeMemory(); err == nil && int64(free) < need {
		return errors.Join(local(&xenctl.MemoryError{NeededBytes: need, AvailableBytes: int64(free)}), failure)
	}
	return failure
}

var errTaken = local(xenctl.ErrExists)

// finish completes what libvirt can't do in one call.
func (d *Driver) finish(ctx context.Context, l *libvirt.Libvirt, cfg *xenctl.DomainConfig) (xenctl.Domain, error) {
	dom, err := lookup(l, cfg.UUID)
	if err != nil {
		return xenctl.Domain{}, err
	}
	if d.xen != nil {
		err = d.xen.complete(ctx, l, dom, cfg)
	}
	if err == nil {
		err = d.let(l, dom, cfg.StartPaused)
	}
	var made xenctl.Domain
	if err == nil {
		made, err = d.describe(l, dom)
	}
	if err != nil { // a failed call leaves no domain, so far as libvirtd still listens
		return xenctl.Domain{}, errors.Join(err, l.DomainDestroy(dom))
	}
	return made, nil
}

// let makes a new domain run, or not. Xen's are made paused; the test driver's run from the start.
func (d *Driver) let(l *libvirt.Libvirt, dom libvirt.Domain, paused bool) error {
	switch {
	case d.kind == KindXen && !paused:
		return bring(l, dom, xenctl.StateRunning, l.DomainResume)
	case d.kind == KindTest && paused:
		return bring(l, dom, xenctl.StatePaused, l.DomainSuspend)
	}
	return nil
}

// refused says that libvirt found the domain in a state in which it can't be made.
func refused(err error) bool {
	var answer libvirt.Error
	return errors.As(err, &answer) && (answer.Code == uint32(libvirt.ErrOperationInvalid) || answer.Code == uint32(libvirt.ErrOperationFailed))
}

// admission is the memory of domains that are being made, which the hypervisor doesn't count as used yet.
type admission struct {
	mu    sync.Mutex
	bytes int64
}

// admit reserves memory until leave is called: when the domain has its own, or has failed. The test
// driver's memory isn't used by its domains.
func (d *Driver) admit(l *libvirt.Libvirt, bytes int64) (leave func(), err error) {
	if d.kind == KindTest {
		return func() {}, nil
	}
	return d.room.enter(bytes, func() (int64, error) {
		free, err := l.NodeGetFreeMemory()
		return int64(free), err
	})
}

// enter asks for the free memory and takes bytes of it, as one step.
func (a *admission) enter(bytes int64, free func() (int64, error)) (leave func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	have, err := free()
	if err != nil {
		return nil, err
	}
	if have -= a.bytes; bytes > have {
		return nil, local(&xenctl.MemoryError{NeededBytes: bytes, AvailableBytes: max(0, have)})
	}
	a.bytes += bytes
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.bytes -= bytes
	}, nil
}
