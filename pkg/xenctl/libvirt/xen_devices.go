package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenstore"
)

// live makes changes of devices those of the running domain.
const live = uint32(libvirt.DomainDeviceModifyLive)

// onDevices makes calls on a domain of which the devices are known. They may take their time: libxl waits for back
// ends, and for scripts.
func (x *Xen) onDevices(ctx context.Context, op, uuid string, f func(context.Context, *libvirt.Libvirt, libvirt.Domain, *libvirtxml.Domain) error) error {
	ctx, cancel := withDefault(ctx, x.opts.SlowTimeout)
	defer cancel()
	return x.slowly(ctx, op, uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		now, err := state(l, dom)
		if err != nil {
			return err
		}
		if now != xenctl.StateRunning && now != xenctl.StatePaused {
			return local(fmt.Errorf("%w: %s", xenctl.ErrBadState, now))
		}
		described, err := description(l, dom)
		if err != nil {
			return err
		}
		return f(ctx, l, dom, described)
	})
}

// description is how libvirt describes a domain now.
func description(l *libvirt.Libvirt, dom libvirt.Domain) (*libvirtxml.Domain, error) {
	text, err := l.DomainGetXMLDesc(dom, 0)
	if err != nil {
		return nil, err
	}
	d := new(libvirtxml.Domain)
	if err := d.Unmarshal(text); err != nil {
		return nil, local(fmt.Errorf("its description: %w", err))
	}
	return d, nil
}

// device finds a disk or a drive by its name.
func device(d *libvirtxml.Domain, name string) *libvirtxml.DomainDisk {
	for i := range d.Devices.Disks {
		if t := d.Devices.Disks[i].Target; t != nil && t.Dev == name {
			return &d.Devices.Disks[i]
		}
	}
	return nil
}

// AttachDisk implements xenctl.DiskPlugger.
func (x *Xen) AttachDisk(ctx context.Context, uuid string, disk xenctl.Disk) error {
	const op = "attach disk"
	if err := disk.Validate(); err != nil {
		return opError(op, uuid, err)
	}
	return x.onDevices(ctx, op, uuid, func(ctx context.Context, l *libvirt.Libvirt, dom libvirt.Domain, d *libvirtxml.Domain) error {
		if device(d, disk.Device) != nil {
			return local(fmt.Errorf("disk %s: %w", disk.Device, xenctl.ErrExists))
		}
		if disk.CDROM && !emulated(d) {
			if err := x.store.Write(ctx, mine(uuid, "drive", disk.Device), disk.Source.Path); err != nil {
				return local(err)
			}
			if disk.Source.Path == "" {
				return nil
			}
		}
		return x.attachDisk(l, dom, d, uuid, disk)
	})
}

// emulated says that a domain has hardware of an emulated machine, drives among it.
func emulated(d *libvirtxml.Domain) bool {
	return d.OS != nil && d.OS.Type != nil && d.OS.Type.Type == "hvm"
}

// attachDisk plugs a disk. A medium in a paravirtual drive is a disk that can't be written to.
func (x *Xen) attachDisk(l *libvirt.Libvirt, dom libvirt.Domain, d *libvirtxml.Domain, uuid string, disk xenctl.Disk) error {
	t := xenctl.TypeHVM
	if !emulated(d) {
		t = xenctl.TypePV
		disk.ReadOnly, disk.CDROM = disk.ReadOnly || disk.CDROM, false
	}
	disk, err := x.stage(uuid, t, disk)
	if err != nil {
		return err
	}
	x.staying(uuid, int(dom.ID))
	text, err := new(diskXML(disk)).Marshal()
	if err != nil {
		return local(err)
	}
	if err := l.DomainAttachDeviceFlags(dom, text, live); err != nil {
		x.unstage(uuid, disk.Device)
		return err
	}
	return nil
}

