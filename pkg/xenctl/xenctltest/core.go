package xenctltest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"xapid/pkg/xenctl"
)

func testLifecycle(t *testing.T, s *suite) {
	cfg := s.config()
	made := s.create(t, cfg)
	if e := s.await(t, cfg.UUID, xenctl.EventStarted); e.ID != made.ID {
		t.Errorf("started: id %d, want %d", e.ID, made.ID)
	}
	d := s.wantState(t, cfg.UUID, xenctl.StateRunning)
	if d.UUID != cfg.UUID || d.ID != made.ID || d.Name == "" || d.VCPUs != 1 || d.MaxVCPUs != 2 ||
		d.MaxBytes != cfg.Memory.StaticMaxBytes || d.MemoryBytes <= 0 || d.MemoryBytes > d.MaxBytes+xenctl.MemorySlackBytes {
		t.Errorf("lookup: %+v", d)
	}
	if got := s.find(t, cfg.UUID); got == nil || got.ID != d.ID || got.State != d.State {
		t.Errorf("list: %+v", got)
	}
	noErr(t, "destroy", s.h.Destroy(s.ctx(t), cfg.UUID))
	if got := s.find(t, cfg.UUID); got != nil {
		t.Errorf("list after destroy: %+v", got)
	}
	s.awaitStop(t, made, xenctl.StopDestroyed)
	wantErr(t, "destroy again", s.h.Destroy(s.ctx(t), cfg.UUID), xenctl.ErrNotFound)
}

// find looks for a domain in the list.
func (s *suite) find(t *testing.T, uuid string) *xenctl.Domain {
	t.Helper()
	all, err := s.h.List(s.ctx(t))
	noErr(t, "list", err)
	for _, d := range all {
		if d.UUID == uuid {
			return &d
		}
	}
	return nil
}

func testExists(t *testing.T, s *suite) {
	cfg := s.config()
	d := s.create(t, cfg)
	_, err := s.h.Create(s.ctx(t), cfg)
	wantErr(t, "create again", err, xenctl.ErrExists)
	if now := s.wantState(t, cfg.UUID, xenctl.StateRunning); now.ID != d.ID {
		t.Errorf("another domain took its place: %+v", now)
	}
	noErr(t, "destroy", s.h.Destroy(s.ctx(t), cfg.UUID))
	s.create(t, cfg)
}

func testUnknown(t *testing.T, s *suite) {
	uuid, ctx := NewUUID(), s.ctx(t)
	_, err := s.h.Lookup(ctx, uuid)
	wantErr(t, "lookup", err, xenctl.ErrNotFound)
	wantErr(t, "destroy", s.h.Destroy(ctx, uuid), xenctl.ErrNotFound)
	wantErr(t, "pause", s.h.Pause(ctx, uuid), xenctl.ErrNotFound)
	wantErr(t, "unpause", s.h.Unpause(ctx, uuid), xenctl.ErrNotFound)
	wantErr(t, "save", s.h.Save(ctx, uuid, t.TempDir()+"/image"), xenctl.ErrNotFound)
	wantErr(t, "shutdown", s.h.RequestShutdown(ctx, uuid, xenctl.ShutdownPoweroff), xenctl.ErrNotFound)
	if r, ok := xenctl.As[xenctl.Resizer](s.h); ok {
		wantErr(t, "set memory", r.SetMemoryTarget(ctx, uuid, 1<<20), xenctl.ErrNotFound)
		wantErr(t, "set vcpus", r.SetVCPUs(ctx, uuid, 1), xenctl.ErrNotFound)
	}
}

func testInvalid(t *testing.T, s *suite) {
	cfg := s.config()
	cfg.VCPUs.AtStart = cfg.VCPUs.Max + 1
	_, err := s.h.Create(s.ctx(t), cfg)
	wantErr(t, "too many vcpus", err, xenctl.ErrInvalid)
	cfg = s.config()
	cfg.UUID = "../../etc"
	_, err = s.h.Create(s.ctx(t), cfg)
	wantErr(t, "uuid", err, xenctl.ErrInvalid)
	var op *xenctl.OpError
	if !errors.As(err, &op) || op.Op != "create" || op.UUID != cfg.UUID {
		t.Errorf("the error doesn't say what failed: %v", err)
	}
}

