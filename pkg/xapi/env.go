// Package xapi holds what the families of behaviour share: vm, storage,
// network, host and pool are packages below it, a file a class or a job.
//
// Its one invariant: behaviour changes the graph by db.Update and the world by
// node.Node, and nothing else. Start reading at vm/power.go.
package xapi

import (
	"context"
	"log/slog"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/node"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// Env is what behaviour works with.
type Env struct {
	DB    *db.DB
	Node  *node.Node
	Locks *ops.Locker
	Log   *slog.Logger
	Now   func() time.Time
	// HostUUID names the host that this daemon runs on.
	HostUUID string
}

// Host is this host's object.
func (e *Env) Host() xenapi.HostRef {
	return xenapi.HostRef(e.DB.View().ByUUID(xenapi.Class((*xenapi.Host)(nil)), e.HostUUID))
}

// Pool is the pool's object, of which there is exactly one.
func Pool(rd db.Reader) (xenapi.PoolRef, *xenapi.Pool) {
	for ref, p := range db.All[xenapi.PoolRef](rd) {
		return ref, p
	}
	return xenapi.Null, nil
}

// Time is the clock's time as datetimes hold it.
func (e *Env) Time() time.Time { return e.Now().UTC().Truncate(time.Second) }

// Update is DB.Update, except that its outcome is known: a call that is
// cancelled while its commit is on the way hears of that at its next step.
func (e *Env) Update(ctx context.Context, fn func(tx *db.Tx) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return e.DB.Update(context.WithoutCancel(ctx), fn)
}
