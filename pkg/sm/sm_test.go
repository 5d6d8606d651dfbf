package sm_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"xapid/pkg/sm"
	"xapid/pkg/sm/all"
	"xapid/pkg/sm/smtest"
)

func TestRegistry(t *testing.T) {
	r := all.Drivers()
	var types []string
	for _, d := range r.Drivers() {
		types = append(types, d.Info().Type)
		if got, err := r.Driver(d.Info().Type); err != nil || got != d {
			t.Errorf("%v, %v", got, err)
		}
	}
	if !slices.Equal(types, []string{"file", "iso"}) {
		t.Errorf("drivers %v", types)
	}
	if _, err := r.Driver("../file"); !errors.Is(err, sm.ErrUnknownDriver) {
		t.Errorf("unknown driver: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("two drivers of a type")
		}
	}()
	sm.NewRegistry(append(r.Drivers(), r.Drivers()[0])...)
}

// TestFeatures is what SM.features shows, computed from what the drivers have.
func TestFeatures(t *testing.T) {
	want := map[string]string{
		"file": "SR_UPDATE THIN_PROVISIONING VDI_ACTIVATE VDI_ATTACH VDI_CREATE VDI_DEACTIVATE VDI_DELETE VDI_DETACH VDI_RESIZE",
		"iso":  "SR_UPDATE VDI_ACTIVATE VDI_ATTACH VDI_DEACTIVATE VDI_DETACH",
	}
	for _, d := range all.Drivers().Drivers() {
		if got := strings.Join(sm.FeatureNames(d), " "); got != want[d.Info().Type] {
			t.Errorf("%s: %s", d.Info().Type, got)
		}
	}
}

func TestFailure(t *testing.T) {
	full := &sm.FullError{RequestedBytes: 2, MaxBytes: 1}
	for name, c := range map[string]struct {
		err  error
		code sm.Code
		text string
	}{
		"plain":     {sm.Failure(sm.CodeVolumeSize, "", nil), 79, "VDI Invalid size"},
		"reason":    {sm.Failure(sm.CodeVolumeSize, "shrinking not allowed", nil), 79, "VDI Invalid size [opterr=shrinking not allowed]"},
		"cause":     {sm.Failure(sm.CodeIO, "", fs.ErrPermission), 200, "General IO error"},
		"full":      {sm.Failure(sm.CodeIO, "", &fs.PathError{Err: syscall.ENOSPC}), 44, "There is insufficient space"},
		"quota":     {sm.Failure(sm.CodeIO, "", syscall.EDQUOT), 44, "There is insufficient space"},
		"read-only": {sm.Failure(sm.CodeIO, "", syscall.EROFS), 461, "The file system for SR cannot be written to."},
		"inner":     {sm.Failure(sm.CodeIO, "", sm.Failure(sm.CodeSRGone, "", nil)), 47, "The SR is not available"},
		"figures":   {sm.Failure(sm.CodeIO, "", full), 44, "There is insufficient space"},
	} {
		var e *sm.Error
		if !errors.As(c.err, &e) || e.Code != c.code || e.Text() != c.text {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	var f *sm.FullError
	if !errors.As(sm.Failure(sm.CodeVolumeCreate, "", full), &f) || f.RequestedBytes != 2 {
		t.Error("the figures are lost")
	}
}

// TestCopyBetweenDrivers takes a CD image into a file SR; the library itself takes nothing.
func TestCopyBetweenDrivers(t *testing.T) {
	library, dir := t.TempDir(), filepath.Join(t.TempDir(), "sr")
	content := append(make([]byte, 3<<20), "the end"...)
	if err := os.WriteFile(filepath.Join(library, "x.iso"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	attach := func(srType string, config map[string]string) sm.SR {
		d, err := all.Drivers().Driver(srType)
		if err != nil {
			t.Fatal(err)
		}
		spec := sm.Spec{UUID: smtest.UUID(), Config: config}
		if err := d.Create(t.Context(), spec, 0); err != nil {
			t.Fatal(err)
		}
		sr, err := d.Attach(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		return sr
	}
	isos := attach("iso", map[string]string{"location": library, "legacy_mode": "true"})
	files := attach("file", map[string]string{"location": dir})
	v, err := sm.Copy(t.Context(), isos, "x.iso", files, sm.VolumeSpec{UUID: smtest.UUID()}, nil)
	if err != nil || v.VirtualBytes != 4<<20 || v.PhysicalBytes > 1<<20 {
		t.Fatalf("%+v, %v", v, err)
	}
	b, err := files.OpenVolume(t.Context(), v.ID, sm.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(content))
	if _, err := b.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
		t.Errorf("other bytes, %v", err)
	}
	_, err = sm.Copy(t.Context(), files, v.ID, isos, sm.VolumeSpec{UUID: smtest.UUID()}, nil)
	if !errors.Is(err, sm.ErrNotSupported) {
		t.Errorf("copy into a library: %v", err)
	}
	if err := errors.Join(b.Close(), files.Detach(t.Context()), isos.Detach(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestHolders(t *testing.T) {
	var h sm.Holders
	acquire := func(holder string, mode sm.Mode, wantAdded bool, want error) {
		t.Helper()
		if added, err := h.Acquire("v", holder, mode); added != wantAdded || !errors.Is(err, want) {
			t.Errorf("%s %s: %v, %v", holder, mode, added, err)
		}
	}
	acquire("a", sm.Shared, true, nil)
	acquire("b", sm.Shared, true, nil)
	acquire("c", sm.ReadOnly, true, nil)
	acquire("c", sm.ReadOnly, false, nil)
	acquire("d", sm.ReadWrite, false, sm.ErrInUse)
	if _, err := h.Exclusive("v"); !errors.Is(err, sm.ErrInUse) {
		t.Errorf("exclusive: %v", err)
	}
	for _, holder := range []string{"a", "b", "c", "c", "never"} {
		if !h.Busy() && holder != "c" && holder != "never" {
			t.Error("not busy")
		}
		h.Release("v", holder)
	}
	release, err := h.Exclusive("v")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Exclusive("v"); !errors.Is(err, sm.ErrInUse) {
		t.Errorf("exclusive twice: %v", err)
	}
	acquire("a", sm.ReadOnly, false, sm.ErrInUse)
	if release(); h.Busy() {
		t.Error("still busy")
	}
}

func TestIsUUID(t *testing.T) {
	for s, want := range map[string]bool{
		"6ba7b810-9dad-11d1-80b4-00c04fd430c8": true, "00000000-0000-0000-0000-000000000000": true,
		"6BA7B810-9dad-11d1-80b4-00c04fd430c8": false, "6ba7b810-9dad-11d1-80b4-00c04fd430c": false,
		"6ba7b8109-dad-11d1-80b4-00c04fd430c8": false, "6ba7b810-9dad-11d1-80b4-00c04fd430cg": false,
		"6ba7b810-9dad-11d1-80b4-00c04fd430c:": false, "": false, "../../../../../../../../etc/passwd--": false,
	} {
		if got := sm.IsUUID(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}
