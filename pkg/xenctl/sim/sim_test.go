package sim_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"xapid/pkg/xenctl/sim"
	"xapid/pkg/xenctl/xenctltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes a host that the test's end closes.
func open(t testing.TB, opts sim.Options) *sim.Hypervisor {
	t.Helper()
	h, err := sim.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, h) })
	return h
}

func shut(t testing.TB, h *sim.Hypervisor) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestContract(t *testing.T) {
	for name, opts := range map[string]sim.Options{
		"in memory": {BootTime: time.Millisecond},
		"recorded":  {BootTime: time.Millisecond, StateDir: "set below"},
		"slow":      {BootTime: 30 * time.Millisecond, Latency: func(string) time.Duration { return time.Millisecond }},
	} {
		t.Run(name, func(t *testing.T) {
			xenctltest.Run(t, func(t *testing.T) xenctltest.Harness {
				if opts.StateDir != "" {
					opts.StateDir = t.TempDir()
				}
				h := open(t, opts)
				return xenctltest.Harness{
					Hypervisor: h,
					Crash:      func(uuid string) error { return h.Guest(uuid).Crash() },
					Stubborn:   func(uuid string) error { return h.Guest(uuid).Set("shutdown", "ignore") },
				}
			})
		})
	}
}
