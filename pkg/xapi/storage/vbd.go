package storage

import (
	"context"
	"strconv"
	"strings"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// autodetect as a userdevice asks for the lowest free position.
const autodetect = "autodetect"

// VBDs serves class VBD.
type VBDs struct {
	service.UnimplementedVBD
	s *Storage
}

// createVBDHook makes a drive: a change of the database alone.
func (s *Storage) createVBDHook(ctx context.Context, c *service.Call, rec xenapi.Record, _ func(string) bool) (string, error) {
	like := rec.(*xenapi.VBD)
	ref := xenapi.NewRef[xenapi.VBDRef]()
	uuid := xenapi.NewUUID()
	err := s.Env.Locks.Do(ctx, c, ops.WaitLong, nil, func(tx *db.Tx) error {
		vbd := like.Clone().(*xenapi.VBD)
		vbd.UUID = uuid
		if err := checkNewVBD(tx, vbd); err != nil {
			return err
		}
		vm := db.Find(tx, vbd.VM)
		if vm.PowerState != xenapi.VMPowerStateSuspended {
			vbd.Device, vbd.CurrentlyAttached = "", false
		}
		if err := placeVBD(tx, vm, ref, vbd); err != nil {
			return err
		}
		if vbd.Empty {
			vbd.VDI = xenapi.Null
		}
		tx.Insert(string(ref), vbd)
		return nil
	}, func(context.Context) error { return nil })
	return string(ref), err
}

// checkNewVBD checks a drive that is to be made, in the order of the XenAPI.
func checkNewVBD(rd db.Reader, vbd *xenapi.VBD) error {
	vm, err := db.Get(rd, vbd.VM)
	if err != nil {
		return err
	}
	var vdi *xenapi.VDI
	if !vbd.Empty {
		if vdi, err = db.Get(rd, vbd.VDI); err != nil {
			return err
		}
		switch vdi.Type {
		case xenapi.VDITypeHAStatefile, xenapi.VDITypeRedoLog, xenapi.VDITypeCBTMetadata:
			return xenapi.ErrVDIIncompatibleType(string(vbd.VDI), string(vdi.Type))
		}
	}
	switch {
	case vbd.Type == xenapi.VBDTypeCD && vbd.Mode != xenapi.VBDModeRO:
		return xenapi.ErrVBDCdsMustBeReadonly()
	case vbd.Type != xenapi.VBDTypeCD && vbd.Empty:
		return xenapi.ErrVBDNotRemovableMedia("in constructor")
	case vdi != nil && vbd.Mode == xenapi.VBDModeRW && vdi.ReadOnly:
		return xenapi.ErrVDIReadonly(string(vbd.VDI))
	}
	for _, op := range vm.CurrentOperations {
		if op == string(xenapi.VMOperationsPoolMigrate) || op == string(xenapi.VMOperationsMigrateSend) {
			return ops.Busy("VM", string(vbd.VM), vm.CurrentOperations)
		}
	}
	if vbd.Type == xenapi.VBDTypeFloppy && !isHVM(vm) {
		return xenapi.ErrNotImplemented("floppy drives of a VM that is not HVM")
	}
	return nil
}

// placeVBD checks a drive's userdevice, and finds one for autodetect.
func placeVBD(rd db.Reader, vm *xenapi.VM, self xenapi.VBDRef, vbd *xenapi.VBD) error {
	free := FreePositions(rd, vm, self)
	if vbd.Userdevice == autodetect {
		if len(free) == 0 {
			return xenapi.ErrInvalidDevice(autodetect)
		}
		vbd.Userdevice = strconv.Itoa(free[0])
		return nil
	}
	n, err := Position(vbd.Userdevice)
	if err != nil {
		return err
	}
	if n > maxPosition && !vm.IsControlDomain {
		return xenapi.ErrInvalidDevice(vbd.Userdevice)
	}
	for _, f := range free {
		if f == n {
			return nil
		}
	}
	return xenapi.ErrDeviceAlreadyExists(vbd.Userdevice)
}

// destroyVBDHook removes a drive that is not attached; its disk stays.
func (s *Storage) destroyVBDHook(ctx context.Context, c *service.Call, ref string) error {
	self := xenapi.VBDRef(ref)
	return s.Env.Locks.Do(ctx, c, ops.WaitLong, nil, func(tx *db.Tx) error {
		vbd, err := db.Get(tx, self)
		switch {
		case err != nil:
			return err
		case len(vbd.CurrentOperations) > 0:
			return ops.Busy("VBD", ref, vbd.CurrentOperations)
		case vbd.CurrentlyAttached:
			return xenapi.ErrOperationNotAllowed("VBD '" + vbd.UUID + "' still attached to '" + string(vbd.VM) + "'")
		}
		db.Delete(tx, self)
		return nil
	}, func(context.Context) error { return nil })
}

// setUserdeviceHook moves a drive to another position, from its next
// attachment on.
func (s *Storage) setUserdeviceHook(ctx context.Context, _ *service.Call, args []any) error {
	ref, value := xenapi.VBDRef(args[0].(string)), args[1].(string)
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		vbd, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		if vbd.Userdevice == value {
			return nil
		}
		vm, err := db.Get(tx, vbd.VM)
		if err != nil {
			return err
		}
		vbd.Userdevice = value
		return placeVBD(tx, vm, ref, vbd)
	})
}

