package smtest

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"xapid/pkg/sm"
)

// runHolders is about attaching and opening.
func (s *suite) runHolders(t *testing.T) {
	t.Run("AttachGivesAPath", func(t *testing.T) {
		f := s.fresh(t)
		id := f.volume([]byte("x"))
		for range 2 { // idempotent
			a, err := f.sr.AttachVolume(t.Context(), id, "h", sm.ReadOnly)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(a.Path); err != nil || a.Format != f.scan()[id].Format {
				t.Errorf("%+v: %v", a, err)
			}
		}
		for range 2 {
			if err := f.sr.DetachVolume(t.Context(), id, "h"); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("MissingVolume", func(t *testing.T) {
		f := s.fresh(t)
		for _, id := range []string{UUID(), "", ".", "..", "../../etc/passwd", "/etc/passwd", "x\x00", UUID() + ".vhd", "a/b.iso"} {
			_, err := f.sr.AttachVolume(t.Context(), id, "h", sm.ReadOnly)
			assertIs(t, err, sm.ErrMissing)
			_, err = f.sr.OpenVolume(t.Context(), id, sm.ReadOnly)
			assertIs(t, err, sm.ErrMissing)
			if err := f.sr.DetachVolume(t.Context(), id, "h"); err != nil {
				t.Errorf("detach %q: %v", id, err)
			}
		}
	})
	t.Run("ReadersShareAndKeepTheSR", func(t *testing.T) {
		f := s.fresh(t)
		id := f.volume([]byte("content"))
		for _, h := range []string{"a", "b"} {
			if _, err := f.sr.AttachVolume(t.Context(), id, h, sm.ReadOnly); err != nil {
				t.Fatal(err)
			}
		}
		b := f.open(id, sm.ReadOnly)
		if _, err := b.WriteAt([]byte("y"), 0); err == nil {
			t.Error("a reader writes")
		}
		if _, err := b.ReadAt(make([]byte, 1), b.Size()); err != io.EOF {
			t.Errorf("read at the end: %v", err)
		}
		for _, done := range []func() error{
			func() error { return f.sr.DetachVolume(t.Context(), id, "a") },
			func() error { return f.sr.DetachVolume(t.Context(), id, "b") },
			b.Close,
		} {
			assertIs(t, f.sr.Detach(t.Context()), sm.ErrSRInUse)
			if err := done(); err != nil {
				t.Error(err)
			}
		}
	})
}

// runVolumes is about SRs on which volumes can be made.
func (s *suite) runVolumes(t *testing.T) {
	t.Run("CreateTwiceIs42", func(t *testing.T) {
		f := s.fresh(t)
		f.volume([]byte("x"))
		f.detach()
		AssertCode(t, f.driver.Create(t.Context(), f.spec, 0), sm.CodeSRExists)
		f.attach()
		if len(f.scan()) != 1 {
			t.Error("the volume is gone")
		}
	})
	t.Run("Destroy", s.testDestroy)
	t.Run("OneSRAPlace", func(t *testing.T) {
		f := s.fresh(t)
		other := f.spec
		other.UUID = UUID()
		_, err := f.driver.Attach(t.Context(), other)
		assertIs(t, err, sm.ErrSRInUse)
		_, err = s.New(nil).Attach(t.Context(), f.spec) // as another process would
		assertIs(t, err, sm.ErrSRInUse)
	})
	t.Run("SizesRounded", s.testSizes)
	t.Run("CreateVolumeRefused", func(t *testing.T) {
		f := s.fresh(t)
		id := f.volume([]byte("keep"))
		_, err := f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: id, SizeBytes: 1 << 20})
		AssertCode(t, err, sm.CodeVolumeExists)
		_, err = f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: UUID(), SizeBytes: 1 << 20, Format: "qcow2"})
		AssertCode(t, err, sm.CodeVolumeType)
		for _, uuid := range []string{"", "..", "../" + UUID(), "A" + UUID()[1:], UUID() + "\x00"} {
			_, err = f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: uuid, SizeBytes: 1 << 20})
			AssertCode(t, err, sm.CodeInvalidArgument)
		}
		f.assertContent(id, []byte("keep"))
	})
	t.Run("DestroyVolumeIsIdempotent", func(t *testing.T) {
		f := s.fresh(t)
		id := f.volume([]byte("x"))
		for _, id := range []string{id, id, UUID(), "..", ""} {
			if err := f.alloc().DestroyVolume(t.Context(), id); err != nil {
				t.Errorf("%q: %v", id, err)
			}
		}
		if len(f.scan()) != 0 {
			t.Error("still there")
		}
	})
	t.Run("SecondWriterRefused", s.testWriters)
	t.Run("UtilisationTruth", s.testUtilisation)
	t.Run("Concurrency", s.testConcurrency)
}

