package vhd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// qemuImg runs qemu-img, an implementation of the format that is not ours.
func qemuImg(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func needQemu(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is missing: install qemu-utils")
	}
}

// content is a disk of five blocks: full, empty, scattered, empty, the last byte.
func content() []byte {
	b := make([]byte, 5*BlockSize)
	copy(b, pattern(BlockSize, 1))
	for i := range 7 {
		copy(b[2*BlockSize+i*100_000:], pattern(3000, byte(i)))
	}
	b[len(b)-1] = 0xEE
	return b
}

func TestQemuReadsOurs(t *testing.T) {
	needQemu(t)
	dir, want := t.TempDir(), content()
	ours, raw := filepath.Join(dir, "ours.vhd"), filepath.Join(dir, "out.raw")
	f, err := os.Create(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Create(f, int64(len(want)), someTime); err != nil {
		t.Fatal(err)
	}
	im := open(t, f, true)
	for off := 0; off < len(want); off += 100_000 {
		mustWrite(t, im, want[off:min(off+100_000, len(want))], int64(off))
	}
	for _, size := range []int64{int64(len(want)), 300 * BlockSize} {
		if err := im.Resize(size); err != nil {
			t.Fatal(err)
		}
		mustClose(t, im)
		qemuImg(t, "convert", "-O", "raw", "--image-opts", "driver=vpc,force_size_calc=current_size,file.filename="+ours, raw)
		got, err := os.ReadFile(raw)
		if err != nil || int64(len(got)) != size || !bytes.Equal(got[:len(want)], want) || !allZero(got[len(want):]) {
			t.Fatalf("%v, %d bytes", err, len(got))
		}
		im = open(t, f, true)
	}
	if info := qemuImg(t, "info", "-f", "vpc", ours); !strings.Contains(info, "file format: vpc") {
		t.Error(info)
	}
}

func TestWeReadQemu(t *testing.T) {
	needQemu(t)
	for _, format := range []string{"dynamic", "fixed"} {
		t.Run(format, func(t *testing.T) {
			dir, want := t.TempDir(), content()
			raw, theirs := filepath.Join(dir, "in.raw"), filepath.Join(dir, "theirs.vhd")
			if err := os.WriteFile(raw, want, 0o600); err != nil {
				t.Fatal(err)
			}
			qemuImg(t, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on,subformat="+format, raw, theirs)
			f, err := os.OpenFile(theirs, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			im := open(t, f, true)
			assertBytes(t, im, want)
			mustWrite(t, im, []byte("ours"), BlockSize+5)
			copy(want[BlockSize+5:], "ours")
			if format == "dynamic" { // their table is packed, so that growing must move blocks
				assertNoStaleBytes(t, im)
				if err := im.Resize(20000 * BlockSize); err != nil {
					t.Fatal(err)
				}
			}
			mustClose(t, im)
			im = open(t, f, false)
			got := make([]byte, len(want))
			if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("after writing: %v", err)
			}
			back := filepath.Join(dir, "back.raw")
			qemuImg(t, "convert", "-S", "4k", "-O", "raw", "--image-opts", "driver=vpc,force_size_calc=current_size,file.filename="+theirs, back)
			bf, err := os.Open(back)
			if err != nil {
				t.Fatal(err)
			}
			defer bf.Close()
			if err := readFull(bf, got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("qemu reads it otherwise: %v", err)
			}
		})
	}
}
