package vm

import (
	"context"
	"strconv"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// field writes a map of a VM as the generic messages do; the roles by key
// were checked before.
func (s *VMs) field(ctx context.Context, name string, kind datamodel.Kind, args ...any) error {
	f := datamodel.Get().Class("VM").FieldByName(name)
	return s.Env.Update(ctx, func(tx *db.Tx) error { return db.WriteField(tx, f, kind, args) })
}

// AddToOtherConfig adds a key to other_config.
func (s *VMs) AddToOtherConfig(ctx context.Context, _ *service.Call, p service.VMAddToOtherConfigParams) error {
	return s.field(ctx, "other_config", datamodel.FieldAdd, string(p.Self), p.Key, p.Value)
}

// RemoveFromOtherConfig takes a key out of it.
func (s *VMs) RemoveFromOtherConfig(ctx context.Context, _ *service.Call, p service.VMRemoveFromOtherConfigParams) error {
	return s.field(ctx, "other_config", datamodel.FieldRemove, string(p.Self), p.Key)
}

// SetOtherConfig replaces it.
func (s *VMs) SetOtherConfig(ctx context.Context, _ *service.Call, p service.VMSetOtherConfigParams) error {
	return s.field(ctx, "other_config", datamodel.FieldSet, string(p.Self), p.Value)
}

// AddToPlatform adds a key to platform.
func (s *VMs) AddToPlatform(ctx context.Context, _ *service.Call, p service.VMAddToPlatformParams) error {
	return s.field(ctx, "platform", datamodel.FieldAdd, string(p.Self), p.Key, p.Value)
}

// RemoveFromPlatform takes a key out of it.
func (s *VMs) RemoveFromPlatform(ctx context.Context, _ *service.Call, p service.VMRemoveFromPlatformParams) error {
	return s.field(ctx, "platform", datamodel.FieldRemove, string(p.Self), p.Key)
}

// SetPlatform replaces it.
func (s *VMs) SetPlatform(ctx context.Context, _ *service.Call, p service.VMSetPlatformParams) error {
	return s.field(ctx, "platform", datamodel.FieldSet, string(p.Self), p.Value)
}

// AddToBlockedOperations refuses an operation from now on, with a reason.
func (s *VMs) AddToBlockedOperations(ctx context.Context, _ *service.Call, p service.VMAddToBlockedOperationsParams) error {
	return s.field(ctx, "blocked_operations", datamodel.FieldAdd, string(p.Self), string(p.Key), p.Value)
}

// RemoveFromBlockedOperations allows it again.
func (s *VMs) RemoveFromBlockedOperations(ctx context.Context, _ *service.Call, p service.VMRemoveFromBlockedOperationsParams) error {
	return s.field(ctx, "blocked_operations", datamodel.FieldRemove, string(p.Self), string(p.Key))
}

// SetBlockedOperations replaces what is refused.
func (s *VMs) SetBlockedOperations(ctx context.Context, _ *service.Call, p service.VMSetBlockedOperationsParams) error {
	return s.field(ctx, "blocked_operations", datamodel.FieldSet, string(p.Self), p.Value)
}

// AddToNVRAM, RemoveFromNVRAM and SetNVRAM change the firmware's store.
func (s *VMs) AddToNVRAM(ctx context.Context, _ *service.Call, p service.VMAddToNVRAMParams) error {
	return s.field(ctx, "NVRAM", datamodel.FieldAdd, string(p.Self), p.Key, p.Value)
}

// RemoveFromNVRAM takes a key out of the firmware's store.
func (s *VMs) RemoveFromNVRAM(ctx context.Context, _ *service.Call, p service.VMRemoveFromNVRAMParams) error {
	return s.field(ctx, "NVRAM", datamodel.FieldRemove, string(p.Self), p.Key)
}

// SetNVRAM replaces the firmware's store.
func (s *VMs) SetNVRAM(ctx context.Context, _ *service.Call, p service.VMSetNVRAMParams) error {
	return s.field(ctx, "NVRAM", datamodel.FieldSet, string(p.Self), p.Value)
}

// SetHVMBootPolicy sets the boot policy, and with it the domain type.
func (s *VMs) SetHVMBootPolicy(ctx context.Context, _ *service.Call, p service.VMSetHVMBootPolicyParams) error {
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error {
		vm.HVMBootPolicy = p.Value
		vm.DomainType = xenapi.DomainTypePV
		if p.Value != "" {
			vm.DomainType = xenapi.DomainTypeHVM
		}
		return nil
	})
}

