// Package xenctltest is the contract of xenctl.Hypervisor as tests, for every implementation, fake and
// real.
//
// The invariant: a test knows nothing of the implementation but its Harness; what an implementation can't
// do is found out through its capabilities, and a part that is skipped for it says which one is missing.
//
// Start reading at Run.
package xenctltest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"xapid/pkg/xenctl"
)

// Harness is an implementation, ready to be tested.
type Harness struct {
	// Hypervisor is open and has no domains that the suite could run into. The one who made it closes it.
	Hypervisor xenctl.Hypervisor
	// Adapt changes the suite's config to one that this implementation can run: kernel, type, bridge, disk
	// paths ... UUID, memory and what a test sets beside must stay. Nil leaves it.
	Adapt func(*xenctl.DomainConfig)
	// Patience is how long a guest may take for anything (a boot, a shutdown, a save).
	Patience time.Duration
	// MemoryBytes is the memory of the suite's domains; 0 is 64 MiB.
	MemoryBytes int64
	// Lacks says what the implementation can't do although the core interface has it, with the reason.
	// Knowing it here keeps it visible in each run.
	Lacks map[Trait]string
	// Crash lets the guest of a domain crash; nil when that can't be done.
	Crash func(uuid string) error
	// Stubborn makes the guest in a domain ignore requests to shut down; nil when that can't be done.
	Stubborn func(uuid string) error
	// Booted waits until the guest in a domain is up, so that it hears requests and drives its devices; nil where
	// it is from the start.
	Booted func(uuid string) error
	// Bridge is one of the host's that NICs may join; empty is "xenbr0", where nobody looks.
	Bridge string
	// OverheadBytes is what a domain takes of the host's memory beside its own, at most.
	OverheadBytes int64
	// Workers are how many domains live at once at most; 0 is 8.
	Workers int
}

// Trait is a part of the core contract that an implementation made for tests may lack.
type Trait string

// The traits.
const (
	// TraitMemory: the host's memory is accounted for and Create refuses what doesn't fit.
	TraitMemory Trait = "memory accounting"
	// TraitPausedStart: a domain can be created and restored without running.
	TraitPausedStart Trait = "paused start"
	// TraitImageCheck: Restore notices that an image is damaged.
	TraitImageCheck Trait = "image check"
)

// Run runs the suite. open is called for each part, with that part's t.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, part := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"create, lookup, list and destroy", testLifecycle},
		{"a domain exists once", testExists},
		{"unknown domains", testUnknown},
		{"configs that make no sense", testInvalid},
		{"ids grow", testIDs},
		{"paused start", testPausedStart},
		{"pause and unpause", testPause},
		{"shutdown on request", testShutdown},
		{"reboot on request", testReboot},
		{"a guest that ignores requests", testStubborn},
		{"crash", testCrash},
		{"crash, preserved", testCrashPreserved},
		{"save and restore", testSaveRestore},
		{"save that fails", testSaveFails},
		{"bad images", testBadImages},
		{"memory is accounted for", testMemory},
		{"memory under a stampede", testStampede},
		{"contexts that have ended", testContexts},
		{"subscriptions end", testSubscription},
		{"many at once", testConcurrent},
		{"host", testHost},
		{"a running guest", testRunning},
	} {
		t.Run(part.name, func(t *testing.T) {
			h := open(t)
			s := &suite{Harness: h, h: h.Hypervisor}
			ctx, cancel := context.WithCancel(context.Background())
			events, err := s.h.Subscribe(ctx)
			if err != nil {
				t.Fatal(err)
			}
			s.events = events
			t.Cleanup(func() {
				cancel()
				for range events {
				}
			})
			part.test(t, s)
		})
	}
}

// suite is a Harness with one subscription of its own.
type suite struct {
	Harness
	h      xenctl.Hypervisor
	events <-chan xenctl.Event
}

// lastUUID is shared by all tests of a process, which may share a libvirtd.
var lastUUID atomic.Uint64

// NewUUID returns a UUID that no other call in this process has returned.
func NewUUID() string {
	return fmt.Sprintf("7e57%04x-0000-4000-8000-%012x", time.Now().Unix()&0xffff, lastUUID.Add(1))
}

