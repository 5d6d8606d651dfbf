package diagnostics_test

import (
	"strconv"
	"testing"

	"xapid/pkg/xapi/diagnostics"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi/service"
)

func TestGc(t *testing.T) {
	env := xapitest.Open(t, t.TempDir(), nil)
	host := xapitest.Host(t, env)
	d := diagnostics.New(env)
	if err := d.GcCompact(t.Context(), xapitest.Call(), service.DiagnosticsGcCompactParams{Host: host}); err != nil {
		t.Fatal(err)
	}
	stats, err := d.GcStats(t.Context(), xapitest.Call(), service.DiagnosticsGcStatsParams{Host: host})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range stats {
		if n, err := strconv.ParseUint(text, 10, 64); err != nil || n == 0 && name == "heap_bytes" {
			t.Errorf("%s is %q", name, text)
		}
	}
	_, err = d.GcStats(t.Context(), xapitest.Call(), service.DiagnosticsGcStatsParams{Host: "OpaqueRef:x"})
	xapitest.Fails(t, err, "HANDLE_INVALID", "host", "OpaqueRef:x")
}
