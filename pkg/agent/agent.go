// Package agent is the only place where everything meets: it builds the parts
// in the order of their needs, runs them, and closes them in reverse.
//
// Its one invariant: the API answers once the database is whole, before any
// SR, guest or link has been touched; what fails there fails by itself. Start
// reading at Run.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"xapid/pkg/config"
	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/node"
	"xapid/pkg/pool"
	"xapid/pkg/rpc"
	"xapid/pkg/rpc/listen"
	"xapid/pkg/sm/all"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/host"
	"xapid/pkg/xapi/network"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xapi/timing"
	"xapid/pkg/xenctl"
)

// Version is the daemon's version, as clients see it in software_version.
func Version() string { return host.Version }

// Agent is the daemon.
type Agent struct {
	Config *config.Config
	Log    *slog.Logger
	// Out is where the lines for scripts go: standard output.
	Out io.Writer
	// Notify tells the service manager that the daemon serves; nil for none.
	Notify func(state string) error

	closers     []func() error
	certificate *listen.Certificate
	// syncs counts the syncs of the log.
	syncs func() uint64
}

// bootTimeout bounds what the start waits for.
const bootTimeout = time.Minute

// Run builds the daemon, serves until ctx ends and takes it apart again.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.close()) }()
	for _, dir := range []string{a.Config.StateDir, a.Config.LogDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	unlock, err := lockDir(a.Config.StateDir)
	if err != nil {
		return err
	}
	a.later(unlock)
	uuid, err := hostUUID(a.Config.StateDir)
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, run := errgroup.WithContext(run)
	server, api, components, err := a.build(run, g, uuid)
	if err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}
	for _, c := range components {
		g.Go(func() error { return c.Run(run) })
	}
	calls, hangUp := context.WithCancel(run)
	drained := make(chan struct{})
	g.Go(func() error {
		defer close(drained)
		return api.Run(calls)
	})
	g.Go(server.Serve)
	select {
	case <-ctx.Done():
	case <-run.Done():
	}
	a.Log.Info("stopping")
	a.drain(server, hangUp, drained)
	stop()
	return g.Wait()
}

// drainTimeout is how long calls and tasks under way may go on after the
// daemon was told to stop. The rest is cancelled: undone, or resumed at the
// next start.
const drainTimeout = 20 * time.Second

// drain takes no more calls, answers those that only wait and lets the others
// end.
func (a *Agent) drain(server *listen.Server, hangUp context.CancelFunc, drained <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	hangUp()
	if err := server.Shutdown(ctx); err != nil {
		a.Log.Warn("not every call has ended in time", "error", err)
	}
	select {
	case <-drained:
	case <-ctx.Done():
		a.Log.Warn("not every task has ended in time; the rest is cancelled")
	}
}

// later notes what close has to do, the last first.
func (a *Agent) later(fn func() error) { a.closers = append(a.closers, fn) }

func (a *Agent) close() error {
	var errs []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		errs = append(errs, a.closers[i]())
	}
	a.closers = nil
	return errors.Join(errs...)
}

// component is a part that works until its context ends.
type component interface {
	Run(ctx context.Context) error
}

// build makes the parts in the order of their needs.
func (a *Agent) build(ctx context.Context, g *errgroup.Group, uuid string) (*listen.Server, *rpc.Server, []component, error) {
	machine, err := facts.Read(ctx, facts.Source{})
	if err != nil {
		a.Log.Warn("some facts about this machine are unknown", "error", err)
	}
	hypervisor, err := a.hypervisor(machine)
	if err != nil {
		return nil, nil, nil, err
	}
	a.later(func() error { return closeWithin(hypervisor.Close) })
	storage := node.NewStorage(all.Drivers())
	a.later(func() error { return closeWithin(storage.Close) })
	graph, err := a.openGraph(ctx, g, uuid)
	if err != nil {
		return nil, nil, nil, err
	}
	env := &xapi.Env{DB: graph, Node: &node.Node{Hypervisor: timing.Of(hypervisor), Storage: storage},
		Locks: &ops.Locker{DB: graph, Log: a.Log}, Log: a.Log, Now: time.Now, HostUUID: uuid}
	if a.certificate, err = listen.OpenCertificate(a.Config.StateDir, certificateNames()...); err != nil {
		return nil, nil, nil, err
	}
	fresh, err := a.ensure(ctx, env, machine)
	if err != nil {
		return nil, nil, nil, err
	}
	b := a.behaviour(env, fresh, machine.BootID)
	if err := b.storage.Ensure(ctx); err != nil {
		return nil, nil, nil, err
	}
	server, api, err := a.serve(ctx, env, b)
	if err != nil {
		return nil, nil, nil, err
	}
	return server, api, b.components, nil
}

