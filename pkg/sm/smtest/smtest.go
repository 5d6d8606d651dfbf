// Package smtest is the contract suite of storage drivers: what the comments of package sm promise, as tests. Every
// driver runs it; its capabilities decide which parts apply.
//
// The invariant: the suite knows a driver by its interfaces alone. What it needs to know beyond is in Harness.
// Start with Run.
package smtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"xapid/pkg/sm"
)

// Fault is asked before each system call of a driver; an error makes the call fail.
type Fault func(op, name string) error

// Harness is what the suite needs of a driver.
type Harness struct {
	// New makes a driver. Its system calls go through fault, which may be nil; a driver that cannot do that sets
	// NoFaults.
	New      func(fault Fault) sm.Driver
	NoFaults bool
	// Spec names a new SR in a place of its own, where Create has not been called.
	Spec func(t *testing.T) sm.Spec
	// Seed puts a volume with these bytes on the medium of an SR, for drivers that cannot make one.
	Seed func(t *testing.T, spec sm.Spec, content []byte) (id string)
	// Foreign puts things on the medium that are not volumes, and returns a function that checks that they are there.
	Foreign func(t *testing.T, spec sm.Spec) (check func(t *testing.T))
	// Leftovers names what is on the medium besides volumes and what Foreign made.
	Leftovers func(t *testing.T, spec sm.Spec) []string
	// Hostile lists values of device_config, by key, that must be refused.
	Hostile map[string][]string
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	before := descriptors(t)
	s := &suite{Harness: h}
	model := h.New(nil).Model()
	_, allocates := model.(sm.Allocator)
	_, resizes := model.(sm.Resizer)

	s.runSR(t)
	s.runHolders(t)
	if allocates {
		s.runVolumes(t)
		s.runCopy(t)
	}
	if resizes {
		s.runResize(t)
	}
	if allocates && !h.NoFaults {
		s.runFaults(t)
	}
	if after := descriptors(t); !slices.Equal(after, before) {
		t.Errorf("open files: %q, before: %q", after, before)
	}
}

// descriptors lists the open files of this process that have a path.
func descriptors(t *testing.T) []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && target[0] == '/' && !strings.HasPrefix(target, "/proc/") {
			out = append(out, target)
		}
	}
	slices.Sort(out)
	return out
}

type suite struct{ Harness }

// fixture is an attached SR.
type fixture struct {
	t      *testing.T
	s      *suite
	driver sm.Driver
	spec   sm.Spec
	sr     sm.SR
}

// fresh makes and attaches an SR, which is detached when the test ends.
func (s *suite) fresh(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, s: s, driver: s.New(nil), spec: s.Spec(t)}
	if err := f.driver.Create(t.Context(), f.spec, 0); err != nil {
		t.Fatal(err)
	}
	f.attach()
	t.Cleanup(func() { f.detach() })
	return f
}

func (f *fixture) attach() {
	f.t.Helper()
	sr, err := f.driver.Attach(f.t.Context(), f.spec)
	if err != nil {
		f.t.Fatal(err)
	}
	f.sr = sr
}

func (f *fixture) detach() {
	f.t.Helper()
	if err := f.sr.Detach(context.Background()); err != nil {
		f.t.Error(err)
	}
}

func (f *fixture) alloc() sm.Allocator {
	a, _ := f.sr.(sm.Allocator)
	return a
}

// volume makes a volume with some bytes, by the driver or on its medium.
func (f *fixture) volume(content []byte) (id string) {
	f.t.Helper()
	if f.alloc() == nil {
		return f.s.Seed(f.t, f.spec, content)
	}
	v, err := f.alloc().CreateVolume(f.t.Context(), sm.VolumeSpec{UUID: UUID(), SizeBytes: max(4<<20, int64(len(content)))})
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(v.ID, content, 0)
	return v.ID
}

func (f *fixture) write(id string, p []byte, off int64) {
	f.t.Helper()
	b := f.open(id, sm.ReadWrite)
	if n, err := b.WriteAt(p, off); n != len(p) || err != nil {
		f.t.Errorf("write: %d, %v", n, err)
	}
	if err := b.Close(); err != nil {
		f.t.Error(err)
	}
}

func (f *fixture) open(id string, mode sm.Mode) sm.Blob {
	f.t.Helper()
	b, err := f.sr.OpenVolume(f.t.Context(), id, mode)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

// assertContent checks that a volume begins with content and has zeros after it, as far as one cares to look.
func (f *fixture) assertContent(id string, content []byte) {
	f.t.Helper()
	b := f.open(id, sm.ReadOnly)
	defer b.Close()
	got := make([]byte, min(b.Size(), int64(len(content))+4<<20))
	if n, err := b.ReadAt(got, 0); n != len(got) {
		f.t.Errorf("read: %d, %v", n, err)
	}
	if rest := got[len(content):]; !bytes.HasPrefix(got, content) || !bytes.Equal(rest, make([]byte, len(rest))) {
		f.t.Errorf("%s has other bytes", id)
	}
}

// scan lists the volumes by ID; one with an error is a failure of the test.
func (f *fixture) scan() map[string]sm.Volume {
	f.t.Helper()
	list, err := f.sr.Scan(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[string]sm.Volume{}
	for _, v := range list {
		if v.Err != nil {
			f.t.Errorf("%s: %v", v.ID, v.Err)
		}
		out[v.ID] = v
	}
	return out
}

// UUID makes a random uuid.
func UUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// AssertCode checks that an error has a number of XenServer's.
func AssertCode(t *testing.T, err error, codes ...sm.Code) {
	t.Helper()
	var e *sm.Error
	if !errors.As(err, &e) {
		t.Errorf("want code %v, got %v", codes, err)
		return
	}
	for _, c := range codes {
		if e.Code == c {
			return
		}
	}
	t.Errorf("want code %v, got %d: %v", codes, e.Code, err)
}

func assertIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("want %v, got %v", want, err)
	}
}

