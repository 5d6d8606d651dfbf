package e2e

import (
	"slices"
	"testing"

	"xapid/pkg/xenapi"
)

// vdi makes a disk in the default SR.
func (w *world) vdi(name string, size int64) xenapi.VDIRef {
	w.Helper()
	r := xenapi.NewVDI()
	r.NameLabel, r.SR, r.VirtualSize, r.Type = name, w.sr(), size, xenapi.VDITypeUser
	return must(w.VDI().Create(w.ctx, r))(w)
}

// cd gives a VM an empty CD drive.
func (w *world) cd(vm xenapi.VMRef, device string) xenapi.VBDRef {
	w.Helper()
	r := xenapi.NewVBD()
	r.VM, r.Userdevice, r.Mode, r.Type, r.Empty = vm, device, xenapi.VBDModeRO, xenapi.VBDTypeCD, true
	return must(w.VBD().Create(w.ctx, r))(w)
}

func (w *world) attached(vbd xenapi.VBDRef, want bool) {
	w.Helper()
	if got := must(w.VBD().GetCurrentlyAttached(w.ctx, vbd))(w); got != want {
		w.Errorf("attached: %t, want %t", got, want)
	}
}

// TestVBDCreate checks the constructor, in the order of its checks.
func TestVBDCreate(t *testing.T) {
	w := start(t)
	vm, vdi := w.vm("drives"), w.vdi("disk", 4*mib)
	create := func(change func(*xenapi.VBD)) error {
		r := xenapi.NewVBD()
		r.VM, r.VDI, r.Userdevice, r.Mode, r.Type = vm, vdi, "0", xenapi.VBDModeRW, xenapi.VBDTypeDisk
		change(r)
		_, err := w.VBD().Create(w.ctx, r)
		return err
	}
	w.fails(create(func(r *xenapi.VBD) { r.Type = xenapi.VBDTypeCD }), "VBD_CDS_MUST_BE_READONLY")
	w.fails(create(func(r *xenapi.VBD) { r.VDI, r.Empty = xenapi.Null, true }), "VBD_NOT_REMOVABLE_MEDIA", "in constructor")
	for _, device := range []string{"-1", "255", "xvd", "sd_a", "", "0x1", "../0"} {
		w.fails(create(func(r *xenapi.VBD) { r.Userdevice = device }), "INVALID_DEVICE", device)
	}
	w.ok(w.VDI().SetReadOnly(w.ctx, vdi, true))
	w.fails(create(func(*xenapi.VBD) {}), "VDI_READONLY", string(vdi))
	w.ok(w.VDI().SetReadOnly(w.ctx, vdi, false))
	w.ok(create(func(r *xenapi.VBD) { r.Userdevice = "autodetect" }))
	w.fails(create(func(*xenapi.VBD) {}), "DEVICE_ALREADY_EXISTS", "0")
	w.ok(create(func(r *xenapi.VBD) { r.Userdevice = "xvdd" }))
	for _, same := range []string{"3", "hdd", "sdd"} {
		w.fails(create(func(r *xenapi.VBD) { r.Userdevice = same }), "DEVICE_ALREADY_EXISTS", same)
	}
	free := must(w.VM().GetAllowedVBDDevices(w.ctx, vm))(t)
	if len(free) != 253 || free[0] != "1" || slices.Contains(free, "3") {
		t.Errorf("%d free devices: %v", len(free), free)
	}
	if vbds := must(w.VM().GetVBDs(w.ctx, vm))(t); len(vbds) != 2 {
		t.Errorf("%d drives", len(vbds))
	}
}

// TestVBDHotplug plugs and unplugs a disk while the guest runs.
func TestVBDHotplug(t *testing.T) {
	w := start(t)
	vm := w.vm("drives")
	_, fixed := w.disk(vm, 4*mib, "0")
	_, hot := w.disk(vm, 4*mib, "1")
	w.ok(w.VBD().SetUnpluggable(w.ctx, fixed, false))
	bad := "VM_BAD_POWER_STATE"
	w.fails(w.VBD().Plug(w.ctx, hot), bad, string(vm), "running", "halted")
	w.fails(w.VBD().Unplug(w.ctx, hot), bad, string(vm), "running", "halted")
	w.ok(w.VBD().AssertAttachable(w.ctx, hot))
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.agent(vm)
	w.attached(hot, true)
	w.fails(w.VBD().Plug(w.ctx, hot), "DEVICE_ALREADY_ATTACHED", string(hot))
	w.fails(w.VBD().Destroy(w.ctx, hot), "OPERATION_NOT_ALLOWED")
	w.fails(w.VBD().Unplug(w.ctx, fixed), "VBD_NOT_UNPLUGGABLE", string(fixed))
	if ops := must(w.VBD().GetAllowedOperations(w.ctx, hot))(t); !slices.Contains(ops, xenapi.VBDOperationsUnplug) || slices.Contains(ops, xenapi.VBDOperationsPlug) {
		t.Errorf("allowed: %v", ops)
	}
	w.ok(w.VBD().Unplug(w.ctx, hot))
	w.attached(hot, false)
	w.fails(w.VBD().Unplug(w.ctx, hot), "DEVICE_ALREADY_DETACHED", string(hot))
	w.ok(w.VBD().SetMode(w.ctx, hot, xenapi.VBDModeRO))
	w.ok(w.VBD().Plug(w.ctx, hot))
	r := must(w.VBD().GetRecord(w.ctx, hot))(t)
	if !r.CurrentlyAttached || r.Device != "xvdb" || r.Mode != xenapi.VBDModeRO {
		t.Errorf("%+v", r)
	}
	if w.VBD().SetMode(w.ctx, hot, xenapi.VBDModeRW) == nil {
		t.Error("the mode of an attached disk changed")
	}
	w.ok(w.VBD().UnplugForce(w.ctx, hot))
	w.ok(w.VBD().Destroy(w.ctx, hot))
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	w.attached(fixed, false)
	w.fails(w.VBD().Insert(w.ctx, fixed, w.vdi("other", mib)), "VBD_NOT_REMOVABLE_MEDIA", string(fixed))
	w.fails(w.VBD().Eject(w.ctx, fixed), "VBD_NOT_REMOVABLE_MEDIA", string(fixed))
}

