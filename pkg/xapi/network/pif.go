package network

import (
	"context"
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// pifService serves class PIF.
type pifService struct {
	service.UnimplementedPIF
	n *Networks
}

// Scan implements service.PIF: ports without a PIF get one, unplugged.
func (s pifService) Scan(ctx context.Context, _ *service.Call, p service.PIFScanParams) error {
	links, err := s.n.links(ctx)
	if err != nil && len(links) == 0 {
		return err
	}
	return s.n.env.Update(ctx, func(tx *db.Tx) error {
		if _, err := db.Get(tx, p.Host); err != nil {
			return err
		}
		v := survey{tx: tx, env: s.n.env, host: p.Host, taken: bridges(tx)}
		return v.adopt(portsOf(links), false)
	})
}

// Introduce implements service.PIF: a PIF for a port that has none.
func (s pifService) Introduce(ctx context.Context, _ *service.Call, p service.PIFIntroduceParams) (xenapi.PIFRef, error) {
	mac, ok := parseMAC(p.MAC)
	if !ok && p.MAC != "" {
		return "", xenapi.ErrMACInvalid(p.MAC)
	}
	if !linkName(p.Device) {
		return "", xenapi.ErrInvalidValue("device", p.Device)
	}
	links, err := s.n.links(ctx)
	if err != nil && len(links) == 0 {
		return "", err
	}
	ports := portsOf(links)
	found := slices.IndexFunc(ports, func(q port) bool { return q.Name == p.Device && (mac == "" || q.mac() == mac) })
	var ref xenapi.PIFRef
	err = s.n.env.Update(ctx, func(tx *db.Tx) error {
		if _, err := db.Get(tx, p.Host); err != nil {
			return err
		}
		v := survey{tx: tx, env: s.n.env, host: p.Host, taken: bridges(tx)}
		for _, pif := range v.pifs() {
			if pif.Device == p.Device {
				return xenapi.ErrDuplicatePIFDeviceName(p.Device)
			}
			if pif.MAC == mac {
				return xenapi.ErrMACStillExists(mac)
			}
		}
		if found < 0 {
			return xenapi.ErrCouldNotFindNetworkInterfaceWithSpecifiedDeviceNameAndMACAddress(p.Device, p.MAC)
		}
		ref = v.introduce(p.Device, ports[found].mac(), int64(ports[found].MTU), p.Managed, false)
		return v.refresh(ref, &ports[found], true)
	})
	return ref, err
}

// busyPIF says what other objects keep a PIF from being forgotten.
func busyPIF(ref xenapi.PIFRef, pif *xenapi.PIF) error {
	r := string(ref)
	switch {
	case pif.Management:
		return xenapi.ErrPIFIsManagementInterface(r)
	case pif.BondSlaveOf != xenapi.Null || len(pif.BondMasterOf) > 0:
		return xenapi.ErrPIFAlreadyBonded(r)
	case len(pif.VLANSlaveOf) > 0:
		return xenapi.ErrPIFVLANStillExists(r)
	case len(pif.TunnelTransportPIFOf) > 0:
		return xenapi.ErrPIFTunnelStillExists(r)
	case len(pif.SriovPhysicalPIFOf) > 0:
		return xenapi.ErrPIFSriovStillExists(r)
	}
	return nil
}

// Forget implements service.PIF: the port stays as it is.
func (s pifService) Forget(ctx context.Context, _ *service.Call, p service.PIFForgetParams) error {
	return s.n.env.Update(ctx, func(tx *db.Tx) error {
		pif, err := db.Get(tx, p.Self)
		if err != nil {
			return err
		}
		if err := busyPIF(p.Self, pif); err != nil {
			return err
		}
		remove(tx, p.Self, pif)
		return nil
	})
}

// DBForget implements service.PIF.
func (s pifService) DBForget(ctx context.Context, _ *service.Call, p service.PIFDBForgetParams) error {
	return s.n.env.Update(ctx, func(tx *db.Tx) error {
		pif, err := db.Get(tx, p.Self)
		if err != nil {
			return err
		}
		if pif.Management {
			return xenapi.ErrPIFIsManagementInterface(string(p.Self))
		}
		remove(tx, p.Self, pif)
		return nil
	})
}

func remove(tx *db.Tx, ref xenapi.PIFRef, pif *xenapi.PIF) {
	if pif.Metrics != xenapi.Null {
		db.Delete(tx, pif.Metrics)
	}
	db.Delete(tx, ref)
}

// DBIntroduce implements service.PIF: a record as the caller has it.
func (s pifService) DBIntroduce(ctx context.Context, _ *service.Call, p service.PIFDBIntroduceParams) (xenapi.PIFRef, error) {
	if !linkName(p.Device) {
		return "", xenapi.ErrInvalidValue("device", p.Device)
	}
	if err := checkMTU(p.MTU); err != nil {
		return "", err
	}
	mac, ok := parseMAC(p.MAC)
	if !ok {
		return "", xenapi.ErrMACInvalid(p.MAC)
	}
	if p.VLAN < -1 || p.VLAN > 4094 {
		return "", xenapi.ErrVLANTagInvalid(decimal(p.VLAN))
	}
	ref := xenapi.NewRef[xenapi.PIFRef]()
	pif, metrics := introduced(p), xenapi.NewPIFMetrics()
	metrics.UUID, metrics.LastUpdated, pif.MAC = xenapi.NewUUID(), s.n.env.Time(), mac
	return ref, s.n.env.Update(ctx, func(tx *db.Tx) error {
		for _, other := range db.All[xenapi.PIFRef](tx) {
			if other.Host == p.Host && other.Device == p.Device && other.VLAN == p.VLAN {
				return xenapi.ErrDuplicatePIFDeviceName(p.Device)
			}
		}
		fresh := *pif
		fresh.Metrics = db.Insert[xenapi.PIFMetricsRef](tx, metrics.Clone().(*xenapi.PIFMetrics))
		tx.Insert(string(ref), &fresh)
		return nil
	})
}

func introduced(p service.PIFDBIntroduceParams) *xenapi.PIF {
	pif := xenapi.NewPIF()
	pif.UUID, pif.Device, pif.DeviceName = xenapi.NewUUID(), p.Device, p.Device
	pif.Network, pif.Host, pif.MTU, pif.VLAN = p.Network, p.Host, p.MTU, p.VLAN
	pif.Physical, pif.Managed, pif.Management = p.Physical, p.Managed, false
	pif.IPConfigurationMode, pif.IP, pif.Netmask = p.IPConfigurationMode, p.IP, p.Netmask
	pif.Gateway, pif.DNS = p.Gateway, p.DNS
	pif.IPv6ConfigurationMode, pif.IPv6, pif.IPv6Gateway = p.IPv6ConfigurationMode, p.IPv6, p.IPv6Gateway
	pif.PrimaryAddressType, pif.DisallowUnplug = p.PrimaryAddressType, p.DisallowUnplug
	pif.BondSlaveOf, pif.VLANMasterOf = p.BondSlaveOf, p.VLANMasterOf
	pif.OtherConfig, pif.Properties = p.OtherConfig, p.Properties
	pif.CurrentlyAttached = false
	return pif
}

// Plug implements service.PIF.
func (s pifService) Plug(ctx context.Context, _ *service.Call, p service.PIFPlugParams) error {
	return s.n.plugPIF(ctx, p.Self)
}

// plugPIF records that a PIF and the bridge over it are up.
func (n *Networks) plugPIF(ctx context.Context, ref xenapi.PIFRef) error {
	return n.editPIF(ctx, ref, func(_ *db.Tx, pif *xenapi.PIF) error {
		switch {
		case pif.BondSlaveOf != xenapi.Null:
			return xenapi.ErrCannotPlugBondSlave(string(ref))
		case !pif.Managed:
			return xenapi.ErrPIFUnmanaged(string(ref))
		}
		pif.CurrentlyAttached = true
		return nil
	})
}

// editPIF changes a PIF's record.
func (n *Networks) editPIF(ctx context.Context, ref xenapi.PIFRef, fn func(tx *db.Tx, pif *xenapi.PIF) error) error {
	return n.env.Update(ctx, func(tx *db.Tx) error {
		pif, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		return fn(tx, pif)
	})
}

// Unplug implements service.PIF.
func (s pifService) Unplug(ctx context.Context, _ *service.Call, p service.PIFUnplugParams) error {
	ref := string(p.Self)
	return s.n.editPIF(ctx, p.Self, func(tx *db.Tx, pif *xenapi.PIF) error {
		switch {
		case !pif.Managed:
			return xenapi.ErrPIFUnmanaged(ref)
		case pif.Management:
			return xenapi.ErrPIFIsManagementInterface(ref)
		case pif.DisallowUnplug:
			return xenapi.ErrPIFDoesNotAllowUnplug(ref)
		}
		if net := db.Find(tx, pif.Network); net != nil {
			for _, v := range net.VIFs {
				if inUse(tx, v, pif.Host) {
					return xenapi.ErrVIFInUse(string(pif.Network), string(v))
				}
			}
		}
		pif.CurrentlyAttached = false
		return nil
	})
}

// inUse reports whether a VM that runs on the host has the VIF.
func inUse(rd db.Reader, ref xenapi.VIFRef, host xenapi.HostRef) bool {
	vif := db.Find(rd, ref)
	if vif == nil || !vif.CurrentlyAttached {
		return false
	}
	vm := db.Find(rd, vif.VM)
	return vm != nil && vm.ResidentOn == host
}

// SetDisallowUnplug implements service.PIF.
func (s pifService) SetDisallowUnplug(ctx context.Context, _ *service.Call, p service.PIFSetDisallowUnplugParams) error {
	return s.n.editPIF(ctx, p.Self, func(_ *db.Tx, pif *xenapi.PIF) error {
		pif.DisallowUnplug = p.Value
		return nil
	})
}