func testIDs(t *testing.T, s *suite) {
	cfg := s.config()
	last := 0
	for range 3 {
		d := s.create(t, cfg)
		if d.ID <= last {
			t.Fatalf("id %d after %d", d.ID, last)
		}
		last = d.ID
		noErr(t, "destroy", s.h.Destroy(s.ctx(t), cfg.UUID))
		s.awaitStop(t, d, xenctl.StopDestroyed)
	}
}

func testPausedStart(t *testing.T, s *suite) {
	s.needs(t, TraitPausedStart)
	cfg := s.config()
	cfg.StartPaused = true
	if d := s.create(t, cfg); d.State != xenctl.StatePaused {
		t.Errorf("create says %q", d.State)
	}
	s.wantState(t, cfg.UUID, xenctl.StatePaused)
	noErr(t, "unpause", s.h.Unpause(s.ctx(t), cfg.UUID))
	s.wantState(t, cfg.UUID, xenctl.StateRunning)
}

func testPause(t *testing.T, s *suite) {
	cfg := s.config()
	d := s.create(t, cfg)
	for range 2 {
		noErr(t, "pause", s.h.Pause(s.ctx(t), cfg.UUID))
		s.wantState(t, cfg.UUID, xenctl.StatePaused)
	}
	if e := s.await(t, cfg.UUID, xenctl.EventPaused); e.ID != d.ID {
		t.Errorf("paused: id %d, want %d", e.ID, d.ID)
	}
	for range 2 {
		noErr(t, "unpause", s.h.Unpause(s.ctx(t), cfg.UUID))
		s.wantState(t, cfg.UUID, xenctl.StateRunning)
	}
	// Doing it twice is doing it once: the next event is not a second "paused".
	if e := s.await(t, cfg.UUID, xenctl.EventPaused, xenctl.EventResumed); e.Kind != xenctl.EventResumed {
		t.Errorf("event %q", e.Kind)
	}
	noErr(t, "destroy", s.h.Destroy(s.ctx(t), cfg.UUID))
	s.awaitStop(t, d, xenctl.StopDestroyed)
}

func testShutdown(t *testing.T, s *suite) {
	d := s.boot(t, s.config())
	noErr(t, "request", s.h.RequestShutdown(s.ctx(t), d.UUID, xenctl.ShutdownPoweroff))
	s.awaitStop(t, d, xenctl.StopPoweroff)
}

func testReboot(t *testing.T, s *suite) {
	cfg := s.config()
	d := s.boot(t, cfg)
	noErr(t, "request", s.h.RequestShutdown(s.ctx(t), d.UUID, xenctl.ShutdownReboot))
	s.awaitStop(t, d, xenctl.StopReboot)
	again := s.create(t, cfg)
	if again.ID <= d.ID {
		t.Errorf("id %d after %d", again.ID, d.ID)
	}
}

func testStubborn(t *testing.T, s *suite) {
	if s.Stubborn == nil {
		t.Skip("missing: a guest that ignores requests")
	}
	d := s.boot(t, s.config())
	noErr(t, "turn stubborn", s.Stubborn(d.UUID))
	// Nobody acknowledges, or somebody does and does nothing.
	if err := s.h.RequestShutdown(s.ctx(t), d.UUID, xenctl.ShutdownPoweroff); err != nil {
		wantErr(t, "request", err, xenctl.ErrRefused)
	}
	s.wantState(t, d.UUID, xenctl.StateRunning)
	noErr(t, "destroy", s.h.Destroy(s.ctx(t), d.UUID))
	s.awaitStop(t, d, xenctl.StopDestroyed)
}

