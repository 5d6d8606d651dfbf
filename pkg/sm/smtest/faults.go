package smtest

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"

	"xapid/pkg/sm"
)

// runFaults lets each system call of each change fail, once or from then on, until a run is clean. Afterwards, what
// was there before is there with its bytes, and what failed is there wholly, or not at all.
func (s *suite) runFaults(t *testing.T) {
	for name, change := range map[string]func(f *fixture, id string) error{
		"create vhd": func(f *fixture, _ string) error { return f.create(sm.FormatVHD) },
		"create raw": func(f *fixture, _ string) error { return f.create(sm.FormatRaw) },
		"destroy":    func(f *fixture, id string) error { return f.alloc().DestroyVolume(context.Background(), id) },
		"resize": func(f *fixture, id string) error {
			r, ok := f.sr.(sm.Resizer)
			if !ok {
				return nil
			}
			_, err := r.ResizeVolume(context.Background(), id, 5000<<20)
			return err
		},
		"copy": func(f *fixture, id string) error {
			_, err := sm.Copy(context.Background(), f.sr, id, f.sr, sm.VolumeSpec{UUID: UUID()}, nil)
			return err
		},
	} {
		t.Run("Faults "+name, func(t *testing.T) {
			s.failEach(t, change, syscall.EIO, false)
			if !testing.Short() {
				s.failEach(t, change, syscall.ENOSPC, false)
			}
		})
		t.Run("Crash "+name, func(t *testing.T) { s.failEach(t, change, syscall.EIO, true) })
	}
}

func (f *fixture) create(format sm.Format) error {
	_, err := f.alloc().CreateVolume(context.Background(), sm.VolumeSpec{UUID: UUID(), SizeBytes: 6 << 20, Format: format})
	return err
}

// usedBytes is the data of the volume that is changed: a little more than one block of an image.
const usedBytes = 2<<20 + 100_000

// failEach runs a change again and again, with call 1, 2, … failing; all calls after it too if forever is set, as if
// the process had died there.
func (s *suite) failEach(t *testing.T, change func(*fixture, string) error, errno syscall.Errno, forever bool) {
	for n := 1; ; n++ {
		fault := &nthCall{n: n, errno: errno, forever: forever}
		f := &fixture{t: t, s: s, driver: s.New(fault.call), spec: s.Spec(t)}
		if err := f.driver.Create(t.Context(), f.spec, 0); err != nil {
			t.Fatal(err)
		}
		f.attach()
		bystander, id := f.volume(pattern(100_000)), f.volume(pattern(usedBytes))
		fault.arm()
		err := change(f, id)
		hit := fault.disarm()
		if hit && !forever && err != nil {
			assertFault(t, n, err, errno)
		}
		if !hit && err != nil {
			t.Fatalf("call %d: no fault, yet %v", n, err)
		}
		s.assertWhole(t, f, bystander, id)
		if !hit {
			return
		}
	}
}

// assertFault checks that a failure has the number that goes with its cause.
func assertFault(t *testing.T, n int, err error, errno syscall.Errno) {
	t.Helper()
	if errno == syscall.ENOSPC {
		AssertCode(t, err, sm.CodeNoSpace)
	} else if e := new(sm.Error); !errors.As(err, &e) {
		t.Errorf("call %d: %v", n, err)
	}
}

// assertWhole attaches an SR as after a restart, without faults.
func (s *suite) assertWhole(t *testing.T, f *fixture, bystander, id string) {
	t.Helper()
	f.detach()
	f = &fixture{t: t, s: s, driver: s.New(nil), spec: f.spec}
	f.attach()
	defer f.detach()
	volumes := f.scan()
	for other := range volumes {
		switch other {
		case bystander:
			f.assertContent(other, pattern(100_000))
		case id:
			f.assertContent(other, pattern(usedBytes))
		default:
			b := f.open(other, sm.ReadOnly)
			b.Close()
		}
	}
	if _, ok := volumes[bystander]; !ok {
		t.Error("a volume that nobody touched is gone")
	}
	if left := s.Leftovers(t, f.spec); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// nthCall is a fault that hits one call after it is armed, or every call from that one on.
type nthCall struct {
	mu         sync.Mutex
	n, calls   int
	errno      syscall.Errno
	forever    bool
	armed, hit bool
}

func (f *nthCall) call(string, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.armed {
		return nil
	}
	f.calls++
	if f.calls == f.n || f.forever && f.calls > f.n {
		f.hit = true
		return f.errno
	}
	return nil
}

func (f *nthCall) arm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = true
}

func (f *nthCall) disarm() (hit bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
	return f.hit
}
