package network_test

import (
	"strings"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

func TestPIFScanIntroduceForget(t *testing.T) {
	w := open(t)
	ctx, c, s := t.Context(), xapitest.Call(), w.s.PIF
	w.links = append(w.links, facts.Link{Name: "eth2", MAC: "00:16:3e:00:00:03", MTU: 1500, Physical: true})
	w.ok(s.Scan(ctx, c, service.PIFScanParams{Host: w.host}))
	ref, eth2 := w.pif("eth2")
	if eth2.CurrentlyAttached {
		t.Error("a port that a scan found is up")
	}
	xapitest.Fails(t, s.Scan(ctx, c, service.PIFScanParams{Host: "OpaqueRef:x"}), "HANDLE_INVALID", "host", "OpaqueRef:x")

	introduce := func(mac, device string) error {
		_, err := s.Introduce(ctx, c, service.PIFIntroduceParams{Host: w.host, MAC: mac, Device: device, Managed: true})
		return err
	}
	xapitest.Fails(t, introduce("", "eth2"), "DUPLICATE_PIF_DEVICE_NAME", "eth2")
	xapitest.Fails(t, introduce("00:16:3e:00:00:03", "eth3"), "MAC_STILL_EXISTS", "00:16:3e:00:00:03")
	w.ok(s.Forget(ctx, c, service.PIFForgetParams{Self: ref}))
	xapitest.Fails(t, s.Forget(ctx, c, service.PIFForgetParams{Self: ref}), "HANDLE_INVALID", "PIF", string(ref))
	if db.Find(w.env.DB.View(), eth2.Metrics) != nil {
		t.Error("metrics stay behind")
	}
	again, err := s.Introduce(ctx, c, service.PIFIntroduceParams{Host: w.host, MAC: "00:16:3E:00:00:03", Device: "eth2", Managed: true})
	w.ok(err)
	if got, _ := w.pif("eth2"); got != again {
		t.Errorf("introduce returned %q for %s", again, got)
	}
	xapitest.Fails(t, introduce("00:16:3e:00:00:09", "eth9"),
		"COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS", "eth9", "00:16:3e:00:00:09")
	for _, mac := range []string{"x", "01:00:5e:00:00:01", "00:00:00:00:00:00"} {
		xapitest.Fails(t, introduce(mac, "eth3"), "MAC_INVALID", mac)
	}
	for _, device := range []string{"", "abcdefghijklmnop", "a/b", "..", "%d", "ünicode", "-eth"} {
		xapitest.Fails(t, introduce("", device), "INVALID_VALUE", "device", device)
	}
	eth0, _ := w.pif("eth0")
	xapitest.Fails(t, s.Forget(ctx, c, service.PIFForgetParams{Self: eth0}), "PIF_IS_MANAGEMENT_INTERFACE", string(eth0))
	xapitest.Fails(t, s.DBForget(ctx, c, service.PIFDBForgetParams{Self: eth0}), "PIF_IS_MANAGEMENT_INTERFACE", string(eth0))
}

func TestPIFDBIntroduce(t *testing.T) {
	w := open(t)
	_, eth1 := w.pif("eth1")
	p := service.PIFDBIntroduceParams{Device: "eth5", Network: eth1.Network, Host: w.host, MAC: "00:16:3e:00:00:05", MTU: 1500, VLAN: 7,
		IPConfigurationMode: xenapi.IPConfigurationModeNone, BondSlaveOf: xenapi.Null, VLANMasterOf: xenapi.Null,
		IPv6ConfigurationMode: xenapi.IPv6ConfigurationModeNone, PrimaryAddressType: xenapi.PrimaryAddressTypeIPv4, Managed: true}
	call := func(change func(p *service.PIFDBIntroduceParams)) (xenapi.PIFRef, error) {
		q := p
		if change != nil {
			change(&q)
		}
		return w.s.PIF.DBIntroduce(t.Context(), xapitest.Call(), q)
	}
	ref, err := call(nil)
	w.ok(err)
	if pif := db.Find(w.env.DB.View(), ref); pif.VLAN != 7 || pif.CurrentlyAttached || db.Find(w.env.DB.View(), pif.Metrics) == nil {
		t.Errorf("%+v", pif)
	}
	_, err = call(nil)
	xapitest.Fails(t, err, "DUPLICATE_PIF_DEVICE_NAME", "eth5")
	_, err = call(func(p *service.PIFDBIntroduceParams) { p.VLAN = 4095 })
	xapitest.Fails(t, err, "VLAN_TAG_INVALID", "4095")
	_, err = call(func(p *service.PIFDBIntroduceParams) { p.MAC = "" })
	xapitest.Fails(t, err, "MAC_INVALID", "")
	_, err = call(func(p *service.PIFDBIntroduceParams) { p.Device = "../x" })
	xapitest.Fails(t, err, "INVALID_VALUE", "device", "../x")
	_, err = call(func(p *service.PIFDBIntroduceParams) { p.MTU = 67 })
	xapitest.Fails(t, err, "INVALID_VALUE", "MTU", "67")
	w.ok(w.s.PIF.DBForget(t.Context(), xapitest.Call(), service.PIFDBForgetParams{Self: ref}))
}

func TestPIFPlug(t *testing.T) {
	w := open(t)
	ctx, c, s := t.Context(), xapitest.Call(), w.s.PIF
	eth0, _ := w.pif("eth0")
	eth1, _ := w.pif("eth1")
	unplug := func(ref xenapi.PIFRef) error { return s.Unplug(ctx, c, service.PIFUnplugParams{Self: ref}) }
	plug := func(ref xenapi.PIFRef) error { return s.Plug(ctx, c, service.PIFPlugParams{Self: ref}) }
	xapitest.Fails(t, unplug(eth0), "PIF_IS_MANAGEMENT_INTERFACE", string(eth0))
	w.ok(s.SetDisallowUnplug(ctx, c, service.PIFSetDisallowUnplugParams{Self: eth1, Value: true}))
	xapitest.Fails(t, unplug(eth1), "PIF_DOES_NOT_ALLOW_UNPLUG", string(eth1))
	w.ok(s.SetDisallowUnplug(ctx, c, service.PIFSetDisallowUnplugParams{Self: eth1, Value: false}))
	for range 2 {
		w.ok(unplug(eth1))
		if _, p := w.pif("eth1"); p.CurrentlyAttached {
			t.Error("still attached")
		}
	}
	for range 2 {
		w.ok(plug(eth1))
	}
	edit := func(fn func(tx *db.Tx, pif *xenapi.PIF)) {
		xapitest.Update(t, w.env, func(tx *db.Tx) {
			if pif, err := db.Edit(tx, eth1); err == nil {
				fn(tx, pif)
			}
		})
	}
	edit(func(tx *db.Tx, pif *xenapi.PIF) {
		bond := xenapi.NewBond()
		bond.UUID, bond.Master = xenapi.NewUUID(), eth0
		pif.BondSlaveOf = db.Insert[xenapi.BondRef](tx, bond)
	})
	xapitest.Fails(t, plug(eth1), "CANNOT_PLUG_BOND_SLAVE", string(eth1))
	xapitest.Fails(t, s.Forget(ctx, c, service.PIFForgetParams{Self: eth1}), "PIF_ALREADY_BONDED", string(eth1))
	edit(func(_ *db.Tx, pif *xenapi.PIF) { pif.BondSlaveOf, pif.Managed = xenapi.Null, false })
	xapitest.Fails(t, plug(eth1), "PIF_UNMANAGED", string(eth1))
	xapitest.Fails(t, unplug(eth1), "PIF_UNMANAGED", string(eth1))
}

func TestPIFReconfigureIP(t *testing.T) {
	w := open(t)
	eth0, _ := w.pif("eth0")
	eth1, _ := w.pif("eth1")
	good := service.PIFReconfigureIPParams{Self: eth1, Mode: xenapi.IPConfigurationModeStatic, IP: "10.0.0.2",
		Netmask: "255.255.255.0", Gateway: "10.0.0.1", DNS: "10.0.0.3, 2001:db8::1"}
	call := func(change func(p *service.PIFReconfigureIPParams)) error {
		p := good
		change(&p)
		return w.s.PIF.ReconfigureIP(t.Context(), xapitest.Call(), p)
	}
	w.ok(call(func(*service.PIFReconfigureIPParams) {}))
	if _, p := w.pif("eth1"); p.IP != "10.0.0.2" || p.Gateway != "10.0.0.1" || p.IPConfigurationMode != xenapi.IPConfigurationModeStatic {
		t.Errorf("%+v", p)
	}
	for field, changes := range map[string][]func(p *service.PIFReconfigureIPParams){
		"IP": {func(p *service.PIFReconfigureIPParams) { p.IP = "" }, func(p *service.PIFReconfigureIPParams) { p.IP = "10.0.0.1/33" },
			func(p *service.PIFReconfigureIPParams) { p.IP = "::1" }, func(p *service.PIFReconfigureIPParams) { p.IP = "::ffff:10.0.0.1" }},
		"netmask": {func(p *service.PIFReconfigureIPParams) { p.Netmask = "" }, func(p *service.PIFReconfigureIPParams) { p.Netmask = "24" },
			func(p *service.PIFReconfigureIPParams) { p.Netmask = "255.0.255.0" }, func(p *service.PIFReconfigureIPParams) { p.Netmask = "0.0.0.0" }},
		"gateway": {func(p *service.PIFReconfigureIPParams) { p.Gateway = "10.0.1.1" }, func(p *service.PIFReconfigureIPParams) { p.Gateway = "x" }},
		"DNS": {func(p *service.PIFReconfigureIPParams) { p.DNS = "x" }, func(p *service.PIFReconfigureIPParams) { p.DNS = "10.0.0.1,,10.0.0.2" },
			func(p *service.PIFReconfigureIPParams) { p.DNS = strings.Repeat("10.0.0.1,", 1<<17) }},
	} {
		for _, change := range changes {
			xapitest.Fails(t, call(change), "INVALID_IP_ADDRESS_SPECIFIED", field)
		}
	}
	off := func(p *service.PIFReconfigureIPParams) { p.Mode = xenapi.IPConfigurationModeNone }
	xapitest.Fails(t, call(func(p *service.PIFReconfigureIPParams) { off(p); p.Self = eth0 }), "PIF_IS_MANAGEMENT_INTERFACE", string(eth0))
	w.ok(call(off))
	if _, p := w.pif("eth1"); p.IP != "" || p.DNS != "" {
		t.Errorf("%+v", p)
	}
}

func TestPIFReconfigureIPv6AndProperties(t *testing.T) {
	w := open(t)
	ctx, c, s := t.Context(), xapitest.Call(), w.s.PIF
	eth0, _ := w.pif("eth0")
	eth1, _ := w.pif("eth1")
	six := func(address, gateway string) error {
		return s.ReconfigureIPv6(ctx, c, service.PIFReconfigureIPv6Params{Self: eth1, Mode: xenapi.IPv6ConfigurationModeStatic, IPv6: address, Gateway: gateway, DNS: "::1"})
	}
	w.ok(six("2001:db8::2/64", "2001:db8::1"))
	if _, p := w.pif("eth1"); len(p.IPv6) != 1 || p.IPv6Gateway != "2001:db8::1" {
		t.Errorf("%+v", p)
	}
	xapitest.Fails(t, six("10.0.0.1/24", ""), "INVALID_IP_ADDRESS_SPECIFIED", "IPv6")
	xapitest.Fails(t, six("2001:db8::2", ""), "INVALID_CIDR_ADDRESS_SPECIFIED", "IPv6")
	xapitest.Fails(t, six("2001:db8::2/64", "10.0.0.1"), "INVALID_IP_ADDRESS_SPECIFIED", "gateway")
	w.ok(s.ReconfigureIPv6(ctx, c, service.PIFReconfigureIPv6Params{Self: eth0, Mode: xenapi.IPv6ConfigurationModeNone}))

	primary := func(ref xenapi.PIFRef) error {
		return s.SetPrimaryAddressType(ctx, c, service.PIFSetPrimaryAddressTypeParams{Self: ref, PrimaryAddressType: xenapi.PrimaryAddressTypeIPv6})
	}
	w.ok(primary(eth1))
	xapitest.Fails(t, primary(eth0), "PIF_IS_MANAGEMENT_INTERFACE", string(eth0))

	set := func(name, value string) error {
		return s.SetProperty(ctx, c, service.PIFSetPropertyParams{Self: eth1, Name: name, Value: value})
	}
	w.ok(set("gro", "off"))
	if _, p := w.pif("eth1"); p.Properties["gro"] != "off" {
		t.Errorf("%v", p.Properties)
	}
	xapitest.Fails(t, set("gro", "maybe"), "INVALID_VALUE", "gro", "maybe")
	xapitest.Fails(t, set("tso", "on"), "INVALID_VALUE", "name", "tso")
	xapitest.Update(t, w.env, func(tx *db.Tx) {
		if pif, err := db.Edit(tx, eth1); err == nil {
			pif.VLAN = 3
		}
	})
	xapitest.Fails(t, set("gro", "on"), "CANNOT_CHANGE_PIF_PROPERTIES", string(eth1))
}
