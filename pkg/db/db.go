// Package db is the object graph: every object of the API, in memory, as
// immutable versions that readers take without waiting, and durable through a
// log.
//
// Its one invariant: Update is the only way to write. What an Update did is
// visible and answered only once its entry is in the log, all of it or
// nothing; changes to ephemeral classes and fields take the same path without
// the log. SQLite is written behind the answer and catches up after a crash.
// Start reading at Update, then apply in change.go.
package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"xapid/pkg/xenapi"
)

// Log is where commits become durable; DB.Apply is called for each entry in
// the order of the log, on the proposer too, before Append's wait ends.
type Log interface {
	// Append hands an entry to the log, behind all that it was handed before,
	// and doesn't wait; it calls nothing of DB's. The function that it returns
	// waits until the entry is durable and applied. After an error the entry
	// may be in the log all the same.
	Append(entry []byte) (wait func() error)
	// Settle waits until the log takes entries and all it holds is applied.
	Settle(ctx context.Context) error
}

// Options says where a DB lies and what it may use.
type Options struct {
	// Path is the SQLite file.
	Path string
	// Room returns an error while the disk is too full to take changes.
	Room func() error
	Log  *slog.Logger
	// Derive, if set, runs at the end of every transaction and sets the fields
	// that follow from others, such as allowed_operations.
	Derive func(tx *Tx)
	// At, if set, is told when a commit passes a point; tests end the process
	// there.
	At func(p Point)
	// Start is the first generation: the time in microseconds, unless a test
	// wants another.
	Start uint64
}

// DB is the object graph of one host.
type DB struct {
	opts   Options
	log    Log
	feed   *Feed
	writer *writer

	mu       sync.Mutex // guards what follows
	head     *Snapshot  // the published state and all that was proposed since
	queue    []*pending
	inflight *batch
	index    uint64
	broken   error

	published atomic.Pointer[Snapshot]
	work      chan struct{}
	commits   atomic.Uint64
}

// pending is one transaction between its proposal and its answer.
type pending struct {
	snap     *Snapshot
	done     []applied
	entry    entryTx
	durable  bool
	bytes    int
	finished chan struct{}
	err      error
}

// batch is what one log entry holds, and the ephemeral commits among it.
type batch struct {
	id      string
	txs     []*pending
	wait    func() error
	applied bool
	// stale says that another entry came in between: what the batch proposed
	// is not on top of the published state any more.
	stale bool
}

// errRetry asks Update to run its function again on the state as it now is.
var errRetry = errors.New("db: the state below was taken back")

// maxBatch bounds the transactions in one log entry, MaxTxBytes their texts.
const maxBatch = 512