// TestVBDUnplugRefused is a guest that does not let go.
func TestVBDUnplugRefused(t *testing.T) {
	w := start(t)
	vm := w.vm("clings", "unplug=refuse")
	_, vbd := w.disk(vm, 4*mib, "1")
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.agent(vm)
	if code := xenapi.Code(w.VBD().Unplug(w.ctx, vbd)); code != "DEVICE_DETACH_REJECTED" && code != "DEVICE_DETACH_TIMEOUT" {
		t.Errorf("it said %s", code)
	}
	w.attached(vbd, true)
	w.ok(w.VBD().UnplugForce(w.ctx, vbd))
	w.attached(vbd, false)
}

// TestVBDSharing: a disk that somebody writes has one user.
func TestVBDSharing(t *testing.T) {
	w := start(t)
	a, b := w.vm("a"), w.vm("b")
	vdi, first := w.disk(a, 4*mib, "0")
	second := w.vbd(b, vdi, "0", xenapi.VBDModeRW)
	w.ok(w.VM().Start(w.ctx, a, false, false))
	w.fails(w.VM().Start(w.ctx, b, false, false), "VDI_IN_USE", string(vdi))
	w.fails(w.VBD().AssertAttachable(w.ctx, second), "VDI_IN_USE", string(vdi))
	w.becomes(b, xenapi.VMPowerStateHalted)
	w.ok(w.VBD().SetMode(w.ctx, second, xenapi.VBDModeRO))
	w.fails(w.VM().Start(w.ctx, b, false, false), "VDI_IN_USE", string(vdi))
	w.ok(w.VM().HardShutdown(w.ctx, a))
	w.ok(w.VBD().SetMode(w.ctx, first, xenapi.VBDModeRO))
	w.ok(w.VM().Start(w.ctx, a, false, false))
	w.ok(w.VM().Start(w.ctx, b, false, false))
	w.ok(w.VM().HardShutdown(w.ctx, a))
	w.ok(w.VM().HardShutdown(w.ctx, b))
	w.ok(w.VDI().SetSharable(w.ctx, vdi, true))
	w.ok(w.VBD().SetMode(w.ctx, first, xenapi.VBDModeRW))
	w.ok(w.VBD().SetMode(w.ctx, second, xenapi.VBDModeRW))
	// A VHD has one writer; the driver says so, and a is as it was.
	w.fails(w.VM().Start(w.ctx, a, false, false), "SR_OPERATION_NOT_SUPPORTED", string(w.sr()))
	w.attached(first, false)
	w.becomes(a, xenapi.VMPowerStateHalted)
}

// TestMedia inserts and ejects, halted and running.
func TestMedia(t *testing.T) {
	w := start(t)
	vm, disc, other := w.vm("reads"), w.iso("disc.iso"), w.vdi("no disc", 4*mib)
	cd := w.cd(vm, "3")
	w.fails(w.VBD().Insert(w.ctx, cd, other), "VDI_IS_NOT_ISO", string(other))
	inserted := func(want bool) {
		t.Helper()
		r := must(w.VBD().GetRecord(w.ctx, cd))(t)
		if r.Empty == want || (r.VDI == disc) != want {
			t.Errorf("inserted is to be %t: %+v", want, r)
		}
	}
	w.fails(w.VBD().Eject(w.ctx, cd), "VBD_IS_EMPTY", string(cd))
	w.ok(w.VBD().Insert(w.ctx, cd, disc))
	inserted(true)
	w.fails(w.VBD().Insert(w.ctx, cd, disc), "VBD_NOT_EMPTY", string(cd))
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.agent(vm)
	w.fails(w.VBD().Unplug(w.ctx, cd), "OPERATION_NOT_ALLOWED")
	w.fails(w.VDI().Destroy(w.ctx, disc), "VDI_IN_USE", string(disc), "destroy")
	w.ok(w.VBD().Eject(w.ctx, cd))
	inserted(false)
	w.ok(w.VBD().Insert(w.ctx, cd, disc))
	inserted(true)
	w.ok(w.VM().Suspend(w.ctx, vm))
	w.fails(w.VBD().Eject(w.ctx, cd), "VM_BAD_POWER_STATE", string(vm), "halted, running", "suspended")
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	w.ok(w.VBD().Eject(w.ctx, cd))
	inserted(false)
}

// TestDanglingDisk: what was destroyed leaves no drive behind.
func TestDanglingDisk(t *testing.T) {
	w := start(t)
	vm := w.vm("drives")
	vdi, vbd := w.disk(vm, 4*mib, "0")
	cd := w.cd(vm, "3")
	disc := w.iso("disc.iso")
	w.ok(w.VBD().Insert(w.ctx, cd, disc))
	w.ok(w.VDI().Destroy(w.ctx, vdi))
	_, err := w.VBD().GetRecord(w.ctx, vbd)
	w.fails(err, "HANDLE_INVALID", "VBD", string(vbd))
	w.ok(w.VDI().Forget(w.ctx, disc))
	if r := must(w.VBD().GetRecord(w.ctx, cd))(t); !r.Empty || r.VDI != xenapi.Null {
		t.Errorf("the CD drive: %+v", r)
	}
	w.ok(w.VM().Start(w.ctx, vm, false, false))
}
