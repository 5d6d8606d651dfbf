// Package pool makes commits durable: it is hashicorp/raft between db.Update
// and db.Apply, with one voter on a standalone host.
//
// Its one invariant: an entry that Append answered is on disk and applied, and
// is applied again after every restart until SQLite holds it. Start reading at
// Open, then Append.
package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"xapid/pkg/db"
)

// Graph is what raft replicates: the db.DB.
type Graph interface {
	Apply(index uint64, entry []byte) error
	Image() *db.Image
	Restore(r io.Reader) error
	View() *db.Snapshot
}

// Options says where a replica keeps its log and who it is.
type Options struct {
	// Dir holds the log and the snapshots.
	Dir string
	// ServerID is the host's uuid; it never changes.
	ServerID string
	Log      *slog.Logger
	// Trailing is how many entries stay in the log below a snapshot: enough for
	// a slave that was away for a while, unless a test wants fewer.
	Trailing uint64
	// At, if set, is told when an entry passes a point; tests end the process
	// there.
	At func(p db.Point)
}

// Replica is one host's part in the pool's log. It implements db.Log.
type Replica struct {
	raft    *raft.Raft
	store   *store
	machine *machine
	appends atomic.Uint64
	done    chan struct{}
}

// timings of a pool of one: nobody else can be elected, so nothing is gained
// by waiting longer.
const soloTimeout = 100 * time.Millisecond

// snapshotDir is where raft keeps its snapshots, below Options.Dir.
const snapshotDir = "snapshots"

// Open starts the replica. The graph is complete once Settle returns.
func Open(opts Options, graph Graph) (*Replica, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	logger := hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, Output: slogWriter{opts.Log}, DisableTime: true})
	files, err := openStore(opts.Dir, logger, opts.At)
	if err != nil {
		return nil, err
	}
	m := &machine{graph: graph, log: opts.Log, snapshots: filepath.Join(opts.Dir, snapshotDir)}
	r := &Replica{store: files, machine: m, done: make(chan struct{})}
	if err := r.start(opts, config(opts, logger)); err != nil {
		return nil, errors.Join(fmt.Errorf("pool: %w", err), files.Close())
	}
	return r, nil
}

func config(opts Options, logger hclog.Logger) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(opts.ServerID)
	conf.Logger = logger
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = soloTimeout, soloTimeout, soloTimeout
	conf.CommitTimeout = 10 * time.Millisecond
	conf.MaxAppendEntries = 256
	conf.BatchApplyCh = true
	if opts.Trailing > 0 {
		conf.TrailingLogs = opts.Trailing
	}
	conf.NoSnapshotRestoreOnStart = true
	return conf
}

func (r *Replica) start(opts Options, conf *raft.Config) error {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(opts.Dir, 2, conf.Logger)
	if err != nil {
		return err
	}
	if err := restore(snaps, r.machine.graph); err != nil {
		return err
	}
	addr, transport := raft.NewInmemTransport(raft.ServerAddress(opts.ServerID))
	if err := r.bootstrap(conf, snaps, transport, addr); err != nil {
		return err
	}
	if r.raft, err = raft.NewRaft(conf, r.machine, r.store, r.store, snaps, transport); err != nil {
		return err
	}
	if err := stand(conf.LocalID, addr, transport); err != nil {
		opts.Log.Debug("the election waits for its timer", "error", err)
	}
	return nil
}

// bootstrap writes the configuration of a pool of one into an empty log.
func (r *Replica) bootstrap(conf *raft.Config, snaps raft.SnapshotStore, transport raft.Transport, addr raft.ServerAddress) error {
	last, err := r.store.LastIndex()
	if err != nil || last > 0 {
		return err
	}
	if list, err := snaps.List(); err != nil || len(list) > 0 {
		return err
	}
	if index := r.machine.graph.View().Index(); index > 0 {
		return fmt.Errorf("the log is gone from %s, but the database holds its entries up to %d", r.store.dir, index)
	}
	// raft stores the term before the configuration; a crash between them must
	// not leave a log that takes itself for one in use.
	if err := r.store.SetUint64([]byte("CurrentTerm"), 0); err != nil {
		return err
	}
	return raft.BootstrapCluster(conf, r.store, r.store, snaps, transport,
		raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: addr}}})
}

