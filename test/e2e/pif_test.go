package e2e

import (
	"slices"
	"testing"

	"xapid/pkg/xenapi"
)

// ports gives the management interface and the others, of which the kernel
// here may have none.
func (w *world) ports() (management xenapi.PIFRef, others []xenapi.PIFRef) {
	w.Helper()
	management = must(w.Host().GetManagementInterface(w.ctx, w.host()))(w)
	others = slices.DeleteFunc(must(w.PIF().GetAll(w.ctx))(w), func(r xenapi.PIFRef) bool { return r == management })
	return management, others
}

// TestManagementInterface is one that can't be taken away.
func TestManagementInterface(t *testing.T) {
	w := start(t)
	pif, _ := w.ports()
	is := "PIF_IS_MANAGEMENT_INTERFACE"
	w.fails(w.PIF().Unplug(w.ctx, pif), is, string(pif))
	w.fails(w.PIF().Forget(w.ctx, pif), is, string(pif))
	w.fails(w.PIF().ReconfigureIP(w.ctx, pif, xenapi.IPConfigurationModeNone, "", "", "", ""), is, string(pif))
	w.fails(w.PIF().SetPrimaryAddressType(w.ctx, pif, xenapi.PrimaryAddressTypeIPv6), is, string(pif))
	r := must(w.PIF().GetRecord(w.ctx, pif))(t)
	if !r.Management || !r.CurrentlyAttached || !r.Physical || r.VLAN != -1 || r.Host != w.host() {
		t.Errorf("%+v", r)
	}
	w.fails(w.Network().Destroy(w.ctx, r.Network), "NETWORK_CONTAINS_PIF", string(pif))
	w.ok(w.PIF().Plug(w.ctx, pif))
	w.ok(w.PIF().SetDisallowUnplug(w.ctx, pif, true))
	w.ok(w.PIF().SetPrimaryAddressType(w.ctx, pif, xenapi.PrimaryAddressTypeIPv4))
	w.ok(w.PIF().SetProperty(w.ctx, pif, "gro", "off"))
	w.fails(w.PIF().SetProperty(w.ctx, pif, "gro", "perhaps"), "INVALID_VALUE", "gro", "perhaps")
	w.fails(w.PIF().SetProperty(w.ctx, pif, "no such", "on"), "INVALID_VALUE", "name", "no such")
	if r := must(w.PIF().GetRecord(w.ctx, pif))(t); !r.DisallowUnplug || r.Properties["gro"] != "off" {
		t.Errorf("%+v", r)
	}
}

// TestPIFAddresses changes the record of the addresses; nothing touches the
// machine's links.
func TestPIFAddresses(t *testing.T) {
	w := start(t)
	pif, _ := w.ports()
	static, bad := xenapi.IPConfigurationModeStatic, "INVALID_IP_ADDRESS_SPECIFIED"
	w.fails(w.PIF().ReconfigureIP(w.ctx, pif, static, "10.0.0.300", "255.255.255.0", "", ""), bad)
	w.fails(w.PIF().ReconfigureIP(w.ctx, pif, static, "10.0.0.1", "255.0.255.0", "", ""), bad)
	w.fails(w.PIF().ReconfigureIP(w.ctx, pif, static, "10.0.0.1", "255.255.255.0", "10.0.1.1", ""), bad)
	w.fails(w.PIF().ReconfigureIP(w.ctx, pif, static, "10.0.0.1", "255.255.255.0", "10.0.0.254", "not a server"), bad)
	w.ok(w.PIF().ReconfigureIP(w.ctx, pif, static, "10.0.0.1", "255.255.255.0", "10.0.0.254", "10.0.0.53,10.0.0.54"))
	w.fails(w.PIF().ReconfigureIPv6(w.ctx, pif, xenapi.IPv6ConfigurationModeStatic, "10.0.0.1/24", "", ""), bad)
	w.ok(w.PIF().ReconfigureIPv6(w.ctx, pif, xenapi.IPv6ConfigurationModeStatic, "2001:db8::1/64", "2001:db8::fe", ""))
	r := must(w.PIF().GetRecord(w.ctx, pif))(t)
	if r.IP != "10.0.0.1" || r.Netmask != "255.255.255.0" || r.Gateway != "10.0.0.254" || r.DNS != "10.0.0.53,10.0.0.54" ||
		r.IPConfigurationMode != static || !slices.Equal(r.IPv6, []string{"2001:db8::1/64"}) || r.IPv6Gateway != "2001:db8::fe" {
		t.Errorf("%+v", r)
	}
}

// TestPIFIntroduce: a port must be there, once; a scan finds what was
// forgotten.
func TestPIFIntroduce(t *testing.T) {
	w := start(t)
	pif, others := w.ports()
	r := must(w.PIF().GetRecord(w.ctx, pif))(t)
	introduce := func(mac, device string) error {
		_, err := w.PIF().Introduce(w.ctx, w.host(), mac, device, true)
		return err
	}
	w.fails(introduce("nonsense", "eth9"), "MAC_INVALID", "nonsense")
	w.fails(introduce(r.MAC, r.Device), "DUPLICATE_PIF_DEVICE_NAME", r.Device)
	for _, device := range []string{"sixteen-letters-", "a/b", "..", "-x", "%d"} {
		w.fails(introduce("00:16:3e:00:00:01", device), "INVALID_VALUE", "device", device)
	}
	w.fails(introduce("00:16:3e:00:00:01", "eth99"), "COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS")
	for _, other := range others {
		w.ok(w.PIF().Unplug(w.ctx, other))
		w.ok(w.PIF().Plug(w.ctx, other))
		w.ok(w.PIF().Forget(w.ctx, other))
	}
	if _, left := w.ports(); len(left) > 0 {
		t.Errorf("%d are left", len(left))
	}
	w.ok(w.PIF().Scan(w.ctx, w.host()))
	if _, found := w.ports(); len(found) != len(others) {
		t.Errorf("a scan found %d, want %d", len(found), len(others))
	}
}
