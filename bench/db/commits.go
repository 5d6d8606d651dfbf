package main

import (
	"context"
	"database/sql/driver"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/mattn/go-sqlite3"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// commits compares changes a second, one field of one row a change and every
// change a new value: ours until SQLite holds the last of them, the peer's as
// one UPDATE a transaction with synchronous=FULL.
func commits(ctx context.Context, c config) ([]figure, error) {
	g, err := open(ctx, filepath.Join(c.dir, "commits"))
	if err != nil {
		return nil, err
	}
	vms, err := someVMs(ctx, g, 64)
	if err != nil {
		return nil, err
	}
	peer, err := openPeer(filepath.Join(c.dir, "peer.db"), 64)
	if err != nil {
		return nil, err
	}
	one := figure{name: "commits/s, 1 writer", unit: "/s", target: 0.8}
	many := figure{name: "commits/s, 64 writers", unit: "/s", target: 5}
	syncs := figure{name: "commits per log sync, 64 writers", target: 16}
	few, lot := c.writes, c.writes
	if c.writes == 0 {
		few, lot = 1000, 20000
	}
	for range c.pairs {
		for _, step := range []struct {
			f       *figure
			writers int
			n       int
		}{{&one, 1, few}, {&many, 64, lot}} {
			appends := g.replica.Appends()
			ours, err := rate(step.n, func() error { return write(ctx, g, vms[:step.writers], step.n) })
			if err != nil {
				return nil, err
			}
			if step.writers > 1 {
				syncs.ours = append(syncs.ours, float64(step.n)/float64(g.replica.Appends()-appends))
			}
			theirs, err := rate(few, func() error { return peer.write(few) })
			if err != nil {
				return nil, err
			}
			step.f.ours, step.f.peer = append(step.f.ours, ours), append(step.f.peer, theirs)
		}
	}
	return []figure{one, many, syncs}, g.close()
}

func rate(n int, fn func() error) (float64, error) {
	began := time.Now()
	err := fn()
	return float64(n) / time.Since(began).Seconds(), err
}

func someVMs(ctx context.Context, g *graph, n int) (refs []xenapi.VMRef, err error) {
	p := population{}
	err = g.Update(ctx, func(tx *db.Tx) error {
		for i := range n {
			p.vm(tx, i)
		}
		return nil
	})
	for ref := range db.All[xenapi.VMRef](g.View()) {
		refs = append(refs, ref)
	}
	return refs, err
}

// write makes n changes, by one writer a VM, and waits for SQLite.
func write(ctx context.Context, g *graph, vms []xenapi.VMRef, n int) error {
	var wg sync.WaitGroup
	failed := make(chan error, len(vms))
	for _, ref := range vms {
		wg.Go(func() {
			for range n / len(vms) {
				err := g.Update(ctx, func(tx *db.Tx) error {
					vm, err := db.Edit(tx, ref)
					if err == nil {
						vm.Version++
					}
					return err
				})
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return g.Flushed(ctx, g.View().Index())
	}
}

// peer is SQLite by the driver alone, which is faster than by database/sql.
type peer struct {
	conn   driver.Conn
	update driver.Stmt
	rows   int
	value  int64
}

func openPeer(path string, rows int) (*peer, error) {
	conn, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?_journal_mode=WAL&_synchronous=FULL")
	if err != nil {
		return nil, err
	}
	p := &peer{conn: conn, rows: rows}
	if err := p.exec("CREATE TABLE vm (ref TEXT PRIMARY KEY, name TEXT, version INTEGER) WITHOUT ROWID"); err != nil {
		return nil, err
	}
	for i := range rows {
		if err := p.exec("INSERT INTO vm VALUES (?, ?, 0)", fmt.Sprint("OpaqueRef:", i), "name"); err != nil {
			return nil, err
		}
	}
	p.update, err = conn.Prepare("UPDATE vm SET version = ? WHERE ref = ?")
	return p, err
}

func (p *peer) exec(query string, args ...driver.Value) error {
	st, err := p.conn.Prepare(query)
	if err != nil {
		return err
	}
	defer st.Close()
	return execute(st, args...)
}

// execute runs a prepared statement.
func execute(st driver.Stmt, args ...driver.Value) error {
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	_, err := st.(driver.StmtExecContext).ExecContext(context.Background(), named)
	return err
}

func (p *peer) write(n int) error {
	for i := range n {
		p.value++
		if err := execute(p.update, p.value, fmt.Sprint("OpaqueRef:", i%p.rows)); err != nil {
			return err
		}
	}
	return nil
}
