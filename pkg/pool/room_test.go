package pool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xapid/pkg/db"
	"xapid/pkg/pool"
	"xapid/pkg/xenapi"
)

// graph is a DB with its log, on a disk of the test's.
type graph struct {
	*db.DB
	replica *pool.Replica
	stop    func()
}

func open(t *testing.T, dir string, reserve uint64) *graph {
	t.Helper()
	log := slog.New(slog.DiscardHandler) // a full disk is loud
	d, err := db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "state.db"), Log: log, Room: pool.Room(dir, reserve)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := pool.Open(pool.Options{Dir: dir, ServerID: "host", Log: log, Trailing: 10}, d)
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

// smallDisk mounts a tmpfs of so many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skip("needs the right to mount a tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all but so many bytes of the disk, until the file is removed.
func fill(t *testing.T, dir string, leave uint64) (file string) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "ballast")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail*uint64(st.Bsize)-leave)); err != nil {
		t.Fatal(err)
	}
	return file
}

// eventually tries something until it succeeds.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for err := try(); err != nil; err = try() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

func (g *graph) addVM(t *testing.T, name string) (xenapi.VMRef, error) {
	var ref xenapi.VMRef
	err := g.Update(t.Context(), func(tx *db.Tx) error {
		vm := xenapi.NewVM()
		vm.UUID, vm.NameLabel = xenapi.NewUUID(), name
		ref = db.Insert[xenapi.VMRef](tx, vm)
		return nil
	})
	return ref, err
}

// addTask makes an object that needs no log.
func (g *graph) addTask(t *testing.T) error {
	return g.Update(t.Context(), func(tx *db.Tx) error {
		db.Insert[xenapi.TaskRef](tx, xenapi.NewTask())
		return nil
	})
}

// TestRoomIsRefusedInTime: with less than the reserve free, changes are
// refused by name while everything else goes on; with room again they are
// taken, and a restart finds what was acknowledged.
func TestRoomIsRefusedInTime(t *testing.T) {
	dir := smallDisk(t, 400)
	g := open(t, dir, pool.DefaultReserve)
	first, err := g.addVM(t, "before")
	if err != nil {
		t.Fatal(err)
	}
	ballast := fill(t, dir, pool.DefaultReserve-1<<20)
	eventually(t, "changes are refused", func() error {
		if _, err := g.addVM(t, "refused"); xenapi.Code(err) != "OUT_OF_SPACE" {
			return fmt.Errorf("an Update answered %w", err)
		}
		return nil
	})
	tasks := func() int { return g.View().Count(xenapi.Class(xenapi.NewTask())) }
	before := tasks()
	if err := g.addTask(t); err != nil || tasks() != before+1 {
		t.Errorf("a task on a full disk: %v", err)
	}
	if vm := db.Find(g.View(), first); vm == nil || vm.NameLabel != "before" {
		t.Errorf("a read on a full disk: %+v", vm)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	var second xenapi.VMRef
	eventually(t, "changes are taken again", func() (err error) {
		second, err = g.addVM(t, "after")
		return err
	})
	g.stop()
	g = open(t, dir, pool.DefaultReserve)
	for _, ref := range []xenapi.VMRef{first, second} {
		if db.Find(g.View(), ref) == nil {
			t.Errorf("%s did not survive", ref)
		}
	}
}

// TestDiskFull writes until the disk is full indeed: the log fails, reads and
// tasks go on, and with room again so do changes. What was refused while the
// log failed may have happened; what was acknowledged has.
func TestDiskFull(t *testing.T) {
	for name, leave := range map[string]uint64{"in a segment": 4 << 20, "for the next segment": 50 << 20} {
		t.Run(name, func(t *testing.T) { diskFull(t, leave) })
	}
}

func diskFull(t *testing.T, leave uint64) {
	dir := smallDisk(t, 400)
	g := open(t, dir, 0)
	var acked []xenapi.VMRef
	ballast := fill(t, dir, leave)
	text := fmt.Sprintf("%500000d", 1)
	for {
		var ref xenapi.VMRef
		err := g.Update(t.Context(), func(tx *db.Tx) error {
			vm := xenapi.NewVM()
			vm.UUID, vm.NameDescription = xenapi.NewUUID(), text
			ref = db.Insert[xenapi.VMRef](tx, vm)
			return nil
		})
		if err != nil {
			t.Logf("after %d changes: %v", len(acked), err)
			break
		}
		acked = append(acked, ref)
	}
	if err := g.addTask(t); err != nil {
		t.Errorf("a task while the log fails: %v", err)
	}
	if db.Find(g.View(), acked[0]) == nil {
		t.Error("a read while the log fails finds nothing")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "changes are taken again", func() error {
		ref, err := g.addVM(t, "after")
		acked = append(acked, ref)
		if err != nil {
			acked = acked[:len(acked)-1]
		}
		return err
	})
	if err := g.Flushed(t.Context(), g.View().Index()); err != nil {
		t.Error(err)
	}
	g.stop()
	g = open(t, dir, 0)
	for _, ref := range acked {
		if db.Find(g.View(), ref) == nil {
			t.Errorf("%s was acknowledged and did not survive", ref)
		}
	}
}