func testCrash(t *testing.T, s *suite) {
	if s.Crash == nil {
		t.Skip("missing: a guest that crashes")
	}
	d := s.create(t, s.config())
	noErr(t, "crash", s.Crash(d.UUID))
	s.awaitStop(t, d, xenctl.StopCrash)
}

func testCrashPreserved(t *testing.T, s *suite) {
	if s.Crash == nil {
		t.Skip("missing: a guest that crashes")
	}
	cfg := s.config()
	cfg.OnCrash = xenctl.CrashPreserve
	d := s.create(t, cfg)
	noErr(t, "crash", s.Crash(d.UUID))
	s.await(t, d.UUID, xenctl.EventCrashed)
	s.wantState(t, d.UUID, xenctl.StateCrashed)
	wantErr(t, "unpause", s.h.Unpause(s.ctx(t), d.UUID), xenctl.ErrBadState)
	wantErr(t, "pause", s.h.Pause(s.ctx(t), d.UUID), xenctl.ErrBadState)
	wantErr(t, "request", s.h.RequestShutdown(s.ctx(t), d.UUID, xenctl.ShutdownPoweroff), xenctl.ErrBadState)
	noErr(t, "destroy", s.h.Destroy(s.ctx(t), d.UUID))
	s.awaitStop(t, d, xenctl.StopDestroyed)
}

func testContexts(t *testing.T, s *suite) {
	cfg := s.config()
	late, stop := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer stop()
	_, err := s.h.Create(late, cfg)
	wantErr(t, "create after the deadline", err, xenctl.ErrTimeout)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = s.h.Create(gone, cfg)
	wantErr(t, "create after the cancel", err, context.Canceled)
	_, err = s.h.List(gone)
	wantErr(t, "list after the cancel", err, context.Canceled)
	if got := s.find(t, cfg.UUID); got != nil {
		t.Errorf("a call with an ended context made %+v", got)
	}
}

func testSubscription(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	mine, err := s.h.Subscribe(ctx)
	noErr(t, "subscribe", err)
	d := s.create(t, s.config())
	if e := <-mine; e.Kind != xenctl.EventStarted || e.UUID != d.UUID || e.At.IsZero() {
		t.Errorf("event %+v", e)
	}
	cancel()
	for range mine { // until it is closed
	}
	_, err = s.h.Subscribe(ctx)
	wantErr(t, "subscribe with an ended context", err, context.Canceled)
}

func testConcurrent(t *testing.T, s *suite) {
	const rounds = 5
	workers := s.Workers
	if workers == 0 {
		workers = 8
	}
	var all sync.WaitGroup
	for range workers {
		cfg := s.config()
		t.Cleanup(func() { s.cleanUp(t, cfg.UUID) })
		all.Go(func() {
			for range rounds {
				s.round(t, cfg)
			}
		})
	}
	all.Wait()
}

// round is one short life of a domain.
func (s *suite) round(t *testing.T, cfg *xenctl.DomainConfig) {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience())
	defer cancel()
	d, err := s.h.Create(ctx, cfg)
	if err != nil {
		t.Error(err)
		return
	}
	for _, step := range []func() error{
		func() error { return s.h.Pause(ctx, d.UUID) },
		func() error { _, err := s.h.List(ctx); return err },
		func() error { return s.h.Unpause(ctx, d.UUID) },
		func() error { return s.h.Destroy(ctx, d.UUID) },
	} {
		if err := step(); err != nil {
			t.Error(err)
			return
		}
	}
}

func testHost(t *testing.T, s *suite) {
	host, err := s.h.Host(s.ctx(t))
	noErr(t, "host", err)
	if host.CPU.Count < 1 || host.CPU.Sockets < 1 || host.Hypervisor.Name == "" || host.Hypervisor.Version == "" ||
		host.MemoryTotalBytes <= 0 || host.MemoryFreeBytes < 0 || host.MemoryFreeBytes > host.MemoryTotalBytes ||
		len(host.Hypervisor.Types) == 0 {
		t.Errorf("%+v", host)
	}
}
