package sim

import (
	"context"
	"fmt"
	"slices"

	"xapid/pkg/xenctl"
)

// AttachDisk implements xenctl.DiskPlugger.
func (h *Hypervisor) AttachDisk(ctx context.Context, uuid string, disk xenctl.Disk) error {
	return h.onDevice(ctx, "attach disk", uuid, func(d *domain) error {
		if err := disk.Validate(); err != nil {
			return err
		}
		if d.disk(disk.Device) >= 0 {
			return fmt.Errorf("disk %s: %w", disk.Device, xenctl.ErrExists)
		}
		d.Config.Disks = append(d.Config.Disks, disk)
		d.console.write(disk.Device + ": attached\n")
		return nil
	})
}

// DetachDisk implements xenctl.DiskPlugger.
func (h *Hypervisor) DetachDisk(ctx context.Context, uuid, device string, force bool) error {
	return h.onDevice(ctx, "detach disk", uuid, func(d *domain) error {
		i := d.disk(device)
		if i < 0 {
			return fmt.Errorf("disk %s: %w", device, xenctl.ErrNoDevice)
		}
		if !force && !d.letsGo() {
			return fmt.Errorf("disk %s: %w", device, xenctl.ErrRefused)
		}
		d.Config.Disks = slices.Delete(d.Config.Disks, i, i+1)
		d.console.write(device + ": detached\n")
		return nil
	})
}

// AttachNIC implements xenctl.NICPlugger.
func (h *Hypervisor) AttachNIC(ctx context.Context, uuid string, nic xenctl.NIC) error {
	return h.onDevice(ctx, "attach nic", uuid, func(d *domain) error {
		if err := nic.Validate(); err != nil {
			return err
		}
		if d.nic(nic.Index) >= 0 {
			return fmt.Errorf("NIC %d: %w", nic.Index, xenctl.ErrExists)
		}
		d.Config.NICs = append(d.Config.NICs, nic)
		h.nicsChanged(d)
		return nil
	})
}

// DetachNIC implements xenctl.NICPlugger.
func (h *Hypervisor) DetachNIC(ctx context.Context, uuid string, index int, force bool) error {
	return h.onDevice(ctx, "detach nic", uuid, func(d *domain) error {
		i := d.nic(index)
		if i < 0 {
			return fmt.Errorf("NIC %d: %w", index, xenctl.ErrNoDevice)
		}
		if !force && !d.letsGo() {
			return fmt.Errorf("NIC %d: %w", index, xenctl.ErrRefused)
		}
		d.Config.NICs = slices.Delete(d.Config.NICs, i, i+1)
		h.nicsChanged(d)
		return nil
	})
}

// InsertMedia implements xenctl.MediaChanger.
func (h *Hypervisor) InsertMedia(ctx context.Context, uuid, device string, source xenctl.DiskSource) error {
	return h.onDevice(ctx, "insert media", uuid, func(d *domain) error {
		i := d.disk(device)
		if i < 0 {
			return fmt.Errorf("drive %s: %w", device, xenctl.ErrNoDevice)
		}
		drive := d.Config.Disks[i]
		if !drive.CDROM || (drive.Source.Path != "" && source.Path != "" && drive.Source != source) {
			return fmt.Errorf("drive %s: %w", device, xenctl.ErrBadState)
		}
		drive.Source = source
		if err := drive.Validate(); err != nil {
			return err
		}
		d.Config.Disks[i] = drive
		return nil
	})
}

// Devices returns the disks and NICs that a domain has now, for tests.
func (h *Hypervisor) Devices(uuid string) ([]xenctl.Disk, []xenctl.NIC, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[uuid]
	if d == nil {
		return nil, nil, xenctl.ErrNotFound
	}
	return slices.Clone(d.Config.Disks), slices.Clone(d.Config.NICs), nil
}

// onDevice is onDomain for what a domain that is being saved or has crashed can't do.
func (h *Hypervisor) onDevice(ctx context.Context, op, uuid string, f func(*domain) error) error {
	return h.onDomain(ctx, op, uuid, func(d *domain) error {
		if d.saving || d.State == xenctl.StateCrashed {
			return xenctl.ErrBadState
		}
		return f(d)
	})
}

func (h *Hypervisor) nicsChanged(d *domain) {
	if d.Guest.Up && !d.Guest.Behaviour.NoAgent {
		h.publish(d, xenctl.EventGuestChanged, "")
	}
}

// letsGo says whether the guest gives a device back when asked.
func (d *domain) letsGo() bool { return d.Guest.Ticking && !d.Guest.Behaviour.RefuseUnplug }

func (d *domain) disk(device string) int {
	return slices.IndexFunc(d.Config.Disks, func(x xenctl.Disk) bool { return x.Device == device })
}

func (d *domain) nic(index int) int {
	return slices.IndexFunc(d.Config.NICs, func(x xenctl.NIC) bool { return x.Index == index })
}
