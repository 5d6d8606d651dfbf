package libvirt

import (
	"strings"

	"libvirt.org/go/libvirtxml"

	"xapid/pkg/xenctl"
)

func devicesXML(kind Kind, cfg *xenctl.DomainConfig) *libvirtxml.DomainDeviceList {
	list := new(libvirtxml.DomainDeviceList)
	for _, disk := range bootableFirst(cfg.Disks) {
		if kind == KindXen && bare(cfg.Type, disk) {
			continue
		}
		list.Disks = append(list.Disks, diskXML(disk))
	}
	for _, nic := range cfg.NICs {
		list.Interfaces = append(list.Interfaces, nicXML(nic))
	}
	port := uint(0)
	pty := &libvirtxml.DomainChardevSource{Pty: new(libvirtxml.DomainChardevSourcePty)}
	if cfg.Type == xenctl.TypeHVM {
		list.Serials = []libvirtxml.DomainSerial{{Source: pty, Target: &libvirtxml.DomainSerialTarget{Port: &port}}}
	} else {
		list.Consoles = []libvirtxml.DomainConsole{{Source: pty, Target: &libvirtxml.DomainConsoleTarget{Type: "xen", Port: &port}}}
	}
	if cfg.Graphics != nil && cfg.Type == xenctl.TypeHVM {
		list.Graphics = []libvirtxml.DomainGraphic{graphicsXML(cfg.Graphics)}
		list.Inputs = []libvirtxml.DomainInput{{Type: "tablet", Bus: "usb"}}
		list.Videos = []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{
			Type: videoCard(cfg.Platform["vga"]), VRam: uint(max(videoMiB, cfg.Graphics.VideoMiB)) << 10,
		}}}
	}
	return list
}

// videoMiB is the least that libvirt's Xen driver takes for a VGA card.
const videoMiB = 16

// videoCard is XenServer's platform:vga in libvirt's words.
func videoCard(vga string) string {
	if vga == "cirrus" {
		return "cirrus"
	}
	return "vga"
}

// bare says that a drive is one which Xen has no device for: paravirtual guests have no drives, so that a medium
// is a disk that comes and goes.
func bare(t xenctl.DomainType, disk xenctl.Disk) bool {
	return t != xenctl.TypeHVM && disk.CDROM && disk.Source.Path == ""
}

// bootableFirst keeps the order otherwise: a bootloader takes the first disk.
func bootableFirst(disks []xenctl.Disk) []xenctl.Disk {
	var first, rest []xenctl.Disk
	for _, d := range disks {
		if d.Bootable {
			first = append(first, d)
		} else {
			rest = append(rest, d)
		}
	}
	return append(first, rest...)
}

func diskXML(disk xenctl.Disk) libvirtxml.DomainDisk {
	x := libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "phy"},
		Target: &libvirtxml.DomainDiskTarget{Dev: disk.Device, Bus: busOf(disk.Device)},
	}
	if disk.CDROM {
		x.Device = "cdrom"
	}
	switch {
	case disk.Source.Path == "": // an empty drive: a file without a name
		x.Driver = nil
		x.Source = &libvirtxml.DomainDiskSource{File: new(libvirtxml.DomainDiskSourceFile)}
	case disk.Source.Kind == xenctl.DiskBlock:
		x.Source = &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: disk.Source.Path}}
	default:
		x.Driver = &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"}
		x.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: disk.Source.Path}}
	}
	if disk.ReadOnly || disk.CDROM {
		x.ReadOnly = new(libvirtxml.DomainDiskReadOnly)
	}
	if disk.Shared {
		x.Shareable = new(libvirtxml.DomainDiskShareable)
	}
	return x
}

func busOf(device string) string {
	switch {
	case strings.HasPrefix(device, "hd"):
		return "ide"
	case strings.HasPrefix(device, "sd"):
		return "scsi"
	}
	return "xen"
}

func nicXML(nic xenctl.NIC) libvirtxml.DomainInterface {
	x := libvirtxml.DomainInterface{
		MAC:    &libvirtxml.DomainInterfaceMAC{Address: nic.MAC},
		Source: &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: nic.Bridge}},
	}
	if nic.Interface != "" {
		x.Target = &libvirtxml.DomainInterfaceTarget{Dev: nic.Interface}
	}
	if nic.MTU > 0 {
		x.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(nic.MTU)}
	}
	if nic.RateKBps > 0 {
		x.Bandwidth = &libvirtxml.DomainInterfaceBandwidth{Outbound: &libvirtxml.DomainInterfaceBandwidthParams{Average: &nic.RateKBps}}
	}
	if nic.Disconnected {
		x.Link = &libvirtxml.DomainInterfaceLink{State: "down"}
	}
	return x
}

func graphicsXML(g *xenctl.Graphics) libvirtxml.DomainGraphic {
	listen := g.Listen
	if listen == "" {
		listen = "127.0.0.1"
	}
	return libvirtxml.DomainGraphic{VNC: &libvirtxml.DomainGraphicVNC{Port: -1, AutoPort: "yes", Listen: listen, Keymap: g.Keymap}}
}
