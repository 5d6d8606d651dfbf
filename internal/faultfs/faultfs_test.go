package faultfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xapid/internal/faultfs"
)

// run mounts a file system, calls use, cuts the power and calls check.
func run(t *testing.T, seed uint64, use, check func(dir string)) faultfs.Loss {
	t.Helper()
	if missing := faultfs.Missing(); missing != "" {
		t.Skip("needs ", missing)
	}
	f, at := faultfs.New(t.TempDir()), t.TempDir()
	defer f.Close()
	mounted := func(fn func(dir string)) {
		if err := f.Mount(at); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := f.Unmount(); err != nil {
				t.Error(err)
			}
		}()
		fn(at)
	}
	mounted(use)
	loss, err := f.Cut(seed)
	if err != nil {
		t.Fatal(err)
	}
	mounted(check)
	return loss
}

func sync(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Error(err)
	}
}

func TestSyncedSurvives(t *testing.T) {
	long := strings.Repeat("kept ", 10_000)
	for seed := range uint64(20) {
		run(t, seed, func(dir string) {
			sub := filepath.Join(dir, "sub")
			if err := os.Mkdir(sub, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(sub, "tmp"), long)
			sync(t, filepath.Join(sub, "tmp"))
			if err := os.Rename(filepath.Join(sub, "tmp"), filepath.Join(sub, "name")); err != nil {
				t.Fatal(err)
			}
			sync(t, sub)
			sync(t, dir)
		}, func(dir string) {
			b, err := os.ReadFile(filepath.Join(dir, "sub", "name"))
			if err != nil || string(b) != long {
				t.Errorf("seed %d: %d bytes, %v", seed, len(b), err)
			}
			if _, err := os.Stat(filepath.Join(dir, "sub", "tmp")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("seed %d: the old name: %v", seed, err)
			}
		})
	}
}

// TestUnsyncedGoes: over some seeds, names without a sync of the directory and
// contents without one of the file are lost, kept, and torn.
func TestUnsyncedGoes(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(60) {
		loss := run(t, seed, func(dir string) {
			write(t, filepath.Join(dir, "old"), strings.Repeat("a", 4096))
			sync(t, filepath.Join(dir, "old"))
			sync(t, dir)
			f, err := os.OpenFile(filepath.Join(dir, "old"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte(strings.Repeat("b", 8192)), 0); err != nil {
				t.Error(err)
			}
			f.Close()
			write(t, filepath.Join(dir, "new"), "x")
		}, func(dir string) {
			b, err := os.ReadFile(filepath.Join(dir, "old"))
			if err != nil {
				t.Fatal(err)
			}
			switch as := strings.Count(string(b), "a"); {
			case as == 0:
				seen["kept"] = true
			case as == 4096 && len(b) == 4096:
				seen["lost"] = true
			case as%512 == 0:
				seen["torn"] = true
			default:
				t.Errorf("seed %d: torn inside a sector: %d", seed, as)
			}
			if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
				seen["name kept"] = true
			} else {
				seen["name lost"] = true
			}
		})
		if loss.Names != 1 || loss.Writes == 0 {
			t.Errorf("seed %d: %+v", seed, loss)
		}
	}
	if len(seen) != 5 {
		t.Errorf("seen only %v", seen)
	}
}
