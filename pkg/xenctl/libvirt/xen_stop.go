package libvirt

import (
	"context"
	"errors"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
)

// ending is a domain whose stop is told, or being found out: what libvirt still says of it is no news.
type ending struct {
	id int
	at time.Time
}

// endingKept is longer than anything about a domain can come after its end.
const endingKept = 10 * time.Minute

// stopping takes over a stop event that doesn't tell enough, and drops one that tells nothing new. libvirt's Xen
// driver gives the same event for a guest that powered off and one that rebooted, and one for a crash whether the
// domain is kept or not. But a domain whose guest rebooted is kept by Xen (on_reboot is preserve), and so what is
// there to destroy tells.
func (x *Xen) stopping(e xenctl.Event) bool {
	if !x.ends(e.UUID, e.ID) {
		return true
	}
	switch e.Reason {
	case xenctl.StopPoweroff:
		x.later(func(ctx context.Context) { x.tell(ctx, e, x.rebooted) })
	case xenctl.StopCrash:
		x.later(func(ctx context.Context) { x.tell(ctx, e, x.crashed) })
	default:
		return false
	}
	return true
}

// ends notes the end of an incarnation, and says whether that is news.
func (x *Xen) ends(uuid string, id int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	if old, ok := x.ended[uuid]; ok && id > 0 && old.id >= id {
		return false
	}
	for u, old := range x.ended {
		if now.Sub(old.at) > endingKept {
			delete(x.ended, u)
		}
	}
	if id > 0 {
		x.ended[uuid] = ending{id, now}
	}
	return true
}

// lives takes back that an incarnation has ended.
func (x *Xen) lives(uuid string, id int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended[uuid].id == id {
		delete(x.ended, uuid)
	}
}

// tell finds out what a stop was and publishes it. When libvirtd doesn't say, nothing is known: it is asked again
// once it is back, and subscribers list the domains then anyway.
func (x *Xen) tell(ctx context.Context, e xenctl.Event, find func(context.Context, *xenctl.Event) error) {
	if err := find(ctx, &e); err != nil {
		x.lives(e.UUID, e.ID)
		x.log.Warn("it can't be found out how a domain stopped", "domain", e.UUID, "domid", e.ID, "error", err)
		return
	}
	if e.Kind == xenctl.EventStopped {
		e = x.facts.stopped(e)
	}
	x.publish(e)
}

// rebooted destroys the domain if its guest wanted to reboot. libvirt has one whose guest powered off destroyed
// before it says so.
func (x *Xen) rebooted(ctx context.Context, e *xenctl.Event) error {
	err := x.slowly(ctx, "end", e.UUID, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		if int(dom.ID) != e.ID {
			return errGone
		}
		return l.DomainDestroy(dom)
	})
	switch {
	case err == nil:
		e.Reason = xenctl.StopReboot
	case errors.Is(err, xenctl.ErrNotFound), errors.Is(err, xenctl.ErrBadState):
		err = nil
	}
	return err
}

// crashed sees whether the domain is kept. The end of one that is comes with its destruction.
func (x *Xen) crashed(ctx context.Context, e *xenctl.Event) error {
	d, err := x.lookup(ctx, "look at a crash", e.UUID)
	switch {
	case err == nil && d.ID == e.ID && d.State == xenctl.StateCrashed:
		e.Kind = xenctl.EventCrashed
		x.lives(e.UUID, e.ID)
	case errors.Is(err, xenctl.ErrNotFound):
		err = nil
	}
	return err
}
