package vm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/node"
	"xapid/pkg/pool"
	"xapid/pkg/saga"
	"xapid/pkg/sm/all"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/network"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xapi/storage"
	"xapid/pkg/xapi/timing"
	"xapid/pkg/xapi/vm"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

const mib = 1 << 20

// world is a host with real storage and a hypervisor whose guests outlive a
// crash of the agent.
type world struct {
	testing.TB
	platform
	dir  string
	env  *xapi.Env
	vms  *vm.VMs
	boot string // of the machine
	hyp  xenctl.Hypervisor
	ctx  context.Context
	hook func(saga.Point) error
	stop func()
	// clock goes on by tick, 0 at first, with each look at it.
	clock, tick atomic.Int64
}

func newWorld(t testing.TB) *world { return newWorldOn(t, simulated{}) }

func newWorldOn(t testing.TB, p platform) *world {
	w := &world{TB: t, platform: p, dir: t.TempDir(), ctx: t.Context()}
	w.open()
	t.Cleanup(func() {
		w.destroyAll()
		w.stop()
	})
	xapitest.Host(t, w.env)
	xapitest.Update(t, w.env, func(tx *db.Tx) {
		h, err := db.Edit(tx, w.env.Host())
		if err != nil {
			t.Fatal(err)
		}
		m, err := db.Edit(tx, h.Metrics)
		if err != nil {
			t.Fatal(err)
		}
		m.MemoryTotal = 64 << 30
	})
	w.restart()
	return w
}

// open starts the agent's parts on the world's directory.
func (w *world) open() {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	derive := func(tx *db.Tx) { vm.Derive(tx, tx.Edited()); storage.Derive(tx, tx.Edited()) }
	d, err := db.Open(w.ctx, db.Options{Path: filepath.Join(w.dir, "state.db"), Log: log, Derive: derive})
	w.ok(err)
	r, err := pool.Open(pool.Options{Dir: w.dir, ServerID: "host", Log: log}, d)
	w.ok(err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.check(d.Run(ctx, r)) })
	w.ok(r.Settle(w.ctx))
	w.hyp, err = w.connect(w.ctx, w.dir, log)
	w.ok(err)
	disks := node.NewStorage(all.Drivers())
	w.env = &xapi.Env{DB: d, Node: &node.Node{Hypervisor: timing.Of(w.hyp), Storage: disks}, Locks: &ops.Locker{DB: d, Log: log}, Log: log,
		Now: func() time.Time { return xapitest.Now.Add(time.Duration(w.clock.Add(w.tick.Load()))) }, HostUUID: xapitest.HostUUID}
	st := storage.New(storage.Options{Env: w.env, Dir: filepath.Join(w.dir, "sr")})
	w.vms = vm.New(vm.Options{Env: w.env, Disks: st, Device: storage.DeviceName,
		Attachable: func(rd db.Reader, ref xenapi.VBDRef) error {
			return storage.CheckVBD(rd, ref, xenapi.VBDOperationsAttach)
		}, NIC: network.NICConfig, MAC: network.MACFor,
		Post: func(*db.Tx, string, xenapi.Cls, string, string) {}, ShutdownTimeout: 10 * time.Second, BootID: w.boot,
		Hook: func(p saga.Point) error {
			if w.hook == nil {
				return nil
			}
			return w.hook(p)
		}})
	if w.env.Host() != "" {
		w.ok(st.Ensure(w.ctx))
		wg.Go(func() { w.check(st.Run(ctx)) })
		<-st.Ready()
		w.ok(w.vms.Reconcile(w.ctx))
		wg.Go(func() { w.check(w.vms.Run(ctx)) })
	}
	w.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		w.letGo()
		w.check(errors.Join(w.hyp.Close(context.Background()), r.Close(), d.Close(), disks.Close(context.Background())))
	})
}

// letGo drops what this process holds of the disks, as its end would.
func (w *world) letGo() {
	snap := w.env.DB.View()
	for _, vdi := range db.All[xenapi.VDIRef](snap) {
		store, err := w.env.Node.Storage.SR(db.Find(snap, vdi.SR).UUID)
		if err != nil {
			continue
		}
		for _, vbd := range vdi.VBDs {
			w.check(store.DetachVolume(context.Background(), vdi.Location, "vbd-"+string(vbd)))
		}
		w.check(store.DetachVolume(context.Background(), vdi.Location, "suspend-image"))
	}
}

// restart is what a crash and a new start leave: the hypervisor's guests live
// on, the holders of disks don't.
func (w *world) restart() {
	w.stop()
	w.open()
}

// destroyAll leaves no guest to whoever has the hypervisor next.
func (w *world) destroyAll() {
	for _, rec := range db.All[xenapi.VMRef](w.env.DB.View()) {
		if err := w.hyp.Destroy(context.Background(), rec.UUID); !errors.Is(err, xenctl.ErrNotFound) {
			w.check(err)
		}
	}
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil && !errors.Is(err, context.Canceled) {
		w.Error(err)
	}
}

// sr is the local SR that storage made.
func (w *world) sr() xenapi.SRRef {
	_, p := xapi.Pool(w.env.DB.View())
	return p.DefaultSR
}

