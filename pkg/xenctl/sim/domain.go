package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"xapid/pkg/xenctl"
)

// snapshot is all there is to know of a domain: what a saved image and the StateDir hold.
type snapshot struct {
	Config    xenctl.DomainConfig
	ID        int
	State     xenctl.DomainState
	StartedAt time.Time
	Memory    int64 // what it holds
	Target    int64
	VCPUs     int
	Guest     guest
}

// domain is a snapshot that lives.
type domain struct {
	snapshot
	reserved int64 // its share of Hypervisor.usedBytes
	timer    Timer // for the earliest of Guest.Pending
	saving   bool
	gone     bool
	console  *console
	typed    []byte // a line at the console that hasn't ended yet

}

func (d *domain) public() xenctl.Domain {
	return xenctl.Domain{
		UUID: d.Config.UUID, ID: d.ID, Name: xenctl.SafeName(d.Config.Name, d.Config.UUID), State: d.State,
		StartedAt: d.StartedAt, MemoryBytes: d.Memory, TargetBytes: d.Target, MaxBytes: d.Config.Memory.StaticMaxBytes,
		VCPUs: d.VCPUs, MaxVCPUs: d.Config.VCPUs.Max,
	}
}

// Create implements xenctl.Hypervisor.
func (h *Hypervisor) Create(ctx context.Context, cfg *xenctl.DomainConfig) (xenctl.Domain, error) {
	d, err := h.prepare(cfg)
	if err != nil {
		return xenctl.Domain{}, h.leave("create", cfg.UUID, err)
	}
	d.Memory, d.Target, d.VCPUs = cfg.Memory.TargetBytes, cfg.Memory.TargetBytes, cfg.VCPUs.AtStart
	d.schedule(actBoot, d.Guest.Behaviour.Boot)
	return h.start(ctx, "create", d)
}

// prepare makes a domain that is nowhere yet.
func (h *Hypervisor) prepare(cfg *xenctl.DomainConfig) (*domain, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &domain{console: new(console)}
	d.Config = cloneConfig(cfg)
	d.Guest.Behaviour = defaultBehaviour(h.opts.BootTime)
	return d, d.Guest.Behaviour.setAll(cfg.Xenstore)
}

// start lets a prepared domain live.
func (h *Hypervisor) start(ctx context.Context, op string, d *domain) (xenctl.Domain, error) {
	var made xenctl.Domain
	uuid := d.Config.UUID
	err := h.doThen(ctx, op, uuid, func() error {
		if h.domains[uuid] != nil {
			return xenctl.ErrExists
		}
		if err := h.reserve(d, max(d.Memory, d.Target)); err != nil {
			return err
		}
		h.lastID++
		d.ID, d.StartedAt, d.State = h.lastID, h.clock.Now(), xenctl.StatePaused
		h.domains[uuid] = d
		h.publish(d, xenctl.EventStarted, "")
		if !d.Config.StartPaused {
			d.State = xenctl.StateRunning
			h.resume(d)
		}
		made = d.public()
		return nil
	}, func() { h.record(d) })
	if err != nil {
		return xenctl.Domain{}, err
	}
	return made, nil
}

// Destroy implements xenctl.Hypervisor.
func (h *Hypervisor) Destroy(ctx context.Context, uuid string) error {
	return h.onDomain(ctx, "destroy", uuid, func(d *domain) error {
		h.remove(d, xenctl.StopDestroyed)
		return nil
	})
}

// remove ends a domain, whatever it was doing.
func (h *Hypervisor) remove(d *domain, why xenctl.StopReason) {
	d.stopTimer()
	d.gone = true
	delete(h.domains, d.Config.UUID)
	h.usedBytes -= d.reserved
	d.reserved = 0
	d.console.end()
	h.publish(d, xenctl.EventStopped, why)
}

// Pause implements xenctl.Hypervisor.
func (h *Hypervisor) Pause(ctx context.Context, uuid string) error {
	return h.onDomain(ctx, "pause", uuid, func(d *domain) error {
		switch {
		case d.saving || d.State == xenctl.StateCrashed:
			return xenctl.ErrBadState
		case d.State == xenctl.StateRunning:
			h.suspend(d)
			d.State = xenctl.StatePaused
			h.publish(d, xenctl.EventPaused, "")
		}
		return nil
	})
}

// Unpause implements xenctl.Hypervisor.
func (h *Hypervisor) Unpause(ctx context.Context, uuid string) error {
	return h.onDomain(ctx, "unpause", uuid, func(d *domain) error {
		switch {
		case d.saving || d.State == xenctl.StateCrashed:
			return xenctl.ErrBadState
		case d.State == xenctl.StatePaused:
			d.State = xenctl.StateRunning
			h.publish(d, xenctl.EventResumed, "")
			h.resume(d)
		}
		return nil
	})
}