// DetachDisk implements xenctl.DiskPlugger.
func (x *Xen) DetachDisk(ctx context.Context, uuid, name string, force bool) error {
	return x.onDevices(ctx, "detach disk", uuid, func(ctx context.Context, l *libvirt.Libvirt, dom libvirt.Domain, d *libvirtxml.Domain) error {
		_, drive, err := x.drive(ctx, uuid, name)
		if err != nil {
			return err
		}
		disk := device(d, name)
		if disk == nil && !drive {
			return local(fmt.Errorf("disk %s: %w", name, xenctl.ErrNoDevice))
		}
		if disk != nil {
			if err := x.detachDisk(ctx, l, dom, uuid, disk, force); err != nil {
				return err
			}
		}
		if !drive {
			return nil
		}
		if err := x.store.Remove(ctx, mine(uuid, "drive", name)); err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return local(err)
		}
		return nil
	})
}

// drive says whether a paravirtual domain has a drive of that name, and what lies in it.
func (x *Xen) drive(ctx context.Context, uuid, name string) (medium string, there bool, err error) {
	medium, err = x.store.Read(ctx, mine(uuid, "drive", name))
	if errors.Is(err, xenstore.ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, local(err)
	}
	return medium, true, nil
}

func (x *Xen) detachDisk(ctx context.Context, l *libvirt.Libvirt, dom libvirt.Domain, uuid string, disk *libvirtxml.DomainDisk, force bool) error {
	if !force {
		if err := x.releaseDevice(ctx, dom, "vbd", "dev", disk.Target.Dev); err != nil {
			return err
		}
	}
	text, err := disk.Marshal()
	if err != nil {
		return local(err)
	}
	if err := l.DomainDetachDeviceFlags(dom, text, live); err != nil {
		return err
	}
	x.unstage(uuid, disk.Target.Dev)
	return nil
}

// releaseDevice asks the guest to let go of the device whose back end has a value for a key.
func (x *Xen) releaseDevice(ctx context.Context, dom libvirt.Domain, class, key, value string) error {
	devices, err := x.store.Devices(ctx, int(dom.ID), class)
	if err != nil {
		return local(err)
	}
	for _, d := range devices {
		got, err := x.store.Read(ctx, d.Backend+"/"+key)
		if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return local(err)
		}
		if strings.EqualFold(got, value) {
			if err := x.store.Release(ctx, d, x.patience); err != nil {
				return local(err)
			}
		}
	}
	return nil
}

// AttachNIC implements xenctl.NICPlugger.
func (x *Xen) AttachNIC(ctx context.Context, uuid string, nic xenctl.NIC) error {
	const op = "attach nic"
	if err := nic.Validate(); err != nil {
		return opError(op, uuid, err)
	}
	return x.onDevices(ctx, op, uuid, func(ctx context.Context, l *libvirt.Libvirt, dom libvirt.Domain, d *libvirtxml.Domain) error {
		nics, err := x.nics(ctx, uuid)
		if err != nil {
			return err
		}
		if mac, taken := nics[nic.Index]; taken && card(d, mac) != nil {
			return local(fmt.Errorf("NIC %d: %w", nic.Index, xenctl.ErrExists))
		}
		text, err := new(nicXML(nic)).Marshal()
		if err != nil {
			return local(err)
		}
		key := mine(uuid, "nic", strconv.Itoa(nic.Index))
		if err := x.store.Write(ctx, key, strings.ToLower(nic.MAC)); err != nil {
			return local(err)
		}
		if err := l.DomainAttachDeviceFlags(dom, text, live); err != nil {
			return errors.Join(err, x.store.Remove(context.WithoutCancel(ctx), key))
		}
		return nil
	})
}

// nics are the addresses of a domain's NICs by their numbers, as they were plugged.
func (x *Xen) nics(ctx context.Context, uuid string) (map[int]string, error) {
	names, err := x.store.List(ctx, mine(uuid, "nic"))
	if errors.Is(err, xenstore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, local(err)
	}
	nics := map[int]string{}
	for _, name := range names {
		index, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		mac, err := x.store.Read(ctx, mine(uuid, "nic", name))
		if err == nil {
			nics[index] = mac
		} else if !errors.Is(err, xenstore.ErrNotFound) {
			return nil, local(err)
		}
	}
	return nics, nil
}

