package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xapid/pkg/datamodel"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// TestToy generates from a schema of three classes and compares all that comes
// of it with testdata/toy/golden.
func TestToy(t *testing.T) {
	m, err := datamodel.Load(os.DirFS(filepath.Join("testdata", "toy")))
	if err != nil {
		t.Fatal(err)
	}
	out, err := render(m)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "toy", "golden")
	if *rewrite {
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range out {
		// Underscores keep the tools from taking the file for source.
		file := filepath.Join(golden, strings.ReplaceAll(path, "/", "__")+".golden")
		if *rewrite {
			write(t, file, text)
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		} else if string(want) != string(text) {
			t.Errorf("%s is not %s: look at the difference that -rewrite makes", path, file)
		}
	}
	files, err := os.ReadDir(golden)
	if err != nil || len(files) != len(out) {
		t.Errorf("%d golden files for %d generated ones (%v)", len(files), len(out), err)
	}
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestFresh says whether the checkout is what its datamodel makes.
func TestFresh(t *testing.T) {
	out, err := render(datamodel.Get())
	if err != nil {
		t.Fatal(err)
	}
	if err := out.check(filepath.Join("..", "..")); err != nil {
		t.Error(err)
	}
}
