// Package diagnostics lets developers look into the running daemon.
//
// Its one invariant: nothing that it tells is about a user or an object. Start
// reading at GcStats.
package diagnostics

import (
	"context"
	"runtime"
	"runtime/debug"
	"strconv"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Diagnostics serves class Diagnostics.
type Diagnostics struct {
	service.UnimplementedDiagnostics
	env *xapi.Env
}

// New makes the service.
func New(env *xapi.Env) *Diagnostics { return &Diagnostics{env: env} }

// Register puts the messages where the server finds them.
func (d *Diagnostics) Register(_ xapi.Hooks, s *service.Services) { s.Diagnostics = d }

// here checks that a host is this one.
func (d *Diagnostics) here(ref xenapi.HostRef) error {
	h, err := db.Get(d.env.DB.View(), ref)
	if err == nil && h.UUID != d.env.HostUUID {
		err = xenapi.ErrHostOffline(string(ref))
	}
	return err
}

// GcCompact implements service.Diagnostics.
func (d *Diagnostics) GcCompact(_ context.Context, _ *service.Call, p service.DiagnosticsGcCompactParams) error {
	if err := d.here(p.Host); err != nil {
		return err
	}
	debug.FreeOSMemory()
	return nil
}

// GcStats implements service.Diagnostics: figures in bytes and nanoseconds.
func (d *Diagnostics) GcStats(_ context.Context, _ *service.Call, p service.DiagnosticsGcStatsParams) (map[string]string, error) {
	if err := d.here(p.Host); err != nil {
		return nil, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	out := map[string]string{"goroutines": strconv.Itoa(runtime.NumGoroutine())}
	for name, n := range map[string]uint64{"heap_bytes": m.HeapAlloc, "heap_objects": m.HeapObjects, "heap_idle_bytes": m.HeapIdle,
		"sys_bytes": m.Sys, "allocated_bytes": m.TotalAlloc, "collections": uint64(m.NumGC), "pause_total_ns": m.PauseTotalNs} {
		out[name] = strconv.FormatUint(n, 10)
	}
	return out, nil
}