// runSR is about making, attaching and erasing SRs.
func (s *suite) runSR(t *testing.T) {
	t.Run("ModelIsWhatAttachReturns", func(t *testing.T) {
		f := s.fresh(t)
		if got, want := reflect.TypeOf(f.sr), reflect.TypeOf(f.driver.Model()); got != want {
			t.Errorf("%v, model %v", got, want)
		}
		if info := f.driver.Info(); info.Type == "" || info.Label == "" || info.Description == "" || len(info.Config) == 0 {
			t.Errorf("%+v", info)
		}
	})
	t.Run("AttachMissingIs47", func(t *testing.T) {
		spec := s.Spec(t)
		for key := range spec.Config {
			if key == "location" {
				spec.Config[key] += "/missing"
			}
		}
		_, err := s.New(nil).Attach(t.Context(), spec)
		AssertCode(t, err, sm.CodeSRGone)
	})
	t.Run("AttachTwiceIsTheSame", func(t *testing.T) {
		f := s.fresh(t)
		again, err := f.driver.Attach(t.Context(), f.spec)
		if err != nil || again != f.sr {
			t.Errorf("%v, %v", again, err)
		}
		assertIs(t, f.driver.Destroy(t.Context(), f.spec), sm.ErrSRInUse)
	})
	t.Run("DetachTwiceAndAfter", func(t *testing.T) {
		f := s.fresh(t)
		f.detach()
		f.detach()
		_, err := f.sr.Scan(t.Context())
		AssertCode(t, err, sm.CodeSRGone)
		_, err = f.sr.AttachVolume(t.Context(), UUID(), "h", sm.ReadOnly)
		AssertCode(t, err, sm.CodeSRGone)
	})
	t.Run("ScanIgnoresOtherNames", func(t *testing.T) {
		f := s.fresh(t)
		check := s.Foreign(t, f.spec)
		if got := f.scan(); len(got) != 0 {
			t.Errorf("volumes %v", got)
		}
		f.detach()
		f.attach()
		check(t)
	})
	t.Run("ConfigInjection", s.testHostileConfig)
	t.Run("Cancelled", s.testCancelled)
	t.Run("StatAndScanAgree", s.testStat)
}

func (s *suite) testStat(t *testing.T) {
	f := s.fresh(t)
	f.volume([]byte("x"))
	st, err := f.sr.Stat(t.Context())
	if err != nil || st.UsedBytes > st.PhysicalBytes || st.PhysicalBytes <= 0 {
		t.Errorf("%+v, %v", st, err)
	}
	var virtual int64
	for _, v := range f.scan() {
		virtual += v.VirtualBytes
	}
	if virtual == 0 || virtual != st.VirtualBytes {
		t.Errorf("virtual %d, %d", virtual, st.VirtualBytes)
	}
}

func (s *suite) testHostileConfig(t *testing.T) {
	d := s.New(nil)
	for key, values := range s.Hostile {
		for _, value := range values {
			spec := s.Spec(t)
			spec.Config = maps.Clone(spec.Config)
			spec.Config[key] = value
			_, err := d.Attach(t.Context(), spec)
			for what, err := range map[string]error{
				"create": d.Create(t.Context(), spec, 1<<30), "attach": err, "destroy": d.Destroy(t.Context(), spec),
			} {
				var e *sm.Error
				if !errors.As(err, &e) && !errors.Is(err, sm.ErrNotSupported) {
					t.Errorf("%s with %s=%.40q: %v", what, key, value, err)
				}
			}
		}
	}
	for _, uuid := range []string{"", "x", "../../etc", UUID() + "\n"} {
		spec := s.Spec(t)
		spec.UUID = uuid
		AssertCode(t, d.Create(t.Context(), spec, 0), sm.CodeInvalidArgument)
	}
}

func (s *suite) testCancelled(t *testing.T) {
	f := s.fresh(t)
	id := f.volume([]byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, stat := f.sr.Stat(ctx)
	_, scan := f.sr.Scan(ctx)
	_, attach := f.sr.AttachVolume(ctx, id, "h", sm.ReadOnly)
	_, open := f.sr.OpenVolume(ctx, id, sm.ReadOnly)
	errs := []error{stat, scan, attach, open, f.driver.Create(ctx, s.Spec(t), 0)}
	if a := f.alloc(); a != nil {
		_, create := a.CreateVolume(ctx, sm.VolumeSpec{UUID: UUID(), SizeBytes: 1 << 20})
		errs = append(errs, create, a.DestroyVolume(ctx, id))
	}
	for i, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if len(f.scan()) != 1 {
		t.Error("something happened")
	}
}
