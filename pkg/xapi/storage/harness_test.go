package storage_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/node"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/sm/file"
	"xapid/pkg/sm/iso"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/storage"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/sim"
)

// bench is a host with storage, as the agent makes it.
type bench struct {
	*testing.T
	env    *xapi.Env
	hyp    *sim.Hypervisor
	host   xenapi.HostRef
	dir    string
	alerts []string
	faults faults

	s     *storage.Storage
	hook  func(saga.Point) error
	hooks xapi.Hooks
	calls *service.Services
	stop  func()
}

// faults make the file driver's system calls fail.
type faults struct {
	mu   sync.Mutex
	fail func(op, name string) bool
}

func (f *faults) set(fail func(op, name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *faults) call(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil && f.fail(op, name) {
		return syscall.EIO
	}
	return nil
}

// open makes a host at its first start, with its SRs attached.
func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir()}
	b.env = xapitest.Open(t, t.TempDir(), func(tx *db.Tx) { storage.Derive(tx, tx.Edited()) })
	b.hyp = b.env.Node.Hypervisor.(*sim.Hypervisor)
	b.env.Node.Storage = node.NewStorage(sm.NewRegistry(file.New(file.Options{Fault: b.faults.call}), iso.New()))
	b.host = xapitest.Host(t, b.env)
	b.start()
	t.Cleanup(func() {
		b.stop()
		if err := b.env.Node.Storage.Close(context.Background()); err != nil && !errors.Is(err, sm.ErrSRInUse) {
			t.Error(err)
		}
	})
	return b
}

// start begins a process's life and waits until the SRs are attached.
func (b *bench) start() {
	b.Helper()
	b.s = storage.New(storage.Options{Env: b.env, Dir: filepath.Join(b.dir, "sr"),
		Post: func(_ *db.Tx, name string, _ xenapi.Cls, _, body string) { b.alerts = append(b.alerts, name+": "+body) },
		Hook: func(p saga.Point) error {
			if b.hook != nil {
				return b.hook(p)
			}
			return nil
		}})
	b.ok(b.s.Ensure(b.Context()))
	b.hooks, b.calls = xapi.NewHooks(), service.New()
	b.s.Register(b.hooks, b.calls)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.s.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		b.ok(<-done)
	})
	<-b.s.Ready()
}

// restart is the end of one process and the start of another.
func (b *bench) restart() {
	b.Helper()
	b.stop()
	b.start()
}

func (b *bench) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) sr(uuid string) xenapi.SRRef {
	return xenapi.SRRef(b.env.DB.View().ByUUID(xenapi.Class((*xenapi.SR)(nil)), uuid))
}

func (b *bench) local() xenapi.SRRef { return b.sr(storage.LocalUUID(xapitest.HostUUID)) }
func (b *bench) tools() xenapi.SRRef { return b.sr(storage.ToolsUUID(xapitest.HostUUID)) }

func (b *bench) vdi(ref xenapi.VDIRef) *xenapi.VDI {
	b.Helper()
	rec, err := db.Get(b.env.DB.View(), ref)
	b.ok(err)
	return rec
}

func (b *bench) vbd(ref xenapi.VBDRef) *xenapi.VBD {
	b.Helper()
	rec, err := db.Get(b.env.DB.View(), ref)
	b.ok(err)
	return rec
}

func (b *bench) pbdOf(sr xenapi.SRRef) xenapi.PBDRef {
	b.Helper()
	rec, err := db.Get(b.env.DB.View(), sr)
	b.ok(err)
	if len(rec.PBDs) == 0 {
		b.Fatal("an SR without PBD")
	}
	return rec.PBDs[0]
}

// createVDI calls VDI.create.
func (b *bench) createVDI(change func(*xenapi.VDI)) (xenapi.VDIRef, error) {
	rec := xenapi.NewVDI()
	rec.SR, rec.VirtualSize, rec.Type, rec.NameLabel = b.local(), 8<<20, xenapi.VDITypeUser, "disk"
	if change != nil {
		change(rec)
	}
	ref, err := b.hooks.Create["VDI.create"](b.Context(), xapitest.Call(), rec, func(string) bool { return true })
	return xenapi.VDIRef(ref), err
}

