// Package sim is a hypervisor inside this process that behaves like Xen in time and in state: guests boot,
// talk on their console, balloon, obey a request to shut down or don't, crash, and their saved images are
// files. It is for machines without Xen and for tests of everything above xenctl.
//
// The invariant: what the host's memory account says is used is the sum over the domains, at every moment
// at which the lock is free; all of it changes under one lock, which is never held over I/O or a wait.
//
// Start reading at New and Options; guest.go is how a guest lives, knobs.go what it can be told (over the
// API too, by keys below vm-data/sim), control.go what a test can do to it.
package sim

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"xapid/pkg/xenctl"
)

// Options are the properties of the simulated host. The zero value is a working host.
type Options struct {
	Log   *slog.Logger // nil discards
	Clock Clock        // nil is the real one

	// MemoryBytes is the host's memory (64 GiB), ControlDomainBytes the part that guests can't have (1 GiB).
	MemoryBytes, ControlDomainBytes int64
	// CPU is what Host reports; the zero value is read from this machine.
	CPU xenctl.CPUInfo
	// BootTime is how long guests boot that aren't told otherwise (20 ms).
	BootTime time.Duration
	// Latency is how long each operation takes, by its name (see Fail); nil is no time at all.
	Latency func(op string) time.Duration
	// StateDir, when set, is where running domains are recorded, so that the guests live on when this
	// process dies or closes the hypervisor, until New finds them there again.
	StateDir string
}

// Clock tells time and calls back.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f in its own goroutine when d has passed, unless stopped before.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a callback that is due.
type Timer interface{ Stop() bool }

type realClock struct{}

func (realClock) Now() time.Time                            { return time.Now() }
func (realClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

// Hypervisor is a simulated host. It implements xenctl.Hypervisor and the capabilities Resizer, Scheduler,
// DiskPlugger, NICPlugger, MediaChanger, Consoler, Statser, GuestInformer and XenstoreWriter.
type Hypervisor struct {
	opts     Options
	log      *slog.Logger
	clock    Clock
	bootedAt time.Time
	feed     xenctl.Feed
	faults   faults
	store    *store // nil without a StateDir

	mu        sync.Mutex // guards what follows and everything in the domains
	closed    bool
	domains   map[string]*domain
	lastID    int
	usedBytes int64

	work sync.WaitGroup // operations and callbacks of timers; Add only under mu and while not closed
}

var (
	_ xenctl.Hypervisor     = (*Hypervisor)(nil)
	_ xenctl.Resizer        = (*Hypervisor)(nil)
	_ xenctl.Scheduler      = (*Hypervisor)(nil)
	_ xenctl.DiskPlugger    = (*Hypervisor)(nil)
	_ xenctl.NICPlugger     = (*Hypervisor)(nil)
	_ xenctl.MediaChanger   = (*Hypervisor)(nil)
	_ xenctl.Consoler       = (*Hypervisor)(nil)
	_ xenctl.Statser        = (*Hypervisor)(nil)
	_ xenctl.GuestInformer  = (*Hypervisor)(nil)
	_ xenctl.XenstoreWriter = (*Hypervisor)(nil)
)

// New starts a host with the domains that it finds in the StateDir.
func New(opts Options) (*Hypervisor, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = realClock{}
	}
	if opts.MemoryBytes == 0 {
		opts.MemoryBytes = 64 << 30
	}
	if opts.ControlDomainBytes == 0 {
		opts.ControlDomainBytes = min(1<<30, opts.MemoryBytes/4)
	}
	if opts.BootTime == 0 {
		opts.BootTime = 20 * time.Millisecond
	}
	if opts.CPU.Count == 0 {
		opts.CPU = thisMachine("/proc/cpuinfo")
	}
	h := &Hypervisor{
		opts: opts, log: opts.Log, clock: opts.Clock, bootedAt: opts.Clock.Now(),
		domains: make(map[string]*domain),
	}
	if opts.StateDir == "" {
		return h, nil
	}
	var err error
	if h.store, err = openStore(opts.StateDir); err != nil {
		return nil, fmt.Errorf("sim: state directory: %w", err)
	}
	if err := h.adopt(); err != nil {
		return nil, fmt.Errorf("sim: state directory: %w", err)
	}
	return h, nil
}

