package host

import (
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// hostOperations are those that allowed_operations may list, in its order.
var hostOperations = []xenapi.HostAllowedOperations{
	xenapi.HostAllowedOperationsProvision, xenapi.HostAllowedOperationsEvacuate, xenapi.HostAllowedOperationsShutdown,
	xenapi.HostAllowedOperationsReboot, xenapi.HostAllowedOperationsPowerOn, xenapi.HostAllowedOperationsVMStart,
	xenapi.HostAllowedOperationsVMResume, xenapi.HostAllowedOperationsVMMigrate, xenapi.HostAllowedOperationsEnable,
}

// alone are the operations that share a host with no other of their kind.
var alone = map[string]bool{
	string(xenapi.HostAllowedOperationsEvacuate): true, string(xenapi.HostAllowedOperationsShutdown): true,
	string(xenapi.HostAllowedOperationsReboot): true, string(xenapi.HostAllowedOperationsPowerOn): true,
	string(xenapi.HostAllowedOperationsApplyUpdates): true,
}

// checkHost decides whether an operation may be done to a host now.
func checkHost(tx *db.Tx, ref xenapi.HostRef, op xenapi.HostAllowedOperations) error {
	h, err := db.Get(tx, ref)
	if err != nil {
		return err
	}
	for _, current := range h.CurrentOperations {
		moving := current == string(xenapi.HostAllowedOperationsEvacuate) && op == xenapi.HostAllowedOperationsVMMigrate
		if alone[current] && !moving {
			return ops.Busy("host", string(ref), h.CurrentOperations)
		}
	}
	metrics := db.Find(tx, h.Metrics)
	live := metrics != nil && metrics.Live
	switch op {
	case xenapi.HostAllowedOperationsPowerOn:
		if live || h.PowerOnMode == "" {
			return xenapi.ErrHostPowerOnModeDisabled()
		}
		return nil
	case xenapi.HostAllowedOperationsShutdown, xenapi.HostAllowedOperationsReboot:
		if h.Enabled {
			return xenapi.ErrHostNotDisabled()
		}
		if vm := resident(tx, ref, h); vm != "" {
			return xenapi.ErrHostInUse(string(ref), "VM", string(vm))
		}
	case xenapi.HostAllowedOperationsEnable:
		if h.Enabled {
			return xenapi.ErrOperationNotAllowed("The host is enabled")
		}
	case xenapi.HostAllowedOperationsProvision, xenapi.HostAllowedOperationsVMStart,
		xenapi.HostAllowedOperationsVMResume, xenapi.HostAllowedOperationsVMMigrate:
		if !h.Enabled {
			return xenapi.ErrHostDisabled(string(ref))
		}
	}
	if !live {
		return xenapi.ErrHostNotLive()
	}
	return nil
}

// resident finds a guest on the host, with what the transaction changes; ""
// if there is none.
func resident(tx *db.Tx, ref xenapi.HostRef, h *xenapi.Host) xenapi.VMRef {
	candidates := slices.Clone(h.ResidentVMs)
	for _, key := range tx.Edited() {
		if key.Class.Name == "VM" {
			candidates = append(candidates, xenapi.VMRef(key.Ref))
		}
	}
	for _, vm := range candidates {
		if rec := db.Find(tx, vm); rec != nil && !rec.IsControlDomain && rec.ResidentOn == ref {
			return vm
		}
	}
	return ""
}

// Derive sets allowed_operations of the hosts that a transaction edited, or
// whose metrics it did, and of disabled ones whose guests came or went.
func Derive(tx *db.Tx, edited []db.Key) {
	for _, ref := range ops.Affected(tx, edited, affected) {
		deriveHost(tx, ref)
	}
}

// affected lists the hosts whose operations an edited object decides.
func affected(tx *db.Tx, key db.Key) []xenapi.HostRef {
	switch key.Class.Name {
	case "host":
		return []xenapi.HostRef{xenapi.HostRef(key.Ref)}
	case "host_metrics":
		return xenapi.As[xenapi.HostRef](tx.Snapshot().Referrers(key.Ref))
	case "VM":
		var out []xenapi.HostRef
		for _, rd := range []db.Reader{tx, tx.Snapshot()} {
			vm := db.Find(rd, xenapi.VMRef(key.Ref))
			if vm == nil {
				continue
			}
			if h := db.Find(tx, vm.ResidentOn); h != nil && !h.Enabled {
				out = append(out, vm.ResidentOn)
			}
		}
		return out
	}
	return nil
}

func deriveHost(tx *db.Tx, ref xenapi.HostRef) {
	var allowed []xenapi.HostAllowedOperations
	for _, op := range hostOperations {
		if checkHost(tx, ref, op) == nil {
			allowed = append(allowed, op)
		}
	}
	ops.Allow(tx, "host", ref, allowed)
}
