package file_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"xapid/pkg/sm"
	"xapid/pkg/sm/file"
	"xapid/pkg/sm/smtest"
	"xapid/pkg/sm/vhd"
)

// attach makes the SR's directory, lets fill put things there, and attaches it as found.
func attach(t *testing.T, fill func(spec sm.Spec)) (sm.SR, sm.Spec) {
	t.Helper()
	spec := newSpec(t)
	if err := os.Mkdir(spec.Config["location"], 0o700); err != nil {
		t.Fatal(err)
	}
	fill(spec)
	sr, err := file.New(file.Options{}).Attach(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sr.Detach(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return sr, spec
}

// image makes the bytes of a small image, which edit may change before its checksums are put right.
func image(t *testing.T, edit func(b []byte)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.vhd")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := vhd.Create(f, 4<<20, time.Now()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit(b)
	reseal(b[:512], 64)
	reseal(b[512:1536], 36)
	copy(b[len(b)-512:], b[:512])
	return string(b)
}

func reseal(b []byte, at int) {
	var sum uint32
	clear(b[at : at+4])
	for _, c := range b {
		sum += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^sum)
}

// child makes an image that is a difference to what name says.
func child(t *testing.T, name string) string {
	return image(t, func(b []byte) {
		binary.BigEndian.PutUint32(b[60:], 4)
		for i, c := range []byte(name) {
			b[512+64+2*i+1] = c
		}
	})
}

func uuid(n int) string { return fmt.Sprintf("%08x-0000-4000-8000-000000000000", n) }

// TestScanBrokenNodeGoesOn puts all kinds of nonsense beside a good volume.
func TestScanBrokenNodeGoesOn(t *testing.T) {
	sr, _ := attach(t, func(spec sm.Spec) {
		dir := spec.Config["location"]
		put(t, spec, uuid(1)+".vhd", image(t, func([]byte) {}))
		put(t, spec, uuid(2)+".vhd", "")
		put(t, spec, uuid(3)+".vhd", strings.Repeat("nonsense", 1000))
		put(t, spec, uuid(4)+".vhd", image(t, func(b []byte) { b[512+28] = 0xFF }))
		put(t, spec, uuid(8)+".raw", "twice")
		put(t, spec, uuid(8)+".vhd", image(t, func([]byte) {}))
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, uuid(5)+".vhd"), 0o700),
			os.Symlink("/etc/passwd", filepath.Join(dir, uuid(6)+".raw")),
			os.Symlink(uuid(1)+".vhd", filepath.Join(dir, uuid(7)+".vhd")),
			syscall.Mkfifo(filepath.Join(dir, uuid(9)+".raw"), 0o600),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	list, err := sr.Scan(t.Context())
	if err != nil || len(list) != 9 {
		t.Fatalf("%v, %d volumes", err, len(list))
	}
	for _, v := range list {
		if good := v.ID == uuid(1); good != (v.Err == nil) {
			t.Errorf("%s: %v", v.ID, v.Err)
		}
		if v.Err == nil || v.ID == uuid(8) {
			continue
		}
		_, err := sr.AttachVolume(t.Context(), v.ID, "h", sm.ReadWrite)
		smtest.AssertCode(t, err, sm.CodeVolumeGone)
		_, err = sr.OpenVolume(t.Context(), v.ID, sm.ReadOnly)
		smtest.AssertCode(t, err, sm.CodeVolumeGone)
	}
	if text := list[3].Err.Error(); !strings.Contains(text, "opterr=header.max_table_entries") {
		t.Errorf("the field is not named: %s", text)
	}
}

// TestBlocksInImpossiblePlaces: such an image is for reading alone.
func TestBlocksInImpossiblePlaces(t *testing.T) {
	sr, _ := attach(t, func(spec sm.Spec) {
		put(t, spec, uuid(1)+".vhd", image(t, func(b []byte) { binary.BigEndian.PutUint32(b[1536:], 0) }))
	})
	_, err := sr.AttachVolume(t.Context(), uuid(1), "h", sm.ReadWrite)
	smtest.AssertCode(t, err, sm.CodeVolumeGone)
	if err == nil || !strings.Contains(err.Error(), "opterr=bat[0]: sector 0 is in the metadata") {
		t.Errorf("the field is not named: %v", err)
	}
	if _, err := sr.AttachVolume(t.Context(), uuid(1), "h", sm.ReadOnly); err != nil {
		t.Error(err)
	}
	b, err := sr.OpenVolume(t.Context(), uuid(1), sm.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.ReadAt(make([]byte, 1), 0)
	smtest.AssertCode(t, err, sm.CodeIO)
	if err := errors.Join(b.Close(), sr.DetachVolume(t.Context(), uuid(1), "h")); err != nil {
		t.Error(err)
	}
}

// TestParents is the row V5 of the bad inputs: a parent is a uuid in this SR, or nothing.
func TestParents(t *testing.T) {
	names := map[int]string{
		1: uuid(2) + ".vhd", 3: uuid(3) + ".vhd", 4: uuid(5) + ".vhd", 5: uuid(6) + ".vhd", 6: uuid(4) + ".vhd",
		7: "/etc/shadow", 8: `\\host\share`, 9: "../other-sr/" + uuid(99) + ".vhd", 10: "/elsewhere/" + uuid(2) + ".vhd", 11: "",
	}
	for i := 100; i < 180; i++ {
		names[i] = uuid(i+1) + ".vhd"
	}
	sr, _ := attach(t, func(spec sm.Spec) {
		put(t, spec, uuid(2)+".vhd", image(t, func(b []byte) { b[85] = 1 }))
		put(t, spec, uuid(180)+".vhd", image(t, func([]byte) {}))
		for i, name := range names {
			put(t, spec, uuid(i)+".vhd", child(t, name))
		}
	})
	list, err := sr.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good := []string{uuid(1), uuid(2), uuid(10), uuid(180), uuid(179), uuid(117), uuid(116)}
	bad := []string{uuid(3), uuid(4), uuid(5), uuid(6), uuid(7), uuid(8), uuid(9), uuid(11), uuid(100), uuid(115)}
	for _, v := range list {
		if slices.Contains(good, v.ID) && v.Err != nil || slices.Contains(bad, v.ID) && v.Err == nil {
			t.Errorf("%s: %v", v.ID, v.Err)
		}
		if v.ID == uuid(1) && (v.Parent != uuid(2) || v.SMConfig["vhd-parent"] != uuid(2)) {
			t.Errorf("%+v", v)
		}
		if v.ID == uuid(2) && (!v.Hidden || v.SMConfig["vdi_type"] != "vhd") {
			t.Errorf("%+v", v)
		}
	}
	_, err = sr.AttachVolume(t.Context(), uuid(1), "h", sm.ReadOnly)
	if !errors.Is(err, sm.ErrNotSupported) {
		t.Errorf("attach of a difference: %v", err)
	}
	a, _ := sr.(sm.Allocator)
	smtest.AssertCode(t, a.DestroyVolume(t.Context(), uuid(2)), sm.CodeHidden)
}

// TestLeftoversGoAtAttach: and nothing else does.
func TestLeftoversGoAtAttach(t *testing.T) {
	_, spec := attach(t, func(spec sm.Spec) {
		for _, name := range []string{
			".xapid-" + uuid(1) + ".vhd", ".xapid-x", uuid(2) + ".vhd.new", uuid(2) + ".vhd", uuid(3) + ".vhd.new", "x.new", "OLD_" + uuid(4) + ".vhd",
		} {
			put(t, spec, name, "x")
		}
	})
	if got := listing(t, spec); !slices.Equal(got, []string{uuid(2) + ".vhd", uuid(3) + ".vhd.new", "OLD_" + uuid(4) + ".vhd", "x.new"}) {
		t.Errorf("there are %q", got)
	}
}

func TestLocationIsASymbolicLink(t *testing.T) {
	spec := newSpec(t)
	if err := os.Symlink("/etc", spec.Config["location"]); err != nil {
		t.Fatal(err)
	}
	_, err := file.New(file.Options{}).Attach(t.Context(), spec)
	smtest.AssertCode(t, err, sm.CodeSRGone)
	smtest.AssertCode(t, file.New(file.Options{}).Create(t.Context(), spec, 0), sm.CodeSRCreate, sm.CodeSRGone)
}

// TestFullMedium runs into the end of a file system of 8 MiB.
func TestFullMedium(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	spec := newSpec(t)
	dir := spec.Config["location"]
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	d := file.New(file.Options{})
	if err := d.Create(t.Context(), spec, 0); err != nil {
		t.Fatal(err)
	}
	sr, err := d.Attach(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	testFull(t, sr)
	if err := sr.Detach(t.Context()); err != nil {
		t.Error(err)
	}
	if names := listing(t, spec); len(names) != 1 {
		t.Errorf("left %q", names)
	}
}

func testFull(t *testing.T, sr sm.SR) {
	a, _ := sr.(sm.Allocator)
	_, err := a.CreateVolume(t.Context(), sm.VolumeSpec{UUID: uuid(1), SizeBytes: 9 << 20, Format: sm.FormatRaw})
	var full *sm.FullError
	if !errors.As(err, &full) || full.RequestedBytes != 9<<20 || full.MaxBytes <= 0 || full.MaxBytes > 8<<20 {
		t.Errorf("raw volume of 9 MiB: %v", err)
	}
	smtest.AssertCode(t, err, sm.CodeNoSpace)
	v, err := a.CreateVolume(t.Context(), sm.VolumeSpec{UUID: uuid(2), SizeBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	b, err := sr.OpenVolume(t.Context(), v.ID, sm.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	chunk := bytes.Repeat([]byte("data"), 1<<18)
	off := int64(0)
	for ; err == nil && off < 16<<20; off += int64(len(chunk)) {
		_, err = b.WriteAt(chunk, off)
	}
	smtest.AssertCode(t, err, sm.CodeNoSpace)
	if err := b.Close(); err != nil {
		t.Errorf("close when full: %v", err)
	}
	_, err = sm.Copy(t.Context(), sr, v.ID, sr, sm.VolumeSpec{UUID: uuid(3)}, nil)
	smtest.AssertCode(t, err, sm.CodeNoSpace)
	b, err = sr.OpenVolume(t.Context(), v.ID, sm.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got := make([]byte, len(chunk))
	if _, err := b.ReadAt(got, 0); err != nil || !bytes.Equal(got, chunk) {
		t.Errorf("what was written before is gone: %v", err)
	}
}
