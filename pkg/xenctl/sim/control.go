package sim

import (
	"xapid/pkg/xenctl"
)

// Guest is the inside of a domain, for tests: what the guest does by itself.
type Guest struct {
	h    *Hypervisor
	uuid string
}

// Guest gives the guest in a domain. The domain needn't be there yet; the methods say ErrNotFound.
func (h *Hypervisor) Guest(uuid string) *Guest { return &Guest{h, uuid} }

// Crash lets it crash at once.
func (g *Guest) Crash() error { return g.alive(func(d *domain) { g.h.crashed(d) }) }

// Poweroff lets it power off at once.
func (g *Guest) Poweroff() error {
	return g.alive(func(d *domain) { g.h.remove(d, xenctl.StopPoweroff) })
}

// Reboot lets it reboot at once.
func (g *Guest) Reboot() error {
	return g.alive(func(d *domain) { g.h.remove(d, xenctl.StopReboot) })
}

// Freeze makes it hang: it is running for the hypervisor and does nothing any more.
func (g *Guest) Freeze() error {
	return g.alive(func(d *domain) {
		d.Guest.Behaviour.Frozen = true
		g.h.suspend(d)
	})
}

// Thaw ends Freeze.
func (g *Guest) Thaw() error {
	return g.alive(func(d *domain) {
		d.Guest.Behaviour.Frozen = false
		g.h.resume(d)
	})
}

// Print writes to its console.
func (g *Guest) Print(text string) error {
	return g.alive(func(d *domain) { d.console.write(text) })
}

// Set turns one knob of its behaviour (see KnobPrefix, without the prefix).
func (g *Guest) Set(knob, value string) error {
	var err error
	if e := g.alive(func(d *domain) { err = d.Guest.Behaviour.set(knob, value) }); e != nil {
		return e
	}
	return err
}

// Say makes it report info instead of what its behaviour says.
func (g *Guest) Say(info xenctl.GuestInfo) error {
	info = cloneInfo(info)
	return g.alive(func(d *domain) {
		d.Guest.Info = &info
		g.h.publish(d, xenctl.EventGuestChanged, "")
	})
}

// alive runs f on a guest that hasn't crashed.
func (g *Guest) alive(f func(*domain)) error {
	g.h.mu.Lock()
	d := g.h.domains[g.uuid]
	switch {
	case d == nil || g.h.closed:
		g.h.mu.Unlock()
		return xenctl.ErrNotFound
	case d.State == xenctl.StateCrashed || d.saving:
		g.h.mu.Unlock()
		return xenctl.ErrBadState
	}
	g.h.work.Add(1)
	defer g.h.work.Done()
	f(d)
	g.h.mu.Unlock()
	g.h.record(d)
	return nil
}
