package storage_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/xapi/storage"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

func TestDeviceNames(t *testing.T) {
	for userdevice, want := range map[string]string{"0": "xvda", "3": "xvdd", "25": "xvdz", "26": "xvdaa", "254": "xvdiu",
		"hda": "xvda", "sdb": "xvdb", "xvdaa": "xvdaa", "hdd": "xvdd"} {
		if got, err := storage.DeviceName(userdevice); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", userdevice, got, err, want)
		}
	}
	for _, bad := range []string{"", "-1", "+1", "01", "256", "99999999999999999999", "xvd", "xvdA", "xvda1", "xvdaaa", "vda", " 1", "../x"} {
		if _, err := storage.DeviceName(bad); err == nil {
			t.Errorf("%q is a device", bad)
		}
	}
}

func TestVBDCreate(t *testing.T) {
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateHalted, nil)
	disk := b.disk(nil)
	first := b.vbd(b.drive(vm, disk, xenapi.VBDModeRW))
	if first.Userdevice != "0" || first.Device != "" || first.CurrentlyAttached || !first.Unpluggable || first.UUID == "" {
		t.Errorf("%+v", first)
	}
	named, err := b.createVBD(vm, func(r *xenapi.VBD) { r.VDI, r.Userdevice, r.CurrentlyAttached, r.Device = disk, "hdb", true, "x" })
	b.ok(err)
	if got := b.vbd(named); got.Userdevice != "hdb" || got.CurrentlyAttached || got.Device != "" {
		t.Errorf("%+v", got)
	}
	if got := b.vbd(b.drive(vm, disk, xenapi.VBDModeRW)); got.Userdevice != "2" {
		t.Errorf("autodetect gave %s", got.Userdevice)
	}
	suspended := b.vm(xenapi.VMPowerStateSuspended, nil)
	kept, err := b.createVBD(suspended, func(r *xenapi.VBD) { r.VDI, r.CurrentlyAttached, r.Device = disk, true, "xvda" })
	b.ok(err)
	if got := b.vbd(kept); !got.CurrentlyAttached || got.Device != "xvda" {
		t.Errorf("of a suspended VM: %+v", got)
	}
}

func TestVBDCreateRefuses(t *testing.T) {
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateHalted, nil)
	disk := b.disk(nil)
	locked := b.disk(func(r *xenapi.VDI) { r.ReadOnly = true })
	statefile := b.disk(func(r *xenapi.VDI) { r.Type = xenapi.VDITypeHAStatefile })
	b.drive(vm, disk, xenapi.VBDModeRW)
	for name, c := range map[string]struct {
		change func(*xenapi.VBD)
		code   string
		params []string
	}{
		"no VM":                  {func(r *xenapi.VBD) { r.VM = "OpaqueRef:x" }, "HANDLE_INVALID", []string{"VM", "OpaqueRef:x"}},
		"no VDI":                 {func(r *xenapi.VBD) { r.VDI = xenapi.Null }, "HANDLE_INVALID", []string{"VDI", xenapi.Null}},
		"a state file":           {func(r *xenapi.VBD) { r.VDI = statefile }, "VDI_INCOMPATIBLE_TYPE", []string{string(statefile), "ha_statefile"}},
		"a writable CD":          {func(r *xenapi.VBD) { r.Type = xenapi.VBDTypeCD }, "VBD_CDS_MUST_BE_READONLY", nil},
		"an empty disk":          {func(r *xenapi.VBD) { r.Empty = true }, "VBD_NOT_REMOVABLE_MEDIA", []string{"in constructor"}},
		"a read-only VDI":        {func(r *xenapi.VBD) { r.VDI = locked }, "VDI_READONLY", []string{string(locked)}},
		"a floppy of a PV guest": {func(r *xenapi.VBD) { r.Type = xenapi.VBDTypeFloppy }, "NOT_IMPLEMENTED", []string{"*"}},
		"no device":              {func(r *xenapi.VBD) { r.Userdevice = "first" }, "INVALID_DEVICE", []string{"first"}},
		"a device too far":       {func(r *xenapi.VBD) { r.Userdevice = "255" }, "INVALID_DEVICE", []string{"255"}},
		"a taken device":         {func(r *xenapi.VBD) { r.Userdevice = "0" }, "DEVICE_ALREADY_EXISTS", []string{"0"}},
		"a taken position":       {func(r *xenapi.VBD) { r.Userdevice = "sda" }, "DEVICE_ALREADY_EXISTS", []string{"sda"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.createVBD(vm, func(r *xenapi.VBD) { r.VDI = disk; c.change(r) })
			xapitest.Fails(t, err, c.code, c.params...)
		})
	}
}