func (s *suite) testDestroy(t *testing.T) {
	f := s.fresh(t)
	id := f.volume([]byte("x"))
	f.detach()
	assertIs(t, f.driver.Destroy(t.Context(), f.spec), sm.ErrNotEmpty)
	f.attach()
	f.assertContent(id, []byte("x"))
	if err := f.alloc().DestroyVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	check := s.Foreign(t, f.spec)
	f.detach()
	for range 2 {
		if err := f.driver.Destroy(t.Context(), f.spec); err != nil {
			t.Error(err)
		}
	}
	check(t)
	if err := f.driver.Destroy(t.Context(), s.Spec(t)); err != nil {
		t.Errorf("destroying what was never made: %v", err)
	}
}

func (s *suite) testSizes(t *testing.T) {
	f := s.fresh(t)
	for _, format := range []sm.Format{sm.FormatVHD, sm.FormatRaw} {
		for _, size := range []int64{0, 1, -1, 1<<20 - 1, 2040<<30 + 1, math.MaxInt64, math.MinInt64} {
			_, err := f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: UUID(), SizeBytes: size, Format: format})
			AssertCode(t, err, sm.CodeVolumeSize)
		}
		for _, size := range []int64{1 << 20, 1<<20 + 1, 3 << 20} {
			v, err := f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: UUID(), SizeBytes: size, Format: format})
			if err != nil || v.VirtualBytes < size || v.VirtualBytes%512 != 0 || v.VirtualBytes >= size+(2<<20) {
				t.Errorf("%s of %d: %+v, %v", format, size, v, err)
			}
			got := f.scan()[v.ID]
			if fmt.Sprint(got) != fmt.Sprint(v) || v.UUID != v.ID || v.Format != format {
				t.Errorf("made %+v, listed %+v", v, got)
			}
			f.assertContent(v.ID, nil)
		}
	}
	if n := len(f.scan()); n != 6 {
		t.Errorf("%d volumes", n)
	}
	// The largest takes no room, except where it is wholly reserved.
	v, err := f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: UUID(), SizeBytes: 2040 << 30})
	if full := new(sm.FullError); !errors.As(err, &full) && (err != nil || v.VirtualBytes != 2040<<30) {
		t.Errorf("%+v, %v", v, err)
	}
}

