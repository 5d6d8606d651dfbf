package vm

import (
	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// listed are the operations that allowed_operations may hold, in its order.
var listed = func() []xenapi.VMOperations {
	var out []xenapi.VMOperations
	for _, text := range datamodel.Get().Enum("vm_operations").Members {
		op := xenapi.VMOperations(text)
		if r, ok := rules[op]; ok && !r.hidden {
			out = append(out, op)
		}
	}
	return out
}()

// Derive sets allowed_operations of the VMs that a transaction edited, or
// whose guest metrics or disks it did.
func Derive(tx *db.Tx, edited []db.Key) {
	for _, ref := range ops.Affected(tx, edited, affected) {
		deriveOne(tx, ref)
	}
}

// affected lists the VMs whose operations an edited object decides.
func affected(tx *db.Tx, key db.Key) []xenapi.VMRef {
	switch key.Class.Name {
	case "VM":
		return []xenapi.VMRef{xenapi.VMRef(key.Ref)}
	case "VBD":
		if vbd := db.Find(tx, xenapi.VBDRef(key.Ref)); vbd != nil {
			return []xenapi.VMRef{vbd.VM}
		}
	case "VM_guest_metrics":
		for _, ref := range tx.Snapshot().Referrers(key.Ref) {
			return []xenapi.VMRef{xenapi.VMRef(ref)}
		}
	}
	return nil
}

func deriveOne(tx *db.Tx, ref xenapi.VMRef) {
	vm := db.Find(tx, ref)
	if vm == nil {
		return
	}
	allowed := make([]xenapi.VMOperations, 0, 16)
	for _, op := range listed {
		if maybe(vm, op) && check(tx, ref, vm, op, true) == nil {
			allowed = append(allowed, op)
		}
	}
	ops.Allow(tx, "VM", ref, allowed)
}

// maybe is the cheap part of the check of the power state: it rules out most
// operations without making an error.
func maybe(vm *xenapi.VM, op xenapi.VMOperations) bool {
	r := rules[op]
	return r.in&stateOf[vm.PowerState] != 0 || r.control && vm.IsControlDomain ||
		vm.PowerState == xenapi.VMPowerStateSuspended && (op == xenapi.VMOperationsClone || op == xenapi.VMOperationsCopy)
}
