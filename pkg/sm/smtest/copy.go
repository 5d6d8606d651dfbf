package smtest

import (
	"context"
	"errors"
	"testing"

	"xapid/pkg/sm"
)

// runCopy is about full copies, within an SR and between two.
func (s *suite) runCopy(t *testing.T) {
	t.Run("Copy", func(t *testing.T) {
		from, to := s.fresh(t), s.fresh(t)
		content := append(make([]byte, 3<<20), pattern(700_001)...)
		id := from.volume(content)
		for _, dst := range []*fixture{from, to} {
			for _, format := range []sm.Format{sm.FormatVHD, sm.FormatRaw} {
				last, falling := int64(-1), false
				v, err := sm.Copy(t.Context(), from.sr, id, dst.sr, sm.VolumeSpec{UUID: UUID(), Format: format},
					func(done, total int64) { falling, last = falling || done < last || done > total, done })
				if err != nil || last != v.VirtualBytes || falling {
					t.Fatalf("%v, progress %d of %d", err, last, v.VirtualBytes)
				}
				dst.assertContent(v.ID, content)
				if got := dst.scan()[v.ID]; got.PhysicalBytes > 2<<20+512<<10 && dst.driver.Info().Thin {
					t.Errorf("the copy takes %d bytes", got.PhysicalBytes)
				}
			}
		}
	})
	t.Run("CopyIntoLarger", s.testCopyLarger)
	t.Run("CopyOverUsed", func(t *testing.T) {
		f := s.fresh(t)
		src, dst := f.open(f.volume([]byte("new")), sm.ReadOnly), f.volume(pattern(4<<20))
		to := f.open(dst, sm.ReadWrite)
		err := sm.CopyData(t.Context(), to, src, false, nil)
		if err := errors.Join(err, to.Close(), src.Close()); err != nil {
			t.Fatal(err)
		}
		f.assertContent(dst, []byte("new"))
	})
	t.Run("CopyRefused", func(t *testing.T) {
		f := s.fresh(t)
		id := f.volume([]byte("x"))
		_, err := sm.Copy(t.Context(), f.sr, UUID(), f.sr, sm.VolumeSpec{UUID: UUID()}, nil)
		assertIs(t, err, sm.ErrMissing)
		_, err = sm.Copy(t.Context(), f.sr, id, f.sr, sm.VolumeSpec{UUID: id}, nil)
		if err == nil {
			t.Error("copied onto itself")
		}
		w := f.open(id, sm.ReadWrite)
		defer w.Close()
		_, err = sm.Copy(t.Context(), f.sr, id, f.sr, sm.VolumeSpec{UUID: UUID()}, nil)
		assertIs(t, err, sm.ErrInUse)
		if len(f.scan()) != 1 {
			t.Error("something is left")
		}
	})
	t.Run("CopyCancelledLeavesNothing", s.testCopyCancelled)
}

func (s *suite) testCopyLarger(t *testing.T) {
	f := s.fresh(t)
	id := f.volume([]byte("small"))
	v, err := sm.Copy(t.Context(), f.sr, id, f.sr, sm.VolumeSpec{UUID: UUID(), SizeBytes: 9 << 20, Format: sm.FormatRaw}, nil)
	if err != nil || v.VirtualBytes < 9<<20 {
		t.Fatal(v, err)
	}
	f.assertContent(v.ID, []byte("small"))
	f.write(v.ID, []byte("end"), 9<<20-3)
	again, err := sm.Copy(t.Context(), f.sr, v.ID, f.sr, sm.VolumeSpec{UUID: UUID()}, nil) // a raw source, with a hole
	if err != nil {
		t.Fatal(err)
	}
	f.assertContent(again.ID, append(append([]byte("small"), make([]byte, 9<<20-8)...), "end"...))
	_, err = sm.Copy(t.Context(), f.sr, v.ID, f.sr, sm.VolumeSpec{UUID: UUID(), SizeBytes: 2 << 20}, nil)
	AssertCode(t, err, sm.CodeVolumeSize)
}

func (s *suite) testCopyCancelled(t *testing.T) {
	f := s.fresh(t)
	id := f.volume(pattern(9 << 20))
	because := errors.New("user asked")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := sm.Copy(ctx, f.sr, id, f.sr, sm.VolumeSpec{UUID: UUID()}, func(done, total int64) {
		if done > total/2 {
			cancel(because)
		}
	})
	assertIs(t, err, because)
	if len(f.scan()) != 1 {
		t.Error("something is left")
	}
	f.assertContent(id, pattern(9<<20))
}
