package host

import (
	"context"
	"errors"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenctl"
)

// The pace of figures: memory is looked at often, while a time stamp alone is
// worth an event only now and then.
const (
	lookEvery  = 5 * time.Second
	stampEvery = 30 * time.Second
	// lookTimeout bounds the hypervisor's answer.
	lookTimeout = 10 * time.Second
	// lookShare is how many times as long as a look the pause after it is at
	// least: with many guests looking costs 1/40 of a core, whatever the
	// hypervisor takes to answer.
	lookShare = 40
)

// Figures keeps the metrics of the host and of its running VMs up to date.
type Figures struct {
	env *xapi.Env
	// failing says that the last look failed, so that each failure is told
	// once.
	failing bool
}

// NewFigures makes the component.
func NewFigures(env *xapi.Env) *Figures { return &Figures{env: env} }

// Run looks again and again, until ctx ends.
func (f *Figures) Run(ctx context.Context) error {
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		began := time.Now()
		err := f.Refresh(ctx)
		if err != nil && !f.failing && ctx.Err() == nil {
			f.env.Log.Warn("the host's figures are old", "error", err)
		}
		f.failing = err != nil
		look.Reset(pauseAfter(time.Since(began)))
	}
}

// pauseAfter is how long nobody looks after a look that took some time.
func pauseAfter(took time.Duration) time.Duration { return max(lookEvery, lookShare*took) }

// Refresh reads the figures once and records what has changed.
func (f *Figures) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	info, err := f.env.Node.Hypervisor.Host(ctx)
	if err != nil {
		return err
	}
	memory, statErr := f.guestMemory(ctx)
	now, ref := f.env.Time(), f.env.Host()
	return errors.Join(statErr, f.env.Update(ctx, func(tx *db.Tx) error {
		h, err := db.Get(tx, ref)
		if err != nil {
			return err
		}
		if err := stampHost(tx, h, info, now); err != nil {
			return err
		}
		for _, vm := range h.ResidentVMs {
			if rec := db.Find(tx, vm); rec != nil && !rec.IsControlDomain {
				if err := stampVM(tx, rec, memory, now); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// guestMemory is what each domain has now, by uuid; nothing where the
// hypervisor doesn't tell.
func (f *Figures) guestMemory(ctx context.Context) (map[string]int64, error) {
	out := map[string]int64{}
	statser, ok := xenctl.As[xenctl.Statser](f.env.Node.Hypervisor)
	if !ok {
		return out, nil
	}
	stats, err := statser.Stats(ctx)
	if errors.Is(err, xenctl.ErrNotSupported) {
		err = nil
	}
	for _, s := range stats {
		out[s.UUID] = s.MemoryBytes
	}
	return out, err
}

func stampHost(tx *db.Tx, h *xenapi.Host, info xenctl.HostInfo, now time.Time) error {
	m := db.Find(tx, h.Metrics)
	if m == nil || m.Live && m.MemoryFree == info.MemoryFreeBytes && m.MemoryTotal == info.MemoryTotalBytes &&
		now.Sub(m.LastUpdated) < stampEvery {
		return nil
	}
	edit, err := db.Edit(tx, h.Metrics)
	if err != nil {
		return err
	}
	edit.Live, edit.LastUpdated = true, now
	edit.MemoryFree, edit.MemoryTotal = info.MemoryFreeBytes, info.MemoryTotalBytes
	return nil
}

func stampVM(tx *db.Tx, vm *xenapi.VM, memory map[string]int64, now time.Time) error {
	bytes, running := memory[vm.UUID]
	m := db.Find(tx, vm.Metrics)
	if !running || m == nil || bytes == m.MemoryActual {
		return nil
	}
	edit, err := db.Edit(tx, vm.Metrics)
	if err != nil {
		return err
	}
	edit.MemoryActual, edit.LastUpdated = bytes, now
	return nil
}
