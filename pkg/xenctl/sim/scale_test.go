package sim_test

import (
	"fmt"
	"testing"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/sim"
	"xapid/pkg/xenctl/xenctltest"
)

// BenchmarkOperations measures operations on one domain while others are there.
func BenchmarkOperations(b *testing.B) {
	for _, others := range []int{0, 1000, 10000} {
		for _, recorded := range []bool{false, true} {
			name := fmt.Sprintf("others=%d/recorded=%v", others, recorded)
			opts := sim.Options{MemoryBytes: 1 << 50}
			if recorded {
				opts.StateDir = b.TempDir()
			}
			h := open(b, opts)
			for range others {
				create(b, h, config("boot-ms", "0"))
			}
			b.Run("start and destroy/"+name, func(b *testing.B) {
				cfg := config()
				for b.Loop() {
					create(b, h, cfg)
					if err := h.Destroy(b.Context(), cfg.UUID); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("lookup/"+name, func(b *testing.B) {
				cfg := config()
				create(b, h, cfg)
				for b.Loop() {
					if _, err := h.Lookup(b.Context(), cfg.UUID); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// TestManyGuests has ten thousand guests boot and stop at about the same time, and misses none.
func TestManyGuests(t *testing.T) {
	const many = 10000
	h := open(t, sim.Options{MemoryBytes: 1 << 50})
	events, err := h.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stops := make(chan int)
	go func() {
		n := 0
		for n < many {
			if e := <-events; e.Kind == xenctl.EventStopped {
				n++
			} else if e.Kind == xenctl.EventResync {
				break // this machine is too slow for that many
			}
		}
		stops <- n
	}()
	cfg := config("agent", "no", "boot-ms", "1", "poweroff-after-ms", "1")
	for range many {
		c := *cfg
		c.UUID = xenctltest.NewUUID()
		create(t, h, &c)
	}
	if n := <-stops; n < many {
		t.Skipf("missing: the time to see more than %d of %d stops", n, many)
	}
	host, err := h.Host(t.Context())
	if err != nil || host.MemoryFreeBytes != host.MemoryTotalBytes-host.ControlDomainBytes {
		t.Errorf("%+v, %v", host, err)
	}
}
