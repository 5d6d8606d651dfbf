package xenctltest

import (
	"os"
	"path/filepath"
	"testing"

	"xapid/pkg/xenctl"
)

func testSaveRestore(t *testing.T, s *suite) {
	cfg := s.config()
	first := s.boot(t, cfg)
	image := filepath.Join(t.TempDir(), "image")
	noErr(t, "save", s.h.Save(s.ctx(t), cfg.UUID, image))
	s.awaitStop(t, first, xenctl.StopSaved)
	if info, err := os.Stat(image); err != nil || info.Size() == 0 {
		t.Fatalf("image: %v", err)
	}

	second, err := s.h.Restore(s.ctx(t), image, cfg)
	noErr(t, "restore", err)
	if second.ID <= first.ID || second.UUID != cfg.UUID {
		t.Errorf("restored: %+v after %+v", second, first)
	}
	if e := s.await(t, cfg.UUID, xenctl.EventStarted); e.ID == first.ID {
		e = s.await(t, cfg.UUID, xenctl.EventStarted)
		if e.ID != second.ID {
			t.Errorf("started: id %d, want %d", e.ID, second.ID)
		}
	}
	s.wantState(t, cfg.UUID, xenctl.StateRunning)
	_, err = s.h.Restore(s.ctx(t), image, cfg)
	wantErr(t, "restore while it runs", err, xenctl.ErrExists)
	if _, err := os.Stat(image); err != nil {
		t.Errorf("the image has gone: %v", err)
	}
	if s.Lacks[TraitPausedStart] == "" {
		s.restorePaused(t, cfg, image)
	}
}

// restorePaused saves the domain anew, over the image that is there, and restores it without running it.
func (s *suite) restorePaused(t *testing.T, cfg *xenctl.DomainConfig, image string) {
	noErr(t, "save again", s.h.Save(s.ctx(t), cfg.UUID, image))
	cfg.StartPaused = true
	d, err := s.h.Restore(s.ctx(t), image, cfg)
	noErr(t, "restore paused", err)
	if d.State != xenctl.StatePaused {
		t.Errorf("restored %q, want paused", d.State)
	}
	noErr(t, "unpause", s.h.Unpause(s.ctx(t), cfg.UUID))
	s.wantState(t, cfg.UUID, xenctl.StateRunning)
}

func testSaveFails(t *testing.T, s *suite) {
	d := s.boot(t, s.config())
	if err := s.h.Save(s.ctx(t), d.UUID, filepath.Join(t.TempDir(), "no", "such", "directory")); err == nil {
		t.Fatal("saved into a directory that isn't there")
	}
	if now := s.wantState(t, d.UUID, xenctl.StateRunning); now.ID != d.ID {
		t.Errorf("another domain: %+v", now)
	}
}

func testBadImages(t *testing.T, s *suite) {
	cfg := s.config()
	s.boot(t, cfg)
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	noErr(t, "save", s.h.Save(s.ctx(t), cfg.UUID, image))
	whole, err := os.ReadFile(image)
	noErr(t, "read", err)
	bad := map[string][]byte{
		"empty":        {},
		"garbage":      []byte("this is not an image of anything at all, is it? no, it isn't."),
		"header alone": whole[:min(len(whole), 24)],
	}
	if s.Lacks[TraitImageCheck] == "" {
		bad["cut short"] = whole[:len(whole)-1]
		flipped := append([]byte(nil), whole...)
		flipped[len(flipped)/2] ^= 0x40
		bad["one bit flipped"] = flipped
	}
	for name, content := range bad {
		path := filepath.Join(dir, name)
		noErr(t, "write", os.WriteFile(path, content, 0o600))
		_, err := s.h.Restore(s.ctx(t), path, cfg)
		wantErr(t, name, err, xenctl.ErrBadImage)
	}
	_, err = s.h.Restore(s.ctx(t), filepath.Join(dir, "nothing there"), cfg)
	wantErr(t, "no file", err, xenctl.ErrBadImage)
	other := s.config()
	_, err = s.h.Restore(s.ctx(t), image, other)
	wantErr(t, "image of another domain", err, xenctl.ErrBadImage)
	for _, uuid := range []string{cfg.UUID, other.UUID} {
		if d := s.find(t, uuid); d != nil {
			t.Errorf("a restore that failed left %+v", d)
		}
	}
	_, err = s.h.Restore(s.ctx(t), image, cfg)
	noErr(t, "the good one", err)
}
