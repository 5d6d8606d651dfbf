package storage_test

import (
	"slices"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/xapi/storage"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
)

// TestDriveOfAnImageLeavesTheOthersAlone: what happens to one drive of an ISO
// does not touch the other VMs that have it.
func TestDriveOfAnImageLeavesTheOthersAlone(t *testing.T) {
	b := open(t)
	var drives []xenapi.VBDRef
	for range 50 {
		drives = append(drives, b.fullCD(b.vm(xenapi.VMPowerStateHalted, nil)))
	}
	before := b.env.DB.View()
	edit(b, drives[0], func(r *xenapi.VBD) { r.CurrentlyAttached = true })
	class := xenapi.Class((*xenapi.VBD)(nil))
	for _, ref := range drives[1:] {
		if b.env.DB.View().Find(class, string(ref)) != before.Find(class, string(ref)) {
			t.Fatal("another VM's drive has a new version")
		}
	}
}

// TestAllowedFollowsTheOthers: a writer's attachment is seen at the drives
// that share the disk, and at the disk.
func TestAllowedFollowsTheOthers(t *testing.T) {
	b := open(t)
	disk := b.disk(nil)
	one, two := b.vm(xenapi.VMPowerStateRunning, nil), b.vm(xenapi.VMPowerStateRunning, nil)
	writer, other := b.drive(one, disk, xenapi.VBDModeRW), b.drive(two, disk, xenapi.VBDModeRW)
	can := func() bool { return slices.Contains(b.vbd(other).AllowedOperations, xenapi.VBDOperationsPlug) }
	if !can() {
		t.Error("plug is not allowed at first")
	}
	b.ok(b.plug(writer))
	if can() || slices.Contains(b.vdi(disk).AllowedOperations, xenapi.VDIOperationsDestroy) {
		t.Error("the writer is not seen")
	}
	b.ok(b.unplug(writer))
	if !can() || !slices.Contains(b.vdi(disk).AllowedOperations, xenapi.VDIOperationsDestroy) {
		t.Error("the writer is still seen")
	}
	edit(b, two, func(r *xenapi.VM) { r.PowerState = xenapi.VMPowerStatePaused })
	if can() {
		t.Error("the VM's state is not seen")
	}
}

// TestChecksOfVDIsInTransition: an operation on a drive, or on the disk,
// keeps others waiting.
func TestChecksOfVDIsInTransition(t *testing.T) {
	b := open(t)
	disk := b.disk(nil)
	drive := b.drive(b.vm(xenapi.VMPowerStateRunning, nil), disk, xenapi.VBDModeRW)
	check := func(op xenapi.VDIOperations) error { return storage.CheckVDI(b.env.DB.View(), disk, op) }
	edit(b, drive, func(r *xenapi.VBD) { r.CurrentOperations = map[string]string{"OpaqueRef:t": "plug"} })
	xapitest.Fails(t, check(xenapi.VDIOperationsDestroy), "OTHER_OPERATION_IN_PROGRESS", "VDI", string(disk), "plug", "OpaqueRef:t")
	xapitest.Fails(t, storage.CheckVBD(b.env.DB.View(), drive, xenapi.VBDOperationsUnplug), "OTHER_OPERATION_IN_PROGRESS",
		"VBD", string(drive), "plug", "OpaqueRef:t")
	edit(b, drive, func(r *xenapi.VBD) { r.CurrentOperations = nil })
	edit(b, disk, func(r *xenapi.VDI) { r.CurrentOperations = map[string]string{"OpaqueRef:t": "resize"} })
	xapitest.Fails(t, check(xenapi.VDIOperationsDestroy), "OTHER_OPERATION_IN_PROGRESS", "VDI", string(disk), "resize", "OpaqueRef:t")
	xapitest.Fails(t, storage.CheckVBD(b.env.DB.View(), drive, xenapi.VBDOperationsPlug), "OTHER_OPERATION_IN_PROGRESS",
		"VDI", string(disk), "resize", "OpaqueRef:t")
	edit(b, disk, func(r *xenapi.VDI) { r.CurrentOperations = map[string]string{"OpaqueRef:t": "copy"} })
	b.ok(check(xenapi.VDIOperationsCopy))
	edit(b, disk, func(r *xenapi.VDI) { r.CurrentOperations, r.Type = nil, xenapi.VDITypeCBTMetadata })
	xapitest.Fails(t, check(xenapi.VDIOperationsClone), "VDI_INCOMPATIBLE_TYPE", string(disk), "cbt_metadata")
	b.features(map[string]int64{"VDI_MIRROR": 1, "VDI_RESET_ON_BOOT": 2})
	edit(b, disk, func(r *xenapi.VDI) { r.Type, r.CBTEnabled = xenapi.VDITypeUser, true })
	xapitest.Fails(t, check(xenapi.VDIOperationsMirror), "VDI_CBT_ENABLED", string(disk))
	xapitest.Fails(t, check(xenapi.VDIOperationsSetOnBoot), "VDI_CBT_ENABLED", string(disk))
}

// TestSROperationsTogether: a scan waits for others, and they for it.
func TestSROperationsTogether(t *testing.T) {
	b := open(t)
	local := b.local()
	edit(b, local, func(r *xenapi.SR) { r.CurrentOperations = map[string]string{"OpaqueRef:t": "scan"} })
	check := func(op xenapi.StorageOperations) error { return storage.CheckSR(b.env.DB.View(), local, op) }
	for _, op := range []xenapi.StorageOperations{xenapi.StorageOperationsScan, xenapi.StorageOperationsVDICreate, xenapi.StorageOperationsUnplug} {
		xapitest.Fails(t, check(op), "OTHER_OPERATION_IN_PROGRESS", "SR", string(local), "scan", "OpaqueRef:t")
	}
	b.ok(check(xenapi.StorageOperationsPlug))
	edit(b, local, func(r *xenapi.SR) { r.CurrentOperations = map[string]string{"OpaqueRef:t": "vdi_create"} })
	b.ok(check(xenapi.StorageOperationsVDIDestroy))
	xapitest.Fails(t, check(xenapi.StorageOperationsScan), "OTHER_OPERATION_IN_PROGRESS", "SR", string(local), "vdi_create", "OpaqueRef:t")
}

// features gives the file driver others than it has.
func (b *bench) features(f map[string]int64) {
	b.Helper()
	for ref, driver := range db.All[xenapi.SMRef](b.env.DB.View()) {
		if driver.Type == "file" {
			edit(b, ref, func(r *xenapi.SM) { r.Features = f })
		}
	}
}
