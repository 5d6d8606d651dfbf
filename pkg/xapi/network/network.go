// Package network is the behaviour of networks, of the VIFs of VMs on them
// and of the PIFs of hosts.
//
// Its one invariant: nothing here touches a link of this machine. PIFs are
// records of links as they were found; a VIF reaches its guest through the
// hypervisor alone. Start reading at Ensure, then vif.go.
package network

import (
	"context"
	"maps"
	"slices"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/blob"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Networks serves the classes network, VIF and PIF.
type Networks struct {
	env *xapi.Env
	// links lists the machine's links.
	links func(ctx context.Context) ([]facts.Link, error)
}

// New makes the services; links lists the links of this machine.
func New(env *xapi.Env, links func(ctx context.Context) ([]facts.Link, error)) *Networks {
	return &Networks{env: env, links: links}
}

// Register puts the messages of the three classes where the server finds them.
func (n *Networks) Register(h xapi.Hooks, s *service.Services) {
	s.Network = networkService{n: n}
	s.VIF = vifService{n: n}
	s.PIF = pifService{n: n}
	h.Create["network.create"] = n.createNetwork
	h.Destroy["network.destroy"] = n.destroyNetwork
	h.Write["network.set_MTU"] = n.setMTU
	h.Create["VIF.create"] = n.createVIF
	h.Destroy["VIF.destroy"] = n.destroyVIF
}

// networkService serves class network.
type networkService struct {
	service.UnimplementedNetwork
	n *Networks
}

// systemKeys in a network's other_config mark those that the host itself uses.
var systemKeys = []string{"is_host_internal_management_network", "is_guest_installer_network"}

func isSystem(n *xenapi.Network) bool {
	return slices.ContainsFunc(systemKeys, func(key string) bool { return n.OtherConfig[key] == "true" })
}

func (n *Networks) createNetwork(ctx context.Context, _ *service.Call, r xenapi.Record, _ func(string) bool) (string, error) {
	rec := r.(*xenapi.Network)
	if err := checkMTU(rec.MTU); err != nil {
		return "", err
	}
	if rec.MTU == 0 {
		rec.MTU = defaultMTU
	}
	wanted, uuid := rec.Bridge, xenapi.NewUUID()
	ref := xenapi.NewRef[string]()
	return ref, n.env.Update(ctx, func(tx *db.Tx) error {
		fresh := *rec
		fresh.UUID = uuid
		if wanted == "" {
			fresh.Bridge = freeBridge(bridges(tx))
		} else if err := checkBridge(tx, wanted, rec.Managed); err != nil {
			return err
		}
		tx.Insert(ref, &fresh)
		return nil
	})
}

func (n *Networks) destroyNetwork(ctx context.Context, _ *service.Call, r string) error {
	ref := xenapi.NetworkRef(r)
	return n.env.Update(ctx, func(tx *db.Tx) error {
		net, err := db.Get(tx, ref)
		if err != nil {
			return err
		}
		var attached []string
		for _, v := range net.VIFs {
			if vif := db.Find(tx, v); vif != nil && (vif.CurrentlyAttached || len(vif.CurrentOperations) > 0) {
				attached = append(attached, string(v))
			}
		}
		switch {
		case len(attached) > 0:
			return &xenapi.Error{Code: "NETWORK_CONTAINS_VIF", Params: attached}
		case len(net.PIFs) > 0:
			return &xenapi.Error{Code: "NETWORK_CONTAINS_PIF", Params: xenapi.Texts(net.PIFs)}
		case isSystem(net):
			return xenapi.ErrCannotDestroySystemNetwork(r)
		}
		for _, v := range net.VIFs {
			db.Delete(tx, v)
		}
		for _, b := range net.Blobs {
			db.Delete(tx, xenapi.BlobRef(b))
		}
		db.Delete(tx, ref)
		return nil
	})
}

// setMTU carries a network's MTU to its PIFs.
func (n *Networks) setMTU(ctx context.Context, c *service.Call, args []any) error {
	mtu := args[1].(int64)
	if mtu < minMTU || mtu > maxMTU {
		return xenapi.ErrInvalidValue("MTU", decimal(mtu))
	}
	return n.env.Update(ctx, func(tx *db.Tx) error {
		if err := db.WriteField(tx, c.Message.Field, datamodel.FieldSet, args); err != nil {
			return err
		}
		net := db.Find(tx, xenapi.NetworkRef(args[0].(string)))
		for _, p := range net.PIFs {
			pif, err := db.Edit(tx, p)
			if err != nil {
				return err
			}
			pif.MTU = mtu
		}
		return nil
	})
}

// Attach implements service.Network: the host's PIF on the network comes up.
func (s networkService) Attach(ctx context.Context, c *service.Call, p service.NetworkAttachParams) error {
	target := []ops.Target{ops.On("network", p.Network, xenapi.NetworkOperationsAttaching)}
	check := func(tx *db.Tx) error {
		net, err := db.Get(tx, p.Network)
		if err != nil {
			return err
		}
		if len(net.CurrentOperations) > 0 {
			return ops.Busy("network", string(p.Network), net.CurrentOperations)
		}
		if _, err := db.Get(tx, p.Host); err != nil {
			return err
		}
		if len(net.PIFs) > 0 && pifOn(tx, net, p.Host) == "" {
			return xenapi.ErrHostCannotAttachNetwork(string(p.Host), string(p.Network))
		}
		return nil
	}
	return s.n.env.Locks.Do(ctx, c, ops.WaitQuick, target, check, func(ctx context.Context) error {
		net := db.Find(s.n.env.DB.View(), p.Network)
		if net == nil {
			return nil
		}
		if pif := pifOn(s.n.env.DB.View(), net, p.Host); pif != "" {
			return s.n.plugPIF(ctx, pif)
		}
		return nil
	})
}

// pifOn finds a host's PIF on a network; "" if there is none.
func pifOn(rd db.Reader, net *xenapi.Network, host xenapi.HostRef) xenapi.PIFRef {
	for _, ref := range net.PIFs {
		if pif := db.Find(rd, ref); pif != nil && pif.Host == host {
			return ref
		}
	}
	return ""
}

// Reachable reports whether a VM on the host can be on the network: the host
// has a PIF on it, or nobody has.
func Reachable(rd db.Reader, network xenapi.NetworkRef, host xenapi.HostRef) bool {
	net := db.Find(rd, network)
	return net != nil && (len(net.PIFs) == 0 || pifOn(rd, net, host) != "")
}

// CreateNewBlob implements service.Network.
func (s networkService) CreateNewBlob(ctx context.Context, _ *service.Call, p service.NetworkCreateNewBlobParams) (xenapi.BlobRef, error) {
	return blob.Attach(ctx, s.n.env, p.Network, p.Name, p.MimeType, p.Public)
}

// SetDefaultLockingMode implements service.Network.
func (s networkService) SetDefaultLockingMode(ctx context.Context, _ *service.Call, p service.NetworkSetDefaultLockingModeParams) error {
	return s.n.env.Update(ctx, func(tx *db.Tx) error {
		net, err := db.Edit(tx, p.Network)
		if err != nil {
			return err
		}
		for _, ref := range net.VIFs {
			vif := db.Find(tx, ref)
			if vif != nil && vif.CurrentlyAttached && vif.LockingMode == xenapi.VIFLockingModeNetworkDefault {
				return xenapi.ErrVIFInUse(string(p.Network), string(ref))
			}
		}
		net.DefaultLockingMode = p.Value
		return nil
	})
}

// excludes are the purposes that no network may have beside another's.
var excludes = map[xenapi.NetworkPurpose]xenapi.NetworkPurpose{
	xenapi.NetworkPurposeNBD:         xenapi.NetworkPurposeInsecureNBD,
	xenapi.NetworkPurposeInsecureNBD: xenapi.NetworkPurposeNBD,
}

// AddPurpose implements service.Network.
func (s networkService) AddPurpose(ctx context.Context, _ *service.Call, p service.NetworkAddPurposeParams) error {
	return s.n.env.Update(ctx, func(tx *db.Tx) error {
		net, err := db.Edit(tx, p.Self)
		if err != nil || slices.Contains(net.Purpose, p.Value) {
			return err
		}
		for _, other := range db.All[xenapi.NetworkRef](tx) {
			if bad := excludes[p.Value]; slices.Contains(other.Purpose, bad) {
				return xenapi.ErrNetworkIncompatiblePurposes(string(p.Value), string(bad))
			}
		}
		net.Purpose = append(slices.Clip(net.Purpose), p.Value)
		return nil
	})
}

// RemovePurpose implements service.Network.
func (s networkService) RemovePurpose(ctx context.Context, _ *service.Call, p service.NetworkRemovePurposeParams) error {
	return s.n.env.Update(ctx, func(tx *db.Tx) error {
		net, err := db.Edit(tx, p.Self)
		if err != nil {
			return err
		}
		net.Purpose = slices.DeleteFunc(slices.Clone(net.Purpose), func(v xenapi.NetworkPurpose) bool { return v == p.Value })
		return nil
	})
}

// with returns a copy of a map with one key set.
func with(m map[string]string, key, value string) map[string]string {
	next := maps.Clone(m)
	if next == nil {
		next = map[string]string{}
	}
	next[key] = value
	return next
}
