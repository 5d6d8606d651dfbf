package storage

import (
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// srRule is what the table says of one operation on an SR.
type srRule struct {
	op xenapi.StorageOperations
	// feature is the driver's feature that it needs; empty for none.
	feature string
	// attached operations need the SR attached, detached ones need it not.
	attached, detached bool
}

// srRules is the table of operations on SRs, in the order in which they are
// listed.
var srRules = []srRule{
	{op: xenapi.StorageOperationsScan, attached: true},
	{op: xenapi.StorageOperationsDestroy, detached: true},
	{op: xenapi.StorageOperationsForget, detached: true},
	{op: xenapi.StorageOperationsPlug},
	{op: xenapi.StorageOperationsUnplug},
	{op: xenapi.StorageOperationsUpdate, feature: "SR_UPDATE", attached: true},
	{op: xenapi.StorageOperationsVDICreate, feature: "VDI_CREATE", attached: true},
	{op: xenapi.StorageOperationsVDIIntroduce, attached: true},
	{op: xenapi.StorageOperationsVDIDestroy, feature: "VDI_DELETE", attached: true},
	{op: xenapi.StorageOperationsVDIResize, feature: "VDI_RESIZE", attached: true},
	{op: xenapi.StorageOperationsVDIClone, feature: "VDI_CREATE", attached: true},
	{op: xenapi.StorageOperationsVDISnapshot, feature: "VDI_SNAPSHOT", attached: true},
	{op: xenapi.StorageOperationsVDIMirror, feature: "VDI_MIRROR", attached: true},
	{op: xenapi.StorageOperationsVDIEnableCBT, feature: "VDI_CONFIG_CBT", attached: true},
	{op: xenapi.StorageOperationsVDIDisableCBT, feature: "VDI_CONFIG_CBT", attached: true},
	{op: xenapi.StorageOperationsVDIDataDestroy, feature: "VDI_CONFIG_CBT", attached: true},
	{op: xenapi.StorageOperationsVDIListChangedBlocks, feature: "VDI_CONFIG_CBT", attached: true},
	{op: xenapi.StorageOperationsVDISetOnBoot, feature: "VDI_RESET_ON_BOOT", attached: true},
	{op: xenapi.StorageOperationsVDICopy, attached: true},
	{op: xenapi.StorageOperationsVDIForget},
	{op: xenapi.StorageOperationsVDIGenerateConfig, feature: "VDI_GENERATE_CONFIG", attached: true},
	{op: xenapi.StorageOperationsVDIResizeOnline, feature: "VDI_RESIZE_ONLINE", attached: true},
	{op: xenapi.StorageOperationsVDIUpdate, feature: "VDI_UPDATE", attached: true},
	{op: xenapi.StorageOperationsVDIRevert, feature: "VDI_REVERT", attached: true},
	{op: xenapi.StorageOperationsPBDCreate},
	{op: xenapi.StorageOperationsPBDDestroy},
}

// together reports whether two operations may run on an SR at once: those on
// its disks may, and plug with whatever leaves the SR in place.
func together(a, b xenapi.StorageOperations) bool {
	onDisks := func(op xenapi.StorageOperations) bool { return strings.HasPrefix(string(op), "vdi_") }
	beside := func(op xenapi.StorageOperations) bool {
		return onDisks(op) || op == xenapi.StorageOperationsPlug || op == xenapi.StorageOperationsScan ||
			op == xenapi.StorageOperationsUpdate || op == xenapi.StorageOperationsPBDCreate
	}
	return onDisks(a) && onDisks(b) || a == xenapi.StorageOperationsPlug && beside(b) || b == xenapi.StorageOperationsPlug && beside(a)
}

// CheckSR decides whether an operation may be done to an SR now. What needs a
// look at all of its disks is left to the operation itself.
func CheckSR(rd db.Reader, ref xenapi.SRRef, op xenapi.StorageOperations) error {
	sr, err := db.Get(rd, ref)
	if err != nil {
		return err
	}
	for _, r := range srRules {
		if r.op == op {
			return checkSR(look(rd), ref, sr, r)
		}
	}
	return nil
}

func checkSR(g graph, ref xenapi.SRRef, sr *xenapi.SR, r srRule) error {
	for _, current := range sr.CurrentOperations {
		if !together(r.op, xenapi.StorageOperations(current)) {
			return ops.Busy("SR", string(ref), sr.CurrentOperations)
		}
	}
	attached := g.attached(ref, sr)
	switch {
	case r.detached && attached:
		return xenapi.ErrSRHasPBD(string(ref))
	case r.attached && !attached:
		return xenapi.ErrSRHasNoPBDs(string(ref))
	case r.feature != "" && g.features(sr)[r.feature] == 0:
		return xenapi.ErrSROperationNotSupported(string(ref))
	case r.op == xenapi.StorageOperationsVDICreate && sr.IsToolsSR, r.detached && sr.IsToolsSR:
		return xenapi.ErrSROperationNotSupported(string(ref))
	case r.op == xenapi.StorageOperationsDestroy && len(sr.PBDs) == 0:
		return xenapi.ErrSRHasNoPBDs(string(ref))
	case r.op == xenapi.StorageOperationsDestroy && sr.OtherConfig["indestructible"] == "true":
		return xenapi.ErrSRIndestructible(string(ref))
	}
	return nil
}
