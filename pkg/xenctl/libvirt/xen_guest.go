package libvirt

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenstore"
)

// GuestInfo implements xenctl.GuestInformer.
func (x *Xen) GuestInfo(ctx context.Context, uuid string) (xenctl.GuestInfo, error) {
	const op = "guest info"
	ctx, cancel := withDefault(ctx, x.opts.QuickTimeout)
	defer cancel()
	info, err := x.guests.Info(ctx, uuid)
	if err != nil {
		return xenctl.GuestInfo{}, opError(op, uuid, err)
	}
	nics, err := x.nics(ctx, uuid)
	if err != nil {
		return xenctl.GuestInfo{}, opError(op, uuid, err)
	}
	index := map[string]int{}
	for i, mac := range nics {
		index[mac] = i
	}
	networks := map[string]string{}
	for key, address := range info.Networks {
		device, rest, _ := strings.Cut(key, "/")
		if i, ok := index[strings.ToLower(x.guests.Value(uuid, "device/vif/"+device+"/mac"))]; ok {
			device = strconv.Itoa(i) // libxl numbers the devices by itself
		}
		networks[device+"/"+rest] = address
	}
	info.Networks = networks
	return info, nil
}

// SetMemoryTarget implements xenctl.Resizer. A smaller target is a word to the guest's balloon alone; for a larger
// one the hypervisor has to allow more, too.
func (x *Xen) SetMemoryTarget(ctx context.Context, uuid string, targetBytes int64) error {
	const op = "set memory"
	dom, err := x.lookup(ctx, op, uuid)
	if err != nil {
		return err
	}
	if targetBytes < 1<<20 || targetBytes > dom.MaxBytes {
		return opError(op, uuid, fmt.Errorf("%w: memory target %d of at most %d", xenctl.ErrInvalid, targetBytes, dom.MaxBytes))
	}
	var told int64
	ctx, cancel := withDefault(ctx, x.opts.QuickTimeout)
	defer cancel()
	key := fmt.Sprintf("/local/domain/%d/memory/target", dom.ID)
	err = x.store.Update(ctx, func(tx xenstore.Tx) error {
		if err := tx.Check(ctx, dom); err != nil {
			return err
		}
		text, err := tx.Read(ctx, key)
		if err != nil {
			return err
		}
		kib, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("memory target %q: %w", text, err)
		}
		if told = kib << 10; targetBytes >= told {
			return nil
		}
		return tx.Write(ctx, key, strconv.FormatInt(targetBytes>>10, 10))
	})
	if err != nil {
		return opError(op, uuid, err)
	}
	if targetBytes > told {
		if err := x.grow(ctx, uuid, targetBytes, targetBytes-dom.MemoryBytes); err != nil {
			return err
		}
	}
	x.facts.update(uuid, dom.ID, func(f *fact) { f.target = targetBytes &^ 1023 })
	x.later(func(ctx context.Context) { x.followBalloon(ctx, uuid, dom.ID) })
	return nil
}

// grow lets a domain have more memory, if the host has what it would grow by.
func (x *Xen) grow(ctx context.Context, uuid string, targetBytes, byBytes int64) error {
	return x.quickly(ctx, "set memory", uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		leave, err := x.admit(l, max(0, byBytes))
		if err != nil {
			return err
		}
		defer leave()
		return l.DomainSetMemoryFlags(dom, uint64(targetBytes>>10), uint32(libvirt.DomainMemLive))
	})
}

// How often a balloon that moves is looked at, and for how long: a guest may never arrive.
const (
	balloonLook = 500 * time.Millisecond
	balloonTime = time.Minute
)

// followBalloon tells when a domain's memory has come to its target.
func (x *Xen) followBalloon(ctx context.Context, uuid string, id int) {
	ctx, cancel := context.WithTimeout(ctx, balloonTime)
	defer cancel()
	tick := time.NewTicker(balloonLook)
	defer tick.Stop()
	for {
		d, err := x.lookup(ctx, "look at the balloon", uuid)
		if err != nil || d.ID != id {
			return
		}
		if d.Ballooned() {
			x.publish(xenctl.Event{Kind: xenctl.EventBalloonChanged, UUID: uuid, ID: id, At: time.Now()})
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