// SetDomainType sets how a halted VM is virtualised, and the boot policy that
// goes with it.
func (s *VMs) SetDomainType(ctx context.Context, _ *service.Call, p service.VMSetDomainTypeParams) error {
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error {
		if vm.PowerState != xenapi.VMPowerStateHalted {
			return powerState(p.Self, vm, xenapi.VMOperationsStart)
		}
		vm.DomainType = p.Value
		switch {
		case p.Value != xenapi.DomainTypeHVM:
			vm.HVMBootPolicy = ""
		case vm.HVMBootPolicy == "":
			vm.HVMBootPolicy = "BIOS order"
		}
		return nil
	})
}

// SetActionsAfterCrash says what happens after a crash; dumps are for PV
// guests alone, and rename_restart is no more.
func (s *VMs) SetActionsAfterCrash(ctx context.Context, _ *service.Call, p service.VMSetActionsAfterCrashParams) error {
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error {
		refuse := func(reason string) error {
			return xenapi.ErrValueNotSupported("VM.actions_after_crash", string(p.Value), reason)
		}
		switch p.Value {
		case xenapi.OnCrashBehaviourRenameRestart:
			return refuse("not supported any more")
		case xenapi.OnCrashBehaviourCoredumpAndDestroy, xenapi.OnCrashBehaviourCoredumpAndRestart:
			if domainType(vm) != xenapi.DomainTypePV {
				return refuse("dumps are for PV guests")
			}
		}
		vm.ActionsAfterCrash = p.Value
		return nil
	})
}

// SetStartDelay sets how long the start of what follows waits, in seconds.
func (s *VMs) SetStartDelay(ctx context.Context, _ *service.Call, p service.VMSetStartDelayParams) error {
	return s.notNegative(ctx, p.Self, "start_delay", p.Value, func(vm *xenapi.VM) { vm.StartDelay = p.Value })
}

// SetShutdownDelay sets how long the stop of what follows waits, in seconds.
func (s *VMs) SetShutdownDelay(ctx context.Context, _ *service.Call, p service.VMSetShutdownDelayParams) error {
	return s.notNegative(ctx, p.Self, "shutdown_delay", p.Value, func(vm *xenapi.VM) { vm.ShutdownDelay = p.Value })
}

// SetOrder sets the VM's place in the order of starts.
func (s *VMs) SetOrder(ctx context.Context, _ *service.Call, p service.VMSetOrderParams) error {
	return s.notNegative(ctx, p.Self, "order", p.Value, func(vm *xenapi.VM) { vm.Order = p.Value })
}

func (s *VMs) notNegative(ctx context.Context, ref xenapi.VMRef, field string, value int64, set func(vm *xenapi.VM)) error {
	return s.edit(ctx, ref, func(vm *xenapi.VM) error {
		if value < 0 {
			return xenapi.ErrValueNotSupported(field, strconv.FormatInt(value, 10), "must not be negative")
		}
		set(vm)
		return nil
	})
}

// SetHARestartPriority says whether HA restarts the VM: restart, best-effort
// or nothing.
func (s *VMs) SetHARestartPriority(ctx context.Context, _ *service.Call, p service.VMSetHARestartPriorityParams) error {
	switch p.Value {
	case "", "restart", "best-effort":
	default:
		return xenapi.ErrInvalidValue("ha_restart_priority", p.Value)
	}
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error { vm.HARestartPriority = p.Value; return nil })
}

// SetHasVendorDevice offers the guest the device that Windows finds drivers by.
func (s *VMs) SetHasVendorDevice(ctx context.Context, _ *service.Call, p service.VMSetHasVendorDeviceParams) error {
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error { vm.HasVendorDevice = p.Value; return nil })
}

