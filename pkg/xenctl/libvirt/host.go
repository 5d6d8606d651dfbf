package libvirt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// Host implements xenctl.Hypervisor.
func (x *Xen) Host(ctx context.Context) (xenctl.HostInfo, error) {
	host, err := x.Driver.Host(ctx)
	if version := xenVersion(x.sys); err == nil && version != "" {
		host.Hypervisor.Version = version
	}
	return host, err
}

// xenVersion is Xen's version as dom0's kernel tells it, "" when it doesn't. Libvirt leaves out the last number:
// https://docs.kernel.org/admin-guide/abi-stable.html, /sys/hypervisor/version.
func xenVersion(sys string) string {
	var parts [3]string
	for i, name := range []string{"major", "minor", "extra"} {
		text, err := os.ReadFile(filepath.Join(sys, "hypervisor/version", name))
		if err != nil {
			return ""
		}
		parts[i] = strings.TrimSpace(string(text))
	}
	return parts[0] + "." + parts[1] + parts[2]
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
