package host

import (
	"context"
	"slices"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// guests lists the VMs on a host but its control domains.
func guests(rd db.Reader, h *xenapi.Host) []xenapi.VMRef {
	var out []xenapi.VMRef
	for _, ref := range h.ResidentVMs {
		if vm := db.Find(rd, ref); vm != nil && !vm.IsControlDomain {
			out = append(out, ref)
		}
	}
	return out
}

// preventing lists the guests that could not be moved off a host, with the
// error of each. As long as a pool has one host that is all of them.
func preventing(rd db.Reader, ref xenapi.HostRef) (map[string][]string, error) {
	h, err := db.Get(rd, ref)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, vm := range guests(rd, h) {
		out[string(vm)] = xenapi.ErrNoHostsAvailable().Description()
	}
	return out, nil
}

// GetVMsWhichPreventEvacuation implements service.Host.
func (s *Hosts) GetVMsWhichPreventEvacuation(_ context.Context, _ *service.Call, p service.HostGetVMsWhichPreventEvacuationParams) (map[string][]string, error) {
	return preventing(s.Env.DB.View(), p.Self)
}

// AssertCanEvacuate implements service.Host.
func (s *Hosts) AssertCanEvacuate(_ context.Context, _ *service.Call, p service.HostAssertCanEvacuateParams) error {
	reasons, err := preventing(s.Env.DB.View(), p.Host)
	if err != nil || len(reasons) == 0 {
		return err
	}
	var texts []string
	for _, reason := range reasons {
		texts = append(texts, strings.Join(reason, ","))
	}
	slices.Sort(texts)
	return xenapi.ErrCannotEvacuateHost(strings.Join(texts, "|"))
}

// Evacuate implements service.Host.
func (s *Hosts) Evacuate(ctx context.Context, c *service.Call, p service.HostEvacuateParams) error {
	if p.EvacuateBatchSize < 0 {
		return xenapi.ErrInvalidValue("evacuate_batch_size", "negative")
	}
	check := func(tx *db.Tx) error {
		if err := checkHost(tx, p.Host, xenapi.HostAllowedOperationsEvacuate); err != nil {
			return err
		}
		if p.Network != xenapi.Null {
			if _, err := db.Get(tx, p.Network); err != nil {
				return err
			}
		}
		reasons, err := preventing(tx, p.Host)
		if err == nil && len(reasons) > 0 {
			err = xenapi.ErrNoHostsAvailable()
		}
		return err
	}
	targets := []ops.Target{ops.On("host", p.Host, xenapi.HostAllowedOperationsEvacuate)}
	return s.Env.Locks.Do(ctx, c, ops.WaitQuick, targets, check, func(context.Context) error { return nil })
}

// GetUncooperativeResidentVMs implements service.Host: nobody counts them any
// more.
func (s *Hosts) GetUncooperativeResidentVMs(_ context.Context, _ *service.Call, p service.HostGetUncooperativeResidentVMsParams) ([]xenapi.VMRef, error) {
	_, err := db.Get(s.Env.DB.View(), p.Self)
	return nil, err
}
