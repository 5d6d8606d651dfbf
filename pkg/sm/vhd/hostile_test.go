package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
)

// smallImage is a healthy image of three blocks, the first two of them allocated.
func smallImage(t testing.TB) []byte {
	f := newMemFile(nil)
	if err := Create(f, 3*BlockSize, someTime); err != nil {
		t.Fatal(err)
	}
	im, err := Open(f, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(2) {
		if _, err := im.WriteAt(pattern(5000, byte(i)), i*BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	return f.bytes()
}

// seal puts the checksums of an image right again, so that only the field which a test changed is wrong.
func seal(b []byte) {
	be := binary.BigEndian
	be.PutUint32(b[64:], checksum(b[:footerSize], 64))
	be.PutUint32(b[512+36:], checksum(b[512:512+headerSize], 36))
	copy(b[len(b)-footerSize:], b[:footerSize])
}

func put32(at int, v uint32) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint32(b[at:], v) }
}

func put64(at int, v uint64) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint64(b[at:], v) }
}

// TestHostileHeads is the row V4 of the bad inputs, as far as an image is not opened at all.
func TestHostileHeads(t *testing.T) {
	healthy := smallImage(t)
	for field, changes := range map[string]map[string]func([]byte){
		"footer.cookie":   {"nonsense": func(b []byte) { copy(b, "conectiX") }},
		"footer.features": {"unknown": put32(8, 0x10002)},
		"footer.version":  {"2.0": put32(12, 0x20000)},
		"footer.size": {
			"zero": put64(48, 0), "odd": put64(48, BlockSize+1), "4 TiB": put64(48, 1<<42), "2^63": put64(48, 1<<63),
		},
		"footer.geometry": {"absurd": func(b []byte) { copy(b[56:], "\xff\xff\xff\xff") }, "a track too many": func(b []byte) { b[57]++ }},
		"footer.type":     {"none": put32(60, 0), "unknown": put32(60, 5), "huge": put32(60, 1<<31)},
		"footer.saved":    {"2": func(b []byte) { b[84] = 2 }},
		"footer.hidden":   {"2": func(b []byte) { b[85] = 2 }},
		"footer.data_offset": {
			"in the footer": put64(16, 0), "odd": put64(16, 513), "past the end": put64(16, 1<<40), "wraps": put64(16, 1<<64-512),
		},
		"header.cookie":  {"nonsense": func(b []byte) { b[512] = 'x' }},
		"header.version": {"2.0": put32(512+24, 0x20000)},
		"header.block_size": {
			"0": put32(512+32, 0), "512": put32(512+32, 512), "2^31": put32(512+32, 1<<31), "odd": put32(512+32, BlockSize+1),
		},
		"header.max_table_entries": {
			"2^32": put32(512+28, 1<<32-1), "0": put32(512+28, 0), "too few": put32(512+28, 2), "many": put32(512+28, 1<<21),
		},
		"header.table_offset": {
			"in the footer": put64(512+16, 0), "in the header": put64(512+16, 1024), "odd": put64(512+16, 1537),
			"past the end": put64(512+16, 1<<40), "wraps": put64(512+16, 1<<64-512),
		},
		"header.parent_uuid": {"set": put32(512+40, 1)},
	} {
		for name, change := range changes {
			t.Run(field+" "+name, func(t *testing.T) {
				b := bytes.Clone(healthy)
				change(b)
				seal(b)
				assertRefused(t, b, field)
			})
		}
	}
	for field, at := range map[string]int{"footer.checksum": 100, "header.checksum": 700} {
		b := bytes.Clone(healthy)
		b[at] ^= 1
		copy(b[len(b)-footerSize:], b[:footerSize])
		assertRefused(t, b, field)
	}
	for _, size := range []int{0, 1, 512, 2047} {
		assertRefused(t, healthy[:size], "file")
	}
}

func assertRefused(t *testing.T, b []byte, field string) {
	t.Helper()
	f := newMemFile(b)
	_, err := Open(f, true)
	var fe *FormatError
	if !errors.As(err, &fe) || fe.Field != field {
		t.Errorf("want %s, got %v", field, err)
	}
	if !bytes.Equal(f.bytes(), b) {
		t.Error("a refused image was changed")
	}
	_, err = ReadInfo(f, int64(len(b)))
	if !errors.As(err, &fe) || fe.Field != field {
		t.Errorf("ReadInfo: %v", err)
	}
}

// TestHostileBAT is the row V4 as to single entries: such blocks cannot be read, all others can.
func TestHostileBAT(t *testing.T) {
	healthy := smallImage(t)
	first := binary.BigEndian.Uint32(healthy[tableStart:])
	for name, c := range map[string]struct {
		entry0, entry1 uint32
		broken         []string
	}{
		"offset 0":                {0, first, []string{"bat[0]"}},
		"in the header":           {1, first, []string{"bat[0]"}},
		"in the BAT":              {3, first, []string{"bat[0]"}},
		"reaches into the BAT":    {2, first, []string{"bat[0]"}},
		"past the end":            {1 << 24, first, []string{"bat[0]"}},
		"last sector":             {uint32(len(healthy)/sector - 1), first, []string{"bat[0]"}},
		"almost none":             {unallocated - 1, first, []string{"bat[0]"}},
		"two on one sector":       {first, first, []string{"bat[0]", "bat[1]"}},
		"one sector apart":        {first, first + 1, []string{"bat[0]", "bat[1]"}},
		"overlap by one sector":   {first, first + 4096, []string{"bat[0]", "bat[1]"}},
		"both outside":            {0, 1 << 30, []string{"bat[0]", "bat[1]"}},
		"unaligned, yet harmless": {first - 1, first + 4097, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(healthy)
			put32(tableStart, c.entry0)(b)
			put32(tableStart+4, c.entry1)(b)
			im, err := Open(newMemFile(b), false)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range im.Broken() {
				got = append(got, e.(*FormatError).Field)
			}
			if strings.Join(got, " ") != strings.Join(c.broken, " ") {
				t.Fatalf("broken %v, want %v", im.Broken(), c.broken)
			}
			if len(c.broken) > 0 {
				assertRefusedForWriting(t, b, c.broken[0])
			} else {
				mustClose(t, open(t, newMemFile(b), true))
			}
			assertBrokenUnreadable(t, im)
		})
	}
}

