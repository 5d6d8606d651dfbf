package db

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// backlog is how many changed rows may wait for SQLite before the log is held
// up: what a crash would have to replay.
const backlog = 50_000

// pace is the least time between two batches, unless somebody waits for one or
// much is queued: a batch costs little more for a row that changes ten times
// in it than for one that changes once.
const pace = 25 * time.Millisecond

// writer carries applied entries to SQLite, behind the answer: all that is
// queued, in one transaction, with the index of the last entry.
type writer struct {
	path string
	conn *sqlConn
	log  *slog.Logger
	at   func(p Point)

	mu      sync.Mutex
	change  *sync.Cond // of anything below
	rows    []applied
	journal []journalChange
	failing error  // of SQLite's last batch
	index   uint64 // of the last entry queued
	held    uint64 // of the last entry that SQLite holds
	wanted  uint64 // of the last entry that somebody waits for
	resting bool   // pace has not run out since the last batch
	closing bool
	done    chan struct{}
	quit    chan struct{}

	stmts map[string]driver.Stmt
}

func openWriter(ctx context.Context, path string, log *slog.Logger, at func(p Point)) (*writer, error) {
	conn, err := openSQL(path)
	if err != nil {
		return nil, err
	}
	if err := conn.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("db: %s: %w", path, err), conn.c.Close())
	}
	w := &writer{path: path, conn: conn, log: log, at: at, done: make(chan struct{}), quit: make(chan struct{}), stmts: map[string]driver.Stmt{}}
	w.change = sync.NewCond(&w.mu)
	return w, nil
}

// start begins to write; SQLite holds every entry up to index.
func (w *writer) start(index uint64) {
	w.index, w.held = index, index
	go w.run()
}

// put queues what an entry changed; it waits while the backlog is full.
func (w *writer) put(index uint64, rows []applied, journal []journalChange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.rows) > backlog && !w.closing {
		w.change.Wait()
	}
	w.rows = append(w.rows, rows...)
	w.journal = append(w.journal, journal...)
	w.index = index
	w.change.Broadcast()
}

// behind refuses changes while SQLite takes none and much is waiting for it:
// better than to hold up the log, and all ephemeral changes with it.
func (w *writer) behind() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing == nil || len(w.rows) < backlog/2 {
		return nil
	}
	return xenapi.ErrInternalError("changes are refused until the database file takes them again: " + w.failing.Error())
}

// flushed waits until SQLite holds the entry at index.
func (w *writer) flushed(ctx context.Context, index uint64) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		w.change.Broadcast()
		w.mu.Unlock()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted = max(w.wanted, index); w.held < index {
		w.change.Broadcast()
	}
	for w.held < index && ctx.Err() == nil && !w.closing {
		w.change.Wait()
	}
	if w.held >= index {
		return nil
	}
	return errors.Join(errors.New("db: sqlite is behind"), ctx.Err())
}

// close writes what is queued and closes the file.
func (w *writer) close() error {
	w.mu.Lock()
	w.closing = true
	close(w.quit)
	w.change.Broadcast()
	w.mu.Unlock()
	<-w.done
	for _, st := range w.stmts {
		st.Close()
	}
	return w.conn.c.Close()
}

func (w *writer) run() {
	defer close(w.done)
	for {
		w.mu.Lock()
		for !w.due() {
			w.change.Wait()
		}
		if w.index == w.held {
			w.mu.Unlock()
			return
		}
		rows, journal, index, last := w.rows, w.journal, w.index, w.closing
		w.rows, w.journal = nil, nil
		w.mu.Unlock()
		if err := w.persist(rows, journal, index, last); err != nil {
			w.log.Error("sqlite is left behind; the log replays what is missing", "error", err, "index", index)
			return
		}
		w.mu.Lock()
		w.held, w.failing = index, nil
		w.resting = true
		w.change.Broadcast()
		w.mu.Unlock()
		time.AfterFunc(pace, w.rested)
	}
}

// due says that there is something to do, and that it is time; under mu.
func (w *writer) due() bool {
	switch {
	case w.closing:
		return true
	case w.index == w.held:
		return false
	}
	return !w.resting || w.wanted > w.held || len(w.rows) > backlog/4
}

