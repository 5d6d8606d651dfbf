package db_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"xapid/pkg/db"
	"xapid/pkg/pool"
	"xapid/pkg/xenapi"
)

// writerCount is how many writers the process of a crash test has.
const writerCount = 16

// life is how such a process lives and dies.
type life struct {
	Dir       string
	Snapshots bool          // take one after the other
	Die       time.Duration // when the parent kills it
	Point     db.Point      // where it kills itself, if anywhere
	Pass      int           // at which pass of that point
	Early     bool          // count the passes of its start, too
}

// found is what a process finds of one writer's: all of it is set to the same
// number by each change.
type found struct {
	Writer   int
	Version  int64
	Text     string
	Size     int64
	SizeText string
	Token    string
	Tokens   int
	Journal  string
}

// writers is the process: it tells its parent what it finds, and then of every
// change that was acknowledged.
func writers(config string) int {
	var l life
	if err := json.Unmarshal([]byte(config), &l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := l.run(context.Background(), os.NewFile(3, "parent")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (l life) run(ctx context.Context, parent *os.File) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	var live atomic.Bool
	var passes atomic.Int64
	live.Store(l.Early)
	at := func(p db.Point) {
		if p == l.Point && live.Load() && passes.Add(1) == int64(l.Pass) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	d, err := db.Open(ctx, db.Options{Path: filepath.Join(l.Dir, "state.db"), Log: log, At: at})
	if err != nil {
		return err
	}
	r, err := pool.Open(pool.Options{Dir: l.Dir, ServerID: "host", Log: log, Trailing: 50, At: at}, d)
	if err != nil {
		return err
	}
	go d.Run(ctx, r)
	if err := r.Settle(ctx); err != nil {
		return err
	}
	team, err := findTeam(ctx, d)
	if err != nil {
		return err
	}
	for i, w := range team {
		line, err := json.Marshal(w.look(d.View(), i))
		if err != nil {
			return err
		}
		fmt.Fprintf(parent, "state %s\n", line)
	}
	live.Store(true)
	fmt.Fprintln(parent, "ready")
	if l.Snapshots {
		go func() {
			for {
				_ = r.Snapshot() // fails while there is nothing new
			}
		}()
	}
	var all errgroup.Group
	for i, w := range team {
		all.Go(func() error { return w.write(ctx, d, i, parent) })
	}
	return all.Wait()
}

// worker is one writer's objects.
type worker struct {
	vm  xenapi.VMRef
	vdi xenapi.VDIRef
}

// findTeam finds the writers' objects, or makes them.
func findTeam(ctx context.Context, d *db.DB) ([]worker, error) {
	team := make([]worker, writerCount)
	err := d.Update(ctx, func(tx *db.Tx) error {
		for i := range team {
			team[i] = worker{xenapi.VMRef(fmt.Sprint("OpaqueRef:vm-", i)), xenapi.VDIRef(fmt.Sprint("OpaqueRef:vdi-", i))}
			if db.Find(tx, team[i].vm) == nil {
				tx.Insert(string(team[i].vm), xenapi.NewVM())
				tx.Insert(string(team[i].vdi), xenapi.NewVDI())
			}
		}
		return nil
	})
	for i, w := range team {
		if err == nil && len(db.Find(d.View(), w.vm).VBDs) == 0 {
			err = d.Update(ctx, func(tx *db.Tx) error { return w.step(tx, i, 0) })
		}
	}
	return team, err
}

// step makes the writer's change number seq.
func (w worker) step(tx *db.Tx, i int, seq int64) error {
	vm, err := db.Edit(tx, w.vm)
	if err != nil {
		return err
	}
	vdi, err := db.Edit(tx, w.vdi)
	if err != nil {
		return err
	}
	vm.Version, vm.NameDescription = seq, fmt.Sprint(seq)
	vdi.VirtualSize, vdi.NameDescription = seq, fmt.Sprint(seq)
	for _, old := range vm.VBDs {
		db.Delete(tx, old)
	}
	token := xenapi.NewVBD()
	token.VM, token.Userdevice = w.vm, fmt.Sprint(seq)
	db.Insert[xenapi.VBDRef](tx, token)
	tx.SetJournal(fmt.Sprint(i), fmt.Append(nil, seq))
	return nil
}

func (w worker) look(s *db.Snapshot, i int) found {
	vm, vdi := db.Find(s, w.vm), db.Find(s, w.vdi)
	f := found{Writer: i, Version: vm.Version, Text: vm.NameDescription, Size: vdi.VirtualSize, SizeText: vdi.NameDescription}
	for ref := range db.All[xenapi.VBDRef](s) {
		if vbd := db.Find(s, ref); vbd.VM == w.vm {
			f.Token, f.Tokens = vbd.Userdevice, f.Tokens+1
		}
	}
	for id, data := range s.Journal() {
		if id == fmt.Sprint(i) {
			f.Journal = string(data)
		}
	}
	return f
}

func (w worker) write(ctx context.Context, d *db.DB, i int, parent *os.File) error {
	for seq := db.Find(d.View(), w.vm).Version + 1; ; seq++ {
		if err := d.Update(ctx, func(tx *db.Tx) error { return w.step(tx, i, seq) }); err != nil {
			return err
		}
		fmt.Fprintf(parent, "ack %d %d\n", i, seq)
	}
}
