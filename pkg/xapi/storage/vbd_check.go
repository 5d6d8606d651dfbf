package storage

import (
	"slices"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// The sets of operations on drives that the checks name.
var (
	vbdListed = []xenapi.VBDOperations{xenapi.VBDOperationsAttach, xenapi.VBDOperationsEject, xenapi.VBDOperationsInsert,
		xenapi.VBDOperationsPlug, xenapi.VBDOperationsUnplug, xenapi.VBDOperationsUnplugForce}
	vbdUnplugs = []xenapi.VBDOperations{xenapi.VBDOperationsUnplug, xenapi.VBDOperationsUnplugForce}
	vbdPlugs   = append([]xenapi.VBDOperations{xenapi.VBDOperationsPlug}, vbdUnplugs...)
	vbdMedia   = []xenapi.VBDOperations{xenapi.VBDOperationsEject, xenapi.VBDOperationsInsert}
	vbdTakes   = []xenapi.VBDOperations{xenapi.VBDOperationsAttach, xenapi.VBDOperationsPlug, xenapi.VBDOperationsInsert}
	// vmLeaves are the operations of a VM during which its drives stay as
	// they are.
	vmLeaves = []xenapi.VMOperations{xenapi.VMOperationsCleanShutdown, xenapi.VMOperationsHardShutdown,
		xenapi.VMOperationsShutdown, xenapi.VMOperationsCleanReboot, xenapi.VMOperationsHardReboot,
		xenapi.VMOperationsSuspend, xenapi.VMOperationsPause, xenapi.VMOperationsPoolMigrate, xenapi.VMOperationsMigrateSend}
)

// drive is a VBD with what decides about it.
type drive struct {
	ref  xenapi.VBDRef
	vbd  *xenapi.VBD
	vm   *xenapi.VM
	vdi  *xenapi.VDI // nil if there is none
	into xenapi.VDIRef
}

// CheckVBD decides whether an operation may be done to a VBD now, in the order
// of the XenAPI, the first failure being the answer.
func CheckVBD(rd db.Reader, ref xenapi.VBDRef, op xenapi.VBDOperations) error {
	return checkVBD(look(rd), ref, op, xenapi.Null)
}

// checkVBD is CheckVBD for the insertion of into, if that is not null.
func checkVBD(g graph, ref xenapi.VBDRef, op xenapi.VBDOperations, into xenapi.VDIRef) error {
	vbd, err := db.Get(g, ref)
	if err != nil {
		return err
	}
	vm, err := db.Get(g, vbd.VM)
	if err != nil {
		return err
	}
	d := drive{ref: ref, vbd: vbd, vm: vm, into: vbd.VDI}
	if into != xenapi.Null {
		d.into = into
	}
	d.vdi = db.Find(g, d.into)
	for _, step := range []func(graph, xenapi.VBDOperations) error{d.itself, d.power, d.guest, d.disk, d.sharing} {
		if err := step(g, op); err != nil {
			return err
		}
	}
	return nil
}

// itself checks the drive's own kind and state.
func (d drive) itself(_ graph, op xenapi.VBDOperations) error {
	ref, media := string(d.ref), slices.Contains(vbdMedia, op)
	switch {
	case len(d.vbd.CurrentOperations) > 0:
		return ops.Busy("VBD", ref, d.vbd.CurrentOperations)
	case slices.Contains(vbdUnplugs, op) && !d.vbd.Unpluggable:
		return xenapi.ErrVBDNotUnpluggable(ref)
	case media && d.vbd.Type != xenapi.VBDTypeCD:
		return xenapi.ErrVBDNotRemovableMedia(ref)
	case op == xenapi.VBDOperationsEject && d.vbd.Empty:
		return xenapi.ErrVBDIsEmpty(ref)
	case op == xenapi.VBDOperationsInsert && !d.vbd.Empty:
		return xenapi.ErrVBDNotEmpty(ref)
	}
	return nil
}

// power checks the state of the VM against that of the drive.
func (d drive) power(_ graph, op xenapi.VBDOperations) error {
	running := d.vm.PowerState == xenapi.VMPowerStateRunning
	actual := strings.ToLower(string(d.vm.PowerState))
	switch {
	case running && op == xenapi.VBDOperationsPlug && d.vbd.CurrentlyAttached:
		return xenapi.ErrDeviceAlreadyAttached(string(d.ref))
	case running && slices.Contains(vbdUnplugs, op) && !d.vbd.CurrentlyAttached:
		return xenapi.ErrDeviceAlreadyDetached(string(d.ref))
	case !running && slices.Contains(vbdPlugs, op):
		return xenapi.ErrVMBadPowerState(string(d.vbd.VM), "running", actual)
	}
	if !slices.Contains(vbdPlugs, op) {
		return nil
	}
	for _, current := range d.vm.CurrentOperations {
		if slices.Contains(vmLeaves, xenapi.VMOperations(current)) {
			return xenapi.ErrOperationNotAllowed("the VM's operation " + current + " is under way")
		}
	}
	return nil
}

// guest checks what a guest without drivers can't do, and what waits for a
// suspended one.
func (d drive) guest(g graph, op xenapi.VBDOperations) error {
	isCD := d.vbd.Type == xenapi.VBDTypeCD
	if d.vm.PowerState == xenapi.VMPowerStateSuspended && isCD && slices.Contains(vbdMedia, op) {
		return xenapi.ErrVMBadPowerState(string(d.vbd.VM), "halted, running", "suspended")
	}
	if d.vm.PowerState != xenapi.VMPowerStateRunning || !isHVM(d.vm) || d.vm.IsControlDomain || !slices.Contains(vbdPlugs, op) {
		return nil
	}
	if isCD {
		return xenapi.ErrOperationNotAllowed("CD drives of HVM guests can't be plugged or unplugged, only their media")
	}
	// A guest that has not said anything yet, since it boots, may have them.
	if metrics := db.Find(g, d.vm.GuestMetrics); metrics != nil && !metrics.PVDriversDetected {
		return xenapi.ErrVMMissingPVDrivers(string(d.vbd.VM))
	}
	return nil
}

// isHVM reports whether a VM runs, or will run, on emulated hardware.
func isHVM(vm *xenapi.VM) bool {
	return vm.DomainType == xenapi.DomainTypeHVM || vm.DomainType == xenapi.DomainTypeUnspecified && vm.HVMBootPolicy != ""
}

// disk checks the VDI by itself.
func (d drive) disk(_ graph, op xenapi.VBDOperations) error {
	if d.vdi == nil || op == xenapi.VBDOperationsEject {
		return nil
	}
	if !d.vdi.Managed {
		return xenapi.ErrVDINotManaged(string(d.ref))
	}
	for _, current := range d.vdi.CurrentOperations {
		reads := current == string(xenapi.VDIOperationsCopy) && d.vbd.Mode == xenapi.VBDModeRO
		if !reads && slices.Contains(vbdTakes, op) {
			return ops.Busy("VDI", string(d.into), d.vdi.CurrentOperations)
		}
	}
	return nil
}

// sharing checks that there are no two writers, nor a writer beside readers.
func (d drive) sharing(g graph, op xenapi.VBDOperations) (err error) {
	if d.vdi == nil || !slices.Contains(vbdTakes, op) {
		return nil
	}
	writes := d.vbd.Mode == xenapi.VBDModeRW
	if !d.vdi.Sharable && (writes || !d.vdi.ReadOnly) {
		g.vbdsOf(d.into, d.vdi, func(ref xenapi.VBDRef, other *xenapi.VBD) bool {
			if ref != d.ref && holds(other) && (writes || other.Mode == xenapi.VBDModeRW) && counts(g, other) {
				err = &xenapi.Error{Code: "VDI_IN_USE", Params: []string{string(d.into)}}
			}
			return err == nil
		})
	}
	if err == nil && writes && d.vdi.ReadOnly {
		return xenapi.ErrVDIReadonly(string(d.into))
	}
	return err
}

// counts reports whether another VM's hold on a disk stands in the way: not
// that of a suspended VM, nor of a control domain.
func counts(g graph, vbd *xenapi.VBD) bool {
	vm := db.Find(g, vbd.VM)
	return vm != nil && vm.PowerState != xenapi.VMPowerStateSuspended && !vm.IsControlDomain
}