// setVBDTypeHook changes what the guest takes a drive for.
func (s *Storage) setVBDTypeHook(ctx context.Context, _ *service.Call, args []any) error {
	field := datamodel.Get().Class("VBD").FieldByName("type")
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		vbd, err := db.Get(tx, xenapi.VBDRef(args[0].(string)))
		value := xenapi.VBDType(args[1].(string))
		switch {
		case err != nil:
			return err
		case value == xenapi.VBDTypeCD && vbd.Mode != xenapi.VBDModeRO:
			return xenapi.ErrVBDCdsMustBeReadonly()
		case value != xenapi.VBDTypeCD && vbd.Empty:
			return xenapi.ErrVBDNotRemovableMedia(args[0].(string))
		}
		return db.WriteField(tx, field, datamodel.FieldSet, args)
	})
}

// SetMode makes a drive writable or read-only.
func (v *VBDs) SetMode(ctx context.Context, _ *service.Call, p service.VBDSetModeParams) error {
	return v.s.Env.Update(ctx, func(tx *db.Tx) error {
		vbd, err := db.Edit(tx, p.Self)
		if err != nil {
			return err
		}
		vm, err := db.Get(tx, vbd.VM)
		if err != nil {
			return err
		}
		vdi := db.Find(tx, vbd.VDI)
		switch {
		case holds(vbd) && vm.PowerState != xenapi.VMPowerStateHalted:
			return xenapi.ErrVMBadPowerState(string(vbd.VM), "halted", strings.ToLower(string(vm.PowerState)))
		case vbd.Type == xenapi.VBDTypeCD && p.Value != xenapi.VBDModeRO:
			return xenapi.ErrVBDCdsMustBeReadonly()
		case vdi != nil && vdi.ReadOnly && p.Value == xenapi.VBDModeRW:
			return xenapi.ErrVDIReadonly(string(vbd.VDI))
		}
		vbd.Mode = p.Value
		return nil
	})
}

// AssertAttachable says why a drive could not be attached now.
func (v *VBDs) AssertAttachable(_ context.Context, _ *service.Call, p service.VBDAssertAttachableParams) error {
	rd := v.s.Env.DB.View()
	if err := CheckVBD(rd, p.Self, xenapi.VBDOperationsAttach); err != nil {
		return err
	}
	vbd, err := db.Get(rd, p.Self)
	if err != nil || vbd.Empty {
		return err
	}
	_, _, err = v.s.volumeOf(rd, vbd.VDI)
	return err
}