// disk is a VDI that must be made.
func (b *bench) disk(change func(*xenapi.VDI)) xenapi.VDIRef {
	b.Helper()
	ref, err := b.createVDI(change)
	b.ok(err)
	return ref
}

func (b *bench) destroyVDI(ref xenapi.VDIRef) error {
	return b.hooks.Destroy["VDI.destroy"](b.Context(), xapitest.Call(), string(ref))
}

// vm makes a VM; a running one has its domain.
func (b *bench) vm(state xenapi.VMPowerState, change func(*xenapi.VM)) xenapi.VMRef {
	b.Helper()
	rec := xenapi.NewVM()
	rec.UUID, rec.PowerState, rec.DomainType = xenapi.NewUUID(), state, xenapi.DomainTypePV
	if change != nil {
		change(rec)
	}
	var ref xenapi.VMRef
	xapitest.Update(b, b.env, func(tx *db.Tx) { ref = db.Insert[xenapi.VMRef](tx, rec.Clone().(*xenapi.VM)) })
	if state == xenapi.VMPowerStateRunning {
		_, err := b.hyp.Create(b.Context(), &xenctl.DomainConfig{UUID: rec.UUID, Name: "vm", Type: xenctl.TypePV,
			Boot: xenctl.Boot{Kernel: "/boot/vmlinuz"}, Memory: xenctl.Memory{StaticMaxBytes: 64 << 20, TargetBytes: 64 << 20},
			VCPUs: xenctl.VCPUs{Max: 1, AtStart: 1}})
		b.ok(err)
	}
	return ref
}

// createVBD calls VBD.create.
func (b *bench) createVBD(vm xenapi.VMRef, change func(*xenapi.VBD)) (xenapi.VBDRef, error) {
	rec := xenapi.NewVBD()
	rec.VM, rec.Userdevice, rec.Mode, rec.Type = vm, "autodetect", xenapi.VBDModeRW, xenapi.VBDTypeDisk
	if change != nil {
		change(rec)
	}
	ref, err := b.hooks.Create["VBD.create"](b.Context(), xapitest.Call(), rec, func(string) bool { return true })
	return xenapi.VBDRef(ref), err
}

// drive is a VBD for a VDI that must be made.
func (b *bench) drive(vm xenapi.VMRef, vdi xenapi.VDIRef, mode xenapi.VBDMode) xenapi.VBDRef {
	b.Helper()
	ref, err := b.createVBD(vm, func(r *xenapi.VBD) { r.VDI, r.Mode = vdi, mode })
	b.ok(err)
	return ref
}

// cd is an empty CD drive.
func (b *bench) cd(vm xenapi.VMRef) xenapi.VBDRef {
	b.Helper()
	ref, err := b.createVBD(vm, func(r *xenapi.VBD) {
		r.Empty, r.Type, r.Mode, r.Userdevice = true, xenapi.VBDTypeCD, xenapi.VBDModeRO, "3"
	})
	b.ok(err)
	return ref
}

func (b *bench) plug(ref xenapi.VBDRef) error {
	return b.calls.VBD.Plug(b.Context(), xapitest.Call(), service.VBDPlugParams{Self: ref})
}

func (b *bench) unplug(ref xenapi.VBDRef) error {
	return b.calls.VBD.Unplug(b.Context(), xapitest.Call(), service.VBDUnplugParams{Self: ref})
}

// edit changes an object behind everybody's back.
func edit[R interface {
	~string
	Of() *T
}, T any, P interface {
	*T
	xenapi.Record
}](b *bench, ref R, change func(P)) {
	b.Helper()
	class := xenapi.Class(P(nil))
	xapitest.Update(b, b.env, func(tx *db.Tx) {
		rec, err := tx.Edit(class, string(ref))
		b.ok(err)
		change(rec.(P))
	})
}

