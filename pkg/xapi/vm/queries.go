package vm

import (
	"context"
	"strconv"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// The devices that a VM can have.
const (
	maxVBDs        = 255
	maxControlVBDs = 256
	maxVIFs        = 7
)

// GetAllowedVBDDevices lists the userdevices that are free.
func (s *VMs) GetAllowedVBDDevices(_ context.Context, _ *service.Call, p service.VMGetAllowedVBDDevicesParams) ([]string, error) {
	parts, err := load(s.Env.DB.View(), p.VM)
	if err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, vbd := range parts.vbds {
		if device, err := s.Device(vbd.Userdevice); err == nil {
			taken[device] = true
		}
	}
	most := maxVBDs
	if parts.vm.IsControlDomain {
		most = maxControlVBDs
	}
	out := []string{}
	for n := range most {
		device, err := s.Device(strconv.Itoa(n))
		if err != nil || !taken[device] {
			out = append(out, strconv.Itoa(n))
		}
	}
	return out, nil
}

// GetAllowedVIFDevices lists the VIF devices that are free.
func (s *VMs) GetAllowedVIFDevices(_ context.Context, _ *service.Call, p service.VMGetAllowedVIFDevicesParams) ([]string, error) {
	parts, err := load(s.Env.DB.View(), p.VM)
	if err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, vif := range parts.vifs {
		taken[vif.Device] = true
	}
	out := []string{}
	for n := range maxVIFs {
		if device := strconv.Itoa(n); !taken[device] {
			out = append(out, device)
		}
	}
	return out, nil
}

// GetPossibleHosts lists the hosts on which the VM could start now.
func (s *VMs) GetPossibleHosts(_ context.Context, _ *service.Call, p service.VMGetPossibleHostsParams) ([]xenapi.HostRef, error) {
	rd := s.Env.DB.View()
	vm, err := db.Get(rd, p.VM)
	if err != nil {
		return nil, err
	}
	out := []xenapi.HostRef{}
	for host := range db.All[xenapi.HostRef](rd) {
		if canBoot(rd, p.VM, vm, host) == nil {
			out = append(out, host)
		}
	}
	return out, nil
}

// AssertCanBootHere fails with the reason why the VM could not start on a
// host.
func (s *VMs) AssertCanBootHere(_ context.Context, _ *service.Call, p service.VMAssertCanBootHereParams) error {
	rd := s.Env.DB.View()
	vm, err := db.Get(rd, p.Self)
	if err != nil {
		return err
	}
	if _, err := db.Get(rd, p.Host); err != nil {
		return err
	}
	if err := validate(vm); err != nil {
		return err
	}
	return canBoot(rd, p.Self, vm, p.Host)
}

// AssertOperationValid fails as the operation would.
func (s *VMs) AssertOperationValid(_ context.Context, _ *service.Call, p service.VMAssertOperationValidParams) error {
	return Check(s.Env.DB.View(), p.Self, p.Op)
}

// UpdateAllowedOperations computes allowed_operations anew; they are kept
// right by every commit anyway.
func (s *VMs) UpdateAllowedOperations(ctx context.Context, _ *service.Call, p service.VMUpdateAllowedOperationsParams) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		_, err := db.Edit(tx, p.Self)
		return err
	})
}

// GetBootRecord is the record as the VM runs.
func (s *VMs) GetBootRecord(_ context.Context, _ *service.Call, p service.VMGetBootRecordParams) (*xenapi.VM, error) {
	rd := s.Env.DB.View()
	if err := Check(rd, p.Self, xenapi.VMOperationsGetBootRecord); err != nil {
		return nil, err
	}
	return db.Get(rd, p.Self)
}

// GetCooperative reports whether the guest follows its balloon; only a guest
// that is watched and does not is said to be uncooperative.
func (s *VMs) GetCooperative(_ context.Context, _ *service.Call, p service.VMGetCooperativeParams) (bool, error) {
	_, err := db.Get(s.Env.DB.View(), p.Self)
	return true, err
}

// CreateNewBlob makes a blob that belongs to the VM.
func (s *VMs) CreateNewBlob(ctx context.Context, _ *service.Call, p service.VMCreateNewBlobParams) (ref xenapi.BlobRef, err error) {
	now := s.Env.Time()
	err = s.Env.Update(ctx, func(tx *db.Tx) error {
		vm, err := db.Edit(tx, p.VM)
		if err != nil {
			return err
		}
		blob := xenapi.NewBlob()
		blob.UUID, blob.NameLabel, blob.MimeType, blob.Public = xenapi.NewUUID(), p.Name, p.MimeType, p.Public
		if blob.MimeType == "" {
			blob.MimeType = "application/octet-stream"
		}
		blob.LastUpdated = now
		if _, taken := vm.Blobs[p.Name]; taken {
			return xenapi.ErrMapDuplicateKey("VM", "blobs", string(p.VM), p.Name)
		}
		ref = db.Insert[xenapi.BlobRef](tx, blob)
		blobs := map[string]string{p.Name: string(ref)}
		for k, v := range vm.Blobs {
			blobs[k] = v
		}
		vm.Blobs = blobs
		return nil
	})
	return ref, err
}

// RetrieveWLBRecommendations says that nothing advises on placement.
func (s *VMs) RetrieveWLBRecommendations(context.Context, *service.Call, service.VMRetrieveWLBRecommendationsParams) (map[string][]string, error) {
	return nil, xenapi.ErrWLBNotInitialized()
}
