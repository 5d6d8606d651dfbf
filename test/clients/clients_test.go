// Package clients runs real XenAPI clients, unmodified, against the daemon.
package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"xapid/internal/testenv"
)

func TestPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is missing")
	}
	d := testenv.Start(t)
	run(t, exec.CommandContext(t.Context(), python, "overview.py", d.URL, d.Password))
}

// TestXenOrchestra runs xen-api, the client library of Xen Orchestra, over
// both protocols.
func TestXenOrchestra(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is missing")
	}
	install(t)
	for _, transport := range []string{"auto", "json-rpc", "xml-rpc"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			d := testenv.Start(t)
			run(t, exec.CommandContext(t.Context(), node, "overview.mjs", d.URL, d.Password, transport))
		})
	}
}

// install brings the client from its registry, once for this checkout.
func install(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("node_modules", "xen-api")); err == nil {
		return
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is missing")
	}
	run(t, exec.CommandContext(t.Context(), npm, "install", "--no-audit", "--no-fund"))
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
