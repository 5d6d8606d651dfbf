package timing_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"xapid/pkg/xapi/timing"
	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/sim"
)

func TestSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, split := timing.Begin(t.Context())
		part := func(p timing.Part, took time.Duration) {
			defer timing.Measure(ctx, p)()
			time.Sleep(took)
		}
		part(timing.Disks, time.Second)
		part(timing.Hypervisor, 5*time.Second)
		part(timing.Networks, 10*time.Second)
		stop := timing.Measure(ctx, timing.Guest)
		part(timing.Hypervisor, 20*time.Second) // within the guest's
		stop()
		part(timing.Disks, time.Second)
		time.Sleep(3 * time.Second)
		want := timing.Times{Total: 40 * time.Second, Hypervisor: 5 * time.Second, Disks: 2 * time.Second,
			Networks: 10 * time.Second, Guest: 20 * time.Second, Own: 3 * time.Second}
		if got := split.Times(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// slow is a hypervisor that takes its time for every call of one domain.
type slow struct{ xenctl.Hypervisor }

func (s slow) Unwrap() xenctl.Hypervisor { return s.Hypervisor }

func (s slow) Lookup(ctx context.Context, uuid string) (xenctl.Domain, error) {
	time.Sleep(time.Second)
	return s.Hypervisor.Lookup(ctx, uuid)
}

func TestHypervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, err := sim.New(sim.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer inner.Close(context.Background())
		h := timing.Of(slow{inner})
		ctx, split := timing.Begin(t.Context())
		for _, ctx := range []context.Context{ctx, context.WithoutCancel(ctx), t.Context()} { // the last is nobody's
			if _, err := h.Lookup(ctx, "00000000-0000-4000-8000-000000000001"); err == nil {
				t.Error("there is a domain")
			}
		}
		if got := split.Times(); got.Hypervisor != 2*time.Second || got.Own != time.Second {
			t.Errorf("%+v", got)
		}
		if _, ok := xenctl.As[xenctl.Resizer](h); !ok {
			t.Error("the capabilities of what is inside aren't found")
		}
	})
}
