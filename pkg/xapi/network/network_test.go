package network_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/network"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// world is a host with the links that it is told to have.
type world struct {
	*testing.T
	env   *xapi.Env
	host  xenapi.HostRef
	links []facts.Link
	hooks xapi.Hooks
	s     *service.Services
}

func links() []facts.Link {
	return []facts.Link{
		{Name: "lo", Index: 1, MAC: "", MTU: 65536, Up: true},
		{Name: "eth0", Index: 2, MAC: "00:16:3e:00:00:01", MTU: 1500, Physical: true, Carrier: true, SpeedMbps: 10000,
			Duplex: "full", Master: "xenbr0", PCI: facts.PCI{Address: "0000:03:00.0", VendorID: "8086", Name: "X710"}},
		{Name: "eth1", Index: 3, MAC: "00:16:3e:00:00:02", MTU: 9000, Physical: true},
		{Name: "xenbr0", Index: 4, Kind: "bridge", MAC: "00:16:3e:00:00:01", MTU: 1500,
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::10/64")},
			Gateway4:  netip.MustParseAddr("192.0.2.1"), DNS: []string{"192.0.2.53"}},
		{Name: "vif1.0", Index: 5, MAC: "fe:ff:ff:ff:ff:ff", MTU: 1500},
	}
}

