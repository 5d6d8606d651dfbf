package iso_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"xapid/pkg/sm"
	"xapid/pkg/sm/iso"
	"xapid/pkg/sm/smtest"
)

func TestWhatIsAVolume(t *testing.T) {
	spec, id := newSpec(t), smtest.UUID()
	for _, name := range []string{"Debian 12.ISO", "b.iMg", id + ".iso", "é.iso"} {
		put(t, spec, name, []byte("12345"))
	}
	dir := spec.Config["location"]
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "dir.iso"), 0o700), os.Symlink("/etc/passwd", filepath.Join(dir, "link.iso")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	sr, err := iso.New().Attach(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer sr.Detach(t.Context())
	list, err := sr.Scan(t.Context())
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, v := range list {
		if withUUID := v.ID == id+".iso"; withUUID != (v.UUID == id) || !v.ReadOnly || v.VirtualBytes != 5 || v.Format != sm.FormatRaw {
			t.Errorf("%+v", v)
		}
	}
	if _, ok := sr.(sm.Allocator); ok {
		t.Error("volumes can be made in a library")
	}
}

func TestWriteImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tools.iso")
	readme := "These are the guest tools.\n"
	for range 2 { // the second replaces the first
		if err := iso.WriteImage(path, "guest tools", readme, time.Date(2024, 1, 31, 12, 0, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b)%2048 != 0 || len(b) > 64<<10 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if primary := b[16*2048:]; !bytes.HasPrefix(primary, []byte("\x01CD001\x01")) || !bytes.HasPrefix(primary[40:], []byte("GUEST_TOOLS   ")) {
		t.Errorf("descriptor %q", primary[:80])
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := iso.WriteImage("/proc/nowhere/x.iso", "x", "", time.Now()); err == nil {
		t.Error("written to nowhere")
	}
}

// TestOthersReadImage reads the image with a reader that is not ours.
func TestOthersReadImage(t *testing.T) {
	if _, err := exec.LookPath("bsdtar"); err != nil {
		t.Skip("bsdtar is missing: install libarchive-tools")
	}
	path, readme := filepath.Join(t.TempDir(), "tools.iso"), "line one\nline two\n"
	if err := iso.WriteImage(path, "tools", readme, time.Now()); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{".\nREADME.TXT\n": {"-tf", path}, readme: {"-xOf", path, "README.TXT"}} {
		if got, err := exec.Command("bsdtar", args...).CombinedOutput(); err != nil || string(got) != want {
			t.Errorf("%v: %q, %v", args, got, err)
		}
	}
}
