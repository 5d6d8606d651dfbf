package config_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"xapid/pkg/config"
)

// none is a file of its own, so that the machine's is not read.
func none(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xapid.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := none(t, "https = \"127.0.0.1:1\"\nrow-cache = 7\nshutdown-timeout = \"5s\"\n")
	c, err := config.Parse([]string{"--config", file, "--https", ":0"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTPS != ":0" || c.RowCacheMiB != 7 || c.ShutdownTimeout.Seconds() != 5 || c.Hypervisor != "libvirt" {
		t.Errorf("%+v", c)
	}
}

func TestRefused(t *testing.T) {
	for name, args := range map[string][]string{
		"an unknown flag":       {"--nope"},
		"an argument":           {"serve"},
		"an unknown hypervisor": {"--config", none(t, ""), "--hypervisor", "kvm"},
		"an unknown key":        {"--config", none(t, "nope = 1")},
		"a file that is absent": {"--config", "/nonexistent/xapid.toml"},
		"a value of no number":  {"--config", none(t, "row-cache = \"many\"")},
	} {
		var out bytes.Buffer
		if _, err := config.Parse(args, &out); err == nil || out.Len() > 0 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, output %q; want one line of error", name, err, &out)
		}
	}
}

func TestHelp(t *testing.T) {
	var out bytes.Buffer
	if _, err := config.Parse([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "-state-dir") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// TestSample keeps packaging/xapid.toml to the table of keys; switched on, its
// lines are the defaults.
func TestSample(t *testing.T) {
	path := filepath.Join("..", "..", "packaging", "xapid.toml")
	if os.Getenv("REWRITE") != "" {
		if err := os.WriteFile(path, []byte(config.Sample()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != config.Sample() {
		t.Error("packaging/xapid.toml is stale: REWRITE=1 go test ./pkg/config")
	}
	var live []string
	for line := range strings.Lines(string(have)) {
		if strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# ") {
			live = append(live, line[1:])
		}
	}
	all, err := config.Parse([]string{"--config", none(t, strings.Join(live, ""))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := config.Parse([]string{"--config", none(t, "")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(all, bare) {
		t.Errorf("the sample says %+v, the defaults are %+v", all, bare)
	}
}
