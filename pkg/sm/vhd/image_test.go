package vhd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

var someTime = time.Date(2024, 1, 31, 12, 0, 0, 0, time.UTC)

// newImage makes an empty image and opens it for writing.
func newImage(t *testing.T, size int64) (*memFile, *Image) {
	t.Helper()
	f := newMemFile(nil)
	if err := Create(f, size, someTime); err != nil {
		t.Fatal(err)
	}
	return f, open(t, f, true)
}

func open(t *testing.T, f File, writable bool) *Image {
	t.Helper()
	im, err := Open(f, writable)
	if err != nil {
		t.Fatal(err)
	}
	if broken := im.Broken(); len(broken) > 0 {
		t.Fatal(broken)
	}
	return im
}

func mustWrite(t *testing.T, im *Image, p []byte, off int64) {
	t.Helper()
	if n, err := im.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write %d at %d: %d, %v", len(p), off, n, err)
	}
}

func mustClose(t *testing.T, im *Image) {
	t.Helper()
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + byte(i>>9) + seed | 1
	}
	return b
}

// assertBytes checks the whole virtual disk against want, by reading and by walking the data runs.
func assertBytes(t *testing.T, im *Image, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := im.ReadAt(got, 0); n != len(want) || err != nil {
		t.Fatalf("read: %d, %v", n, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("bytes differ first at %d", firstDifference(got, want))
	}
	clear(got)
	for off := int64(0); ; {
		start, end, err := im.NextData(off)
		if err == io.EOF {
			break
		}
		if err != nil || start < off || end <= start {
			t.Fatalf("NextData(%d): %d, %d, %v", off, start, end, err)
		}
		copy(got[start:end], want[start:end])
		off = end
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("runs leave out data at %d", firstDifference(got, want))
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func TestGoldenHeads(t *testing.T) {
	f := newMemFile(nil)
	foot := newFooter(10<<30, [16]byte{0x11, 0x22, 0x33, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, someTime)
	if err := create(f, foot); err != nil {
		t.Fatal(err)
	}
	heads := make([]byte, tableStart)
	f.ReadAt(heads, 0)
	batmap := make([]byte, 128)
	f.ReadAt(batmap, tableStart+4*5120)
	got := dump(heads) + "batmap header\n" + dump(batmap)
	golden := filepath.Join("testdata", "heads.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("%v; got\n%s", err, got)
	}
	if f.now.size != reserve+footerSize {
		t.Errorf("file has %d bytes", f.now.size)
	}
}

// dump is a hex dump without the lines that are all zeros.
func dump(b []byte) string {
	var out strings.Builder
	for line := range strings.Lines(hex.Dump(b)) {
		if strings.Trim(line[8:58], " 0") != "" {
			out.WriteString(line)
		}
	}
	return out.String()
}

func TestGeometry(t *testing.T) {
	for size, want := range map[int64]Geometry{
		2 << 20:                   {60, 4, 17},
		10 << 20:                  {301, 4, 17},
		1 << 30:                   {2080, 16, 63},
		512 << 20:                 {1040, 16, 63},
		10 << 30:                  {20805, 16, 63},
		65535 * 16 * 63 * sector:  {16191, 16, 255},
		65535 * 16 * 255 * sector: {65535, 16, 255},
		MaxSize:                   {65535, 16, 255},
	} {
		if got := GeometryOf(size); got != want {
			t.Errorf("%d: got %+v, want %+v", size, got, want)
		}
	}
}

func TestRoundSize(t *testing.T) {
	for size, want := range map[int64]int64{
		0: 0, 1: 0, -1: 0, 1<<20 - 1: 0, MaxSize + 1: 0, 1<<63 - 1: 0, -1 << 63: 0,
		1 << 20: MinSize, MinSize: MinSize, MinSize + 1: 2 * MinSize, MaxSize: MaxSize, MaxSize - 1: MaxSize,
	} {
		if got, ok := RoundSize(size); got != want || ok != (want != 0) {
			t.Errorf("%d: %d, %v", size, got, ok)
		}
	}
	for _, size := range []int64{0, -2 << 20, 3, MaxSize + BlockSize} {
		if err := Create(newMemFile(nil), size, someTime); !errors.Is(err, ErrSize) {
			t.Errorf("create %d: %v", size, err)
		}
	}
}

func TestBiggest(t *testing.T) {
	f, im := newImage(t, MaxSize)
	mustWrite(t, im, []byte("end"), MaxSize-3)
	mustClose(t, im)
	im = open(t, f, false)
	b := make([]byte, 5)
	if n, err := im.ReadAt(b, MaxSize-3); n != 3 || err != io.EOF || string(b[:3]) != "end" {
		t.Errorf("read: %d, %v, %q", n, err, b)
	}
	if start, end, err := im.NextData(0); start != MaxSize-sector || end != MaxSize || err != nil {
		t.Errorf("NextData: %d, %d, %v", start, end, err)
	}
}

func TestRangeAndMode(t *testing.T) {
	f, im := newImage(t, MinSize)
	one := []byte{1}
	for _, off := range []int64{-1, MinSize, 1<<63 - 1, -1 << 63} {
		if _, err := im.WriteAt(one, off); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("write at %d: %v", off, err)
		}
		if _, err := im.ReadAt(one, off); err == nil {
			t.Errorf("read at %d succeeds", off)
		}
	}
	mustClose(t, im)
	for _, im := range []*Image{im, open(t, f, false)} {
		if _, err := im.WriteAt(one, 0); !errors.Is(err, ErrReadOnly) {
			t.Errorf("write: %v", err)
		}
		if err := errors.Join(im.Sync(), im.Close()); err != nil {
			t.Error(err)
		}
		if !errors.Is(im.Resize(2*MinSize), ErrReadOnly) || !errors.Is(im.SetHidden(true), ErrReadOnly) {
			t.Error("resize or hide of a read-only image")
		}
	}
}

func TestHidden(t *testing.T) {
	f, im := newImage(t, MinSize)
	if err := im.SetHidden(true); err != nil {
		t.Fatal(err)
	}
	info, err := ReadInfo(f, f.now.size)
	if err != nil || !info.Hidden || info.Type != Dynamic || info.SizeBytes != MinSize || info.UUID != im.UUID() {
		t.Errorf("%+v, %v", info, err)
	}
	if err := im.SetHidden(false); err != nil || open(t, f.killed(), false).Hidden() {
		t.Errorf("still hidden, %v", err)
	}
}

// TestZerosTakeNoRoom: zeros written where nothing is allocate nothing, and do overwrite.
func TestZerosTakeNoRoom(t *testing.T) {
	_, im := newImage(t, 4*BlockSize)
	mustWrite(t, im, make([]byte, 4*BlockSize), 0)
	if n := im.AllocatedBytes(); n != 0 {
		t.Errorf("%d bytes allocated", n)
	}
	mustWrite(t, im, pattern(BlockSize, 1), BlockSize)
	mustWrite(t, im, make([]byte, 1000), BlockSize+100)
	want := append(make([]byte, BlockSize), pattern(BlockSize, 1)...)
	clear(want[BlockSize+100 : BlockSize+1100])
	assertBytes(t, im, append(want, make([]byte, 2*BlockSize)...))
	if n := im.AllocatedBytes(); n != BlockSize+sector {
		t.Errorf("%d bytes allocated", n)
	}
}

// TestDataIsAligned checks what storage arrays and 4 KiB disks want.
func TestDataIsAligned(t *testing.T) {
	f, im := newImage(t, 8*BlockSize)
	for i := range int64(8) {
		mustWrite(t, im, []byte{1}, i*BlockSize)
	}
	mustClose(t, im)
	im = open(t, f, false)
	for i := range im.bat {
		if s, _ := im.blockSpan(int64(i)); (s.start+sector)%align != 0 || s.start < reserve {
			t.Errorf("block %d at %d", i, s.start)
		}
	}
}

// model is an image beside the bytes that it should hold.
type model struct {
	t    *testing.T
	r    *rand.Rand
	f    *memFile
	im   *Image
	want []byte
}

func (m *model) step() {
	switch m.r.IntN(12) {
	case 0:
		if err := m.im.Sync(); err != nil {
			m.t.Fatal(err)
		}
	case 1:
		mustClose(m.t, m.im)
		m.im = open(m.t, m.f, true)
	case 2: // killed: nothing that was acknowledged is lost
		m.f = m.f.killed()
		m.im = open(m.t, m.f, true)
	case 3:
		size := int64(len(m.want)) + m.r.Int64N(3)*BlockSize
		if size <= 40*BlockSize {
			if err := m.im.Resize(size); err != nil {
				m.t.Fatal(err)
			}
			m.want = append(m.want, make([]byte, size-int64(len(m.want)))...)
		}
	default:
		p, off := m.randomWrite()
		mustWrite(m.t, m.im, p, off)
		copy(m.want[off:], p)
	}
}

func (m *model) randomWrite() (p []byte, off int64) {
	off = m.r.Int64N(int64(len(m.want)))
	n := m.r.IntN(20000)
	if m.r.IntN(2) == 0 { // aligned, and large now and then
		off, n = off/sector*sector, n/sector*sector*(1+100*m.r.IntN(2))
	}
	n = int(min(int64(n), int64(len(m.want))-off))
	if m.r.IntN(8) == 0 {
		return make([]byte, n), off
	}
	return pattern(n, byte(m.r.Uint32())), off
}

func TestRandomOperations(t *testing.T) {
	for seed := range uint64(4) {
		m := &model{t: t, r: rand.New(rand.NewPCG(seed, 1)), want: make([]byte, 5*BlockSize)}
		m.f, m.im = newImage(t, int64(len(m.want)))
		for range 100 {
			m.step()
		}
		assertBytes(t, m.im, m.want)
		mustClose(t, m.im)
		m.im = open(t, m.f, false)
		assertBytes(t, m.im, m.want)
	}
}

func TestConcurrentReadersAndWriters(t *testing.T) {
	f, im := newImage(t, 16*BlockSize)
	var wg sync.WaitGroup
	for i := range int64(8) {
		wg.Go(func() {
			p := pattern(3*sector, byte(i))
			got := make([]byte, len(p))
			for k := range int64(20) {
				off := i*2*BlockSize + k*5000
				if _, err := im.WriteAt(p, off); err != nil {
					t.Error(err)
				}
				if _, err := im.ReadAt(got, off); err != nil || !bytes.Equal(got, p) {
					t.Errorf("read back at %d: %v", off, err)
				}
				im.NextData(0)
			}
		})
	}
	wg.Wait()
	mustClose(t, im)
	open(t, f, false)
}

// TestBatmapIsKept: a full block is known as such after reopening, and a damaged batmap is as good as none.
func TestBatmapIsKept(t *testing.T) {
	f, im := newImage(t, 3*BlockSize)
	mustWrite(t, im, pattern(BlockSize, 1), BlockSize)
	mustClose(t, im)
	im = open(t, f, false)
	if !hasBit(im.batmap, 1) || hasBit(im.batmap, 0) {
		t.Errorf("batmap %x", im.batmap[:1])
	}
	f.WriteAt([]byte{0xFF}, im.head.batmapAt()+sector)
	im = open(t, f, true)
	if hasBit(im.batmap, 0) || hasBit(im.batmap, 1) {
		t.Errorf("batmap %x is believed", im.batmap[:1])
	}
	mustClose(t, im)
}

// TestLostFooters: either footer is enough, and closing puts both right.
func TestLostFooters(t *testing.T) {
	for name, at := range map[string]func(f *memFile) int64{
		"copy": func(*memFile) int64 { return 0 },
		"end":  func(f *memFile) int64 { return f.now.size - footerSize },
	} {
		t.Run(name, func(t *testing.T) {
			f, im := newImage(t, 3*BlockSize)
			mustWrite(t, im, []byte("x"), 0)
			mustClose(t, im)
			healthy := f.bytes()
			f.WriteAt([]byte("nonsense"), at(f))
			mustClose(t, open(t, f, true))
			if !bytes.Equal(f.bytes(), healthy) {
				t.Error("not repaired")
			}
		})
	}
}

func TestShortFooter(t *testing.T) {
	f, im := newImage(t, 3*BlockSize)
	mustWrite(t, im, []byte("x"), 0)
	mustClose(t, im)
	f.Truncate(f.now.size - 1)
	im = open(t, f, true)
	if mustClose(t, im); f.now.size%sector != 0 {
		t.Errorf("file has %d bytes", f.now.size)
	}
	open(t, f, false)
}

func TestFixed(t *testing.T) {
	foot := newFooter(MinSize, [16]byte{1}, someTime)
	foot.kind, foot.dataOffset = Fixed, noOffset
	f := newMemFile(append(make([]byte, MinSize), foot.marshal()...))
	im := open(t, f, true)
	mustWrite(t, im, pattern(1000, 1), 77)
	mustClose(t, im)
	want := make([]byte, MinSize)
	copy(want[77:], pattern(1000, 1))
	im = open(t, f, true)
	assertBytes(t, im, want)
	if err := im.Resize(2 * MinSize); !errors.Is(err, ErrLayout) {
		t.Errorf("resize: %v", err)
	}
	// The guest of a fixed disk owns sector 0: it must not be able to choose another layout.
	fake := newFooter(MinSize, [16]byte{1}, someTime)
	mustWrite(t, im, fake.marshal(), 0)
	if _, err := Open(f, false); err == nil || !strings.Contains(err.Error(), "footer.type") {
		t.Errorf("open with a faked copy: %v", err)
	}
}

func TestResize(t *testing.T) {
	f, im := newImage(t, 3*BlockSize)
	mustWrite(t, im, pattern(5*sector, 1), 3*BlockSize-5*sector)
	want := make([]byte, 3*BlockSize)
	copy(want[3*BlockSize-5*sector:], pattern(5*sector, 1))
	for _, size := range []int64{3 * BlockSize, 4 * BlockSize, 140 * BlockSize, MaxSize} {
		if err := im.Resize(size); err != nil || im.Size() != size {
			t.Fatalf("to %d: %v", size, err)
		}
	}
	for size, wantErr := range map[int64]error{0: ErrShrink, BlockSize: ErrShrink, MaxSize + 1: ErrSize, 1<<63 - 1: ErrSize} {
		if err := im.Resize(size); !errors.Is(err, wantErr) {
			t.Errorf("to %d: %v", size, err)
		}
	}
	mustWrite(t, im, []byte("last"), MaxSize-4)
	mustClose(t, im)
	im = open(t, f, false)
	got := make([]byte, len(want))
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("bytes lost: %v", err)
	}
	if im.foot.geometry != GeometryOf(MaxSize) || !im.keepBatmap || im.head.entries != MaxSize/BlockSize {
		t.Errorf("geometry %+v, entries %d", im.foot.geometry, im.head.entries)
	}
}
