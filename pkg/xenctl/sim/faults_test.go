package sim_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/sim"
)

func TestFail(t *testing.T) {
	h := open(t, sim.Options{})
	broken := errors.New("out of luck")
	cfg := config()

	h.Fail("create", 2, broken)
	create(t, h, cfg)
	other := config()
	if _, err := h.Create(t.Context(), other); !errors.Is(err, broken) {
		t.Errorf("the second create: %v", err)
	}
	if _, err := h.Lookup(t.Context(), other.UUID); !errors.Is(err, xenctl.ErrNotFound) {
		t.Errorf("it took effect: %v", err)
	}
	create(t, h, other) // the third

	h.FailAfter("destroy", 1, xenctl.ErrUnavailable)
	if err := h.Destroy(t.Context(), cfg.UUID); !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("destroy: %v", err)
	}
	if _, err := h.Lookup(t.Context(), cfg.UUID); !errors.Is(err, xenctl.ErrNotFound) {
		t.Errorf("it took no effect: %v", err)
	}

	h.Fail("*", 3, broken)
	for i, want := range []error{nil, nil, broken, nil} {
		if _, err := h.List(t.Context()); !errors.Is(err, want) {
			t.Errorf("call %d: %v", i+1, err)
		}
	}
	if got := h.Calls("create"); got != 3 {
		t.Errorf("%d creates were counted", got)
	}
}

func TestLatencyEndsWithTheContext(t *testing.T) {
	slow := sim.Options{Latency: func(op string) time.Duration {
		if op == "create" {
			return time.Hour
		}
		return 0
	}}
	bubble(t, slow, func(t *testing.T, h *sim.Hypervisor, _ <-chan xenctl.Event) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cfg := config()
		if _, err := h.Create(ctx, cfg); !errors.Is(err, xenctl.ErrTimeout) || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if _, err := h.Lookup(t.Context(), cfg.UUID); !errors.Is(err, xenctl.ErrNotFound) {
			t.Errorf("it took effect: %v", err)
		}
		create(t, h, cfg)
		if took := time.Since(began); took != time.Hour+time.Minute {
			t.Errorf("create took until %v", took)
		}
	})
}

func TestSaveToAFullDevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("missing: /dev/full")
	}
	h := open(t, sim.Options{})
	d := create(t, h, config())
	if err := h.Save(t.Context(), d.UUID, "/dev/full"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("save: %v", err)
	}
	if now, err := h.Lookup(t.Context(), d.UUID); err != nil || now.ID != d.ID || now.State != xenctl.StateRunning {
		t.Errorf("%+v, %v", now, err)
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Errorf("the device was removed: %v", err)
	}
}

func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := sim.New(sim.Options{})
		if err != nil {
			t.Fatal(err)
		}
		events, err := h.Subscribe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d := create(t, h, config("poweroff-after-ms", "100"))
		console, err := h.OpenConsole(t.Context(), d.UUID)
		if err != nil {
			t.Fatal(err)
		}
		defer console.Close()
		shut(t, h)
		shut(t, h)
		for range events { // until it is closed
		}
		for err == nil {
			_, err = console.Read(make([]byte, 4096))
		}
		if _, err := h.List(t.Context()); !errors.Is(err, xenctl.ErrClosed) {
			t.Errorf("list: %v", err)
		}
		<-time.After(time.Minute) // nothing goes off any more
	})
}

// TestStalledStorage: a pipe that nobody reads is a file that never opens.
func TestStalledStorage(t *testing.T) {
	h := open(t, sim.Options{})
	cfg := config()
	d := create(t, h, cfg)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	brief := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	if err := h.Save(brief(), d.UUID, pipe); !errors.Is(err, xenctl.ErrTimeout) {
		t.Errorf("save: %v", err)
	}
	if now, err := h.Lookup(t.Context(), d.UUID); err != nil || now.State != xenctl.StateRunning {
		t.Errorf("%+v, %v", now, err)
	}
	// A reader lets the writer go on, and what it wrote is of no consequence.
	f, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := h.Lookup(t.Context(), d.UUID); err != nil {
		t.Error(err)
	}
	if err := h.Destroy(t.Context(), d.UUID); err != nil {
		t.Error(err)
	}
	other := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Restore(brief(), other, cfg); !errors.Is(err, xenctl.ErrTimeout) {
		t.Errorf("restore: %v", err)
	}
	w, err := os.OpenFile(other, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close() // the reader sees the end
}