// SetSuspendVDI names the image of a suspended VM.
func (s *VMs) SetSuspendVDI(ctx context.Context, _ *service.Call, p service.VMSetSuspendVDIParams) error {
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error {
		if vm.PowerState != xenapi.VMPowerStateSuspended {
			return powerState(p.Self, vm, xenapi.VMOperationsResume)
		}
		vm.SuspendVDI = p.Value
		return nil
	})
}

// SetGroups puts the VM into groups.
func (s *VMs) SetGroups(ctx context.Context, _ *service.Call, p service.VMSetGroupsParams) error {
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error { vm.Groups = p.Value; return nil })
}

// SetAppliance puts the VM into an appliance.
func (s *VMs) SetAppliance(ctx context.Context, _ *service.Call, p service.VMSetApplianceParams) error {
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error { vm.Appliance = p.Value; return nil })
}

// biosStrings are the keys that set_bios_strings takes.
var biosStrings = map[string]bool{"bios-vendor": true, "bios-version": true, "system-manufacturer": true,
	"system-product-name": true, "system-version": true, "system-serial-number": true, "enclosure-asset-tag": true,
	"baseboard-manufacturer": true, "baseboard-product-name": true, "baseboard-version": true,
	"baseboard-serial-number": true, "baseboard-asset-tag": true, "baseboard-location-in-chassis": true}

// SetBIOSStrings sets what the guest's firmware says, once.
func (s *VMs) SetBIOSStrings(ctx context.Context, _ *service.Call, p service.VMSetBIOSStringsParams) error {
	return s.edit(ctx, p.Self, func(vm *xenapi.VM) error {
		if len(vm.BIOSStrings) > 0 {
			return xenapi.ErrVMBIOSStringsAlreadySet()
		}
		for k, v := range p.Value {
			if !biosStrings[k] || len(v) > 512 {
				return xenapi.ErrInvalidValue(k, v)
			}
		}
		vm.BIOSStrings = p.Value
		return nil
	})
}

// CopyBIOSStrings gives the VM those of a host.
func (s *VMs) CopyBIOSStrings(ctx context.Context, _ *service.Call, p service.VMCopyBIOSStringsParams) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		host, err := db.Get(tx, p.Host)
		if err != nil {
			return err
		}
		vm, err := db.Edit(tx, p.VM)
		if err != nil {
			return err
		}
		if len(vm.BIOSStrings) > 0 {
			return xenapi.ErrVMBIOSStringsAlreadySet()
		}
		vm.BIOSStrings = host.BIOSStrings
		return nil
	})
}

// WriteXenstoreData carries out the implicit writes of xenstore_data, and
// shows a running guest what changed.
func (s *VMs) WriteXenstoreData(kind datamodel.Kind) func(ctx context.Context, c *service.Call, args []any) error {
	f := datamodel.Get().Class("VM").FieldByName("xenstore_data")
	return func(ctx context.Context, _ *service.Call, args []any) error {
		if err := s.Env.Update(ctx, func(tx *db.Tx) error { return db.WriteField(tx, f, kind, args) }); err != nil {
			return err
		}
		return s.pushXenstore(ctx, xenapi.VMRef(args[0].(string)))
	}
}

// pushXenstore writes xenstore_data where a running guest reads it.
func (s *VMs) pushXenstore(ctx context.Context, ref xenapi.VMRef) error {
	vm, err := db.Get(s.Env.DB.View(), ref)
	if err != nil || vm.PowerState != xenapi.VMPowerStateRunning {
		return err
	}
	writer, ok := xenctl.As[xenctl.XenstoreWriter](s.Env.Node.Hypervisor)
	if !ok {
		return nil
	}
	entries := map[string]*string{}
	for k, v := range vm.XenstoreData {
		if xenctl.ValidateXenstoreKey(k) == nil {
			entries[k] = &v
		}
	}
	ctx, cancel := context.WithTimeout(ctx, saga.DefaultStepTimeout)
	defer cancel()
	return hypervisorFault(ref, writer.WriteXenstore(ctx, vm.UUID, entries))
}
