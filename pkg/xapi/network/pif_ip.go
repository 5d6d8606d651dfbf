package network

import (
	"context"
	"strconv"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// ReconfigureIP implements service.PIF.
func (s pifService) ReconfigureIP(ctx context.Context, _ *service.Call, p service.PIFReconfigureIPParams) error {
	if err := nameServers(p.DNS); err != nil {
		return err
	}
	if p.Mode == xenapi.IPConfigurationModeStatic {
		network, err := subnet(p.IP, p.Netmask)
		if err != nil {
			return err
		}
		if err := ipv4.gateway(network, p.Gateway); err != nil {
			return err
		}
	}
	return s.n.editPIF(ctx, p.Self, func(_ *db.Tx, pif *xenapi.PIF) error {
		if err := configurable(p.Self, pif, xenapi.PrimaryAddressTypeIPv4, p.Mode == xenapi.IPConfigurationModeNone); err != nil {
			return err
		}
		was := pif.IPConfigurationMode
		pif.IPConfigurationMode = p.Mode
		switch {
		case p.Mode == xenapi.IPConfigurationModeStatic:
			pif.IP, pif.Netmask, pif.Gateway, pif.DNS = p.IP, p.Netmask, p.Gateway, p.DNS
		case p.Mode != was:
			pif.IP, pif.Netmask, pif.Gateway, pif.DNS = "", "", "", ""
		}
		return nil
	})
}

// ReconfigureIPv6 implements service.PIF.
func (s pifService) ReconfigureIPv6(ctx context.Context, _ *service.Call, p service.PIFReconfigureIPv6Params) error {
	if err := nameServers(p.DNS); err != nil {
		return err
	}
	if p.Mode == xenapi.IPv6ConfigurationModeStatic {
		network, err := ipv6.prefix("IPv6", p.IPv6)
		if err != nil {
			return err
		}
		if err := ipv6.gateway(network, p.Gateway); err != nil {
			return err
		}
	}
	return s.n.editPIF(ctx, p.Self, func(_ *db.Tx, pif *xenapi.PIF) error {
		if err := configurable(p.Self, pif, xenapi.PrimaryAddressTypeIPv6, p.Mode == xenapi.IPv6ConfigurationModeNone); err != nil {
			return err
		}
		was := pif.IPv6ConfigurationMode
		pif.IPv6ConfigurationMode = p.Mode
		switch {
		case p.Mode == xenapi.IPv6ConfigurationModeStatic:
			pif.IPv6, pif.IPv6Gateway = []string{p.IPv6}, p.Gateway
		case p.Mode != was:
			pif.IPv6, pif.IPv6Gateway = nil, ""
		}
		if p.DNS != "" {
			pif.DNS = p.DNS
		}
		return nil
	})
}

// configurable checks that an address of a family may change, or go.
func configurable(ref xenapi.PIFRef, pif *xenapi.PIF, family xenapi.PrimaryAddressType, gone bool) error {
	switch {
	case !pif.Managed:
		return xenapi.ErrPIFUnmanaged(string(ref))
	case pif.BondSlaveOf != xenapi.Null:
		return xenapi.ErrPIFAlreadyBonded(string(ref))
	case pif.Management && gone && pif.PrimaryAddressType == family:
		return xenapi.ErrPIFIsManagementInterface(string(ref))
	}
	return nil
}

// SetPrimaryAddressType implements service.PIF.
func (s pifService) SetPrimaryAddressType(ctx context.Context, _ *service.Call, p service.PIFSetPrimaryAddressTypeParams) error {
	return s.n.editPIF(ctx, p.Self, func(_ *db.Tx, pif *xenapi.PIF) error {
		if pif.Management && pif.PrimaryAddressType != p.PrimaryAddressType {
			return xenapi.ErrPIFIsManagementInterface(string(p.Self))
		}
		pif.PrimaryAddressType = p.PrimaryAddressType
		return nil
	})
}

// properties are the settings of a port, with the values that each may have.
var properties = map[string][]string{"gro": {"on", "off"}}

// SetProperty implements service.PIF.
func (s pifService) SetProperty(ctx context.Context, _ *service.Call, p service.PIFSetPropertyParams) error {
	values, known := properties[p.Name]
	if !known {
		return xenapi.ErrInvalidValue("name", p.Name)
	}
	return s.n.editPIF(ctx, p.Self, func(_ *db.Tx, pif *xenapi.PIF) error {
		if pif.VLAN >= 0 || len(pif.TunnelAccessPIFOf) > 0 || pif.BondSlaveOf != xenapi.Null {
			return xenapi.ErrCannotChangePIFProperties(string(p.Self))
		}
		for _, v := range values {
			if v == p.Value {
				pif.Properties = with(pif.Properties, p.Name, p.Value)
				return nil
			}
		}
		return xenapi.ErrInvalidValue(p.Name, p.Value)
	})
}
