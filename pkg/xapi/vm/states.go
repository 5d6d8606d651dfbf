// Package vm is the behaviour of virtual machines: the state table, their
// life, and what a record of one may become.
//
// Its one invariant: an operation runs only after Check let it, in the
// transaction that marks it in current_operations; allowed_operations is the
// same table asked beforehand. Start reading at states.go, then power.go.
package vm

import (
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// states is a set of power states.
type states uint8

const (
	halted states = 1 << iota
	paused
	running
	suspended
	anyState = halted | paused | running | suspended
)

var stateOf = map[xenapi.VMPowerState]states{
	xenapi.VMPowerStateHalted: halted, xenapi.VMPowerStatePaused: paused,
	xenapi.VMPowerStateRunning: running, xenapi.VMPowerStateSuspended: suspended,
}

// stateNames are the states' names in errors, in the order of the bits.
var stateNames = []string{"halted", "paused", "running", "suspended"}

// String lists the states as VM_BAD_POWER_STATE does.
func (s states) String() string {
	var names []string
	for i, n := range stateNames {
		if s&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

// rule is what the table says of one operation.
type rule struct {
	op xenapi.VMOperations
	in states
	// control: also allowed on a running control domain.
	control bool
	// hidden operations work but are never listed in allowed_operations.
	hidden bool
}

// rules is the table of operations, by the power states in which they are
// possible.
var rules = func() map[xenapi.VMOperations]rule {
	m := map[xenapi.VMOperations]rule{}
	add := func(in states, list ...xenapi.VMOperations) {
		for _, op := range list {
			m[op] = rule{op: op, in: in}
		}
	}
	add(halted, xenapi.VMOperationsStart, xenapi.VMOperationsStartOn, xenapi.VMOperationsProvision,
		xenapi.VMOperationsMakeIntoTemplate, xenapi.VMOperationsChangingShadowMemory,
		xenapi.VMOperationsChangingNVRAM, xenapi.VMOperationsCreateVTPM,
		xenapi.VMOperationsChangingVCPUs, xenapi.VMOperationsChangingStaticRange, xenapi.VMOperationsChangingMemoryLimits,
		xenapi.VMOperationsClone, xenapi.VMOperationsCopy)
	add(halted|running, xenapi.VMOperationsChangingDynamicRange)
	add(halted|suspended, xenapi.VMOperationsDestroy, xenapi.VMOperationsExport, xenapi.VMOperationsCreateTemplate)
	add(running, xenapi.VMOperationsPause, xenapi.VMOperationsSuspend, xenapi.VMOperationsPoolMigrate,
		xenapi.VMOperationsCleanShutdown, xenapi.VMOperationsCleanReboot, xenapi.VMOperationsSysprep,
		xenapi.VMOperationsSnapshotWithQuiesce, xenapi.VMOperationsChangingVCPUsLive,
		xenapi.VMOperationsChangingMemoryLive, xenapi.VMOperationsAwaitingMemoryLive,
		xenapi.VMOperationsChangingShadowMemoryLive, xenapi.VMOperationsDataSourceOp, xenapi.VMOperationsCallPlugin,
		xenapi.VMOperationsSendSysrq, xenapi.VMOperationsSendTrigger)
	add(paused, xenapi.VMOperationsUnpause)
	add(suspended, xenapi.VMOperationsResume, xenapi.VMOperationsResumeOn, xenapi.VMOperationsCsvm)
	add(paused|running, xenapi.VMOperationsHardReboot)
	add(paused|suspended|running, xenapi.VMOperationsHardShutdown, xenapi.VMOperationsShutdown,
		xenapi.VMOperationsCheckpoint, xenapi.VMOperationsGetBootRecord)
	add(halted|suspended|running, xenapi.VMOperationsMigrateSend)
	add(anyState, xenapi.VMOperationsSnapshot, xenapi.VMOperationsRevert, xenapi.VMOperationsReverting,
		xenapi.VMOperationsMetadataExport, xenapi.VMOperationsPowerStateReset, xenapi.VMOperationsQueryServices,
		xenapi.VMOperationsAssertOperationValid, xenapi.VMOperationsUpdateAllowedOperations)
	for _, op := range []xenapi.VMOperations{xenapi.VMOperationsChangingVCPUs, xenapi.VMOperationsChangingStaticRange,
		xenapi.VMOperationsChangingMemoryLimits} {
		r := m[op]
		r.control = true
		m[op] = r
	}
	for _, op := range []xenapi.VMOperations{xenapi.VMOperationsCreateTemplate, xenapi.VMOperationsPowerStateReset,
		xenapi.VMOperationsCsvm, xenapi.VMOperationsGetBootRecord, xenapi.VMOperationsSendSysrq,
		xenapi.VMOperationsSendTrigger, xenapi.VMOperationsQueryServices, xenapi.VMOperationsShutdown,
		xenapi.VMOperationsCallPlugin, xenapi.VMOperationsChangingMemoryLive, xenapi.VMOperationsAwaitingMemoryLive,
		xenapi.VMOperationsChangingMemoryLimits, xenapi.VMOperationsChangingShadowMemoryLive,
		xenapi.VMOperationsChangingVCPUs, xenapi.VMOperationsAssertOperationValid, xenapi.VMOperationsDataSourceOp,
		xenapi.VMOperationsUpdateAllowedOperations, xenapi.VMOperationsReverting} {
		r := m[op]
		r.hidden = true
		m[op] = r
	}
	return m
}()

// opSet is a set of operations for the checks below.
type opSet map[xenapi.VMOperations]bool

func setOf(list ...xenapi.VMOperations) opSet {
	s := opSet{}
	for _, op := range list {
		s[op] = true
	}
	return s
}

var (
	onTemplates = setOf(xenapi.VMOperationsChangingDynamicRange, xenapi.VMOperationsChangingStaticRange,
		xenapi.VMOperationsChangingMemoryLimits, xenapi.VMOperationsChangingShadowMemory, xenapi.VMOperationsChangingVCPUs,
		xenapi.VMOperationsChangingNVRAM, xenapi.VMOperationsClone, xenapi.VMOperationsCopy, xenapi.VMOperationsExport,
		xenapi.VMOperationsMetadataExport, xenapi.VMOperationsProvision)
	onOwnTemplates = setOf(xenapi.VMOperationsDestroy, xenapi.VMOperationsMigrateSend)
	onSnapshots    = setOf(xenapi.VMOperationsRevert, xenapi.VMOperationsClone, xenapi.VMOperationsCopy,
		xenapi.VMOperationsExport, xenapi.VMOperationsDestroy, xenapi.VMOperationsHardShutdown, xenapi.VMOperationsMetadataExport)
	onControlDomains = setOf(xenapi.VMOperationsDataSourceOp, xenapi.VMOperationsChangingMemoryLive,
		xenapi.VMOperationsAwaitingMemoryLive, xenapi.VMOperationsMetadataExport, xenapi.VMOperationsChangingDynamicRange,
		xenapi.VMOperationsChangingMemoryLimits, xenapi.VMOperationsChangingStaticRange, xenapi.VMOperationsChangingVCPUs,
		xenapi.VMOperationsStart, xenapi.VMOperationsStartOn, xenapi.VMOperationsDestroy)
	suspendLike = setOf(xenapi.VMOperationsSuspend, xenapi.VMOperationsCheckpoint, xenapi.VMOperationsPoolMigrate,
		xenapi.VMOperationsMigrateSend)
	copying      = setOf(xenapi.VMOperationsClone, xenapi.VMOperationsCopy, xenapi.VMOperationsExport)
	snapshotting = setOf(xenapi.VMOperationsSnapshot, xenapi.VMOperationsCheckpoint)
	hard         = setOf(xenapi.VMOperationsHardShutdown, xenapi.VMOperationsHardReboot)
	duringMove   = setOf(xenapi.VMOperationsCleanShutdown, xenapi.VMOperationsCleanReboot, xenapi.VMOperationsMetadataExport)
)

// Check decides whether an operation may be done to a VM now: the tables and
// the order of the XenAPI, the first failure being the answer. It is lenient
// about what the guest says of itself; strict is for listing.
func Check(rd db.Reader, ref xenapi.VMRef, op xenapi.VMOperations) error {
	vm, err := db.Get(rd, ref)
	if err != nil {
		return err
	}
	return check(rd, ref, vm, op, false)
}

func check(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations, strict bool) error {
	for _, step := range []func() error{
		func() error { return blocked(ref, vm, op) },
		func() error { return inState(rd, ref, vm, op) },
		func() error { return others(ref, vm, op) },
		func() error { return kindOf(ref, vm, op) },
		func() error { return immobile(ref, vm, op) },
		func() error { return controlDomain(vm, op) },
		func() error { return guestFeatures(rd, ref, vm, op, strict) },
		func() error { return devices(rd, ref, vm, op) },
		func() error { return membership(ref, vm, op) },
		func() error { return vtpms(vm, op) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func blocked(ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations) error {
	if reason, ok := vm.BlockedOperations[string(op)]; ok {
		return xenapi.ErrOperationBlocked(string(ref), reason)
	}
	return nil
}

// inState checks the power state; a suspended VM is cloned only where the
// pool says that it may be, a suspended snapshot always.
func inState(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations) error {
	if (op == xenapi.VMOperationsClone || op == xenapi.VMOperationsCopy) && vm.PowerState == xenapi.VMPowerStateSuspended {
		_, pool := xapi.Pool(rd)
		if vm.IsASnapshot || pool != nil && truthy(pool.OtherConfig["allow_clone_suspended_vm"]) {
			return nil
		}
	}
	return powerState(ref, vm, op)
}

func powerState(ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations) error {
	r := rules[op]
	if r.in&stateOf[vm.PowerState] != 0 || r.control && vm.IsControlDomain && vm.PowerState == xenapi.VMPowerStateRunning {
		return nil
	}
	return xenapi.ErrVMBadPowerState(string(ref), r.in.String(), strings.ToLower(string(vm.PowerState)))
}

// others checks against what is being done to the VM already.
func others(ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations) error {
	if len(vm.CurrentOperations) == 0 {
		return nil
	}
	for _, current := range vm.CurrentOperations {
		cur := xenapi.VMOperations(current)
		ok := copying[op] && copying[cur] || snapshotting[op] && snapshotting[cur] ||
			op == xenapi.VMOperationsHardShutdown && cur != op ||
			op == xenapi.VMOperationsHardReboot && !hard[cur] ||
			duringMove[op] && cur == xenapi.VMOperationsMigrateSend
		if !ok {
			return ops.Busy("VM", string(ref), vm.CurrentOperations)
		}
	}
	return nil
}

// kindOf checks what templates and snapshots allow.
func kindOf(ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations) error {
	switch {
	case vm.IsATemplate && !vm.IsASnapshot && !onTemplates[op] && !(onOwnTemplates[op] && !vm.IsDefaultTemplate):
		if op == xenapi.VMOperationsDestroy {
			return xenapi.ErrVMCannotDeleteDefaultTemplate(string(ref))
		}
		return xenapi.ErrVMIsTemplate(string(ref), string(op))
	case vm.IsASnapshot && !onSnapshots[op]:
		return xenapi.ErrVMIsSnapshot(string(ref), string(op))
	case op == xenapi.VMOperationsProvision && !vm.IsATemplate:
		return xenapi.ErrProvisionOnlyAllowedOnTemplate()
	case op == xenapi.VMOperationsRevert && !vm.IsASnapshot:
		return xenapi.ErrRevertOnlyAllowedOnSnapshot()
	}
	return nil
}

func truthy(s string) bool { return s == "true" || s == "1" }

func immobile(ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations) error {
	nested := truthy(vm.Platform["nested-virt"]) || truthy(vm.Platform["exp-nested-hvm"])
	switch {
	case suspendLike[op] && (truthy(vm.Platform["nomigrate"]) || nested) && vm.PowerState != xenapi.VMPowerStateHalted:
		return xenapi.ErrVMIsImmobile(string(ref))
	case op == xenapi.VMOperationsChangingDynamicRange && nested && vm.PowerState == xenapi.VMPowerStateRunning:
		return xenapi.ErrVMIsUsingNestedVirt(string(ref))
	}
	return nil
}

func controlDomain(vm *xenapi.VM, op xenapi.VMOperations) error {
	if !vm.IsControlDomain {
		return nil
	}
	if !onControlDomains[op] || vm.Domid == 0 && (op == xenapi.VMOperationsChangingVCPUs || op == xenapi.VMOperationsDestroy) {
		return xenapi.ErrOperationNotAllowed("This operation is not allowed on dom0")
	}
	return nil
}

// needsFeature are the control features of which one must be offered by an
// HVM guest.
var needsFeature = map[xenapi.VMOperations][]string{
	xenapi.VMOperationsSuspend:           {"feature-suspend"},
	xenapi.VMOperationsCheckpoint:        {"feature-suspend"},
	xenapi.VMOperationsPoolMigrate:       {"feature-suspend"},
	xenapi.VMOperationsMigrateSend:       {"feature-suspend"},
	xenapi.VMOperationsCleanShutdown:     {"feature-shutdown", "feature-poweroff"},
	xenapi.VMOperationsCleanReboot:       {"feature-shutdown", "feature-reboot"},
	xenapi.VMOperationsChangingVCPUsLive: {"feature-vcpu-hotplug"},
}

// guestFeatures checks what the guest has said that it can do.
func guestFeatures(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations, strict bool) error {
	wants := needsFeature[op]
	if wants == nil || !up(vm) || vm.DomainType != xenapi.DomainTypeHVM {
		return nil
	}
	metrics := db.Find(rd, vm.GuestMetrics)
	if metrics == nil {
		if strict {
			return xenapi.ErrVMLacksFeature(string(ref))
		}
		return nil
	}
	if reason := metrics.Other["data-cant-suspend-reason"]; reason != "" && suspendLike[op] {
		return xenapi.ErrVMNonSuspendable(string(ref), reason)
	}
	if metrics.PVDriversDetected {
		return nil
	}
	for _, feature := range wants {
		if truthy(metrics.Other[feature]) {
			return nil
		}
	}
	if !strict && len(metrics.Other) == 0 {
		return nil
	}
	return xenapi.ErrVMLacksFeature(string(ref))
}

// devices checks disks that reset on boot and devices passed through.
func devices(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations) error {
	if op == xenapi.VMOperationsSnapshotWithQuiesce {
		return xenapi.ErrVMSnapshotWithQuiesceNotSupported(string(ref))
	}
	saves := op == xenapi.VMOperationsCheckpoint || op == xenapi.VMOperationsSnapshot || op == xenapi.VMOperationsSuspend
	if saves {
		for _, v := range vm.VBDs {
			if vbd := db.Find(rd, v); vbd != nil {
				if vdi := db.Find(rd, vbd.VDI); vdi != nil && vdi.OnBoot == xenapi.OnBootReset {
					return xenapi.ErrVDIOnBootModeIncompatibleWithOperation()
				}
			}
		}
	}
	switch {
	case suspendLike[op] && len(vm.AttachedPCIs) > 0:
		return xenapi.ErrVMHasPCIAttached(string(ref))
	case suspendLike[op] && len(vm.VGPUs) > 0:
		return xenapi.ErrVMHasVGPU(string(ref))
	case (suspendLike[op] || op == xenapi.VMOperationsSnapshot) && len(vm.VUSBs) > 0:
		return xenapi.ErrVMHasVUSBs(string(ref))
	}
	return nil
}

func membership(ref xenapi.VMRef, vm *xenapi.VM, op xenapi.VMOperations) error {
	if op != xenapi.VMOperationsMakeIntoTemplate {
		return nil
	}
	switch {
	case vm.Appliance != xenapi.Null:
		return xenapi.ErrVMIsPartOfAnAppliance(string(ref), string(vm.Appliance))
	case vm.ProtectionPolicy != xenapi.Null:
		return xenapi.ErrVMAssignedToProtectionPolicy(string(ref), string(vm.ProtectionPolicy))
	case vm.SnapshotSchedule != xenapi.Null:
		return xenapi.ErrVMAssignedToSnapshotSchedule(string(ref), string(vm.SnapshotSchedule))
	}
	return nil
}

// maxVTPMs is how many vTPMs a VM can have.
const maxVTPMs = 1

// vtpms checks how many vTPMs there are.
func vtpms(vm *xenapi.VM, op xenapi.VMOperations) error {
	if op == xenapi.VMOperationsCreateVTPM && len(vm.VTPMs) >= maxVTPMs {
		return xenapi.ErrVTPMMaxAmountReached("1")
	}
	return nil
}
