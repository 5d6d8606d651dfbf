package iso_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xapid/pkg/sm"
	"xapid/pkg/sm/iso"
	"xapid/pkg/sm/smtest"
)

func newSpec(t *testing.T) sm.Spec {
	return sm.Spec{UUID: smtest.UUID(), Config: map[string]string{"location": t.TempDir(), "legacy_mode": "true"}}
}

func put(t *testing.T, spec sm.Spec, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(spec.Config["location"], name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	foreign := []string{"notes.txt", "iso", "x.iso.part", ".xapid-1", "\xff\xfe.iso", "a.vhd"}
	smtest.Run(t, smtest.Harness{
		New:      func(smtest.Fault) sm.Driver { return iso.New() },
		NoFaults: true,
		Spec:     newSpec,
		Seed: func(t *testing.T, spec sm.Spec, content []byte) string {
			put(t, spec, "seed.iso", content)
			return "seed.iso"
		},
		Foreign: func(t *testing.T, spec sm.Spec) func(*testing.T) {
			for _, name := range foreign {
				put(t, spec, name, nil)
			}
			return func(t *testing.T) {
				entries, err := os.ReadDir(spec.Config["location"])
				if err != nil || len(entries) != len(foreign) {
					t.Errorf("%v, %v", entries, err)
				}
			}
		},
		Hostile: map[string][]string{
			"location": {
				"", "relative", "../x", "/", "/tmp/../etc", "-o exec", "/tmp/a\nb", "/tmp/a\x00b", "/tmp/'", "/tmp/\xff",
				"/" + strings.Repeat("a", 65536), "host:/path", "//host/share",
			},
			"legacy_mode": {"", "false", "true\n", "TRUE", "-1"},
		},
	})
}
