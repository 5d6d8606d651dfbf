package xenctltest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"xapid/pkg/xenctl"
)

func (s *suite) free(t *testing.T) int64 {
	t.Helper()
	host, err := s.h.Host(s.ctx(t))
	noErr(t, "host", err)
	return host.MemoryFreeBytes
}

func testMemory(t *testing.T, s *suite) {
	s.needs(t, TraitMemory)
	before := s.free(t)
	d := s.create(t, s.config())
	if taken := before - s.free(t); taken < d.MemoryBytes {
		t.Errorf("a domain of %d bytes took %d", d.MemoryBytes, taken)
	}
	big := s.config()
	big.Memory = xenctl.Memory{StaticMaxBytes: before * 2, TargetBytes: before * 2}
	_, err := s.h.Create(s.ctx(t), big)
	wantErr(t, "more than there is", err, xenctl.ErrNotEnoughMemory)
	var figures *xenctl.MemoryError
	if !errors.As(err, &figures) || figures.NeededBytes < before*2 || figures.AvailableBytes > before {
		t.Errorf("figures: %+v", figures)
	}
	if got := s.find(t, big.UUID); got != nil {
		t.Errorf("left behind: %+v", got)
	}
	noErr(t, "destroy", s.h.Destroy(s.ctx(t), d.UUID))
	s.awaitStop(t, d, xenctl.StopDestroyed)
	s.freed(t, before)
}

// freed waits until there is as much memory again: the last pages of a domain go when everyone in dom0 has let go of
// them, of which nobody tells.
func (s *suite) freed(t *testing.T, before int64) {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for ctx := s.ctx(t); ; {
		now := s.free(t)
		if now >= before {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Errorf("free: %d before, %d after", before, now)
			return
		}
	}
}

// testStampede starts more domains at once than there is room for.
func testStampede(t *testing.T, s *suite) {
	s.needs(t, TraitMemory)
	room := s.Workers
	if room == 0 {
		room = 12
	}
	callers := room + 8
	each := s.free(t)/int64(room)&^4095 - s.OverheadBytes // room of them fit, one more doesn't
	var mu sync.Mutex
	var all sync.WaitGroup
	made := 0
	for range callers {
		cfg := s.config()
		cfg.Memory = xenctl.Memory{StaticMaxBytes: each, TargetBytes: each}
		t.Cleanup(func() { s.cleanUp(t, cfg.UUID) })
		ctx, cancel := context.WithTimeout(context.Background(), s.patience())
		all.Go(func() {
			defer cancel()
			_, err := s.h.Create(ctx, cfg)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if !errors.Is(err, xenctl.ErrNotEnoughMemory) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made != room {
		t.Errorf("%d domains of %d bytes, want %d", made, each, room)
	}
}
