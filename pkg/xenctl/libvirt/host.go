package libvirt

import (
	"context"
	"fmt"
	"slices"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"xapid/pkg/xenctl"
)

// hypervisorNames are what the drivers' types are called by people.
var hypervisorNames = map[string]string{"Xen": "Xen", "TEST": "test"}

// Host implements xenctl.Hypervisor.
func (d *Driver) Host(ctx context.Context) (host xenctl.HostInfo, err error) {
	err = d.reading(ctx, "host", "", func(l *libvirt.Libvirt) error {
		host, err = readHost(l)
		return err
	})
	return host, err
}

func readHost(l *libvirt.Libvirt) (h xenctl.HostInfo, err error) {
	model, memoryKiB, cpus, mhz, nodes, sockets, _, _, err := l.NodeGetInfo()
	if err != nil {
		return h, err
	}
	free, err := l.NodeGetFreeMemory()
	if err != nil {
		return h, err
	}
	kind, err := l.ConnectGetType()
	if err != nil {
		return h, err
	}
	version, err := l.ConnectGetVersion()
	if err != nil {
		return h, err
	}
	text, err := l.Capabilities()
	if err != nil {
		return h, err
	}
	caps := new(libvirtxml.Caps)
	if err := caps.Unmarshal(string(text)); err != nil {
		return h, local(fmt.Errorf("capabilities: %w", err))
	}
	h.MemoryTotalBytes, h.MemoryFreeBytes = int64(memoryKiB)<<10, int64(free)
	if h.ControlDomainBytes, err = controlDomainBytes(l, kind); err != nil {
		return h, err
	}
	h.CPU = xenctl.CPUInfo{
		Count: int(cpus), Sockets: max(1, int(sockets)*int(nodes)), Model: text32(model), SpeedMHz: int(mhz),
		Vendor: caps.Host.CPU.Vendor,
	}
	for _, f := range caps.Host.CPU.FeatureFlags {
		h.CPU.Flags = append(h.CPU.Flags, f.Name)
	}
	h.Hypervisor = xenctl.HypervisorInfo{
		Name:    hypervisorNames[kind],
		Version: fmt.Sprintf("%d.%d.%d", version/1000000, version/1000%1000, version%1000),
	}
	for _, g := range caps.Guests {
		h.Hypervisor.Capabilities = append(h.Hypervisor.Capabilities, g.OSType+"-"+g.Arch.Name)
		if t, ok := guestTypes[g.OSType]; ok && !slices.Contains(h.Hypervisor.Types, t) {
			h.Hypervisor.Types = append(h.Hypervisor.Types, t)
		}
	}
	return h, nil
}

// controlDomainBytes is what dom0 holds, where the driver has one.
func controlDomainBytes(l *libvirt.Libvirt, kind string) (int64, error) {
	if hypervisorNames[kind] != "Xen" {
		return 0, nil
	}
	zero, err := l.DomainLookupByID(0)
	if err != nil {
		return 0, err
	}
	_, _, nowKiB, _, _, err := l.DomainGetInfo(zero)
	return int64(nowKiB) << 10, err
}

// guestTypes are libvirt's OS types as domain types.
var guestTypes = map[string]xenctl.DomainType{
	"xen": xenctl.TypePV, "linux": xenctl.TypePV, "xenpvh": xenctl.TypePVH, "hvm": xenctl.TypeHVM,
}

// text32 is C's char[32] as a string.
func text32(c [32]int8) string {
	var b []byte
	for _, x := range c {
		if x == 0 {
			break
		}
		b = append(b, byte(x))
	}
	return string(b)
}
