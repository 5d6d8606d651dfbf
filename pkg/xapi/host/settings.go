package host

import (
	"context"
	"strconv"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// maxIQN is what RFC 3720 allows for the name of an iSCSI initiator.
const maxIQN = 223

// SetIscsiIqn implements service.Host.
func (s *Hosts) SetIscsiIqn(ctx context.Context, _ *service.Call, p service.HostSetIscsiIqnParams) error {
	if p.Value == "" || len(p.Value) > maxIQN || strings.ContainsFunc(p.Value, notInIQN) {
		return xenapi.ErrInvalidValue("value", p.Value)
	}
	return s.edit(ctx, p.Host, func(_ *db.Tx, h *xenapi.Host) error {
		h.IscsiIqn = p.Value
		h.OtherConfig = with(h.OtherConfig, "iscsi_iqn", p.Value)
		return nil
	})
}

// notInIQN holds for what would end a name in the initiator's configuration.
func notInIQN(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`"'#\`, r) }

// SetMultipathing implements service.Host.
func (s *Hosts) SetMultipathing(ctx context.Context, _ *service.Call, p service.HostSetMultipathingParams) error {
	return s.edit(ctx, p.Host, func(_ *db.Tx, h *xenapi.Host) error {
		h.Multipathing = p.Value
		h.OtherConfig = with(h.OtherConfig, "multipathing", strconv.FormatBool(p.Value))
		if p.Value {
			h.OtherConfig = with(h.OtherConfig, "multipathhandle", "dmp")
		}
		return nil
	})
}

// SetSSLLegacy implements service.Host: old TLS versions are gone for good.
func (s *Hosts) SetSSLLegacy(ctx context.Context, _ *service.Call, p service.HostSetSSLLegacyParams) error {
	if p.Value {
		return xenapi.ErrValueNotSupported("value", "true", "legacy TLS can no longer be enabled")
	}
	return s.edit(ctx, p.Self, func(_ *db.Tx, h *xenapi.Host) error {
		h.SSLLegacy = false
		return nil
	})
}

// passwordKey in power_on_config becomes a secret, which secretKey names.
const (
	passwordKey = "power_on_password"
	secretKey   = "power_on_password_secret"
)

// SetPowerOnMode implements service.Host: how others wake this host is
// recorded; a password among it becomes a secret object.
func (s *Hosts) SetPowerOnMode(ctx context.Context, _ *service.Call, p service.HostSetPowerOnModeParams) error {
	uuid := xenapi.NewUUID()
	return s.edit(ctx, p.Self, func(tx *db.Tx, h *xenapi.Host) error {
		config := p.PowerOnConfig
		if password, ok := config[passwordKey]; ok {
			secret := xenapi.NewSecret()
			secret.UUID, secret.Value = uuid, password
			db.Insert[xenapi.SecretRef](tx, secret)
			config = with(without(config, passwordKey), secretKey, uuid)
		}
		h.PowerOnMode, h.PowerOnConfig = p.PowerOnMode, config
		return nil
	})
}
