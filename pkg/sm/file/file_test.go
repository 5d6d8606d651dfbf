package file_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xapid/pkg/sm"
	"xapid/pkg/sm/file"
	"xapid/pkg/sm/smtest"
)

func newSpec(t *testing.T) sm.Spec {
	return sm.Spec{UUID: smtest.UUID(), Config: map[string]string{"location": filepath.Join(t.TempDir(), "sr")}}
}

func put(t *testing.T, spec sm.Spec, name string, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(spec.Config["location"], name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func listing(t *testing.T, spec sm.Spec) []string {
	t.Helper()
	entries, err := os.ReadDir(spec.Config["location"])
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// foreign are names that are not volumes', though some come near.
var foreign = []string{
	"notes.txt", "x.vhd", ".vhd", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6BA7B810-9dad-11d1-80b4-00c04fd430c8.vhd",
	"6ba7b810-9dad-11d1-80b4-00c04fd430c8.vhd.bak", "6ba7b810-9dad-11d1-80b4-00c04fd430c8.vhdcache", "filelog.txt",
	"6ba7b810-9dad-11d1-80b4-00c04fd430c8.cbtlog", "OLD_6ba7b810-9dad-11d1-80b4-00c04fd430c8.vhd", "-rf", "a\nb",
}

func TestContract(t *testing.T) {
	smtest.Run(t, smtest.Harness{
		New:  func(fault smtest.Fault) sm.Driver { return file.New(file.Options{Fault: fault}) },
		Spec: newSpec,
		Foreign: func(t *testing.T, spec sm.Spec) func(*testing.T) {
			for _, name := range foreign {
				put(t, spec, name, "foreign")
			}
			return func(t *testing.T) {
				if got := listing(t, spec); len(got) != len(foreign) {
					t.Errorf("there are %q", got)
				}
			}
		},
		Leftovers: func(t *testing.T, spec sm.Spec) []string {
			var left []string
			for _, name := range listing(t, spec) {
				id, ext, _ := strings.Cut(name, ".")
				if !sm.IsUUID(id) || ext != "vhd" && ext != "raw" {
					left = append(left, name)
				}
			}
			return left
		},
		Hostile: map[string][]string{
			"location": {
				"", "relative", "./x", "../x", "/", "//", "/tmp/../etc", "/tmp/./x", "/tmp//x", "-o exec", "/tmp/a\nb", "/tmp/a\x00b",
				"/tmp/'a'", "/tmp/\"", "/tmp/`id`", "/tmp/\x1b[2J", "/tmp/\xff", "/" + strings.Repeat("a", 65536), "/dev/null",
				"/proc/self/exe/x", "host:/path", "//host/share",
			},
			"anything": {"-o exec", "a\nb", strings.Repeat("x", 65536)},
		},
	})
}
