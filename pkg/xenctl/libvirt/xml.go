package libvirt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"xapid/pkg/xenctl"
)

// DomainXML describes a valid config to libvirt's driver of that kind. It is a pure function. What has no
// place in libvirt's description is left out: xenstore data, and the VCPU cap.
func DomainXML(kind Kind, cfg *xenctl.DomainConfig) (string, error) {
	d := libvirtxml.Domain{
		Type: string(kind), Name: xenctl.SafeName(cfg.Name, cfg.UUID), UUID: cfg.UUID, Title: title(cfg.Name),
		Memory:        &libvirtxml.DomainMemory{Value: uint(cfg.Memory.StaticMaxBytes >> 10), Unit: "KiB"},
		CurrentMemory: &libvirtxml.DomainCurrentMemory{Value: uint(cfg.Memory.TargetBytes >> 10), Unit: "KiB"},
		VCPU:          &libvirtxml.DomainVCPU{Value: uint(cfg.VCPUs.Max), Current: uint(cfg.VCPUs.AtStart), CPUSet: cpuSet(cfg.VCPUs.Affinity)},
		OS:            osXML(kind, cfg),
		Features:      featuresXML(cfg),
		Clock:         clockXML(cfg.Platform["timeoffset"]),
		// The domain ends whatever its guest does: what happens next is not libvirt's to decide.
		OnPoweroff: "destroy", OnReboot: "destroy", OnCrash: "destroy",
		Devices: devicesXML(kind, cfg),
	}
	if kind == KindXen { // whose event doesn't tell a reboot from a power-off: see stopping
		d.OnReboot = "preserve"
	}
	if cfg.OnCrash == xenctl.CrashPreserve {
		d.OnCrash = "preserve"
	}
	if cfg.VCPUs.Weight > 0 {
		d.CPUTune = &libvirtxml.DomainCPUTune{Shares: &libvirtxml.DomainCPUTuneShares{Value: uint(cfg.VCPUs.Weight)}}
	}
	text, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("describe domain: %w", err)
	}
	return text, nil
}

// title is the label as far as XML and libvirt can carry it: one line, no control characters.
func title(label string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r == 0x7f || r == '\ufffe' || r == '\uffff' || r == '\ufffd':
			return ' '
		}
		return r
	}, label))
}

func cpuSet(cpus []int) string {
	sorted := slices.Compact(slices.Sorted(slices.Values(cpus)))
	names := make([]string, len(sorted))
	for i, cpu := range sorted {
		names[i] = strconv.Itoa(cpu)
	}
	return strings.Join(names, ",")
}

// osTypes are the domain types as libvirt's Xen driver calls them.
var osTypes = map[xenctl.DomainType]libvirtxml.DomainOSType{
	xenctl.TypePV:  {Arch: "x86_64", Machine: "xenpv", Type: "linux"},
	xenctl.TypePVH: {Arch: "x86_64", Machine: "xenpvh", Type: "xenpvh"},
	xenctl.TypeHVM: {Arch: "x86_64", Machine: "xenfv", Type: "hvm"},
}

var bootNames = map[xenctl.BootDevice]string{
	xenctl.BootDisk: "hd", xenctl.BootCDROM: "cdrom", xenctl.BootNetwork: "network",
}

func osXML(kind Kind, cfg *xenctl.DomainConfig) *libvirtxml.DomainOS {
	t := osTypes[cfg.Type]
	if kind == KindTest { // it has but these two, on a processor of its own
		t = libvirtxml.DomainOSType{Arch: "i686", Type: "xen"}
		if cfg.Type == xenctl.TypeHVM {
			t.Type = "hvm"
		}
	}
	os := &libvirtxml.DomainOS{Type: &t, Kernel: cfg.Boot.Kernel, Initrd: cfg.Boot.Ramdisk, Cmdline: cfg.Boot.Cmdline}
	if cfg.Type != xenctl.TypeHVM {
		return os
	}
	if cfg.Boot.Firmware == xenctl.FirmwareUEFI && kind == KindXen {
		os.Firmware = "efi"
	}
	for _, dev := range cfg.Boot.Order {
		os.BootDevices = append(os.BootDevices, libvirtxml.DomainBootDevice{Dev: bootNames[dev]})
	}
	return os
}

func featuresXML(cfg *xenctl.DomainConfig) *libvirtxml.DomainFeatureList {
	if cfg.Type == xenctl.TypePV {
		return nil
	}
	f := new(libvirtxml.DomainFeatureList)
	if enabled(cfg.Platform, "pae", true) {
		f.PAE = new(libvirtxml.DomainFeature)
	}
	if enabled(cfg.Platform, "acpi", true) {
		f.ACPI = new(libvirtxml.DomainFeature)
	}
	if enabled(cfg.Platform, "apic", true) {
		f.APIC = new(libvirtxml.DomainFeatureAPIC)
	}
	if cfg.Type == xenctl.TypeHVM && enabled(cfg.Platform, "viridian", false) {
		f.Viridian = new(libvirtxml.DomainFeature)
	}
	return f
}

func enabled(platform map[string]string, key string, def bool) bool {
	value, ok := platform[key]
	if !ok {
		return def
	}
	return value == "1" || value == "true"
}

// clockXML sets the guest's clock off from UTC by so many seconds.
func clockXML(offset string) *libvirtxml.DomainClock {
	if _, err := strconv.Atoi(offset); err != nil || offset == "0" {
		return &libvirtxml.DomainClock{Offset: "utc"}
	}
	return &libvirtxml.DomainClock{Offset: "variable", Adjustment: offset}
}