func TestPlugAndUnplug(t *testing.T) {
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateRunning, nil)
	drive := b.drive(vm, b.disk(nil), xenapi.VBDModeRW)
	b.ok(b.calls.VBD.AssertAttachable(b.Context(), xapitest.Call(), service.VBDAssertAttachableParams{Self: drive}))
	b.ok(b.plug(drive))
	if got := b.vbd(drive); !got.CurrentlyAttached || got.Device != "xvda" {
		t.Errorf("plugged: %+v", got)
	}
	b.agrees()
	xapitest.Fails(t, b.plug(drive), "DEVICE_ALREADY_ATTACHED", string(drive))
	xapitest.Fails(t, b.hooks.Destroy["VBD.destroy"](b.Context(), xapitest.Call(), string(drive)), "OPERATION_NOT_ALLOWED", "*")
	b.ok(b.unplug(drive))
	if got := b.vbd(drive); got.CurrentlyAttached || got.Device != "" {
		t.Errorf("unplugged: %+v", got)
	}
	xapitest.Fails(t, b.unplug(drive), "DEVICE_ALREADY_DETACHED", string(drive))
	b.agrees()
	b.ok(b.hooks.Destroy["VBD.destroy"](b.Context(), xapitest.Call(), string(drive)))
}

func TestUnplugThatTheGuestRefuses(t *testing.T) {
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateRunning, nil)
	drive := b.drive(vm, b.disk(nil), xenapi.VBDModeRW)
	b.ok(b.plug(drive))
	b.hyp.Fail("detach disk", 1, xenctl.ErrRefused)
	xapitest.Fails(t, b.unplug(drive), "DEVICE_DETACH_REJECTED", "VBD", string(drive), "*")
	b.hyp.Fail("detach disk", 1, xenctl.ErrTimeout)
	xapitest.Fails(t, b.unplug(drive), "DEVICE_DETACH_TIMEOUT", "VBD", string(drive))
	b.agrees()
	b.ok(b.calls.VBD.UnplugForce(b.Context(), xapitest.Call(), service.VBDUnplugForceParams{Self: drive}))
	b.agrees()
}

func TestPlugThatTheHypervisorRefuses(t *testing.T) {
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateRunning, nil)
	disk := b.disk(nil)
	drive := b.drive(vm, disk, xenapi.VBDModeRW)
	for name, fail := range map[string]func(){
		"before": func() { b.hyp.Fail("attach disk", 1, errors.New("broken")) },
		"after":  func() { b.hyp.FailAfter("attach disk", 1, xenctl.ErrTimeout) },
	} {
		fail()
		if err := b.plug(drive); err == nil {
			t.Errorf("%s: no error", name)
		}
		b.agrees()
	}
	b.ok(b.plug(drive))
	b.agrees()
}

// TestTwoWriters is the rule of sharing: one writer, or readers.
func TestTwoWriters(t *testing.T) {
	b := open(t)
	disk := b.disk(nil)
	one, two := b.vm(xenapi.VMPowerStateRunning, nil), b.vm(xenapi.VMPowerStateRunning, nil)
	writer, other, reader := b.drive(one, disk, xenapi.VBDModeRW), b.drive(two, disk, xenapi.VBDModeRW), b.drive(two, disk, xenapi.VBDModeRO)
	second := b.drive(one, disk, xenapi.VBDModeRO)
	b.ok(b.plug(writer))
	xapitest.Fails(t, b.plug(other), "VDI_IN_USE", string(disk))
	xapitest.Fails(t, b.plug(reader), "VDI_IN_USE", string(disk))
	b.ok(b.unplug(writer))
	b.ok(b.plug(reader))
	xapitest.Fails(t, b.plug(writer), "VDI_IN_USE", string(disk))
	b.ok(b.plug(second))
	b.agrees()
	b.ok(b.unplug(reader))
	b.ok(b.unplug(second))
	edit(b, disk, func(r *xenapi.VDI) { r.ReadOnly = true })
	xapitest.Fails(t, b.plug(writer), "VDI_READONLY", string(disk))
}