func assertRefusedForWriting(t *testing.T, b []byte, field string) {
	t.Helper()
	f := newMemFile(b)
	var fe *FormatError
	if _, err := Open(f, true); !errors.As(err, &fe) || fe.Field != field || !bytes.Equal(f.bytes(), b) {
		t.Errorf("open for writing: %v", err)
	}
}

// assertBrokenUnreadable reads every block of an image with broken ones.
func assertBrokenUnreadable(t *testing.T, im *Image) {
	t.Helper()
	for i := range int64(3) {
		_, err := im.ReadAt(make([]byte, 100), i*BlockSize)
		var fe *FormatError
		if errors.As(err, &fe) != hasBit(im.broken, i) {
			t.Errorf("block %d: %v", i, err)
		}
	}
	if _, _, err := im.NextData(0); err != nil && err != io.EOF {
		t.Error(err)
	}
}

func TestDifferencingIsRefused(t *testing.T) {
	b := smallImage(t)
	put32(60, uint32(Differencing))(b)
	copy(b[512+40:], "parent-uuid-1234")
	for i, c := range "/etc/../shadow.vhd" {
		binary.BigEndian.PutUint16(b[512+64+2*i:], uint16(c))
	}
	seal(b)
	if _, err := Open(newMemFile(b), false); !errors.Is(err, ErrDifferencing) {
		t.Errorf("open: %v", err)
	}
	info, err := ReadInfo(bytes.NewReader(b), int64(len(b)))
	if err != nil || info.Type != Differencing || info.ParentName != "/etc/../shadow.vhd" || info.ParentUUID != [16]byte([]byte("parent-uuid-1234")) {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestOddBlockSize: other block sizes are read, and not written.
func TestOddBlockSize(t *testing.T) {
	b := smallImage(t)
	put32(512+32, maxBlock)(b)
	put32(tableStart, unallocated)(b)
	seal(b)
	if _, err := Open(newMemFile(b), true); !errors.Is(err, ErrLayout) {
		t.Errorf("for writing: %v", err)
	}
	im, err := Open(newMemFile(b), false)
	if err != nil {
		t.Fatal(err)
	}
	assertBytes(t, im, make([]byte, 3*BlockSize))
}

// TestMemoryIsBounded opens the largest table that is allowed, all of it pointing at one sector.
func TestMemoryIsBounded(t *testing.T) {
	foot := newFooter(maxVirtual, [16]byte{1}, someTime)
	head := newHeader(maxEntries)
	f := newMemFile(foot.marshal())
	f.WriteAt(head.marshal(), footerSize)
	f.WriteAt(make([]byte, 4*maxEntries+512), tableStart)
	f.WriteAt(foot.marshal(), roundUp(f.now.size, sector))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	im, err := Open(f, false)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 40<<20 {
		t.Errorf("%d MiB allocated", n>>20)
	}
	if n := len(im.Broken()); n != 16 {
		t.Errorf("%d broken blocks listed", n)
	}
}

func TestReadErrors(t *testing.T) {
	broken := errors.New("broken disk")
	b := smallImage(t)
	for n := range 5 {
		_, err := Open(&failingReader{newMemFile(b), n, broken}, false)
		if err != nil && !errors.Is(err, broken) {
			t.Errorf("read %d: %v", n, err)
		}
	}
	if _, err := ReadInfo(io.NewSectionReader(bytes.NewReader(b), 0, 3000), int64(len(b))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shortened while read: %v", err)
	}
}

// failingReader fails the read after the first left ones.
type failingReader struct {
	*memFile
	left int
	err  error
}

func (f *failingReader) ReadAt(p []byte, off int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, f.err
	}
	return f.memFile.ReadAt(p, off)
}

// FuzzOpen opens any bytes, for writing where it may, and checks that what is then written is there after reopening.
func FuzzOpen(f *testing.F) {
	tiny := func(edit func([]byte)) []byte {
		b := smallImage(f)
		heads := bytes.Clone(b[:tableStart+3*sector])
		if edit != nil {
			edit(heads)
		}
		return append(heads, b[:footerSize]...)
	}
	f.Add(tiny(nil))
	f.Add(tiny(put32(tableStart, unallocated)))
	f.Add(tiny(func(b []byte) { put32(tableStart, unallocated)(b); put32(tableStart+4, unallocated)(b) }))
	f.Add([]byte(footerCookie))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		if b = bytes.Clone(b); len(b) >= tableStart+footerSize { // let the fuzzer past the checksums
			seal(b)
		}
		file := newMemFile(b)
		ReadInfo(file, int64(len(b)))
		im, err := Open(file, true)
		if err != nil {
			return
		}
		im.NextData(0)
		p, off := []byte("written"), im.Size()/2
		if _, err := im.WriteAt(p, off); err != nil {
			return
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		im, err = Open(file, false)
		if err != nil {
			t.Fatalf("does not open again: %v", err)
		}
		got := make([]byte, len(p))
		if _, err := im.ReadAt(got, off); err != nil || !bytes.Equal(got, p) {
			t.Fatalf("read %q, %v", got, err)
		}
	})
}

var _ File = (*os.File)(nil)