func closeWithin(fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return fn(ctx)
}

// openGraph opens the database and its log, and waits until all that was
// acknowledged is there.
func (a *Agent) openGraph(ctx context.Context, g *errgroup.Group, uuid string) (*db.DB, error) {
	dir := a.Config.StateDir
	graph, err := db.Open(ctx, db.Options{Path: filepath.Join(dir, "state.db"), Log: a.Log, Derive: derive,
		Room: pool.Room(dir, uint64(a.Config.ReserveMiB)<<20)})
	if err != nil {
		return nil, err
	}
	a.later(graph.Close)
	replica, err := pool.Open(pool.Options{Dir: filepath.Join(dir, "log"), ServerID: uuid, Log: a.Log}, graph)
	if err != nil {
		return nil, err
	}
	a.later(replica.Close)
	a.syncs = replica.Appends
	g.Go(func() error { return graph.Run(ctx, replica) })
	boot, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := replica.Settle(boot); err != nil {
		return nil, fmt.Errorf("agent: the log: %w", err)
	}
	return graph, nil
}

// ensure makes or refreshes the objects of the host. It reports whether the
// machine has booted since the daemon last ran.
func (a *Agent) ensure(ctx context.Context, env *xapi.Env, machine facts.Facts) (fresh bool, err error) {
	info := xenctl.HostInfo{CPU: xenctl.CPUInfo{Count: machine.CPU.Count}, MemoryTotalBytes: machine.Memory.TotalBytes}
	ask, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if known, err := env.Node.Hypervisor.Host(ask); err == nil {
		info = known
	} else {
		a.Log.Error("the hypervisor does not answer; the kernel's figures stand in", "error", err)
	}
	links, err := facts.Links(ctx, facts.Source{})
	if err != nil {
		a.Log.Warn("some links are unknown", "error", err)
	}
	fresh = host.BootedSince(env, machine)
	if err := host.Ensure(ctx, env, host.Machine{Facts: machine, Hypervisor: info, Address: addressOf(links)}); err != nil {
		return false, err
	}
	return fresh, network.Ensure(ctx, env, links)
}

// addressOf is where clients reach this host: the first address of a link
// with a gateway, or any.
func addressOf(links []facts.Link) string {
	best := "127.0.0.1"
	for _, l := range links {
		for _, p := range l.Addresses {
			if !p.Addr().Is4() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
				continue
			}
			if l.Gateway4.IsValid() {
				return p.Addr().String()
			}
			if best == "127.0.0.1" && l.Physical {
				best = p.Addr().String()
			}
		}
	}
	return best
}

// serve opens the listeners and says so.
func (a *Agent) serve(ctx context.Context, env *xapi.Env, b *behaviour) (*listen.Server, *rpc.Server, error) {
	login, drawn, err := a.login()
	if err != nil {
		return nil, nil, err
	}
	audit, err := rpc.OpenAudit(filepath.Join(a.Config.LogDir, "audit.log"), 64<<20, 5)
	if err != nil {
		return nil, nil, err
	}
	a.later(audit.Close)
	api := rpc.New(ctx, rpc.Options{DB: env.DB, Services: b.services, Hooks: rpc.Hooks(b.hooks), Audit: audit,
		Log: a.Log, Login: login.check, SetPassword: login.set, ThisHost: env.Host,
		Metrics: http.HandlerFunc(b.metrics.serve), CacheBytes: a.Config.RowCacheMiB << 20, MaxBody: a.Config.MaxBodyMiB << 20})
	b.metrics.register(api.Collectors()...)
	server, err := listen.Listen(listen.Config{HTTPS: a.Config.HTTPS, HTTP: a.Config.HTTP, Socket: a.Config.Socket,
		Certificate: a.certificate}, handler(api), a.Log)
	if err != nil {
		return nil, nil, err
	}
	a.later(func() error { return closeWithin(server.Shutdown) })
	return server, api, a.ready(server, drawn)
}

// handler tells callers who are root on the Unix socket from others.
func handler(api *rpc.Server) http.Handler {
	root := api.RootHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, ok := listen.PeerOf(r.Context()); ok && peer.Unix && peer.UID == 0 {
			root.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}
