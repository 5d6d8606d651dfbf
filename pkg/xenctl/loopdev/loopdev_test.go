package loopdev

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// needLoop skips where no devices can be made.
func needLoop(t *testing.T) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("missing: loop devices: %v (make lab has them)", err)
	}
	control.Close()
}

func TestOpen(t *testing.T) {
	needLoop(t)
	path := filepath.Join(t.TempDir(), "disk")
	want := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	loop, err := Open(file, false)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := loop.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("it reads otherwise, %v", err)
	}
	name := filepath.Base(loop.Name())
	if err := loop.Close(); err != nil {
		t.Error(err)
	}
	backing := filepath.Join("/sys/block", name, "loop/backing_file")
	for end := time.Now().Add(10 * time.Second); ; { // the kernel may take a moment
		if now, err := os.ReadFile(backing); err != nil || string(bytes.TrimSpace(now)) != path {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s stays", name)
		}
	}
}
