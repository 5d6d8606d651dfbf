package vm

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/sm"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenctl"
)

// platformKeys are the keys of VM.platform that reach the hypervisor: only
// switches, none that names a file, a device or a command of dom0.
var platformKeys = []string{"acpi", "apic", "pae", "nx", "viridian", "viridian_time_ref_count", "viridian_reference_tsc",
	"hpet", "vga", "videoram", "device_id", "secureboot", "cores-per-socket", "nested-virt", "exp-nested-hvm", "nomigrate",
	"timeoffset", "usb", "usb_tablet", "tsc_mode", "vtpm"}

// domainType is how a VM is to be virtualised.
func domainType(vm *xenapi.VM) xenapi.DomainType {
	switch {
	case vm.DomainType != xenapi.DomainTypeUnspecified:
		return vm.DomainType
	case vm.HVMBootPolicy != "":
		return xenapi.DomainTypeHVM
	}
	return xenapi.DomainTypePV
}

// domainConfig describes the domain of a VM whose disks are attached.
func (s *VMs) domainConfig(rd db.Reader, p *parts, disks map[xenapi.VBDRef]sm.Attachment, startPaused bool) (*xenctl.DomainConfig, error) {
	vm := p.vm
	cfg := &xenctl.DomainConfig{UUID: vm.UUID, Name: vm.NameLabel, StartPaused: startPaused,
		Memory: xenctl.Memory{StaticMaxBytes: vm.MemoryStaticMax, TargetBytes: vm.MemoryDynamicMax},
		VCPUs:  xenctl.VCPUs{Max: int(vm.VCPUsMax), AtStart: int(vm.VCPUsAtStartup)}, Platform: map[string]string{}}
	for _, key := range platformKeys {
		if v, ok := vm.Platform[key]; ok {
			cfg.Platform[key] = v
		}
	}
	schedule(&cfg.VCPUs, vm.VCPUsParams)
	if err := boot(cfg, p.ref, vm); err != nil {
		return nil, err
	}
	if vm.ActionsAfterCrash == xenapi.OnCrashBehaviourPreserve {
		cfg.OnCrash = xenctl.CrashPreserve
	}
	cfg.Xenstore = map[string]string{}
	for k, v := range vm.XenstoreData {
		if xenctl.ValidateXenstoreKey(k) == nil {
			cfg.Xenstore[k] = v
		}
	}
	for ref, vbd := range p.vbds {
		disk, err := s.diskOf(vbd, disks[ref])
		if err != nil {
			return nil, err
		}
		cfg.Disks = append(cfg.Disks, disk)
	}
	slices.SortFunc(cfg.Disks, func(a, b xenctl.Disk) int { return strings.Compare(a.Device, b.Device) })
	for ref := range p.vifs {
		cfg.NICs = append(cfg.NICs, s.NIC(rd, ref))
	}
	slices.SortFunc(cfg.NICs, func(a, b xenctl.NIC) int { return a.Index - b.Index })
	return cfg, nil
}

// diskOf describes one VBD; an empty attachment is an empty CD drive.
func (s *VMs) diskOf(vbd *xenapi.VBD, at sm.Attachment) (xenctl.Disk, error) {
	device, err := s.Device(vbd.Userdevice)
	if err != nil {
		return xenctl.Disk{}, err
	}
	return xenctl.Disk{Device: device, Source: xenctl.DiskSource{Kind: xenctl.DiskFile, Path: at.Path},
		CDROM: vbd.Type == xenapi.VBDTypeCD, ReadOnly: vbd.Mode == xenapi.VBDModeRO || vbd.Type == xenapi.VBDTypeCD,
		Bootable: vbd.Bootable}, nil
}

// schedule reads VCPUs_params; what is no number there is the hypervisor's
// default, as start validated.
func schedule(v *xenctl.VCPUs, params map[string]string) {
	v.Weight, _ = strconv.Atoi(params["weight"])
	v.CapPercent, _ = strconv.Atoi(params["cap"])
	v.Affinity, _ = parseMask(params["mask"])
}

// bootDevices are the letters of HVM_boot_params:order.
var bootDevices = map[rune]xenctl.BootDevice{'c': xenctl.BootDisk, 'd': xenctl.BootCDROM, 'n': xenctl.BootNetwork}

func boot(cfg *xenctl.DomainConfig, ref xenapi.VMRef, vm *xenapi.VM) error {
	switch domainType(vm) {
	case xenapi.DomainTypeHVM:
		cfg.Type = xenctl.TypeHVM
		cfg.Graphics = &xenctl.Graphics{VideoMiB: videoMiB(vm.Platform["videoram"])}
		if vm.HVMBootParams["firmware"] == "uefi" {
			cfg.Boot.Firmware = xenctl.FirmwareUEFI
		}
		for _, letter := range vm.HVMBootParams["order"] {
			if d, ok := bootDevices[letter]; ok {
				cfg.Boot.Order = append(cfg.Boot.Order, d)
			}
		}
		return nil
	case xenapi.DomainTypePVH, xenapi.DomainTypePVInPVH:
		cfg.Type = xenctl.TypePVH
	default:
		cfg.Type = xenctl.TypePV
	}
	cfg.Boot.Kernel, cfg.Boot.Ramdisk, cfg.Boot.Cmdline = vm.PVKernel, vm.PVRamdisk, vm.PVArgs
	if vm.PVKernel == "" {
		known := false
		if cfg.Boot.Bootloader, known = bootloaders[vm.PVBootloader]; !known {
			return xenapi.ErrUnknownBootloader(string(ref), vm.PVBootloader)
		}
		cfg.Boot.BootloaderArgs = vm.PVBootloaderArgs
	}
	return nil
}

