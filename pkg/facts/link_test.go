package facts

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel is a Netlink that answers from lists.
type kernel struct {
	links    []netlink.Link
	addrs    []netlink.Addr
	routes   map[int][]netlink.Route
	addrsErr error
}

func (k kernel) LinkList() ([]netlink.Link, error)                        { return k.links, nil }
func (k kernel) AddrList(netlink.Link, int) ([]netlink.Addr, error)       { return k.addrs, k.addrsErr }
func (k kernel) RouteList(_ netlink.Link, f int) ([]netlink.Route, error) { return k.routes[f], nil }

func attrs(index int, name string, master int, flags uint32) netlink.LinkAttrs {
	return netlink.LinkAttrs{Index: index, Name: name, MasterIndex: master, MTU: 1500, RawFlags: flags,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, byte(index)}}
}

func server() kernel {
	const live = unix.IFF_UP | unix.IFF_LOWER_UP
	bridgeAddr, _ := netlink.ParseAddr("10.0.0.7/24")
	gw := func(ip string, metric int) netlink.Route {
		return netlink.Route{LinkIndex: 6, Gw: net.ParseIP(ip), Priority: metric}
	}
	return kernel{
		links: []netlink.Link{
			&netlink.Bridge{LinkAttrs: attrs(6, "xenbr0", 0, live)},
			&netlink.Device{LinkAttrs: attrs(2, "eth0", 6, live)},
			&netlink.Device{LinkAttrs: attrs(3, "eth1", 0, unix.IFF_UP)},
			&netlink.Device{LinkAttrs: attrs(4, "eth2", 0, 0)},
			&netlink.Device{LinkAttrs: attrs(5, "eth3", 0, 0)},
			&netlink.Device{LinkAttrs: attrs(7, "vif1.0", 6, live)},
		},
		addrs:  []netlink.Addr{{IPNet: bridgeAddr.IPNet, LinkIndex: 6}, {IPNet: bridgeAddr.IPNet, LinkIndex: 99}},
		routes: map[int][]netlink.Route{netlink.FAMILY_V4: {gw("10.0.0.9", 100), gw("10.0.0.1", 0)}},
	}
}

func TestLinksServer(t *testing.T) {
	root := fixture(t, "testdata/server.txtar")
	got, err := Links(t.Context(), Source{FS: os.DirFS(root), Netlink: server()})
	if err != nil {
		t.Fatal(err)
	}
	pf := func(address string) PCI {
		return PCI{Address: address, VendorID: "8086", DeviceID: "1572", VendorName: "Intel Corporation",
			Name: "Ethernet Controller X710 for 10GbE SFP+", SubVendorID: "1590", SubDeviceID: "0225"}
	}
	vf := pf("0000:3b:02.0")
	vf.DeviceID, vf.Name = "154c", "Ethernet Virtual Function 700 Series"
	want := []Link{
		{Name: "eth0", Index: 2, Kind: "device", Master: "xenbr0", Up: true, Carrier: true, SpeedMbps: 10000,
			Duplex: "full", Physical: true, Driver: "i40e", PCI: pf("0000:3b:00.0")},
		{Name: "eth1", Index: 3, Kind: "device", Up: true, Physical: true, Driver: "i40e", PCI: pf("0000:3b:00.1")},
		{Name: "eth2", Index: 4, Kind: "device", SpeedMbps: 10000, Duplex: "full", Physical: true,
			VirtualFunction: true, Driver: "iavf", PCI: vf},
		{Name: "eth3", Index: 5, Kind: "device", Physical: true, Driver: "virtio_net", PCI: PCI{
			Address: "0000:00:03.0", VendorID: "1af4", DeviceID: "1041", VendorName: "Red Hat, Inc.",
			Name: "Virtio 1.0 network device"}},
		{Name: "xenbr0", Index: 6, Kind: "bridge", Up: true, Carrier: true,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24")},
			Gateway4:  netip.MustParseAddr("10.0.0.1"), DNS: []string{"10.0.0.2", "fd00::2"}},
		{Name: "vif1.0", Index: 7, Kind: "device", Master: "xenbr0", Up: true, Carrier: true, SpeedMbps: 10000},
	}
	for i := range want {
		want[i].MTU, want[i].MAC = 1500, net.HardwareAddr{2, 0, 0, 0, 0, byte(want[i].Index)}.String()
		if i < len(got) && !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d links, want %d", len(got), len(want))
	}
}

func TestLinksWithoutAddresses(t *testing.T) {
	k := server()
	k.addrsErr = errors.New("refused")
	got, err := Links(t.Context(), Source{FS: os.DirFS(t.TempDir()), Netlink: k})
	if !errors.Is(err, k.addrsErr) || len(got) != len(k.links) || !got[4].Gateway4.IsValid() {
		t.Errorf("links %+v, error %v", got, err)
	}
}

// TestLinksOfNamespace asks the real kernel about links made for the test.
func TestLinksOfNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing: root, to make a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread stays in the namespace and ends with the test
	ns, err := netns.New()
	if errors.Is(err, unix.EPERM) {
		t.Skipf("missing: the right to make a network namespace: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "fbr0"}}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "fve0", MTU: 1400}, PeerName: "fve1"}
	for _, l := range []netlink.Link{bridge, veth} {
		err := netlink.LinkAdd(l)
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Skipf("missing: links of type %s in this kernel: %v", l.Type(), err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	addr, _ := netlink.ParseAddr("192.0.2.7/24")
	addr6, _ := netlink.ParseAddr("2001:db8::7/64")
	addr6.Flags = unix.IFA_F_NODAD
	if err := errors.Join(
		netlink.LinkSetMaster(veth, bridge), netlink.LinkSetUp(bridge), netlink.LinkSetUp(veth),
		netlink.AddrAdd(bridge, addr), netlink.AddrAdd(bridge, addr6),
		netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Index, Gw: net.ParseIP("192.0.2.1")}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Index, Gw: net.ParseIP("2001:db8::1")}),
	); err != nil {
		t.Fatal(err)
	}
	links, err := Links(t.Context(), Source{})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]Link{}
	for _, l := range links {
		byName[l.Name] = l
		if l.Physical {
			t.Errorf("%s is not physical", l.Name)
		}
	}
	br, ve := byName["fbr0"], byName["fve0"]
	if br.Kind != "bridge" || br.Gateway4 != netip.MustParseAddr("192.0.2.1") ||
		br.Gateway6 != netip.MustParseAddr("2001:db8::1") ||
		!slices.Contains(br.Addresses, netip.MustParsePrefix("192.0.2.7/24")) ||
		!slices.Contains(br.Addresses, netip.MustParsePrefix("2001:db8::7/64")) {
		t.Errorf("bridge: %+v", br)
	}
	if ve.Kind != "veth" || ve.Master != "fbr0" || ve.MTU != 1400 || !ve.Up || ve.Carrier || len(ve.MAC) != 17 {
		t.Errorf("veth with its peer down: %+v", ve)
	}
}
