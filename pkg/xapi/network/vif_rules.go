package network

import (
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// vifOperations are all there are, in the order in which they are listed.
var vifOperations = []xenapi.VIFOperations{xenapi.VIFOperationsAttach, xenapi.VIFOperationsPlug, xenapi.VIFOperationsUnplug}

// stopping are the operations of a VM that end, save or move its domain.
var stopping = map[string]bool{
	string(xenapi.VMOperationsSuspend): true, string(xenapi.VMOperationsCleanShutdown): true,
	string(xenapi.VMOperationsHardShutdown): true, string(xenapi.VMOperationsShutdown): true,
	string(xenapi.VMOperationsCleanReboot): true, string(xenapi.VMOperationsHardReboot): true,
	string(xenapi.VMOperationsPause): true, string(xenapi.VMOperationsPoolMigrate): true,
	string(xenapi.VMOperationsMigrateSend): true, string(xenapi.VMOperationsCheckpoint): true,
}

// checkVIF decides whether an operation may be done to a VIF now; the first
// failure is the answer.
func checkVIF(rd db.Reader, ref xenapi.VIFRef, op xenapi.VIFOperations) error {
	vif, err := db.Get(rd, ref)
	if err != nil {
		return err
	}
	if len(vif.CurrentOperations) > 0 {
		return ops.Busy("VIF", string(ref), vif.CurrentOperations)
	}
	vm, err := db.Get(rd, vif.VM)
	if err != nil {
		return err
	}
	if vm.IsControlDomain {
		return xenapi.ErrOperationNotAllowed("VIF plug and unplug are not possible on the control domain")
	}
	if op == xenapi.VIFOperationsAttach {
		return nil
	}
	if err := pluggable(ref, vif, vm, op); err != nil {
		return err
	}
	for _, current := range vm.CurrentOperations {
		if stopping[current] {
			return xenapi.ErrOperationNotAllowed("The VM is in the middle of " + current)
		}
	}
	// A guest that has not said anything yet, since it boots, may have them.
	metrics := db.Find(rd, vm.GuestMetrics)
	if vm.DomainType == xenapi.DomainTypeHVM && metrics != nil && !metrics.PVDriversDetected {
		return xenapi.ErrVMMissingPVDrivers(string(vif.VM))
	}
	return nil
}

// pluggable checks the VM's state against the VIF's.
func pluggable(ref xenapi.VIFRef, vif *xenapi.VIF, vm *xenapi.VM, op xenapi.VIFOperations) error {
	plug := op == xenapi.VIFOperationsPlug
	switch {
	case vm.PowerState != xenapi.VMPowerStateRunning:
		return xenapi.ErrVMBadPowerState(string(vif.VM), "running", strings.ToLower(string(vm.PowerState)))
	case plug && vif.CurrentlyAttached:
		return xenapi.ErrDeviceAlreadyAttached(string(ref))
	case !plug && !vif.CurrentlyAttached:
		return xenapi.ErrDeviceAlreadyDetached(string(ref))
	}
	return nil
}

// Derive sets allowed_operations of the VIFs that a transaction edited, or
// whose VM or its guest metrics it did.
func Derive(tx *db.Tx, edited []db.Key) {
	for _, ref := range ops.Affected(tx, edited, affected) {
		deriveVIF(tx, ref)
	}
}

// affected lists the VIFs whose operations an edited object decides.
func affected(tx *db.Tx, key db.Key) []xenapi.VIFRef {
	switch key.Class.Name {
	case "VIF":
		return []xenapi.VIFRef{xenapi.VIFRef(key.Ref)}
	case "VM":
		if vm := db.Find(tx, xenapi.VMRef(key.Ref)); vm != nil {
			return vm.VIFs
		}
	case "VM_guest_metrics":
		for _, ref := range tx.Snapshot().Referrers(key.Ref) {
			if vm := db.Find(tx, xenapi.VMRef(ref)); vm != nil {
				return vm.VIFs
			}
		}
	}
	return nil
}

func deriveVIF(tx *db.Tx, ref xenapi.VIFRef) {
	var allowed []xenapi.VIFOperations
	for _, op := range vifOperations {
		if checkVIF(tx, ref, op) == nil {
			allowed = append(allowed, op)
		}
	}
	ops.Allow(tx, "VIF", ref, allowed)
}