// toolsISO is the VDI of the guest tools.
func (b *bench) toolsISO() xenapi.VDIRef {
	b.Helper()
	sr, err := db.Get(b.env.DB.View(), b.tools())
	b.ok(err)
	if len(sr.VDIs) != 1 {
		b.Fatalf("the tools SR has %d disks", len(sr.VDIs))
	}
	return sr.VDIs[0]
}

// agrees checks that storage, hypervisor and datamodel say the same, and that
// nothing is under way.
func (b *bench) agrees() {
	b.Helper()
	rd := b.env.DB.View()
	for id := range rd.Journal() {
		b.Errorf("the journal has entry %s", id)
	}
	for ref, sr := range db.All[xenapi.SRRef](rd) {
		if len(sr.CurrentOperations) > 0 {
			b.Errorf("SR %s: %v", sr.NameLabel, sr.CurrentOperations)
		}
		b.volumesAgree(rd, ref, sr)
	}
	for _, vdi := range db.All[xenapi.VDIRef](rd) {
		if len(vdi.CurrentOperations) > 0 {
			b.Errorf("VDI %s: %v", vdi.NameLabel, vdi.CurrentOperations)
		}
	}
	for ref, vm := range db.All[xenapi.VMRef](rd) {
		if vm.PowerState == xenapi.VMPowerStateRunning {
			b.disksAgree(rd, ref, vm)
		}
	}
}

func (b *bench) volumesAgree(rd db.Reader, ref xenapi.SRRef, sr *xenapi.SR) {
	b.Helper()
	store, err := b.env.Node.Storage.SR(sr.UUID)
	attached := db.Find(rd, b.pbdOf(ref)).CurrentlyAttached
	if (err == nil) != attached {
		b.Errorf("SR %s: attached %v, recorded %v", sr.NameLabel, err == nil, attached)
	}
	if err != nil {
		return
	}
	volumes, err := store.Scan(context.Background())
	b.ok(err)
	sizes := map[string]int64{}
	for _, v := range volumes {
		sizes[v.ID] = v.VirtualBytes
	}
	for _, r := range sr.VDIs {
		vdi := b.vdi(r)
		if size, there := sizes[vdi.Location]; !there || size != vdi.VirtualSize {
			b.Errorf("VDI %s: volume %v of %d bytes, recorded %d", vdi.Location, there, size, vdi.VirtualSize)
		}
		delete(sizes, vdi.Location)
	}
	for id := range sizes {
		b.Errorf("volume %s has no record", id)
	}
}

func (b *bench) disksAgree(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM) {
	b.Helper()
	disks, _, err := b.hyp.Devices(vm.UUID)
	b.ok(err)
	for _, r := range vm.VBDs {
		vbd := b.vbd(r)
		i := slices.IndexFunc(disks, func(d xenctl.Disk) bool { return vbd.Device != "" && d.Device == vbd.Device })
		if len(vbd.CurrentOperations) > 0 || vbd.CurrentlyAttached != (i >= 0) {
			b.Errorf("VBD %s: attached %v, in the domain %v, operations %v", vbd.Userdevice, vbd.CurrentlyAttached, i >= 0, vbd.CurrentOperations)
		}
		if i >= 0 {
			if vbd.Empty != (disks[i].Source.Path == "") {
				b.Errorf("VBD %s: empty %v, the domain has %q", vbd.Userdevice, vbd.Empty, disks[i].Source.Path)
			}
			disks = slices.Delete(disks, i, i+1)
		}
	}
	if len(disks) > 0 {
		b.Errorf("VM %s: the domain has %v besides", ref, disks)
	}
}

// guestMetrics makes a guest say whether it has drivers.
func (b *bench) guestMetrics(vm xenapi.VMRef, ref xenapi.VMGuestMetricsRef, drivers bool) {
	b.Helper()
	xapitest.Update(b, b.env, func(tx *db.Tx) {
		m := xenapi.NewVMGuestMetrics()
		m.UUID, m.PVDriversDetected = xenapi.NewUUID(), drivers
		tx.Insert(string(ref), m)
		rec, err := db.Edit(tx, vm)
		b.ok(err)
		rec.GuestMetrics = ref
	})
}