// Lookup implements xenctl.Hypervisor.
func (h *Hypervisor) Lookup(ctx context.Context, uuid string) (xenctl.Domain, error) {
	var found xenctl.Domain
	err := h.do(ctx, "lookup", uuid, func() error {
		d := h.domains[uuid]
		if d == nil {
			return xenctl.ErrNotFound
		}
		found = d.public()
		return nil
	})
	return found, err
}

// List implements xenctl.Hypervisor.
func (h *Hypervisor) List(ctx context.Context) ([]xenctl.Domain, error) {
	var all []xenctl.Domain
	err := h.do(ctx, "list", "", func() error {
		all = make([]xenctl.Domain, 0, len(h.domains))
		for _, d := range h.domains {
			all = append(all, d.public())
		}
		return nil
	})
	return all, err
}

// SetMemoryTarget implements xenctl.Resizer.
func (h *Hypervisor) SetMemoryTarget(ctx context.Context, uuid string, targetBytes int64) error {
	return h.onDomain(ctx, "set memory", uuid, func(d *domain) error {
		switch {
		case targetBytes <= 0 || targetBytes > d.Config.Memory.StaticMaxBytes:
			return fmt.Errorf("%w: memory target %d of at most %d", xenctl.ErrInvalid, targetBytes, d.Config.Memory.StaticMaxBytes)
		case d.saving || d.State == xenctl.StateCrashed:
			return xenctl.ErrBadState
		}
		if err := h.reserve(d, max(d.Memory, targetBytes)); err != nil {
			return err
		}
		d.Target = targetBytes
		if d.Guest.Up {
			h.startBalloon(d)
		}
		return nil
	})
}

// SetVCPUs implements xenctl.Resizer.
func (h *Hypervisor) SetVCPUs(ctx context.Context, uuid string, n int) error {
	return h.onDomain(ctx, "set vcpus", uuid, func(d *domain) error {
		switch {
		case n < 1 || n > d.Config.VCPUs.Max:
			return fmt.Errorf("%w: %d VCPUs of at most %d", xenctl.ErrInvalid, n, d.Config.VCPUs.Max)
		case d.saving || d.State == xenctl.StateCrashed:
			return xenctl.ErrBadState
		}
		d.VCPUs = n
		return nil
	})
}

// SetScheduling implements xenctl.Scheduler.
func (h *Hypervisor) SetScheduling(ctx context.Context, uuid string, weight, capPercent int) error {
	return h.onDomain(ctx, "set scheduling", uuid, func(d *domain) error {
		if weight < 0 || weight > 65535 || capPercent < 0 {
			return fmt.Errorf("%w: weight %d, cap %d", xenctl.ErrInvalid, weight, capPercent)
		}
		d.Config.VCPUs.Weight, d.Config.VCPUs.CapPercent = weight, capPercent
		return nil
	})
}

// reserve makes bytes the domain's share of the host's memory, or says that they aren't there.
func (h *Hypervisor) reserve(d *domain, bytes int64) error {
	more := bytes - d.reserved
	if free := h.freeBytes(); more > free {
		return &xenctl.MemoryError{NeededBytes: more, AvailableBytes: free}
	}
	d.reserved = bytes
	h.usedBytes += more
	return nil
}

func (h *Hypervisor) freeBytes() int64 {
	return max(0, h.opts.MemoryBytes-h.opts.ControlDomainBytes-h.usedBytes)
}

func (h *Hypervisor) publish(d *domain, kind xenctl.EventKind, why xenctl.StopReason) {
	h.feed.Publish(xenctl.Event{Kind: kind, UUID: d.Config.UUID, ID: d.ID, Reason: why, At: h.clock.Now()})
}

func cloneConfig(cfg *xenctl.DomainConfig) xenctl.DomainConfig {
	c := *cfg
	c.Boot.Order = slices.Clone(cfg.Boot.Order)
	c.VCPUs.Affinity = slices.Clone(cfg.VCPUs.Affinity)
	c.Disks = slices.Clone(cfg.Disks)
	c.NICs = slices.Clone(cfg.NICs)
	c.Platform = maps.Clone(cfg.Platform)
	c.Xenstore = maps.Clone(cfg.Xenstore)
	if cfg.Graphics != nil {
		g := *cfg.Graphics
		c.Graphics = &g
	}
	return c
}