func TestPlugRefuses(t *testing.T) {
	b := open(t)
	disk := b.disk(nil)
	halted := b.vm(xenapi.VMPowerStateHalted, nil)
	drive := b.drive(halted, disk, xenapi.VBDModeRW)
	xapitest.Fails(t, b.plug(drive), "VM_BAD_POWER_STATE", string(halted), "running", "halted")
	xapitest.Fails(t, b.unplug(drive), "VM_BAD_POWER_STATE", string(halted), "running", "halted")

	running := b.vm(xenapi.VMPowerStateRunning, nil)
	fixed, err := b.createVBD(running, func(r *xenapi.VBD) { r.VDI, r.Unpluggable = disk, false })
	b.ok(err)
	b.ok(b.plug(fixed))
	xapitest.Fails(t, b.unplug(fixed), "VBD_NOT_UNPLUGGABLE", string(fixed))

	hvm := b.vm(xenapi.VMPowerStateRunning, func(r *xenapi.VM) { r.DomainType = xenapi.DomainTypeHVM })
	xapitest.Update(t, b.env, func(tx *db.Tx) { // it has spoken, and not of drivers
		rec, err := db.Edit(tx, hvm)
		b.ok(err)
		rec.GuestMetrics = db.Insert[xenapi.VMGuestMetricsRef](tx, xenapi.NewVMGuestMetrics())
	})
	bare := b.drive(hvm, b.disk(nil), xenapi.VBDModeRW)
	xapitest.Fails(t, b.plug(bare), "VM_MISSING_PV_DRIVERS", string(hvm))
	xapitest.Fails(t, b.plug(b.cd(hvm)), "OPERATION_NOT_ALLOWED", "*")

	leaving := b.vm(xenapi.VMPowerStateRunning, func(r *xenapi.VM) {
		r.CurrentOperations = map[string]string{"OpaqueRef:t": "clean_shutdown"}
	})
	xapitest.Fails(t, b.plug(b.drive(leaving, b.disk(nil), xenapi.VBDModeRW)), "OPERATION_NOT_ALLOWED", "*")

	hidden := b.disk(nil)
	internal := b.drive(running, hidden, xenapi.VBDModeRW)
	edit(b, hidden, func(r *xenapi.VDI) { r.Managed = false })
	xapitest.Fails(t, b.plug(internal), "VDI_NOT_MANAGED", string(internal))
	b.agrees()
}

func TestCD(t *testing.T) {
	for _, state := range []xenapi.VMPowerState{xenapi.VMPowerStateHalted, xenapi.VMPowerStateRunning} {
		t.Run(string(state), func(t *testing.T) {
			b := open(t)
			vm := b.vm(state, nil)
			cd, image := b.cd(vm), b.toolsISO()
			if state == xenapi.VMPowerStateRunning {
				b.ok(b.plug(cd))
			}
			insert := func(vbd xenapi.VBDRef, vdi xenapi.VDIRef) error {
				return b.calls.VBD.Insert(b.Context(), xapitest.Call(), service.VBDInsertParams{VBD: vbd, VDI: vdi})
			}
			eject := func(vbd xenapi.VBDRef) error {
				return b.calls.VBD.Eject(b.Context(), xapitest.Call(), service.VBDEjectParams{VBD: vbd})
			}
			xapitest.Fails(t, eject(cd), "VBD_IS_EMPTY", string(cd))
			disk := b.disk(nil)
			xapitest.Fails(t, insert(cd, disk), "VDI_IS_NOT_ISO", string(disk), "user")
			b.ok(insert(cd, image))
			if got := b.vbd(cd); got.Empty || got.VDI != image {
				t.Errorf("inserted: %+v", got)
			}
			b.agrees()
			xapitest.Fails(t, insert(cd, image), "VBD_NOT_EMPTY", string(cd))
			b.ok(eject(cd))
			if got := b.vbd(cd); !got.Empty || got.VDI != xenapi.Null {
				t.Errorf("ejected: %+v", got)
			}
			drive := b.drive(vm, disk, xenapi.VBDModeRW)
			xapitest.Fails(t, insert(drive, image), "VBD_NOT_REMOVABLE_MEDIA", string(drive))
			xapitest.Fails(t, eject(drive), "VBD_NOT_REMOVABLE_MEDIA", string(drive))
			b.agrees()
		})
	}
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateSuspended, nil)
	err := b.calls.VBD.Insert(b.Context(), xapitest.Call(), service.VBDInsertParams{VBD: b.cd(vm), VDI: b.toolsISO()})
	xapitest.Fails(t, err, "VM_BAD_POWER_STATE", string(vm), "halted, running", "suspended")
}