func (s *suite) testWriters(t *testing.T) {
	f := s.fresh(t)
	id := f.volume([]byte("x"))
	attach := func(holder string, mode sm.Mode) error {
		_, err := f.sr.AttachVolume(t.Context(), id, holder, mode)
		return err
	}
	if err := attach("a", sm.ReadWrite); err != nil {
		t.Fatal(err)
	}
	assertIs(t, attach("b", sm.ReadWrite), sm.ErrInUse)
	assertIs(t, attach("b", sm.ReadOnly), sm.ErrInUse)
	assertIs(t, attach("a", sm.ReadOnly), sm.ErrInUse)
	assertIs(t, f.alloc().DestroyVolume(t.Context(), id), sm.ErrInUse)
	_, err := f.sr.OpenVolume(t.Context(), id, sm.ReadOnly)
	assertIs(t, err, sm.ErrInUse)
	if r, ok := f.sr.(sm.Resizer); ok {
		_, err := r.ResizeVolume(t.Context(), id, 8<<20)
		assertIs(t, err, sm.ErrInUse)
	}
	if err := f.sr.DetachVolume(t.Context(), id, "b"); err != nil { // not a holder
		t.Error(err)
	}
	assertIs(t, attach("b", sm.ReadOnly), sm.ErrInUse)
	if err := f.sr.DetachVolume(t.Context(), id, "a"); err != nil {
		t.Error(err)
	}
	if err := attach("b", sm.ReadOnly); err != nil {
		t.Error(err)
	}
	assertIs(t, attach("a", sm.ReadWrite), sm.ErrInUse)
	if err := f.sr.DetachVolume(t.Context(), id, "b"); err != nil {
		t.Error(err)
	}
}

func (s *suite) testUtilisation(t *testing.T) {
	f := s.fresh(t)
	v, err := f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: UUID(), SizeBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if thin := v.PhysicalBytes < 1<<20; thin != f.driver.Info().Thin {
		t.Errorf("an empty volume of 1 GiB takes %d bytes", v.PhysicalBytes)
	}
	f.write(v.ID, pattern(3<<20), 100<<20)
	if got := f.scan()[v.ID].PhysicalBytes - v.PhysicalBytes; f.driver.Info().Thin && (got < 3<<20 || got > 4<<20) {
		t.Errorf("3 MiB take %d bytes", got)
	}
}

func (s *suite) testConcurrency(t *testing.T) {
	f := s.fresh(t)
	shared := UUID()
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: shared, SizeBytes: 1 << 20}); err == nil {
				made.Add(1)
			}
			v, err := f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: UUID(), SizeBytes: 1 << 20})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := f.sr.Scan(t.Context()); err != nil {
				t.Error(err)
			}
			if err := f.alloc().DestroyVolume(t.Context(), v.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 || len(f.scan()) != 1 {
		t.Errorf("%d times made, %d volumes", made.Load(), len(f.scan()))
	}
}

// runResize is about growing.
func (s *suite) runResize(t *testing.T) {
	for _, format := range []sm.Format{sm.FormatVHD, sm.FormatRaw} {
		t.Run("Resize "+string(format), func(t *testing.T) {
			f := s.fresh(t)
			v, err := f.alloc().CreateVolume(t.Context(), sm.VolumeSpec{UUID: UUID(), SizeBytes: 4 << 20, Format: format})
			if err != nil {
				t.Fatal(err)
			}
			f.write(v.ID, pattern(4<<20), 0)
			r, _ := f.sr.(sm.Resizer)
			for _, size := range []int64{4 << 20, 7<<20 + 1, 64 << 20} {
				got, err := r.ResizeVolume(t.Context(), v.ID, size)
				if err != nil || got.VirtualBytes < size || fmt.Sprint(got) != fmt.Sprint(f.scan()[v.ID]) {
					t.Errorf("to %d: %+v, %v", size, got, err)
				}
				f.assertContent(v.ID, pattern(4<<20))
			}
			for _, size := range []int64{2 << 20, 0, -1, 2040<<30 + 1, math.MaxInt64, math.MinInt64} {
				_, err := r.ResizeVolume(t.Context(), v.ID, size)
				AssertCode(t, err, sm.CodeVolumeSize)
			}
			f.assertContent(v.ID, pattern(4<<20))
			_, err = r.ResizeVolume(t.Context(), UUID(), 8<<20)
			assertIs(t, err, sm.ErrMissing)
		})
	}
}

// pattern makes n bytes, none of them zero, that differ from sector to sector for a while.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range min(n, 64<<10) {
		b[i] = byte(i>>8)*5 ^ byte(i) | 1
	}
	for done := 64 << 10; done < n; done *= 2 {
		copy(b[done:], b[:done])
	}
	return b
}