func open(t *testing.T) *world {
	t.Helper()
	derive := func(tx *db.Tx) { network.Derive(tx, tx.Edited()) }
	w := &world{T: t, env: xapitest.Open(t, t.TempDir(), derive), links: links()}
	w.host = xapitest.Host(t, w.env)
	w.hooks, w.s = xapi.NewHooks(), &service.Services{}
	network.New(w.env, func(context.Context) ([]facts.Link, error) { return w.links, nil }).Register(w.hooks, w.s)
	w.ok(network.Ensure(t.Context(), w.env, w.links))
	return w
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// pif finds the PIF of a device.
func (w *world) pif(device string) (xenapi.PIFRef, *xenapi.PIF) {
	w.Helper()
	for ref, p := range db.All[xenapi.PIFRef](w.env.DB.View()) {
		if p.Device == device {
			return ref, p
		}
	}
	w.Fatalf("no PIF %s", device)
	return "", nil
}

// network makes a network through the hook.
func (w *world) network(change func(n *xenapi.Network)) (xenapi.NetworkRef, error) {
	rec := xenapi.NewNetwork()
	if change != nil {
		change(rec)
	}
	ref, err := w.hooks.Create["network.create"](w.Context(), xapitest.Call(), rec, nil)
	return xenapi.NetworkRef(ref), err
}

func TestEnsureFindsPorts(t *testing.T) {
	w := open(t)
	ref, eth0 := w.pif("eth0")
	_, eth1 := w.pif("eth1")
	if !eth0.Management || eth1.Management || !eth0.Physical || eth0.VLAN != -1 || !eth0.CurrentlyAttached {
		t.Errorf("%+v", eth0)
	}
	if eth0.IP != "192.0.2.10" || eth0.Netmask != "255.255.255.0" || eth0.Gateway != "192.0.2.1" || eth0.DNS != "192.0.2.53" ||
		eth0.IPConfigurationMode != xenapi.IPConfigurationModeDHCP || !slices.Equal(eth0.IPv6, []string{"2001:db8::10/64"}) {
		t.Errorf("addresses of the bridge are not the PIF's: %+v", eth0)
	}
	rd := w.env.DB.View()
	net := db.Find(rd, eth0.Network)
	if net.Bridge != "xenbr0" || net.NameLabel != "Pool-wide network associated with eth0" || db.Find(rd, eth1.Network).MTU != 9000 {
		t.Errorf("%+v", net)
	}
	m := db.Find(rd, eth0.Metrics)
	if !m.Carrier || m.Speed != 10000 || !m.Duplex || m.PCIBusPath != "0000:03:00.0" || m.DeviceName != "X710" {
		t.Errorf("%+v", m)
	}
	if db.Find(rd, w.host).Address != "192.0.2.10" {
		t.Error("the host has no address")
	}
	if n := rd.Count(datamodel.Get().Class("network")); n != 3 {
		t.Errorf("%d networks, want two and the internal one", n)
	}

	w.links[1].MTU, w.links[1].Carrier, w.links[1].Name = 1400, false, "eth7"
	w.links = slices.Delete(w.links, 2, 3)
	w.ok(network.Ensure(t.Context(), w.env, w.links))
	again, renamed := w.pif("eth7")
	if again != ref || !renamed.Management || renamed.Network != eth0.Network {
		t.Error("a later start loses what was there")
	}
	if _, gone := w.pif("eth1"); gone.CurrentlyAttached {
		t.Error("a port that is not there stays attached")
	}
	if n := w.env.DB.View().Count(datamodel.Get().Class("network")); n != 3 {
		t.Errorf("%d networks after the second start", n)
	}
}

func TestEnsureWithoutPhysicalPorts(t *testing.T) {
	env := xapitest.Open(t, t.TempDir(), nil)
	xapitest.Host(t, env)
	err := network.Ensure(t.Context(), env, []facts.Link{
		{Name: "eth0", Kind: "veth", MAC: "02:42:ac:11:00:02", MTU: 1500, Gateway4: netip.MustParseAddr("172.17.0.1"),
			Addresses: []netip.Prefix{netip.MustParsePrefix("172.17.0.2/16")}},
		{Name: "docker0", Kind: "bridge", MAC: "02:42:ac:11:00:03", MTU: 1500},
	})
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, pif := range db.All[xenapi.PIFRef](env.DB.View()) {
		count++
		if pif.Device != "eth0" || !pif.Management || pif.Netmask != "255.255.0.0" {
			t.Errorf("%+v", pif)
		}
	}
	if count != 1 {
		t.Errorf("%d PIFs", count)
	}
}

func TestNetworkCreate(t *testing.T) {
	w := open(t)
	for _, want := range []string{"xapi0", "xapi1"} {
		ref, err := w.network(nil)
		w.ok(err)
		if got := db.Find(w.env.DB.View(), ref); got.Bridge != want || got.UUID == "" {
			t.Errorf("%+v, want bridge %s", got, want)
		}
	}
	mine, err := w.network(func(n *xenapi.Network) { n.Bridge = "mybridge" })
	w.ok(err)
	if db.Find(w.env.DB.View(), mine).Bridge != "mybridge" {
		t.Error("the bridge's name was not kept")
	}
	if _, err = w.network(func(n *xenapi.Network) { n.Bridge, n.Managed = "xenbr9", false }); err != nil {
		t.Error("an unmanaged network may use any bridge:", err)
	}
	for _, bridge := range []string{strings.Repeat("b", 16), "eth5", "xapi9", "xenbr7", "vif1", "tap0", "a/b", "..", "br%d", "brücke", "-br", "a b", "."} {
		_, err := w.network(func(n *xenapi.Network) { n.Bridge = bridge })
		xapitest.Fails(t, err, "INVALID_VALUE", "bridge", bridge)
	}
	_, err = w.network(func(n *xenapi.Network) { n.Bridge = "mybridge" })
	xapitest.Fails(t, err, "BRIDGE_NAME_EXISTS", "mybridge")
	for _, mtu := range []string{"67", "65536", "-1"} {
		_, err = w.network(func(n *xenapi.Network) { n.MTU = map[string]int64{"67": 67, "65536": 65536, "-1": -1}[mtu] })
		xapitest.Fails(t, err, "INVALID_VALUE", "MTU", mtu)
	}
}

func TestNetworkDestroy(t *testing.T) {
	w := open(t)
	destroy := func(ref xenapi.NetworkRef) error {
		return w.hooks.Destroy["network.destroy"](t.Context(), xapitest.Call(), string(ref))
	}
	pif, eth0 := w.pif("eth0")
	xapitest.Fails(t, destroy(eth0.Network), "NETWORK_CONTAINS_PIF", string(pif))
	for ref, n := range db.All[xenapi.NetworkRef](w.env.DB.View()) {
		if n.Bridge == "xenapi" {
			xapitest.Fails(t, destroy(ref), "CANNOT_DESTROY_SYSTEM_NETWORK", string(ref))
		}
	}
	xapitest.Fails(t, destroy("OpaqueRef:none"), "HANDLE_INVALID", "network", "OpaqueRef:none")
	ref, err := w.network(nil)
	w.ok(err)
	b, err := w.s.Network.CreateNewBlob(t.Context(), xapitest.Call(), service.NetworkCreateNewBlobParams{Network: ref, Name: "map", MimeType: "image/png"})
	w.ok(err)
	_, err = w.s.Network.CreateNewBlob(t.Context(), xapitest.Call(), service.NetworkCreateNewBlobParams{Network: ref, Name: "map"})
	xapitest.Fails(t, err, "MAP_DUPLICATE_KEY", "network", "blobs", string(ref), "map")
	vm := w.vm(xenapi.VMPowerStateRunning)
	vif, err := w.vif(vm, func(v *xenapi.VIF) { v.Network = ref })
	w.ok(err)
	w.attached(vif, true)
	xapitest.Fails(t, destroy(ref), "NETWORK_CONTAINS_VIF", string(vif))
	w.attached(vif, false)
	w.ok(destroy(ref))
	rd := w.env.DB.View()
	if db.Find(rd, ref) != nil || db.Find(rd, vif) != nil || db.Find(rd, b) != nil {
		t.Error("the network left something behind")
	}
}

func TestNetworkMTU(t *testing.T) {
	w := open(t)
	_, eth0 := w.pif("eth0")
	set := func(mtu int64) error {
		c := xapitest.Call()
		c.Message = datamodel.Get().Message("network.set_MTU")
		return w.hooks.Write["network.set_MTU"](t.Context(), c, []any{string(eth0.Network), mtu})
	}
	w.ok(set(9000))
	if _, p := w.pif("eth0"); p.MTU != 9000 || db.Find(w.env.DB.View(), p.Network).MTU != 9000 {
		t.Error("the MTU did not reach the PIF")
	}
	xapitest.Fails(t, set(67), "INVALID_VALUE", "MTU", "67")
	xapitest.Fails(t, set(0), "INVALID_VALUE", "MTU", "0")
	xapitest.Fails(t, set(65536), "INVALID_VALUE", "MTU", "65536")
}

func TestNetworkPurpose(t *testing.T) {
	w := open(t)
	a, err := w.network(nil)
	w.ok(err)
	b, err := w.network(nil)
	w.ok(err)
	add := func(ref xenapi.NetworkRef, v xenapi.NetworkPurpose) error {
		return w.s.Network.AddPurpose(t.Context(), xapitest.Call(), service.NetworkAddPurposeParams{Self: ref, Value: v})
	}
	w.ok(add(a, xenapi.NetworkPurposeNBD))
	w.ok(add(a, xenapi.NetworkPurposeNBD))
	if got := db.Find(w.env.DB.View(), a).Purpose; len(got) != 1 {
		t.Errorf("purpose %v", got)
	}
	xapitest.Fails(t, add(b, xenapi.NetworkPurposeInsecureNBD), "NETWORK_INCOMPATIBLE_PURPOSES", "insecure_nbd", "nbd")
	w.ok(w.s.Network.RemovePurpose(t.Context(), xapitest.Call(), service.NetworkRemovePurposeParams{Self: a, Value: xenapi.NetworkPurposeNBD}))
	w.ok(add(b, xenapi.NetworkPurposeInsecureNBD))
}

func TestNetworkAttachAndLockingMode(t *testing.T) {
	w := open(t)
	ref, eth1 := w.pif("eth1")
	w.ok(w.s.PIF.Unplug(t.Context(), xapitest.Call(), service.PIFUnplugParams{Self: ref}))
	w.ok(w.s.Network.Attach(t.Context(), xapitest.Call(), service.NetworkAttachParams{Network: eth1.Network, Host: w.host}))
	if _, p := w.pif("eth1"); !p.CurrentlyAttached {
		t.Error("attach did not bring the PIF up")
	}
	if !network.Reachable(w.env.DB.View(), eth1.Network, w.host) || network.Reachable(w.env.DB.View(), eth1.Network, "OpaqueRef:other") {
		t.Error("reachability")
	}
	err := w.s.Network.Attach(t.Context(), xapitest.Call(), service.NetworkAttachParams{Network: eth1.Network, Host: "OpaqueRef:other"})
	xapitest.Fails(t, err, "HANDLE_INVALID", "host", "OpaqueRef:other")

	vm := w.vm(xenapi.VMPowerStateRunning)
	vif, err := w.vif(vm, func(v *xenapi.VIF) { v.Network = eth1.Network })
	w.ok(err)
	w.attached(vif, true)
	lock := service.NetworkSetDefaultLockingModeParams{Network: eth1.Network, Value: xenapi.NetworkDefaultLockingModeDisabled}
	xapitest.Fails(t, w.s.Network.SetDefaultLockingMode(t.Context(), xapitest.Call(), lock), "VIF_IN_USE", string(eth1.Network), string(vif))
	xapitest.Fails(t, w.s.PIF.Unplug(t.Context(), xapitest.Call(), service.PIFUnplugParams{Self: ref}), "VIF_IN_USE", string(eth1.Network), string(vif))
	w.attached(vif, false)
	w.ok(w.s.Network.SetDefaultLockingMode(t.Context(), xapitest.Call(), lock))
	if !network.NICConfig(w.env.DB.View(), vif).Disconnected {
		t.Error("the network's locking mode does not reach the VIF")
	}
}