// Open loads the graph from SQLite, which is made if it is not there. Nothing
// can be written before Run has a log.
func Open(ctx context.Context, opts Options) (*DB, error) {
	if opts.Start == 0 {
		opts.Start = uint64(time.Now().UnixMicro())
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	d := &DB{opts: opts, feed: newFeed(opts.Start), work: make(chan struct{}, 1)}
	var err error
	if d.writer, err = openWriter(ctx, opts.Path, opts.Log, d.at); err != nil {
		return nil, err
	}
	snap, index, err := d.writer.load(ctx, opts.Start)
	d.writer.start(index)
	if err != nil {
		return nil, errors.Join(err, d.writer.close())
	}
	d.index, snap.index = index, index
	d.head = snap
	d.published.Store(snap)
	return d, nil
}

// View is the newest committed state.
func (d *DB) View() *Snapshot { return d.published.Load() }

// Feed tells of changes as they are committed.
func (d *DB) Feed() *Feed { return d.feed }

// Commits counts the transactions since the start.
func (d *DB) Commits() uint64 { return d.commits.Load() }

// Update runs fn on the newest state and commits what it changed. fn must be
// pure computation on tx: no I/O, no clock, no random numbers but references
// and uuids; it may run more than once. The error is fn's, the refusal of an
// invariant, or that of the log.
//
// When ctx ends first, the outcome is unknown and its error is returned.
func (d *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	for {
		p, own, err := d.propose(fn)
		if p == nil {
			return err
		}
		select {
		case <-p.finished:
		case <-ctx.Done():
			return fmt.Errorf("db: gave up waiting for the commit: %w", context.Cause(ctx))
		}
		switch {
		case errors.Is(p.err, errRetry), !own && p.err != nil: // what fn saw is gone
		case own:
			return p.err
		default:
			return err
		}
	}
}

// propose runs fn on the head of the queue and makes its result the new head.
// The answer waits for the pending commit, if there is one: fn's own, or when
// it changed nothing or failed, the last of those that it saw.
func (d *DB) propose(fn func(tx *Tx) error) (p *pending, own bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	tx := newTx(d.head)
	if err := fn(tx); err != nil {
		return d.last(), false, err
	}
	changes, err := tx.changes(d.opts.Derive)
	if err != nil || len(changes) == 0 && len(tx.journal) == 0 {
		return d.last(), false, err
	}
	p, err = d.enqueue(changes, tx.journal, tx.check.bytes)
	return p, err == nil, err
}

// enqueue makes changes the new head, to be committed; under mu.
func (d *DB) enqueue(changes []Change, journal []journalChange, bytes int) (*pending, error) {
	p := &pending{finished: make(chan struct{}), bytes: bytes, entry: entryTx{journal: journal}}
	for _, c := range changes {
		if c, ok := c.persistent(); ok {
			p.entry.changes = append(p.entry.changes, c)
		}
	}
	p.durable = len(p.entry.changes) > 0 || len(journal) > 0
	if p.durable {
		if err := d.writable(); err != nil {
			return nil, err
		}
	}
	p.snap, p.done = d.head.apply(changes, journal)
	d.head = p.snap
	if !p.durable && d.inflight == nil && len(d.queue) == 0 {
		d.publish(p)
		return p, nil
	}
	d.queue = append(d.queue, p)
	d.begin()
	return p, nil
}

// last is the commit that a reader of the head has to wait for, if any; under mu.
func (d *DB) last() *pending {
	if n := len(d.queue); n > 0 {
		return d.queue[n-1]
	}
	if d.inflight != nil {
		return d.inflight.txs[len(d.inflight.txs)-1]
	}
	return nil
}

func (d *DB) writable() error {
	if d.broken != nil {
		return xenapi.ErrInternalError("changes are refused until the log takes them again: " + d.broken.Error())
	}
	if err := d.writer.behind(); err != nil {
		return err
	}
	if d.opts.Room != nil {
		return d.opts.Room()
	}
	return nil
}

func (d *DB) wake() {
	select {
	case d.work <- struct{}{}:
	default:
	}
}

// publish makes a commit visible and answers it; under mu.
func (d *DB) publish(p *pending) {
	p.snap.index = d.index
	d.published.Store(p.snap)
	for i := range p.done {
		if before := p.done[i].before; before != nil {
			before.Stale.Store(true)
		}
	}
	d.commits.Add(1)
	d.feed.add(p.snap, p.done)
	close(p.finished)
}

func (d *DB) publishAll(b *batch) {
	for _, p := range b.txs {
		d.publish(p)
	}
	b.applied = true
}

// Run sees to it that what Update proposes is committed, until ctx ends; log
// must call Apply.
func (d *DB) Run(ctx context.Context, log Log) error {
	debug.FreeOSMemory() // of loading
	d.mu.Lock()
	d.log = log
	d.mu.Unlock()
	for {
		for b := d.next(); b != nil && ctx.Err() == nil; b = d.next() {
			if err := d.judge(b, b.wait()); err != nil {
				d.opts.Log.Error("the log does not take changes", "error", err)
				d.recover(ctx)
			}
		}
		select {
		case <-ctx.Done():
			d.stop(context.Cause(ctx))
			return nil
		case <-d.work:
		}
	}
}

// next is the batch in flight, after it was begun if there is something to
// begin; nil if there is none.
func (d *DB) next() *batch {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begin()
	return d.inflight
}

// begin hands the first part of the queue to the log, if that has none in its
// hands; under mu. It doesn't wait: Run does, off the way of those who are
// answered by Apply.
func (d *DB) begin() {
	for d.log != nil && d.inflight == nil && len(d.queue) > 0 {
		b := d.take()
		var txs []entryTx
		for _, p := range b.txs {
			if p.durable {
				txs = append(txs, p.entry)
			}
		}
		if len(txs) == 0 {
			d.publishAll(b)
			continue
		}
		d.inflight = b
		d.at(BeforeAppend)
		b.wait = d.log.Append(encodeEntry(b.id, txs))
		d.wake()
	}
}

// take makes a batch of the queue's first part.
func (d *DB) take() *batch {
	n, bytes := 1, d.queue[0].bytes
	for n < min(len(d.queue), maxBatch) && bytes+d.queue[n].bytes <= MaxTxBytes {
		bytes += d.queue[n].bytes
		n++
	}
	b := &batch{id: xenapi.NewUUID(), txs: d.queue[:n:n]}
	d.queue = d.queue[n:]
	return b
}

// judge answers a batch that the log has not applied.
func (d *DB) judge(b *batch, err error) error {
	d.at(AfterAppend)
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.applied {
		return nil
	}
	if err == nil {
		err = errors.New("db: the log did not apply its entry")
	}
	d.inflight = nil
	d.broken = err
	for _, p := range b.txs {
		p.err = errRetry
		if p.durable {
			p.err = fmt.Errorf("db: the log refused the change: %w", err)
		}
		close(p.finished)
	}
	d.reset()
	return err
}

// reset takes back all that was proposed and not committed; under mu. A batch
// in flight is judged when the log has answered.
func (d *DB) reset() {
	if d.inflight != nil {
		d.inflight.stale = true
	}
	for _, p := range d.queue {
		p.err = errRetry
		close(p.finished)
	}
	d.queue = nil
	d.head = d.published.Load()
}

// recover waits until the log works again. Ephemeral changes go on meanwhile.
func (d *DB) recover(ctx context.Context) {
	for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 2*time.Second) {
		err := d.log.Settle(ctx)
		d.mu.Lock()
		d.broken = err
		d.mu.Unlock()
		if err == nil {
			d.opts.Log.Info("the log takes changes again")
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// stop waits for what the log has in its hands, and takes back what it will not
// get any more.
func (d *DB) stop(cause error) {
	d.mu.Lock()
	d.log = nil
	b := d.inflight
	d.mu.Unlock()
	if b != nil {
		if err := d.judge(b, b.wait()); err != nil {
			d.opts.Log.Error("the log did not take the last changes", "error", err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = cause
	d.reset()
}

// Flushed waits until SQLite holds every entry up to index.
func (d *DB) Flushed(ctx context.Context, index uint64) error { return d.writer.flushed(ctx, index) }

// Close writes what is still behind to SQLite and closes it.
func (d *DB) Close() error { return d.writer.close() }
