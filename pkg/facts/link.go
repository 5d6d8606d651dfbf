package facts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is one network link. Zero values are unknown.
type Link struct {
	Name         string
	Index        int
	Kind         string // device, bridge, bond, vlan, veth, dummy, tuntap …
	Master       string // the bridge or bond that it is a port of
	MAC          string // lower case, with colons
	PermanentMAC string // as the card has it, when it differs or a bond changed it
	MTU          int
	Up           bool // by the administrator's will
	Carrier      bool
	SpeedMbps    int
	Duplex       string // full, half
	// Physical says that a device is behind it. A dom0 end of a guest's interface has one in sysfs and is not.
	Physical        bool
	VirtualFunction bool // of an SR-IOV card
	Driver          string
	PCI             PCI
	Addresses       []netip.Prefix // global ones and link-local ones, of both families
	Gateway4        netip.Addr     // of the default route with the least metric through this link
	Gateway6        netip.Addr
	DNS             []string // the machine's; set on links with a gateway
}

// PCI names the PCI function behind a link.
type PCI struct {
	Address                  string // 0000:03:00.1
	VendorID, DeviceID       string // four hex digits
	VendorName, Name         string // from pci.ids where the machine has it
	SubVendorID, SubDeviceID string // of the board
}

// Netlink is the part of a netlink handle that Links asks; *netlink.Handle has it.
type Netlink interface {
	LinkList() ([]netlink.Link, error)
	AddrList(link netlink.Link, family int) ([]netlink.Addr, error)
	RouteList(link netlink.Link, family int) ([]netlink.Route, error)
}

// netlinkTimeout bounds each answer of the kernel: the handle takes no context.
const netlinkTimeout = 5 * time.Second

// Links lists all links, virtual ones included, by index. The error joins what could not be read; the links are
// valid beside it.
func Links(ctx context.Context, src Source) ([]Link, error) {
	nl := src.Netlink
	if nl == nil {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
		defer h.Close()
		if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
		nl = h
	}
	found, err := nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("netlink: list links: %w", err)
	}
	t := src.tree()
	links, byIndex := make([]Link, len(found)), map[int]*Link{}
	slices.SortFunc(found, func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	for i, l := range found {
		links[i] = kernelLink(l)
		t.describeLink(&links[i])
		byIndex[links[i].Index] = &links[i]
	}
	for i, l := range found {
		if master := byIndex[l.Attrs().MasterIndex]; master != nil {
			links[i].Master = master.Name
		}
	}
	t.namePCI(links)
	errs := []error{ctx.Err()}
	if errs[0] == nil {
		errs = append(errs, addAddresses(nl, byIndex), addGateways(nl, t, byIndex))
	}
	return links, errors.Join(errs...)
}

func kernelLink(l netlink.Link) Link {
	a := l.Attrs()
	link := Link{
		Name: a.Name, Index: a.Index, Kind: l.Type(), MAC: a.HardwareAddr.String(), MTU: a.MTU,
		Up: a.RawFlags&unix.IFF_UP != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
	}
	if len(a.PermHWAddr) > 0 {
		link.PermanentMAC = a.PermHWAddr.String()
	}
	return link
}

// pciAddress is domain:bus:device.function.
var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// describeLink adds what sysfs knows. A link of another network namespace than sysfs was mounted in is not there.
func (t tree) describeLink(l *Link) {
	dir := path.Join("sys/class/net", l.Name)
	if n := t.number(dir + "/speed"); n > 0 { // -1: unknown
		l.SpeedMbps = n
	}
	if d := t.optional(dir + "/duplex"); d != "unknown" {
		l.Duplex = d
	}
	if !t.exists(dir + "/device") {
		return
	}
	l.Physical = t.linkBase(dir+"/device/subsystem") != "xen-backend"
	l.Driver = t.linkBase(dir + "/device/driver")
	l.VirtualFunction = t.exists(dir + "/device/physfn")
	// A virtio card's device is below the PCI function: the nearest one up the path is meant.
	target, err := fs.ReadLink(t.fs, dir)
	if err != nil {
		return
	}
	for p := path.Join("sys/class/net", target); len(p) > 1; p = path.Dir(p) {
		if pciAddress.MatchString(path.Base(p)) {
			l.PCI = t.pci(p)
			return
		}
	}
}

func (t tree) pci(dir string) PCI {
	id := func(name string) string { return strings.TrimPrefix(t.optional(path.Join(dir, name)), "0x") }
	return PCI{
		Address: path.Base(dir), VendorID: id("vendor"), DeviceID: id("device"),
		SubVendorID: id("subsystem_vendor"), SubDeviceID: id("subsystem_device"),
	}
}

// namePCI looks the ids up in pci.ids: a line a vendor, below it a line with one tab a device.
func (t tree) namePCI(links []Link) {
	vendors, devices := map[string]string{}, map[[2]string]string{}
	for _, l := range links {
		if l.PCI.VendorID != "" {
			vendors[l.PCI.VendorID], devices[[2]string{l.PCI.VendorID, l.PCI.DeviceID}] = "", ""
		}
	}
	if len(vendors) == 0 {
		return
	}
	text := t.optional("usr/share/misc/pci.ids")
	if text == "" {
		text = t.optional("usr/share/hwdata/pci.ids")
	}
	vendor := ""
	for line := range strings.Lines(text) {
		id, name, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "  ")
		if !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "\t\t") {
			continue
		}
		if device, isDevice := strings.CutPrefix(id, "\t"); !isDevice {
			vendor = id
			if _, wanted := vendors[id]; wanted {
				vendors[id] = name
			}
		} else if _, wanted := devices[[2]string{vendor, device}]; wanted {
			devices[[2]string{vendor, device}] = name
		}
	}
	for i := range links {
		p := &links[i].PCI
		p.VendorName, p.Name = vendors[p.VendorID], devices[[2]string{p.VendorID, p.DeviceID}]
	}
}

func addAddresses(nl Netlink, links map[int]*Link) error {
	addrs, err := nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("netlink: list addresses: %w", err)
	}
	for _, a := range addrs {
		l := links[a.LinkIndex]
		if l == nil || a.IPNet == nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			bits, _ := a.Mask.Size()
			l.Addresses = append(l.Addresses, netip.PrefixFrom(ip.Unmap(), bits))
		}
	}
	return nil
}

func addGateways(nl Netlink, t tree, links map[int]*Link) error {
	var resolver Facts
	errs := []error{readResolver(t, &resolver)}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := nl.RouteList(nil, family)
		if err != nil {
			errs = append(errs, fmt.Errorf("netlink: list routes: %w", err))
			continue
		}
		slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
		for _, r := range routes {
			if l := links[r.LinkIndex]; l != nil && isDefault(r) {
				l.setGateway(r, resolver.DNS)
			}
		}
	}
	return errors.Join(errs...)
}

func (l *Link) setGateway(r netlink.Route, dns []string) {
	gw, ok := netip.AddrFromSlice(r.Gw)
	if !ok {
		return
	}
	dst := &l.Gateway6
	if gw = gw.Unmap(); gw.Is4() {
		dst = &l.Gateway4
	}
	if !dst.IsValid() {
		*dst, l.DNS = gw, dns
	}
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}
