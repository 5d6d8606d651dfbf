package vhd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
)

// TestPowerCut cuts the power at random moments: every sector holds what was synced last, or what was written since.
func TestPowerCut(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := &model{t: t, r: r, want: make([]byte, 3*BlockSize)}
		m.f, m.im = newImage(t, int64(len(m.want)))
		for range r.IntN(10) {
			m.step()
		}
		if err := m.im.Sync(); err != nil {
			t.Fatal(err)
		}
		versions := [][]byte{bytes.Clone(m.want)}
		for range r.IntN(6) {
			p, off := m.randomWrite()
			mustWrite(t, m.im, p, off)
			copy(m.want[off:], p)
			versions = append(versions, bytes.Clone(m.want))
		}
		if r.IntN(2) == 0 {
			mustClose(t, m.im)
			versions = versions[len(versions)-1:]
		}
		im := open(t, m.f.powerCut(r), true)
		assertSomeVersion(t, im, versions)
		mustClose(t, im)
	}
}

// assertSomeVersion checks each sector against the versions that it may have.
func assertSomeVersion(t *testing.T, im *Image, versions [][]byte) {
	t.Helper()
	got := make([]byte, len(versions[0]))
	if _, err := im.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(got); at += sector {
		ok := false
		for _, v := range versions {
			ok = ok || bytes.Equal(got[at:at+sector], v[at:at+sector])
		}
		if !ok {
			t.Fatalf("sector %d is none of %d versions", at/sector, len(versions))
		}
	}
}

// TestCutAtEveryChange stops a script before each of its changes to the file, by an error that the writer sees, by
// kill and by power cut.
func TestCutAtEveryChange(t *testing.T) {
	script := func(im *Image) (written [][2]int64, size int64, err error) {
		size = 3 * BlockSize
		for _, w := range [][2]int64{{0, 4096}, {BlockSize + 100, 3000}, {0, BlockSize}, {2 * BlockSize, sector}} {
			if _, err = im.WriteAt(pattern(int(w[1]), 3), w[0]); err != nil {
				return written, size, err
			}
			written = append(written, w)
		}
		if err = im.Resize(2000 * BlockSize); err != nil {
			return written, size, err
		}
		return written, 2000 * BlockSize, im.Close()
	}
	for n := 1; ; n++ {
		f, im := newImage(t, 3*BlockSize)
		f.calls = 0
		f.fail = func(call int) error {
			if call >= n {
				return syscall.ENOSPC
			}
			return nil
		}
		written, size, err := script(im)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("change %d: %v", n, err)
		}
		r := rand.New(rand.NewPCG(uint64(n), 3))
		for range 20 {
			assertNoEntriesBeyond(t, open(t, f.powerCut(r), true))
		}
		im = open(t, f.killed(), true)
		if im.Size() != size && im.Size() != 2000*BlockSize {
			t.Errorf("change %d: size %d", n, im.Size())
		}
		for _, w := range written {
			got := make([]byte, w[1])
			if _, err := im.ReadAt(got, w[0]); err != nil || !bytes.Equal(got[:sector], pattern(sector, 3)) {
				t.Errorf("change %d: write at %d lost, %v", n, w[0], err)
			}
		}
	}
}

// assertNoEntriesBeyond checks what readers of the whole table rely on: nothing is beyond the virtual size.
func assertNoEntriesBeyond(t *testing.T, im *Image) {
	t.Helper()
	tail := make([]byte, 4*(int(im.head.entries)-len(im.bat)))
	if err := readFull(im.f, tail, im.head.table+4*int64(len(im.bat))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(tail, bytes.Repeat([]byte{0xFF}, len(tail))) {
		t.Error("the table has entries beyond the virtual size")
	}
}

// assertNoStaleBytes checks what readers rely on that ignore bitmaps: where nothing was written are zeros.
func assertNoStaleBytes(t *testing.T, im *Image) {
	t.Helper()
	for i := range im.bat {
		s, ok := im.blockSpan(int64(i))
		if !ok {
			continue
		}
		raw, shown := make([]byte, BlockSize), make([]byte, BlockSize)
		if err := errors.Join(readFull(im.f, raw, s.start+sector), im.readBlock(shown, int64(i), 0)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, shown) {
			t.Errorf("block %d has stale bytes at %d", i, firstDifference(raw, shown))
		}
	}
}

// TestPowerCutInNewBlock: wherever the parts of a first write went, the table leads to nothing outside of the file.
func TestPowerCutInNewBlock(t *testing.T) {
	f, im := newImage(t, 3*BlockSize)
	mustWrite(t, im, []byte{1}, 0)
	for seed := range uint64(300) {
		open(t, f.powerCut(rand.New(rand.NewPCG(seed, 4))), true)
	}
}

// TestGoesOnAfterFullDisk: a write that failed for want of room can be done again, and nothing shows of the attempt.
func TestGoesOnAfterFullDisk(t *testing.T) {
	for n := 1; n < 12; n++ {
		f, im := newImage(t, 3*BlockSize)
		f.calls, f.fail = 0, func(call int) error {
			if call == n {
				return syscall.ENOSPC
			}
			return nil
		}
		want := make([]byte, 3*BlockSize)
		for i := range int64(2) {
			p, off := pattern(5000, byte(i)), i*BlockSize+300
			if _, err := im.WriteAt(p, off); err != nil {
				mustWrite(t, im, []byte("other"), 2*BlockSize+9000)
				copy(want[2*BlockSize+9000:], "other")
				mustWrite(t, im, p, off)
			}
			copy(want[off:], p)
		}
		f.fail = nil
		assertBytes(t, im, want)
		assertNoStaleBytes(t, im)
		mustClose(t, im)
		assertBytes(t, open(t, f, false), want)
	}
}
