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
	raftwal "github.com/hashicorp/raft-wal"

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
	wal     *raftwal.WAL
	machine *machine
	appends atomic.Uint64
	done    chan struct{}
}

// timings of a pool of one: nobody else can be elected, so nothing is gained
// by waiting longer.
const soloTimeout = 100 * time.Millisecond

// Open starts the replica. The graph is complete once Settle returns.
func Open(opts Options, graph Graph) (*Replica, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	logDir := filepath.Join(opts.Dir, "wal")
	if err := makeDirs(logDir, filepath.Join(opts.Dir, "snapshots")); err != nil {
		return nil, err
	}
	logger := hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, Output: slogWriter{opts.Log}, DisableTime: true})
	wal, err := raftwal.Open(logDir, raftwal.WithLogger(logger))
	if err != nil {
		return nil, fmt.Errorf("pool: open the log: %w", err)
	}
	if err := syncDir(logDir); err != nil { // a segment made just before a kill
		return nil, errors.Join(err, wal.Close())
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(opts.Dir, 2, logger)
	if err != nil {
		return nil, errors.Join(err, wal.Close())
	}
	if err := restore(snaps, graph); err != nil {
		return nil, errors.Join(err, wal.Close())
	}
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
	addr, transport := raft.NewInmemTransport(raft.ServerAddress(opts.ServerID))
	r := &Replica{wal: wal, machine: &machine{graph: graph, log: opts.Log, snapshots: filepath.Join(opts.Dir, "snapshots")}, done: make(chan struct{})}
	known, err := raft.HasExistingState(wal, wal, snaps)
	if index := graph.View().Index(); err == nil && !known && index > 0 {
		err = fmt.Errorf("the log is gone from %s, but the database holds its entries up to %d", opts.Dir, index)
	}
	if err == nil && !known {
		err = raft.BootstrapCluster(conf, wal, wal, snaps, transport,
			raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: addr}}})
	}
	if err == nil {
		r.raft, err = raft.NewRaft(conf, r.machine, store{wal, opts.At}, wal, snaps, transport)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pool: %w", err), wal.Close())
	}
	if err := stand(conf.LocalID, addr, transport); err != nil {
		opts.Log.Debug("the election waits for its timer", "error", err)
	}
	return r, nil
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
func (r *Replica) Append(_ context.Context, entry []byte) error {
	r.appends.Add(1)
	f := r.raft.Apply(entry, 0)
	if err := f.Error(); err != nil {
		return err
	}
	if err, ok := f.Response().(error); ok {
		return err
	}
	return nil
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
	return errors.Join(r.raft.Shutdown().Error(), r.wal.Close())
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