// stand tells the only voter to hold the election now, not when its timer for
// a leader's heartbeat has run out.
func stand(id raft.ServerID, addr raft.ServerAddress, voter raft.LoopbackTransport) error {
	_, caller := raft.NewInmemTransport("")
	defer caller.Close()
	caller.Connect(addr, voter)
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}
	return caller.TimeoutNow(id, addr, &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{})
}

// makeDirs makes directories beside each other, such that a power cut leaves
// them there.
func makeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(dirs[0]))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// restore loads the newest snapshot when SQLite holds less than it: then the
// file was lost, or came from an older backup.
func restore(snaps raft.SnapshotStore, graph Graph) error {
	list, err := snaps.List()
	if err != nil || len(list) == 0 || list[0].Index <= graph.View().Index() {
		return err
	}
	_, r, err := snaps.Open(list[0].ID)
	if err != nil {
		return err
	}
	defer r.Close()
	return graph.Restore(r)
}

// Append implements db.Log.
func (r *Replica) Append(entry []byte) (wait func() error) {
	r.appends.Add(1)
	f := r.raft.Apply(entry, 0)
	return func() error {
		if err := f.Error(); err != nil {
			return err
		}
		err, _ := f.Response().(error)
		return err
	}
}

// Appends counts the entries appended since the start, one log sync each.
func (r *Replica) Appends() uint64 { return r.appends.Load() }

// Settle implements db.Log: it waits for leadership, then for a barrier.
func (r *Replica) Settle(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for r.raft.State() != raft.Leader {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.done:
			return raft.ErrRaftShutdown
		case <-tick.C:
		}
	}
	if err := r.raft.Barrier(10 * time.Second).Error(); err != nil {
		return err
	}
	return r.machine.failure()
}

// Snapshot writes the graph out and cuts the log below it.
func (r *Replica) Snapshot() error { return r.raft.Snapshot().Error() }

// Close stops raft and releases the log's files.
func (r *Replica) Close() error {
	close(r.done)
	return errors.Join(r.raft.Shutdown().Error(), r.store.Close())
}

// machine is the graph as raft sees it.
type machine struct {
	graph     Graph
	log       *slog.Logger
	snapshots string
	// failed holds why an entry could not be applied. Nothing is applied after
	// it: what follows would rest on a state that never was.
	failed atomic.Pointer[error]
}

func (m *machine) failure() error {
	if err := m.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Apply implements raft.FSM. The response is the error, or nil.
func (m *machine) Apply(l *raft.Log) any {
	if err := m.failure(); err != nil {
		return err
	}
	if err := m.graph.Apply(l.Index, l.Data); err != nil {
		m.log.Error("an entry of the log can't be applied; nothing after it is", "index", l.Index, "error", err)
		m.failed.Store(&err)
		return err
	}
	return nil
}

// Snapshot implements raft.FSM: no I/O here, it holds up Apply.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	return image{m.graph.Image(), m.snapshots}, nil
}

// Restore implements raft.FSM. It is not used by a pool of one, which loads
// from SQLite; restore does what is needed when that is gone.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	return m.graph.Restore(r)
}

type image struct {
	*db.Image
	dir string
}

// settleTime is how long SQLite may take to catch up with a snapshot.
const settleTime = time.Minute

// Persist implements raft.FSMSnapshot.
func (im image) Persist(sink raft.SnapshotSink) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	err := im.Write(sink)
	if err == nil {
		err = im.Settled(ctx)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	// The store syncs the snapshot's files and the name of their directory, but
	// not their names in it; the log is about to be cut.
	return syncDir(filepath.Join(im.dir, sink.ID()))
}

// Release implements raft.FSMSnapshot.
func (image) Release() {}

// slogWriter carries raft's warnings into our log.
type slogWriter struct{ log *slog.Logger }

func (w slogWriter) Write(p []byte) (int, error) {
	w.log.Warn("raft", "text", string(p))
	return len(p), nil
}