func TestVBDSetters(t *testing.T) {
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateRunning, nil)
	disk := b.disk(nil)
	drive, cd := b.drive(vm, disk, xenapi.VBDModeRW), b.cd(vm)
	mode := func(ref xenapi.VBDRef, m xenapi.VBDMode) error {
		return b.calls.VBD.SetMode(b.Context(), xapitest.Call(), service.VBDSetModeParams{Self: ref, Value: m})
	}
	set := func(name string, ref xenapi.VBDRef, value string) error {
		return b.hooks.Write["VBD.set_"+name](b.Context(), xapitest.Call(), []any{string(ref), value})
	}
	b.ok(mode(drive, xenapi.VBDModeRO))
	edit(b, disk, func(r *xenapi.VDI) { r.ReadOnly = true })
	xapitest.Fails(t, mode(drive, xenapi.VBDModeRW), "VDI_READONLY", string(disk))
	xapitest.Fails(t, mode(cd, xenapi.VBDModeRW), "VBD_CDS_MUST_BE_READONLY")
	b.ok(b.plug(drive))
	xapitest.Fails(t, mode(drive, xenapi.VBDModeRO), "VM_BAD_POWER_STATE", string(vm), "halted", "running")

	b.ok(set("userdevice", drive, "xvdh"))
	b.ok(set("userdevice", drive, "7"))
	xapitest.Fails(t, set("userdevice", drive, "hdd"), "DEVICE_ALREADY_EXISTS", "hdd")
	xapitest.Fails(t, set("userdevice", drive, "300"), "INVALID_DEVICE", "300")
	xapitest.Fails(t, set("type", cd, "Disk"), "VBD_NOT_REMOVABLE_MEDIA", string(cd))
	b.ok(set("type", drive, "CD"))
	if got := b.vbd(drive); got.Type != xenapi.VBDTypeCD || got.Userdevice != "7" {
		t.Errorf("%+v", got)
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// TestGoldenVBDOperations prints what may be done to each kind of drive in
// each state.
func TestGoldenVBDOperations(t *testing.T) {
	b := open(t)
	var out strings.Builder
	for _, state := range []xenapi.VMPowerState{xenapi.VMPowerStateHalted, xenapi.VMPowerStateRunning, xenapi.VMPowerStatePaused, xenapi.VMPowerStateSuspended} {
		for _, kind := range []string{"PV", "HVM with drivers", "HVM without drivers"} {
			vm := b.vmOfKind(state, kind)
			for _, drive := range []struct {
				name string
				ref  xenapi.VBDRef
			}{{"disk", b.drive(vm, b.disk(nil), xenapi.VBDModeRW)}, {"empty CD", b.cd(vm)}, {"CD", b.fullCD(vm)}} {
				for _, attached := range []bool{false, true} {
					edit(b, drive.ref, func(r *xenapi.VBD) { r.CurrentlyAttached = attached })
					fmt.Fprintf(&out, "%-9s | %-19s | %-8s | attached %-5v | %s\n", state, kind, drive.name, attached,
						strings.Join(xenapi.Texts(b.vbd(drive.ref).AllowedOperations), " "))
				}
			}
		}
	}
	path := filepath.Join("testdata", "vbd_operations.txt")
	if *update {
		b.ok(os.MkdirAll("testdata", 0o755))
		b.ok(os.WriteFile(path, []byte(out.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	b.ok(err)
	if string(want) != out.String() {
		t.Errorf("the operations differ from %s:\n%s", path, out.String())
	}
}

func (b *bench) vmOfKind(state xenapi.VMPowerState, kind string) xenapi.VMRef {
	ref := b.vm(state, nil)
	if kind == "PV" {
		return ref
	}
	metrics := xenapi.NewRef[xenapi.VMGuestMetricsRef]()
	edit(b, ref, func(vm *xenapi.VM) { vm.DomainType = xenapi.DomainTypeHVM })
	b.guestMetrics(ref, metrics, kind == "HVM with drivers")
	return ref
}

func (b *bench) fullCD(vm xenapi.VMRef) xenapi.VBDRef {
	b.Helper()
	ref, err := b.createVBD(vm, func(r *xenapi.VBD) {
		r.VDI, r.Type, r.Mode = b.toolsISO(), xenapi.VBDTypeCD, xenapi.VBDModeRO
	})
	b.ok(err)
	return ref
}