// Close implements xenctl.Hypervisor. Without a StateDir the guests are gone with it.
func (h *Hypervisor) Close(ctx context.Context) error {
	h.mu.Lock()
	again := h.closed
	h.closed = true
	for _, d := range h.domains {
		d.stopTimer()
		d.console.end()
	}
	h.mu.Unlock()

	idle := make(chan struct{})
	go func() {
		h.work.Wait()
		h.feed.Close()
		close(idle)
	}()
	select {
	case <-idle:
		if h.store == nil || again {
			return nil
		}
		return h.store.close()
	case <-ctx.Done():
		return &xenctl.OpError{Op: "close", Err: xenctl.ContextError(ctx)}
	}
}

// Subscribe implements xenctl.Hypervisor.
func (h *Hypervisor) Subscribe(ctx context.Context) (<-chan xenctl.Event, error) {
	return h.feed.Subscribe(ctx)
}

// Host implements xenctl.Hypervisor.
func (h *Hypervisor) Host(ctx context.Context) (xenctl.HostInfo, error) {
	cpu := h.opts.CPU
	cpu.Flags = slices.Clone(cpu.Flags)
	info := xenctl.HostInfo{
		Hypervisor: xenctl.HypervisorInfo{
			Name: "sim", Version: "1.0",
			Capabilities: []string{"xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_32p", "hvm-3.0-x86_64"},
			Types:        []xenctl.DomainType{xenctl.TypePV, xenctl.TypePVH, xenctl.TypeHVM},
		},
		CPU:                cpu,
		MemoryTotalBytes:   h.opts.MemoryBytes,
		ControlDomainBytes: h.opts.ControlDomainBytes,
		BootedAt:           h.bootedAt,
	}
	err := h.do(ctx, "host", "", func() error {
		info.MemoryFreeBytes = h.freeBytes()
		return nil
	})
	return info, err
}

// do runs one operation on the host, f under the lock, with the latency, the faults and the deadline that
// are due.
func (h *Hypervisor) do(ctx context.Context, op, uuid string, f func() error) error {
	return h.doThen(ctx, op, uuid, f, func() {})
}

// onDomain is do for an operation on a domain that must be there, and records what it changed.
func (h *Hypervisor) onDomain(ctx context.Context, op, uuid string, f func(*domain) error) error {
	var d *domain
	return h.doThen(ctx, op, uuid, func() error {
		if d = h.domains[uuid]; d == nil {
			return xenctl.ErrNotFound
		}
		return f(d)
	}, func() { h.record(d) })
}

// doThen is do with a second part outside the lock, run when the first succeeded.
func (h *Hypervisor) doThen(ctx context.Context, op, uuid string, f func() error, then func()) error {
	err := h.enter(ctx, op)
	if err == nil {
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			return h.leave(op, uuid, xenctl.ErrClosed)
		}
		h.work.Add(1)
		defer h.work.Done()
		err = f()
		h.mu.Unlock()
		if err == nil {
			then()
		}
	}
	return h.leave(op, uuid, err)
}

// enter is the way into every operation: it waits for the latency and fails for a context that has ended
// or a fault that is due.
func (h *Hypervisor) enter(ctx context.Context, op string) error {
	if err := xenctl.ContextError(ctx); err != nil {
		return err
	}
	if err := h.faults.due(op, before); err != nil {
		return err
	}
	if h.opts.Latency == nil {
		return nil
	}
	if d := h.opts.Latency(op); d > 0 {
		return h.wait(ctx, d)
	}
	return nil
}

// leave is the way out: an operation that took effect may still be told to fail.
func (h *Hypervisor) leave(op, uuid string, err error) error {
	if err == nil {
		err = h.faults.due(op, after)
	}
	if err == nil {
		return nil
	}
	return &xenctl.OpError{Op: op, UUID: uuid, Err: err}
}

func (h *Hypervisor) wait(ctx context.Context, d time.Duration) error {
	passed := make(chan struct{})
	t := h.clock.AfterFunc(d, func() { close(passed) })
	defer t.Stop()
	select {
	case <-passed:
		return nil
	case <-ctx.Done():
		return xenctl.ContextError(ctx)
	}
}