// card finds a NIC by its address.
func card(d *libvirtxml.Domain, mac string) *libvirtxml.DomainInterface {
	for i := range d.Devices.Interfaces {
		if m := d.Devices.Interfaces[i].MAC; m != nil && strings.EqualFold(m.Address, mac) {
			return &d.Devices.Interfaces[i]
		}
	}
	return nil
}

// DetachNIC implements xenctl.NICPlugger.
func (x *Xen) DetachNIC(ctx context.Context, uuid string, index int, force bool) error {
	return x.onDevices(ctx, "detach nic", uuid, func(ctx context.Context, l *libvirt.Libvirt, dom libvirt.Domain, d *libvirtxml.Domain) error {
		nics, err := x.nics(ctx, uuid)
		if err != nil {
			return err
		}
		mac, known := nics[index]
		nic := card(d, mac)
		if !known || nic == nil {
			return local(fmt.Errorf("NIC %d: %w", index, xenctl.ErrNoDevice))
		}
		if !force {
			if err := x.releaseDevice(ctx, dom, "vif", "mac", mac); err != nil {
				return err
			}
		}
		text, err := nic.Marshal()
		if err != nil {
			return local(err)
		}
		if err := l.DomainDetachDeviceFlags(dom, text, live); err != nil {
			return err
		}
		if err := x.store.Remove(ctx, mine(uuid, "nic", strconv.Itoa(index))); err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return local(err)
		}
		return nil
	})
}

// InsertMedia implements xenctl.MediaChanger.
func (x *Xen) InsertMedia(ctx context.Context, uuid, name string, source xenctl.DiskSource) error {
	const op = "insert media"
	disk := xenctl.Disk{Device: name, Source: source, CDROM: true, ReadOnly: true}
	if err := disk.Validate(); err != nil {
		return opError(op, uuid, err)
	}
	return x.onDevices(ctx, op, uuid, func(ctx context.Context, l *libvirt.Libvirt, dom libvirt.Domain, d *libvirtxml.Domain) error {
		now := device(d, name)
		if emulated(d) {
			return changeMedium(l, dom, now, disk)
		}
		medium, drive, err := x.drive(ctx, uuid, name)
		switch {
		case err != nil:
			return err
		case !drive && now != nil:
			return local(fmt.Errorf("drive %s: %w", name, xenctl.ErrBadState))
		case !drive:
			return local(fmt.Errorf("drive %s: %w", name, xenctl.ErrNoDevice))
		case now != nil && source.Path != "" && medium != source.Path:
			return local(fmt.Errorf("drive %s: %w", name, xenctl.ErrBadState))
		case now != nil && source.Path == "":
			err = x.detachDisk(ctx, l, dom, uuid, now, false)
		case now == nil && source.Path != "":
			err = x.attachDisk(l, dom, d, uuid, disk)
		}
		if err != nil {
			return err
		}
		if err := x.store.Write(ctx, mine(uuid, "drive", name), source.Path); err != nil {
			return local(err)
		}
		return nil
	})
}

// changeMedium changes what lies in an emulated drive.
func changeMedium(l *libvirt.Libvirt, dom libvirt.Domain, now *libvirtxml.DomainDisk, disk xenctl.Disk) error {
	switch {
	case now == nil:
		return local(fmt.Errorf("drive %s: %w", disk.Device, xenctl.ErrNoDevice))
	case now.Device != "cdrom", disk.Source.Path != "" && pathOf(now) != "" && pathOf(now) != disk.Source.Path:
		return local(fmt.Errorf("drive %s: %w", disk.Device, xenctl.ErrBadState))
	}
	text, err := new(diskXML(disk)).Marshal()
	if err != nil {
		return local(err)
	}
	return l.DomainUpdateDeviceFlags(dom, text, libvirt.DomainDeviceModifyLive)
}

// pathOf is where the bytes of a disk are; empty for an empty drive.
func pathOf(disk *libvirtxml.DomainDisk) string {
	switch s := disk.Source; {
	case s == nil:
		return ""
	case s.File != nil:
		return s.File.File
	case s.Block != nil:
		return s.Block.Dev
	}
	return ""
}
