package network

import (
	"net"
	"net/netip"
	"strings"

	"xapid/pkg/xenapi"
)

// maxDNS bounds a list of name servers.
const maxDNS = 1024

// family is an address family.
type family int

const (
	ipv4 family = 4
	ipv6 family = 6
)

func (f family) of(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && (f == ipv4) == a.Is4() && !a.Is4In6()
}

// address checks an IP address in a field.
func (f family) address(field, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !f.of(a) {
		return a, xenapi.ErrInvalidIPAddressSpecified(field)
	}
	return a, nil
}

// prefix checks an IP address with the length of its network.
func (f family) prefix(field, text string) (netip.Prefix, error) {
	host, _, _ := strings.Cut(text, "/")
	if _, err := f.address(field, host); err != nil {
		return netip.Prefix{}, err
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, xenapi.ErrInvalidCidrAddressSpecified(field)
	}
	return p, nil
}

// gateway checks the gateway of a network, which may be missing.
func (f family) gateway(network netip.Prefix, text string) error {
	if text == "" {
		return nil
	}
	gw, err := f.address("gateway", text)
	if err != nil {
		return err
	}
	if f == ipv4 && !network.Contains(gw) {
		return xenapi.ErrInvalidIPAddressSpecified("gateway")
	}
	return nil
}

// allowed checks the addresses that a locked VIF may use: each an address, or
// a prefix of them.
func (f family) allowed(field string, list []string) error {
	for _, text := range list {
		if _, err := f.address(field, text); err == nil {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || !f.of(p.Addr()) {
			return xenapi.ErrInvalidIPAddressSpecified(field)
		}
	}
	return nil
}

// subnet makes the IPv4 network of an address and a netmask in dotted form.
func subnet(ip, netmask string) (netip.Prefix, error) {
	a, err := ipv4.address("IP", ip)
	if err != nil {
		return netip.Prefix{}, err
	}
	m, err := ipv4.address("netmask", netmask)
	if err != nil {
		return netip.Prefix{}, err
	}
	ones, bits := net.IPMask(m.AsSlice()).Size()
	if bits == 0 || ones == 0 {
		return netip.Prefix{}, xenapi.ErrInvalidIPAddressSpecified("netmask")
	}
	return netip.PrefixFrom(a, ones), nil
}

// netmask writes the mask of a prefix in dotted form.
func netmask(p netip.Prefix) string { return net.IP(net.CIDRMask(p.Bits(), 32)).String() }

// nameServers checks a list of addresses of either family, joined by commas.
func nameServers(list string) error {
	if list == "" {
		return nil
	}
	if len(list) > maxDNS {
		return xenapi.ErrInvalidIPAddressSpecified("DNS")
	}
	for text := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil || a.Is4In6() {
			return xenapi.ErrInvalidIPAddressSpecified("DNS")
		}
	}
	return nil
}