func (w *writer) rested() {
	w.mu.Lock()
	w.resting = false
	w.change.Broadcast()
	w.mu.Unlock()
}

// persist writes one batch, again and again while the disk refuses it; once
// the writer is closing it gives up, since the log holds the batch.
func (w *writer) persist(rows []applied, journal []journalChange, index uint64, last bool) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := w.transaction(rows, journal, index)
		if err == nil || last {
			return err
		}
		w.log.Error("sqlite refuses a batch; trying again", "error", err, "wait", wait)
		w.mu.Lock()
		w.failing = err
		w.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-w.quit:
			last = true
		}
	}
}

func (w *writer) transaction(rows []applied, journal []journalChange, index uint64) (err error) {
	if err := w.do("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.do("ROLLBACK"))
		}
	}()
	w.at(BatchBegun)
	for _, r := range coalesce(rows) {
		if err := w.row(r); err != nil {
			return err
		}
	}
	for _, j := range journal {
		if j.data == nil {
			err = w.do("DELETE FROM xapid_journal WHERE id = ?", j.id)
		} else {
			err = w.do("INSERT OR REPLACE INTO xapid_journal VALUES (?, ?)", j.id, j.data)
		}
		if err != nil {
			return err
		}
	}
	if err := w.do("INSERT OR REPLACE INTO xapid_meta VALUES ('applied_index', ?)", int64(index)); err != nil {
		return err
	}
	w.at(BatchWritten)
	if err := w.do("COMMIT"); err != nil {
		return err
	}
	w.at(BatchHeld)
	return nil
}

// rowChange is all that a batch did to one row.
type rowChange struct {
	class  *datamodel.Class
	ref    string
	after  *Row // nil: deleted
	whole  bool // made in this batch
	fields fieldSet
}

// fieldSet is a set of field indexes of one class.
type fieldSet [2]uint64

// coalesce merges the changes to each row, in the order of their first.
func coalesce(rows []applied) []*rowChange {
	byRef := make(map[string]*rowChange, len(rows))
	var out []*rowChange
	for i := range rows {
		a := &rows[i]
		if !a.Class.Stored() {
			continue
		}
		c := byRef[a.Ref]
		if c == nil {
			c = &rowChange{class: a.Class, ref: a.Ref}
			byRef[a.Ref] = c
			out = append(out, c)
		}
		if a.after != nil || a.Op == OpDelete {
			c.after = a.after
		}
		c.whole = c.whole || a.Op == OpCreate
		for _, f := range a.Fields {
			if a.Class.Fields[f].Persistent() {
				c.fields[f/64] |= 1 << (f % 64)
			}
		}
	}
	return out
}

// row writes one row: the whole of a new one, the changed columns of another.
func (w *writer) row(c *rowChange) error {
	table := quoteName(c.class.Name)
	if c.after == nil {
		return w.do("DELETE FROM "+table+" WHERE ref = ?", c.ref)
	}
	if !c.whole && c.fields == (fieldSet{}) {
		return nil
	}
	var cols, marks []string
	var args []driver.Value
	for _, f := range storedFields(c.class) {
		if !c.whole && c.fields[f.Index/64]&(1<<(f.Index%64)) == 0 {
			continue
		}
		cols = append(cols, quoteName(f.Column()))
		marks = append(marks, "?")
		args = append(args, columnValue(c.after.Rec.Ptr(f.Index)))
	}
	args = append(args, c.ref)
	if !c.whole {
		return w.do("UPDATE "+table+" SET "+strings.Join(cols, " = ?, ")+" = ? WHERE ref = ?", args...)
	}
	return w.do("INSERT OR REPLACE INTO "+table+" ("+strings.Join(append(cols, "ref"), ", ")+
		") VALUES ("+strings.Join(append(marks, "?"), ", ")+")", args...)
}

// maxStmts bounds the prepared statements: one for each set of columns that
// changes together.
const maxStmts = 500

func (w *writer) do(query string, args ...driver.Value) error {
	st := w.stmts[query]
	if st == nil {
		if len(w.stmts) > maxStmts {
			for q, old := range w.stmts {
				old.Close()
				delete(w.stmts, q)
			}
		}
		var err error
		if st, err = w.conn.c.Prepare(query); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
		w.stmts[query] = st
	}
	if err := execute(st, args); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	return nil
}