// mostVideoMiB is the most that a video card can have.
const mostVideoMiB = 256

// videoMiB reads platform:videoram; what is no such number is the
// hypervisor's default.
func videoMiB(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > mostVideoMiB {
		return 0
	}
	return n
}

// bootloaders are the ways in which XenServer's users write what takes a kernel out of a guest's disk. eliloader is
// pygrub for a guest that has been installed.
var bootloaders = map[string]string{"": xenctl.BootloaderPygrub, "pygrub": xenctl.BootloaderPygrub,
	"/usr/bin/pygrub": xenctl.BootloaderPygrub, "eliloader": xenctl.BootloaderPygrub}

// maxCPU bounds the processors that a mask may name.
const maxCPU = 4096

// parseMask reads VCPUs_params:mask: "0,2-5".
func parseMask(mask string) ([]int, bool) {
	var out []int
	if mask == "" {
		return nil, true
	}
	for _, part := range strings.Split(mask, ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(lo)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(hi)
		}
		if err != nil || a < 0 || b < a || b >= maxCPU {
			return nil, false
		}
		for n := a; n <= b; n++ {
			out = append(out, n)
		}
	}
	return out, true
}

// validate checks what a start needs of the record: processors, memory, the
// shadow multiplier.
func validate(vm *xenapi.VM) error {
	switch {
	case vm.VCPUsMax < 1 || vm.VCPUsMax > xenctl.MaxVCPUs:
		return xenapi.ErrValueNotSupported("VCPUs-max", strconv.FormatInt(vm.VCPUsMax, 10), "must be from 1 to "+strconv.Itoa(xenctl.MaxVCPUs))
	case vm.VCPUsAtStartup < 1 || vm.VCPUsAtStartup > vm.VCPUsMax:
		return xenapi.ErrValueNotSupported("VCPUs-at-startup", strconv.FormatInt(vm.VCPUsAtStartup, 10), "must be from 1 to VCPUs-max")
	case !(vm.HVMShadowMultiplier >= 1): // NaN too
		return xenapi.ErrInvalidValue("multiplier", strconv.FormatFloat(vm.HVMShadowMultiplier, 'g', -1, 64))
	}
	if cores, ok := vm.Platform["cores-per-socket"]; ok {
		n, err := strconv.ParseInt(cores, 10, 64)
		if err != nil || n < 1 {
			return xenapi.ErrInvalidValue("platform:cores-per-socket", cores)
		}
		if vm.VCPUsMax%n != 0 {
			return xenapi.ErrVCPUMaxNotCoresPerSocketMultiple(strconv.FormatInt(vm.VCPUsMax, 10), cores)
		}
	}
	if _, ok := parseMask(vm.VCPUsParams["mask"]); !ok {
		return xenapi.ErrInvalidValue("VCPUs_params:mask", vm.VCPUsParams["mask"])
	}
	for key, most := range map[string]int64{"weight": 65535, "cap": 100 * maxCPU} {
		text, ok := vm.VCPUsParams[key]
		if n, err := strconv.ParseInt(text, 10, 64); ok && (err != nil || n < 0 || n > most) {
			return xenapi.ErrInvalidValue("VCPUs_params:"+key, text)
		}
	}
	return validateMemory(vm)
}

// leastMemory is the least that a guest can be built with, in bytes.
const leastMemory = 1 << 20

func validateMemory(vm *xenapi.VM) error {
	if vm.MemoryStaticMin < 0 || vm.MemoryStaticMax < leastMemory || vm.MemoryStaticMin > vm.MemoryStaticMax {
		return xenapi.ErrMemoryConstraintViolation()
	}
	return nil
}

// clamped gives the record with its dynamic range inside the static one, as
// start repairs it.
func clamped(vm *xenapi.VM) {
	within := func(n int64) int64 { return min(max(n, vm.MemoryStaticMin), vm.MemoryStaticMax) }
	vm.MemoryDynamicMin, vm.MemoryDynamicMax = within(vm.MemoryDynamicMin), within(vm.MemoryDynamicMax)
	if vm.MemoryDynamicMax < vm.MemoryDynamicMin {
		vm.MemoryDynamicMax = vm.MemoryDynamicMin
	}
	if vm.MemoryDynamicMax < leastMemory {
		vm.MemoryDynamicMax = vm.MemoryStaticMax
	}
}

// lastBooted prints a record as VM.last_booted_record keeps it: text that is
// opaque to clients.
func lastBooted(vm *xenapi.VM) string {
	fields := map[string]string{"memory_static_max": strconv.FormatInt(vm.MemoryStaticMax, 10),
		"memory_dynamic_max": strconv.FormatInt(vm.MemoryDynamicMax, 10), "memory_dynamic_min": strconv.FormatInt(vm.MemoryDynamicMin, 10),
		"VCPUs_max": strconv.FormatInt(vm.VCPUsMax, 10), "VCPUs_at_startup": strconv.FormatInt(vm.VCPUsAtStartup, 10),
		"domain_type": string(domainType(vm))}
	var b strings.Builder
	b.WriteString("(struct")
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		b.WriteString(" (" + k + " " + fields[k] + ")")
	}
	b.WriteString(")")
	return b.String()
}
