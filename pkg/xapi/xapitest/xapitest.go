// Package xapitest gives tests of behaviour what the agent gives behaviour: a
// graph on disk with its log, a simulated hypervisor, and calls.
//
// Its one invariant: nothing in it is faked but the hypervisor and the clock.
// Start reading at Open.
package xapitest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/node"
	"xapid/pkg/pool"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl/sim"
)

// HostUUID is the uuid of the host that Host makes.
const HostUUID = "6a5ef9a0-9b0c-4d0e-8a3b-000000000001"

// Now is the time at which an Env's clock stands.
var Now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Open opens a graph in dir with derive at the end of every transaction; it is
// closed with the test.
func Open(t testing.TB, dir string, derive func(tx *db.Tx)) *xapi.Env {
	t.Helper()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	d, err := db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "state.db"), Log: log, Derive: derive})
	if err != nil {
		t.Fatal(err)
	}
	r, err := pool.Open(pool.Options{Dir: dir, ServerID: "host", Log: log}, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.Run(ctx, r) }()
	if err := r.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	hyp, err := sim.New(sim.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sync.OnceFunc(func() {
		err := hyp.Close(context.Background())
		cancel()
		if err := errors.Join(err, <-done, r.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	}))
	return &xapi.Env{DB: d, Node: &node.Node{Hypervisor: hyp}, Locks: &ops.Locker{DB: d, Log: log}, Log: log,
		Now: func() time.Time { return Now }, HostUUID: HostUUID}
}

// Host makes a host object and a pool of it.
func Host(t testing.TB, env *xapi.Env) xenapi.HostRef {
	t.Helper()
	var ref xenapi.HostRef
	Update(t, env, func(tx *db.Tx) {
		h, metrics := xenapi.NewHost(), xenapi.NewHostMetrics()
		metrics.UUID, metrics.Live = xenapi.NewUUID(), true
		h.UUID, h.NameLabel, h.Enabled = HostUUID, "host", true
		h.Metrics = db.Insert[xenapi.HostMetricsRef](tx, metrics)
		ref = db.Insert[xenapi.HostRef](tx, h)
		p := xenapi.NewPool()
		p.UUID, p.Master = xenapi.NewUUID(), ref
		db.Insert[xenapi.PoolRef](tx, p)
	})
	return ref
}

// Update runs fn in a transaction that must succeed.
func Update(t testing.TB, env *xapi.Env, fn func(tx *db.Tx)) {
	t.Helper()
	if err := env.Update(t.Context(), func(tx *db.Tx) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

// task is a job that only has a name.
type task xenapi.TaskRef

// Ref implements service.Job.
func (j task) Ref() xenapi.TaskRef { return xenapi.TaskRef(j) }

// Progress implements service.Job.
func (task) Progress(float64) {}

// Call is a call by root.
func Call() *service.Call {
	return &service.Call{Task: task(xenapi.NewRef[xenapi.TaskRef]()), Log: slog.New(slog.DiscardHandler),
		Session: service.Identity{User: "root", Root: true}}
}

// Fails checks that err is the XenAPI error with exactly this code and these
// parameters; a parameter of "*" may be anything.
func Fails(t testing.TB, err error, code string, params ...string) {
	t.Helper()
	var e *xenapi.Error
	if !errors.As(err, &e) {
		t.Errorf("%v, want %s %q", err, code, params)
		return
	}
	same := slices.EqualFunc(e.Params, params, func(got, want string) bool { return want == "*" || got == want })
	if e.Code != code || !same {
		t.Errorf("%s %q, want %s %q", e.Code, e.Params, code, params)
	}
}
