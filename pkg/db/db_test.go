package db_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/pool"
	"xapid/pkg/xenapi"
)

// graph is a DB with its log, as the agent runs them.
type graph struct {
	*db.DB
	replica *pool.Replica
	stop    func()
}

func open(t testing.TB, dir string) *graph {
	t.Helper()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	d, err := db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "state.db"), Log: log})
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
	g := &graph{DB: d, replica: r}
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, r.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(g.stop)
	return g
}

func insertVM(t testing.TB, g *graph, name string) (ref xenapi.VMRef) {
	t.Helper()
	err := g.Update(t.Context(), func(tx *db.Tx) error {
		vm := xenapi.NewVM()
		vm.UUID, vm.NameLabel = xenapi.NewUUID(), name
		ref = db.Insert[xenapi.VMRef](tx, vm)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	g := open(t, dir)
	ref := insertVM(t, g, "kept")
	var vbd xenapi.VBDRef
	err := g.Update(t.Context(), func(tx *db.Tx) error {
		vm, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		vm.OtherConfig = map[string]string{"a": `quote " and \ slash`, "b": "ü"}
		vm.Tags = []string{"x", "y"}
		vm.CurrentOperations = map[string]string{"t": "start"}
		d := xenapi.NewVBD()
		d.UUID, d.VM = xenapi.NewUUID(), ref
		vbd = db.Insert[xenapi.VBDRef](tx, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		g.stop()
		if round == 1 { // the log alone must do
			if err := os.Remove(filepath.Join(dir, "state.db")); err != nil {
				t.Fatal(err)
			}
		}
		g = open(t, dir)
		vm, err := db.Get(g.View(), ref)
		if err != nil {
			t.Fatal(round, err)
		}
		if vm.NameLabel != "kept" || vm.OtherConfig["a"] != `quote " and \ slash` || vm.OtherConfig["b"] != "ü" ||
			!slices.Equal(vm.Tags, []string{"x", "y"}) || !slices.Equal(vm.VBDs, []xenapi.VBDRef{vbd}) {
			t.Errorf("round %d: %+v", round, vm)
		}
		if len(vm.CurrentOperations) != 0 {
			t.Errorf("current_operations outlived the restart")
		}
	}
}

func TestSnapshotReplacesLostSQLite(t *testing.T) {
	dir := t.TempDir()
	g := open(t, dir)
	first := insertVM(t, g, "before the snapshot")
	if err := g.replica.Snapshot(); err != nil {
		t.Fatal(err)
	}
	second := insertVM(t, g, "after it")
	g.stop()
	for _, f := range []string{"state.db", "state.db-wal", "state.db-shm"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	g = open(t, dir)
	for _, ref := range []xenapi.VMRef{first, second} {
		if _, err := db.Get(g.View(), ref); err != nil {
			t.Error(err)
		}
	}
}

func TestRelations(t *testing.T) {
	g := open(t, t.TempDir())
	a, b := insertVM(t, g, "a"), insertVM(t, g, "b")
	var vbd xenapi.VBDRef
	update := func(fn func(tx *db.Tx) error) error { return g.Update(t.Context(), fn) }
	if err := update(func(tx *db.Tx) error {
		d := xenapi.NewVBD()
		d.VM = a
		vbd = db.Insert[xenapi.VBDRef](tx, d)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	vbdsOf := func(vm xenapi.VMRef) []xenapi.VBDRef { return db.Find(g.View(), vm).VBDs }
	if !slices.Equal(vbdsOf(a), []xenapi.VBDRef{vbd}) {
		t.Fatalf("a has %v", vbdsOf(a))
	}
	if err := update(func(tx *db.Tx) error {
		d, err := db.Edit(tx, vbd)
		if err == nil {
			d.VM = b
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(vbdsOf(a)) != 0 || !slices.Equal(vbdsOf(b), []xenapi.VBDRef{vbd}) {
		t.Fatalf("a has %v, b has %v", vbdsOf(a), vbdsOf(b))
	}
	if err := update(func(tx *db.Tx) error { db.Delete(tx, b); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := db.Find(g.View(), vbd).VM; got != xenapi.Null {
		t.Errorf("the deleted VM is still named: %s", got)
	}
}

func TestManyToMany(t *testing.T) {
	g := open(t, t.TempDir())
	vm := insertVM(t, g, "member")
	var group xenapi.VMGroupRef
	if err := g.Update(t.Context(), func(tx *db.Tx) error {
		r := xenapi.NewVMGroup()
		group = db.Insert[xenapi.VMGroupRef](tx, r)
		v, err := db.Edit(tx, vm)
		if err == nil {
			v.Groups = []xenapi.VMGroupRef{group}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got := db.Find(g.View(), group).VMs; !slices.Equal(got, []xenapi.VMRef{vm}) {
		t.Fatalf("the group has %v", got)
	}
	if err := g.Update(t.Context(), func(tx *db.Tx) error { db.Delete(tx, vm); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := db.Find(g.View(), group).VMs; len(got) != 0 {
		t.Fatalf("the group still has %v", got)
	}
}

func TestRefusals(t *testing.T) {
	g := open(t, t.TempDir())
	vm, other := insertVM(t, g, "vm"), insertVM(t, g, "other")
	before := g.View().Gen()
	edit := func(fn func(v *xenapi.VM)) func(tx *db.Tx) error {
		return func(tx *db.Tx) error {
			v, err := db.Edit(tx, vm)
			if err == nil {
				fn(v)
			}
			return err
		}
	}
	rows := map[string]struct {
		fn   func(tx *db.Tx) error
		code string
	}{
		"a dangling reference":        {edit(func(v *xenapi.VM) { v.Affinity = "OpaqueRef:nothing" }), "HANDLE_INVALID"},
		"a ref of the wrong class":    {edit(func(v *xenapi.VM) { v.Affinity = xenapi.HostRef(other) }), "HANDLE_INVALID"},
		"an enum's stranger":          {edit(func(v *xenapi.VM) { v.PowerState = "Tired" }), "INVALID_VALUE"},
		"an enum's stranger in a set": {edit(func(v *xenapi.VM) { v.AllowedOperations = []xenapi.VMOperations{"fly"} }), "INVALID_VALUE"},
		"its own parent":              {edit(func(v *xenapi.VM) { v.Parent = vm }), "VALUE_NOT_SUPPORTED"},
		"an escape character":         {edit(func(v *xenapi.VM) { v.NameLabel = "\x1b[31m" }), "INVALID_VALUE"},
		"broken UTF-8":                {edit(func(v *xenapi.VM) { v.NameLabel = "\xff" }), "INVALID_VALUE"},
		"U+FFFE in a key":             {edit(func(v *xenapi.VM) { v.OtherConfig = map[string]string{"\ufffe": ""} }), "INVALID_VALUE"},
		"an empty key":                {edit(func(v *xenapi.VM) { v.OtherConfig = map[string]string{"": ""} }), "INVALID_VALUE"},
		"3 MiB in one field": {edit(func(v *xenapi.VM) {
			v.UserVersion = 3
			v.NameDescription = string(make([]byte, 0)) + fmt.Sprintf("%3145728d", 1)
		}), "INVALID_VALUE"},
		"another's uuid":              {edit(func(v *xenapi.VM) { v.UUID = db.Find(g.View(), other).UUID }), "INTERNAL_ERROR"},
		"an object that is not there": {func(tx *db.Tx) error { _, err := db.Edit(tx, xenapi.VMRef("OpaqueRef:x")); return err }, "HANDLE_INVALID"},
	}
	for name, row := range rows {
		if err := g.Update(t.Context(), row.fn); xenapi.Code(err) != row.code {
			t.Errorf("%s: %v, want %s", name, err, row.code)
		}
	}
	if g.View().Gen() != before {
		t.Error("a refused change left a trace")
	}
	loop := func(tx *db.Tx) error {
		a, err := db.Edit(tx, vm)
		if err != nil {
			return err
		}
		b, err := db.Edit(tx, other)
		a.Parent, b.Parent = other, vm
		return err
	}
	if err := g.Update(t.Context(), loop); xenapi.Code(err) != "VALUE_NOT_SUPPORTED" {
		t.Errorf("a loop of two: %v", err)
	}
}

func TestSameValueIsNoEvent(t *testing.T) {
	g := open(t, t.TempDir())
	vm := insertVM(t, g, "vm")
	gen := g.View().Gen()
	if err := g.Update(t.Context(), func(tx *db.Tx) error {
		v, err := db.Edit(tx, vm)
		v.NameLabel = "vm"
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if g.View().Gen() != gen {
		t.Error("setting a field to what it was made a new generation")
	}
}

func TestWritersShareSyncs(t *testing.T) {
	g := open(t, t.TempDir())
	vms := make([]xenapi.VMRef, 64)
	for i := range vms {
		vms[i] = insertVM(t, g, fmt.Sprint(i))
	}
	before := g.replica.Appends()
	const rounds = 20
	var wg sync.WaitGroup
	for _, ref := range vms {
		wg.Go(func() {
			for i := range rounds {
				if err := g.Update(t.Context(), func(tx *db.Tx) error {
					v, err := db.Edit(tx, ref)
					v.NameDescription = fmt.Sprint(i)
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := g.replica.Appends() - before; n > 64*rounds/16 {
		t.Errorf("%d log syncs for %d commits of 64 writers", n, 64*rounds)
	}
}