// halted makes a VM with two disks.
func (w *world) halted() xenapi.VMRef {
	rec := xenapi.NewVM()
	rec.NameLabel = "guest"
	rec.VCPUsMax, rec.VCPUsAtStartup, rec.HVMShadowMultiplier = 1, 1, 1
	w.guest(rec)
	ref, err := w.vms.Create(w.ctx, xapitest.Call(), rec, func(string) bool { return false })
	w.ok(err)
	for i := range 2 {
		w.disk(xenapi.VMRef(ref), fmt.Sprint(i))
	}
	return xenapi.VMRef(ref)
}

func (w *world) disk(ref xenapi.VMRef, device string) {
	vdi := xenapi.NewVDI()
	vdi.SR, vdi.VirtualSize, vdi.Type = w.sr(), 4*mib, xenapi.VDITypeUser
	w.volume(vdi)
	v, err := w.vms.Disks.CreateVDI(w.ctx, vdi)
	w.ok(err)
	xapitest.Update(w, w.env, func(tx *db.Tx) {
		vbd := xenapi.NewVBD()
		vbd.UUID, vbd.VM, vbd.VDI, vbd.Userdevice = xenapi.NewUUID(), ref, v, device
		vbd.Mode, vbd.Type = xenapi.VBDModeRW, xenapi.VBDTypeDisk
		db.Insert[xenapi.VBDRef](tx, vbd)
	})
}

// template makes a template that asks for two disks.
func (w *world) template() xenapi.VMRef {
	ref := w.halted()
	xapitest.Update(w, w.env, func(tx *db.Tx) {
		rec, err := db.Edit(tx, ref)
		w.ok(err)
		sr := db.Find(tx, w.sr())
		disk := `<disk device="%d" size="4194304" sr="` + sr.UUID + `" bootable="false" type="user"/>`
		rec.IsATemplate = true
		rec.OtherConfig = map[string]string{"disks": "<provision>" + fmt.Sprintf(disk, 4) + fmt.Sprintf(disk, 5) + "</provision>"}
	})
	return ref
}

func (w *world) running() xenapi.VMRef {
	ref := w.halted()
	w.ok(w.vms.Start(w.ctx, xapitest.Call(), service.VMStartParams{VM: ref}))
	return ref
}

func (w *world) suspended() xenapi.VMRef {
	ref := w.running()
	w.ok(w.vms.Suspend(w.ctx, xapitest.Call(), service.VMSuspendParams{VM: ref}))
	return ref
}

// agree checks that records, hypervisor and storage say the same.
func (w *world) agree(when string) {
	w.Helper()
	snap := w.env.DB.View()
	lives, err := w.domains(w.ctx, w.hyp)
	w.ok(err)
	images := map[xenapi.VDIRef]bool{}
	for ref, rec := range db.All[xenapi.VMRef](snap) {
		if rec.IsControlDomain {
			continue
		}
		up := rec.PowerState == xenapi.VMPowerStateRunning || rec.PowerState == xenapi.VMPowerStatePaused
		if up != lives[rec.UUID] {
			w.Errorf("%s: %s is %s, and has a domain: %v", when, ref, rec.PowerState, lives[rec.UUID])
		}
		delete(lives, rec.UUID)
		if rec.ScheduledToBeResidentOn != xenapi.Null || (rec.ResidentOn != xenapi.Null) != up || len(rec.CurrentOperations) != 0 {
			w.Errorf("%s: %s is %s: %+v", when, ref, rec.PowerState, rec)
		}
		if (rec.SuspendVDI != xenapi.Null) != (rec.PowerState == xenapi.VMPowerStateSuspended) {
			w.Errorf("%s: %s is %s with the image %s", when, ref, rec.PowerState, rec.SuspendVDI)
		}
		images[rec.SuspendVDI] = true
		for _, r := range rec.VBDs {
			if vbd := db.Find(snap, r); vbd.CurrentlyAttached != (rec.PowerState != xenapi.VMPowerStateHalted) {
				w.Errorf("%s: a disk of a %s VM is attached: %v", when, rec.PowerState, vbd.CurrentlyAttached)
			}
		}
	}
	if len(lives) > 0 {
		w.Errorf("%s: domains without a VM: %v", when, lives)
	}
	w.disksAgree(when, images)
	for id, data := range snap.Journal() {
		w.Errorf("%s: the journal has %s: %s", when, id, data)
	}
}

// disksAgree checks that every volume has a record, every record a volume, and
// that no disk is nobody's.
func (w *world) disksAgree(when string, images map[xenapi.VDIRef]bool) {
	w.Helper()
	snap := w.env.DB.View()
	sr := db.Find(snap, w.sr())
	store, err := w.env.Node.Storage.SR(sr.UUID)
	w.ok(err)
	volumes, err := store.Scan(w.ctx)
	w.ok(err)
	there := map[string]bool{}
	for _, v := range volumes {
		there[v.ID] = true
	}
	for _, ref := range sr.VDIs {
		vdi := db.Find(snap, ref)
		if !there[vdi.Location] {
			w.Errorf("%s: the VDI %s has no volume", when, ref)
		}
		delete(there, vdi.Location)
		if len(vdi.VBDs) == 0 && !images[ref] {
			w.Errorf("%s: the VDI %s (%s) is nobody's", when, ref, vdi.Type)
		}
	}
	if len(there) > 0 {
		w.Errorf("%s: volumes without a VDI: %v", when, there)
	}
}
