package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenstore"
)

// A libvirtd that dies while it makes a domain leaves it in Xen, paused, and knows nothing of it when it is back. The
// domain then stands in the way of every later one of its UUID. One that was never completed has never run, and is
// destroyed; whatever else libvirt doesn't know is left alone, unless Destroy is called for it.

// Foreign implements xenctl.Surveyor.
func (x *Xen) Foreign(ctx context.Context) ([]xenctl.Domain, error) {
	known, err := x.List(ctx)
	if err != nil {
		return nil, err
	}
	own := make(map[int]bool, len(known))
	for _, d := range known {
		own[d.ID] = true
	}
	all, err := x.inXenstore(ctx)
	if err != nil {
		return nil, opError("survey", "", err)
	}
	var foreign []xenctl.Domain
	for _, d := range all {
		if own[d.ID] || x.isMade(d.UUID) {
			continue
		}
		if _, err := x.lookup(ctx, "survey", d.UUID); err == nil {
			continue // libvirt has made it since
		} else if !errors.Is(err, xenctl.ErrNotFound) {
			return nil, err
		}
		foreign = append(foreign, d)
	}
	return foreign, nil
}

// inXenstore lists all domains but dom0 by their part of xenstore, whoever made them.
func (x *Xen) inXenstore(ctx context.Context) ([]xenctl.Domain, error) {
	names, err := x.store.List(ctx, "/local/domain")
	if err != nil {
		return nil, err
	}
	var all []xenctl.Domain
	for _, name := range names {
		id, err := strconv.Atoi(name)
		if err != nil || id == 0 {
			continue
		}
		d := xenctl.Domain{ID: id}
		for key, to := range map[string]*string{"vm": &d.UUID, "name": &d.Name} {
			value, err := x.store.Read(ctx, "/local/domain/"+name+"/"+key)
			if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
				return nil, err
			}
			*to = value
		}
		d.UUID = strings.TrimPrefix(d.UUID, "/vm/")
		if d.UUID != "" { // else it is going
			all = append(all, d)
		}
	}
	return all, nil
}

// making notes that a call makes a domain, until the returned function is called.
func (x *Xen) making(uuid string) (done func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.made[uuid]++
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.made[uuid]--; x.made[uuid] == 0 {
			delete(x.made, uuid)
		}
	}
}

func (x *Xen) isMade(uuid string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.made[uuid] > 0
}

// sweep destroys what an earlier try to make a domain has left of it. The caller makes it, and libvirt doesn't know it.
func (x *Xen) sweep(ctx context.Context, l *libvirt.Libvirt, uuid string) error {
	if _, err := x.store.Read(ctx, "/vm/"+uuid+"/name"); errors.Is(err, xenstore.ErrNotFound) {
		return nil // as almost always
	}
	all, err := x.inXenstore(ctx)
	if err != nil {
		return local(err)
	}
	for _, d := range all {
		if d.UUID != uuid {
			continue
		}
		if _, err := lookup(l, uuid); err == nil {
			return errTaken
		}
		if err := x.sweepOne(ctx, d); err != nil {
			return local(err)
		}
	}
	return nil
}

// sweepAll does it for all domains that nobody makes.
func (x *Xen) sweepAll(ctx context.Context) error {
	foreign, err := x.Foreign(ctx)
	for _, d := range foreign {
		err = errors.Join(err, x.sweepOne(ctx, d))
	}
	return err
}

// sweepOne destroys a domain that libvirt doesn't know if it is one of ours (SafeName) that was never completed.
func (x *Xen) sweepOne(ctx context.Context, d xenctl.Domain) error {
	if !strings.HasSuffix(d.Name, "-"+d.UUID) {
		return nil
	}
	_, err := x.store.Read(ctx, mine(d.UUID, "complete"))
	if !errors.Is(err, xenstore.ErrNotFound) {
		return err
	}
	x.log.Warn("a domain is destroyed that was left half made", "domain", d.UUID, "domid", d.ID)
	return x.destroy(ctx, d.ID)
}

// Destroy implements xenctl.Hypervisor, also for a domain that libvirt has lost.
func (x *Xen) Destroy(ctx context.Context, uuid string) error {
	lost := x.Driver.Destroy(ctx, uuid)
	if !errors.Is(lost, xenctl.ErrNotFound) || x.isMade(uuid) {
		return lost
	}
	ctx, cancel := withDefault(ctx, x.opts.SlowTimeout)
	defer cancel()
	all, err := x.inXenstore(ctx)
	if err != nil {
		return opError("destroy", uuid, err)
	}
	for _, d := range all {
		if d.UUID == uuid {
			return x.destroyLost(ctx, d, lost)
		}
	}
	return lost
}

// destroyLost destroys a domain that libvirt doesn't know, or no more: then it goes by itself, perhaps meanwhile.
func (x *Xen) destroyLost(ctx context.Context, d xenctl.Domain, gone error) error {
	err := x.destroy(ctx, d.ID)
	if err == nil {
		return nil
	}
	if _, e := x.store.Read(ctx, fmt.Sprintf("/local/domain/%d/vm", d.ID)); errors.Is(e, xenstore.ErrNotFound) {
		return gone
	}
	return opError("destroy", d.UUID, err)
}

// xlDestroy is how Xen's own tool destroys a domain.
func xlDestroy(ctx context.Context, domid int) error {
	out, err := exec.CommandContext(ctx, "xl", "destroy", strconv.Itoa(domid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("xl destroy %d: %w: %s", domid, err, strings.TrimSpace(string(out)))
	}
	return nil
}
