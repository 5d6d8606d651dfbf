package storage

import (
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// vdiRule is what the table says of one operation on a disk.
type vdiRule struct {
	op xenapi.VDIOperations
	// feature is the driver's feature that it needs; empty for none.
	feature string
	// live operations may be done while the disk is attached; those that
	// read, while it is attached for reading alone.
	live, reads bool
	// hidden operations are never listed.
	hidden bool
}

// vdiRules is the table of operations on disks, in the order in which they are
// listed. Every driver copies in full for a clone, which so needs what a copy
// does.
var vdiRules = []vdiRule{
	{op: xenapi.VDIOperationsClone, feature: "VDI_CREATE", reads: true},
	{op: xenapi.VDIOperationsCopy, reads: true},
	{op: xenapi.VDIOperationsResize, feature: "VDI_RESIZE"},
	{op: xenapi.VDIOperationsResizeOnline, feature: "VDI_RESIZE_ONLINE", live: true},
	{op: xenapi.VDIOperationsSnapshot, feature: "VDI_SNAPSHOT", live: true},
	{op: xenapi.VDIOperationsMirror, feature: "VDI_MIRROR", live: true},
	{op: xenapi.VDIOperationsDestroy, feature: "VDI_DELETE"},
	{op: xenapi.VDIOperationsForget},
	{op: xenapi.VDIOperationsUpdate, feature: "VDI_UPDATE"},
	{op: xenapi.VDIOperationsForceUnlock, hidden: true},
	{op: xenapi.VDIOperationsGenerateConfig, feature: "VDI_GENERATE_CONFIG"},
	{op: xenapi.VDIOperationsEnableCBT, feature: "VDI_CONFIG_CBT", live: true},
	{op: xenapi.VDIOperationsDisableCBT, feature: "VDI_CONFIG_CBT", live: true},
	{op: xenapi.VDIOperationsDataDestroy, feature: "VDI_CONFIG_CBT", live: true},
	{op: xenapi.VDIOperationsListChangedBlocks, feature: "VDI_CONFIG_CBT", live: true},
	{op: xenapi.VDIOperationsSetOnBoot, feature: "VDI_RESET_ON_BOOT"},
	{op: xenapi.VDIOperationsBlocked, hidden: true},
	{op: xenapi.VDIOperationsRevertTo, feature: "VDI_REVERT", live: true},
	{op: xenapi.VDIOperationsRevertFrom, feature: "VDI_REVERT", live: true},
}

// CheckVDI decides whether an operation may be done to a VDI now.
func CheckVDI(rd db.Reader, ref xenapi.VDIRef, op xenapi.VDIOperations) error {
	vdi, err := db.Get(rd, ref)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(vdiRules, func(r vdiRule) bool { return r.op == op })
	g := look(rd)
	return checkVDI(g, ref, vdi, g.useOf(ref, vdi), vdiRules[i])
}

// checkVDI asks in the order of the XenAPI; the first failure is the answer.
func checkVDI(g graph, ref xenapi.VDIRef, vdi *xenapi.VDI, u use, r vdiRule) error {
	sr := db.Find(g, vdi.SR)
	for _, current := range vdi.CurrentOperations {
		if current != string(xenapi.VDIOperationsCopy) {
			return ops.Busy("VDI", string(ref), vdi.CurrentOperations)
		}
	}
	if sr == nil {
		return xenapi.ErrHandleInvalid("SR", string(vdi.SR))
	}
	if r.op == xenapi.VDIOperationsResize && !g.attached(vdi.SR, sr) {
		return xenapi.ErrSRHasNoPBDs(string(vdi.SR))
	}
	if err := u.against(ref, r); err != nil {
		return err
	}
	if r.feature != "" && g.features(sr)[r.feature] == 0 {
		return xenapi.ErrSROperationNotSupported(string(vdi.SR))
	}
	switch {
	case vdi.Type == xenapi.VDITypeCBTMetadata && r.op != xenapi.VDIOperationsDestroy && r.op != xenapi.VDIOperationsForget:
		return xenapi.ErrVDIIncompatibleType(string(ref), string(vdi.Type))
	case vdi.CBTEnabled && (r.op == xenapi.VDIOperationsMirror || r.op == xenapi.VDIOperationsSetOnBoot):
		return xenapi.ErrVDICBTEnabled(string(ref))
	case r.op == xenapi.VDIOperationsDestroy:
		return destroyable(g, ref, vdi, sr)
	}
	return nil
}

// use is what the drives of a disk do with it.
type use struct {
	attached, written bool
	// busy is a drive that is being attached or detached; busyWriter one that
	// may write.
	busy, busyWriter *xenapi.VBD
}

// useOf looks at the drives of a disk, no further than it must: of those that
// may only be read there can be many.
func (g graph) useOf(ref xenapi.VDIRef, vdi *xenapi.VDI) (u use) {
	g.vbdsOf(ref, vdi, func(_ xenapi.VBDRef, vbd *xenapi.VBD) bool {
		writes := vbd.Mode == xenapi.VBDModeRW
		switch {
		case vbd.CurrentlyAttached:
			u.attached, u.written = true, u.written || writes
		case inTransition(vbd) && writes:
			u.busy, u.busyWriter = vbd, vbd
		case inTransition(vbd):
			u.busy = vbd
		}
		return !u.written && !(u.attached && vdi.ReadOnly)
	})
	return u
}

// against says why the drives of a disk are against an operation.
func (u use) against(ref xenapi.VDIRef, r vdiRule) error {
	attached, busy := u.attached, u.busy
	switch {
	case r.live:
		return nil
	case r.reads:
		attached, busy = u.written, u.busyWriter
	}
	if attached {
		return xenapi.ErrVDIInUse(string(ref), string(r.op))
	}
	if busy != nil {
		return ops.Busy("VDI", string(ref), busy.CurrentOperations)
	}
	return nil
}

// destroyable checks what destroy alone refuses.
func destroyable(g graph, ref xenapi.VDIRef, vdi *xenapi.VDI, sr *xenapi.SR) error {
	switch {
	case sr.Type == "udev":
		return xenapi.ErrVDIIsAPhysicalDevice(string(ref))
	case sr.IsToolsSR:
		return xenapi.ErrSROperationNotSupported(string(vdi.SR))
	case vdi.Type == xenapi.VDITypeRRD:
		return xenapi.ErrVDIHasRrds(string(ref))
	case vdi.Type == xenapi.VDITypeHAStatefile || vdi.Type == xenapi.VDITypeRedoLog:
		if _, pool := xapi.Pool(g); pool != nil && pool.HAEnabled {
			return xenapi.ErrHAIsEnabled()
		}
	}
	return nil
}
