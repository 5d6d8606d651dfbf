package network

import (
	"context"
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// edit changes a VIF's record.
func (s vifService) edit(ctx context.Context, ref xenapi.VIFRef, fn func(vif *xenapi.VIF)) error {
	return s.n.env.Update(ctx, func(tx *db.Tx) error {
		vif, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		fn(vif)
		return nil
	})
}

// SetLockingMode implements service.VIF. The carrier of a disabled interface
// is off from the next plug on; filters are the bridge's affair.
func (s vifService) SetLockingMode(ctx context.Context, _ *service.Call, p service.VIFSetLockingModeParams) error {
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) { vif.LockingMode = p.Value })
}

// SetIPv4Allowed implements service.VIF.
func (s vifService) SetIPv4Allowed(ctx context.Context, _ *service.Call, p service.VIFSetIPv4AllowedParams) error {
	if err := ipv4.allowed("ipv4_allowed", p.Value); err != nil {
		return err
	}
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) { vif.IPv4Allowed = distinct(p.Value) })
}

// AddIPv4Allowed implements service.VIF.
func (s vifService) AddIPv4Allowed(ctx context.Context, _ *service.Call, p service.VIFAddIPv4AllowedParams) error {
	if err := ipv4.allowed("ipv4_allowed", []string{p.Value}); err != nil {
		return err
	}
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) {
		vif.IPv4Allowed = distinct(append(slices.Clip(vif.IPv4Allowed), p.Value))
	})
}

// RemoveIPv4Allowed implements service.VIF.
func (s vifService) RemoveIPv4Allowed(ctx context.Context, _ *service.Call, p service.VIFRemoveIPv4AllowedParams) error {
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) { vif.IPv4Allowed = without(vif.IPv4Allowed, p.Value) })
}

// SetIPv6Allowed implements service.VIF.
func (s vifService) SetIPv6Allowed(ctx context.Context, _ *service.Call, p service.VIFSetIPv6AllowedParams) error {
	if err := ipv6.allowed("ipv6_allowed", p.Value); err != nil {
		return err
	}
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) { vif.IPv6Allowed = distinct(p.Value) })
}

// AddIPv6Allowed implements service.VIF.
func (s vifService) AddIPv6Allowed(ctx context.Context, _ *service.Call, p service.VIFAddIPv6AllowedParams) error {
	if err := ipv6.allowed("ipv6_allowed", []string{p.Value}); err != nil {
		return err
	}
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) {
		vif.IPv6Allowed = distinct(append(slices.Clip(vif.IPv6Allowed), p.Value))
	})
}

// RemoveIPv6Allowed implements service.VIF.
func (s vifService) RemoveIPv6Allowed(ctx context.Context, _ *service.Call, p service.VIFRemoveIPv6AllowedParams) error {
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) { vif.IPv6Allowed = without(vif.IPv6Allowed, p.Value) })
}

// ConfigureIPv4 implements service.VIF: what the guest's agent is told.
func (s vifService) ConfigureIPv4(ctx context.Context, _ *service.Call, p service.VIFConfigureIPv4Params) error {
	var addresses []string
	gateway := ""
	if p.Mode == xenapi.VIFIPv4ConfigurationModeStatic {
		network, err := ipv4.prefix("address", p.Address)
		if err != nil {
			return err
		}
		if err := ipv4.gateway(network, p.Gateway); err != nil {
			return err
		}
		addresses, gateway = []string{p.Address}, p.Gateway
	}
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) {
		vif.IPv4ConfigurationMode, vif.IPv4Addresses, vif.IPv4Gateway = p.Mode, addresses, gateway
	})
}

// ConfigureIPv6 implements service.VIF: what the guest's agent is told.
func (s vifService) ConfigureIPv6(ctx context.Context, _ *service.Call, p service.VIFConfigureIPv6Params) error {
	var addresses []string
	gateway := ""
	if p.Mode == xenapi.VIFIPv6ConfigurationModeStatic {
		network, err := ipv6.prefix("address", p.Address)
		if err != nil {
			return err
		}
		if err := ipv6.gateway(network, p.Gateway); err != nil {
			return err
		}
		addresses, gateway = []string{p.Address}, p.Gateway
	}
	return s.edit(ctx, p.Self, func(vif *xenapi.VIF) {
		vif.IPv6ConfigurationMode, vif.IPv6Addresses, vif.IPv6Gateway = p.Mode, addresses, gateway
	})
}

// distinct drops what a list has twice; the first of each stays.
func distinct(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func without(list []string, gone string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == gone })
}
