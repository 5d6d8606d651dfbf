package network

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
)

// Ensure makes the objects of the host's network at the first start: a PIF
// for each port, a network for each PIF, and the internal management network.
// Later starts keep references and what people set, and bring facts up to
// date. host.Ensure must have run.
func Ensure(ctx context.Context, env *xapi.Env, links []facts.Link) error {
	ports := portsOf(links)
	host := env.Host()
	return env.Update(ctx, func(tx *db.Tx) error {
		ensureInternal(tx)
		s := survey{tx: tx, env: env, host: host, taken: bridges(tx)}
		if err := s.adopt(ports, true); err != nil {
			return err
		}
		return s.manage(ports)
	})
}

// port is a link that a PIF stands for, with the addresses that the host has
// through it, be they on the link itself or on a bridge over it.
type port struct {
	facts.Link
	addresses          []netip.Prefix
	gateway4, gateway6 netip.Addr
	dns                []string
}

// mac is the address that the card was made with.
func (p *port) mac() string {
	if p.PermanentMAC != "" {
		return strings.ToLower(p.PermanentMAC)
	}
	return strings.ToLower(p.MAC)
}

// portsOf picks the links that are a machine's ports: physical ones. Where
// there is none (a container, a virtual machine of another kind) it is those
// through which the machine reaches others.
func portsOf(links []facts.Link) []port {
	byName := map[string]facts.Link{}
	for _, l := range links {
		byName[l.Name] = l
	}
	pick := func(accept func(l facts.Link) bool) []port {
		var out []port
		for _, l := range links {
			if _, ok := parseMAC(strings.ToLower(l.MAC)); !ok || !accept(l) {
				continue
			}
			p := port{Link: l, addresses: l.Addresses, gateway4: l.Gateway4, gateway6: l.Gateway6, dns: l.DNS}
			if over, ok := byName[l.Master]; ok && over.Kind == "bridge" {
				p.addresses = slices.Concat(p.addresses, over.Addresses)
				if !p.gateway4.IsValid() {
					p.gateway4, p.dns = over.Gateway4, over.DNS
				}
				if !p.gateway6.IsValid() {
					p.gateway6 = over.Gateway6
				}
			}
			out = append(out, p)
		}
		return out
	}
	if ports := pick(func(l facts.Link) bool { return l.Physical && !l.VirtualFunction }); len(ports) > 0 {
		return ports
	}
	return pick(func(l facts.Link) bool { return l.Gateway4.IsValid() || l.Gateway6.IsValid() })
}

// survey compares a host's PIFs with its ports, within a transaction.
type survey struct {
	tx    *db.Tx
	env   *xapi.Env
	host  xenapi.HostRef
	taken map[string]bool // names of bridges
}

// pifs are the host's PIFs of ports.
func (s *survey) pifs() map[xenapi.PIFRef]*xenapi.PIF {
	out := map[xenapi.PIFRef]*xenapi.PIF{}
	for ref, pif := range db.All[xenapi.PIFRef](s.tx) {
		if pif.Host == s.host && pif.Physical {
			out[ref] = pif
		}
	}
	return out
}

// adopt makes PIFs of the ports that have none and refreshes the others. Those
// whose port has gone stay, detached.
func (s *survey) adopt(ports []port, attached bool) error {
	known := s.pifs()
	for i := range ports {
		p := &ports[i]
		ref := matching(known, p)
		fresh := ref == ""
		if fresh {
			ref = s.introduce(p.Name, p.mac(), int64(p.MTU), true, attached)
		}
		delete(known, ref)
		if err := s.refresh(ref, p, fresh); err != nil {
			return err
		}
	}
	for ref := range known {
		pif, err := db.Edit(s.tx, ref)
		if err != nil {
			return err
		}
		pif.CurrentlyAttached = false
		if metrics, err := db.Edit(s.tx, pif.Metrics); err == nil {
			metrics.Carrier = false
		}
	}
	return nil
}

// matching finds the PIF of a port: by its address, else by its name.
func matching(known map[xenapi.PIFRef]*xenapi.PIF, p *port) xenapi.PIFRef {
	named := xenapi.PIFRef("")
	for ref, pif := range known {
		if pif.MAC == p.mac() {
			return ref
		}
		if pif.Device == p.Name {
			named = ref
		}
	}
	return named
}

// introduce makes a PIF with its network and metrics.
func (s *survey) introduce(device, mac string, mtu int64, managed, attached bool) xenapi.PIFRef {
	if mtu < minMTU {
		mtu = defaultMTU
	}
	net := xenapi.NewNetwork()
	net.UUID, net.NameLabel = xenapi.NewUUID(), "Pool-wide network associated with "+device
	net.Bridge, net.MTU = bridgeFor(device, s.taken), mtu
	s.taken[net.Bridge] = true
	metrics := xenapi.NewPIFMetrics()
	metrics.UUID, metrics.PCIBusPath = xenapi.NewUUID(), "N/A"
	pif := xenapi.NewPIF()
	pif.UUID, pif.Host, pif.Device, pif.DeviceName = xenapi.NewUUID(), s.host, device, device
	pif.MAC, pif.MTU, pif.VLAN, pif.Physical, pif.Managed = mac, mtu, -1, true, managed
	pif.CurrentlyAttached = attached
	pif.Network = db.Insert[xenapi.NetworkRef](s.tx, net)
	pif.Metrics = db.Insert[xenapi.PIFMetricsRef](s.tx, metrics)
	return db.Insert[xenapi.PIFRef](s.tx, pif)
}