// Config is a config for a small domain without devices, before Harness.Adapt.
func Config() *xenctl.DomainConfig {
	return &xenctl.DomainConfig{
		UUID: NewUUID(), Name: "contract <&> test", Type: xenctl.TypePVH,
		Boot:   xenctl.Boot{Kernel: "/boot/vmlinuz", Cmdline: "console=hvc0"},
		Memory: xenctl.Memory{StaticMaxBytes: 64 << 20, TargetBytes: 64 << 20},
		VCPUs:  xenctl.VCPUs{Max: 2, AtStart: 1},
	}
}

func (s *suite) config() *xenctl.DomainConfig {
	c := Config()
	if s.MemoryBytes != 0 {
		c.Memory = xenctl.Memory{StaticMaxBytes: s.MemoryBytes, TargetBytes: s.MemoryBytes}
	}
	if s.Adapt != nil {
		s.Adapt(c)
	}
	return c
}

// create makes a domain that the test's end destroys.
func (s *suite) create(t *testing.T, cfg *xenctl.DomainConfig) xenctl.Domain {
	t.Helper()
	d, err := s.h.Create(s.ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cleanUp(t, cfg.UUID) })
	return d
}

// boot is create for a guest that has to do something.
func (s *suite) boot(t *testing.T, cfg *xenctl.DomainConfig) xenctl.Domain {
	t.Helper()
	d := s.create(t, cfg)
	if s.Booted != nil {
		noErr(t, "boot", s.Booted(cfg.UUID))
	}
	return d
}

func (s *suite) cleanUp(t *testing.T, uuid string) {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience())
	defer cancel()
	if err := s.h.Destroy(ctx, uuid); err != nil && !errors.Is(err, xenctl.ErrNotFound) && !errors.Is(err, xenctl.ErrClosed) {
		t.Errorf("clean-up: %v", err)
	}
}

func (s *suite) patience() time.Duration {
	if s.Patience == 0 {
		return 10 * time.Second
	}
	return s.Patience
}

func (s *suite) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience())
	t.Cleanup(cancel)
	return ctx
}

// await returns the next event of the domain that is of one of the kinds, and skips others.
func (s *suite) await(t *testing.T, uuid string, kinds ...xenctl.EventKind) xenctl.Event {
	t.Helper()
	ctx := s.ctx(t)
	for {
		select {
		case e, open := <-s.events:
			if !open {
				t.Fatal("the events have ended")
			}
			if e.UUID != uuid {
				continue
			}
			for _, k := range kinds {
				if e.Kind == k {
					return e
				}
			}
		case <-ctx.Done():
			t.Fatalf("no event %v of %s", kinds, uuid)
		}
	}
}

// awaitStop waits for the domain's end and checks the reason, and that it has gone.
func (s *suite) awaitStop(t *testing.T, d xenctl.Domain, why xenctl.StopReason) {
	t.Helper()
	e := s.await(t, d.UUID, xenctl.EventStopped)
	if e.Reason != why || e.ID != d.ID {
		t.Errorf("stopped: reason %q of id %d, want %q of %d", e.Reason, e.ID, why, d.ID)
	}
	if _, err := s.h.Lookup(s.ctx(t), d.UUID); !errors.Is(err, xenctl.ErrNotFound) {
		t.Errorf("lookup after the stop: %v", err)
	}
}

func (s *suite) wantState(t *testing.T, uuid string, want xenctl.DomainState) xenctl.Domain {
	t.Helper()
	d, err := s.h.Lookup(s.ctx(t), uuid)
	if err != nil {
		t.Fatal(err)
	}
	if d.State != want {
		t.Errorf("state %q, want %q", d.State, want)
	}
	return d
}

// needs skips the test when the core contract isn't kept in full.
func (s *suite) needs(t *testing.T, trait Trait) {
	t.Helper()
	if why := s.Lacks[trait]; why != "" {
		t.Skipf("missing: %s: %s", trait, why)
	}
}

// capability finds T or skips the test.
func capability[T any](t *testing.T, s *suite) T {
	t.Helper()
	c, ok := xenctl.As[T](s.h)
	if !ok {
		t.Skipf("missing capability: %T", (*T)(nil))
	}
	return c
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func noErr(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