// refresh writes what is known of a port into its PIF. How it is configured is
// found out for a fresh one; later only what the network itself decides.
func (s *survey) refresh(ref xenapi.PIFRef, p *port, fresh bool) error {
	pif, err := db.Edit(s.tx, ref)
	if err != nil {
		return err
	}
	pif.Device, pif.DeviceName, pif.MAC = p.Name, p.Name, p.mac()
	if fresh || pif.IPConfigurationMode == xenapi.IPConfigurationModeDHCP {
		setIPv4(pif, p)
	}
	if fresh || pif.IPv6ConfigurationMode == xenapi.IPv6ConfigurationModeDHCP || pif.IPv6ConfigurationMode == xenapi.IPv6ConfigurationModeAutoconf {
		setIPv6(pif, p)
	}
	if db.Find(s.tx, pif.Metrics) == nil {
		made := xenapi.NewPIFMetrics()
		made.UUID = xenapi.NewUUID()
		pif.Metrics = db.Insert[xenapi.PIFMetricsRef](s.tx, made)
	}
	m, err := db.Edit(s.tx, pif.Metrics)
	if err != nil {
		return err
	}
	m.Carrier, m.Speed, m.Duplex = p.Carrier, int64(p.SpeedMbps), p.Duplex == "full"
	m.VendorID, m.VendorName, m.DeviceID, m.DeviceName = p.PCI.VendorID, p.PCI.VendorName, p.PCI.DeviceID, p.PCI.Name
	m.PCIBusPath, m.LastUpdated = "N/A", s.env.Time()
	if p.PCI.Address != "" {
		m.PCIBusPath = p.PCI.Address
	}
	return nil
}

// setIPv4 records the address that the host has now; DHCP is what a later
// start would ask.
func setIPv4(pif *xenapi.PIF, p *port) {
	pif.IP, pif.Netmask, pif.Gateway, pif.DNS = "", "", "", ""
	for _, a := range p.addresses {
		if a.Addr().Is4() && !a.Addr().IsLinkLocalUnicast() {
			pif.IPConfigurationMode = xenapi.IPConfigurationModeDHCP
			pif.IP, pif.Netmask = a.Addr().String(), netmask(a)
			break
		}
	}
	if pif.IP != "" && p.gateway4.IsValid() {
		pif.Gateway, pif.DNS = p.gateway4.String(), strings.Join(p.dns, ",")
	}
}

func setIPv6(pif *xenapi.PIF, p *port) {
	pif.IPv6, pif.IPv6Gateway = nil, ""
	for _, a := range p.addresses {
		if a.Addr().Is6() && !a.Addr().IsLinkLocalUnicast() {
			pif.IPv6 = append(pif.IPv6, a.String())
		}
	}
	if len(pif.IPv6) > 0 {
		if pif.IPv6ConfigurationMode == xenapi.IPv6ConfigurationModeNone {
			pif.IPv6ConfigurationMode = xenapi.IPv6ConfigurationModeAutoconf
		}
		if p.gateway6.IsValid() {
			pif.IPv6Gateway = p.gateway6.String()
		}
	}
}

// manage marks the PIF through which the host is managed, unless one is, and
// gives the host that address if it has no other.
func (s *survey) manage(ports []port) error {
	chosen := managing(s.edited(), ports)
	if chosen == "" {
		return nil
	}
	pif, err := db.Edit(s.tx, chosen)
	if err != nil {
		return err
	}
	pif.Management, pif.CurrentlyAttached = true, true
	host, err := db.Edit(s.tx, s.host)
	if err != nil {
		return err
	}
	if host.Address == "" {
		host.Address = pif.IP
	}
	return nil
}

// managing picks the PIF that is marked, else that of the default route, else
// the first one.
func managing(pifs map[xenapi.PIFRef]*xenapi.PIF, ports []port) xenapi.PIFRef {
	for ref, pif := range pifs {
		if pif.Management {
			return ref
		}
	}
	routed := slices.IndexFunc(ports, func(p port) bool { return p.gateway4.IsValid() || p.gateway6.IsValid() })
	for ref, pif := range pifs {
		if len(ports) > 0 && pif.MAC == ports[max(routed, 0)].mac() {
			return ref
		}
	}
	return ""
}

// edited are the host's PIFs as the transaction has made them.
func (s *survey) edited() map[xenapi.PIFRef]*xenapi.PIF {
	out := map[xenapi.PIFRef]*xenapi.PIF{}
	for _, key := range s.tx.Edited() {
		if pif := db.Find(s.tx, xenapi.PIFRef(key.Ref)); pif != nil && pif.Host == s.host {
			out[xenapi.PIFRef(key.Ref)] = pif
		}
	}
	return out
}

// ensureInternal keeps the network on which guests can reach the host.
func ensureInternal(tx *db.Tx) {
	for _, n := range db.All[xenapi.NetworkRef](tx) {
		if isSystem(n) {
			return
		}
	}
	n := xenapi.NewNetwork()
	n.UUID, n.NameLabel, n.Bridge = xenapi.NewUUID(), "Host internal management network", "xenapi"
	n.NameDescription = "Guests on it get a private link-local address, from which they can reach the API"
	n.OtherConfig = map[string]string{"is_guest_installer_network": "true", "is_host_internal_management_network": "true",
		"ip_begin": "169.254.0.1", "ip_end": "169.254.255.254", "netmask": "255.255.0.0"}
	db.Insert[xenapi.NetworkRef](tx, n)
}
