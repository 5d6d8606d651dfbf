package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"xapid/pkg/xenctl"
)

// guest is what goes on inside a domain.
type guest struct {
	Behaviour behaviour
	Up        bool                // it has booted
	Asked     xenctl.ShutdownKind // a request that came before it was up
	Pending   []action
	// Ticking: the actions' At counts; otherwise Left is what remains of them.
	Ticking bool
	// Info overrides what the guest says of itself; nil is what its behaviour says.
	Info *xenctl.GuestInfo
	// Console is what was on the console, in an image only.
	Console string `json:",omitempty"`
}

// action is something that a guest is going to do.
type action struct {
	Kind actionKind
	At   time.Time     // when, while the guest's time goes on
	Left time.Duration // how long until then, while it stands still
}

type actionKind string

const (
	actBoot     actionKind = "boot"
	actBalloon  actionKind = "balloon"
	actPoweroff actionKind = "poweroff"
	actReboot   actionKind = "reboot"
	actCrash    actionKind = "crash"
)

// RequestShutdown implements xenctl.Hypervisor.
func (h *Hypervisor) RequestShutdown(ctx context.Context, uuid string, kind xenctl.ShutdownKind) error {
	return h.onDomain(ctx, "request shutdown", uuid, func(d *domain) error {
		if kind != xenctl.ShutdownPoweroff && kind != xenctl.ShutdownReboot {
			return fmt.Errorf("%w: shutdown kind %q", xenctl.ErrInvalid, kind)
		}
		if d.saving || d.State == xenctl.StateCrashed {
			return xenctl.ErrBadState
		}
		if d.Guest.answerTo(kind) == refuse {
			return xenctl.ErrRefused
		}
		if d.Guest.Asked = kind; d.Guest.Up {
			h.obey(d)
		}
		return nil
	})
}

func (g *guest) answerTo(kind xenctl.ShutdownKind) string {
	a := g.Behaviour.OnPoweroff
	if kind == xenctl.ShutdownReboot {
		a = g.Behaviour.OnReboot
	}
	if a == inherit {
		return string(kind)
	}
	return a
}

// obey does with the request what the guest's behaviour says.
func (h *Hypervisor) obey(d *domain) {
	if d.Guest.Asked == "" {
		return
	}
	answer := d.Guest.answerTo(d.Guest.Asked)
	d.Guest.Asked = ""
	if answer == ignore || answer == refuse {
		return
	}
	d.console.write("The system is going down for " + answer + " now.\n")
	h.plan(d, actionKind(answer), d.Guest.Behaviour.Shutdown)
}

// plan adds an action and sees to the timer.
func (h *Hypervisor) plan(d *domain, kind actionKind, in time.Duration) {
	d.schedule(kind, in)
	if d.Guest.Ticking {
		last := &d.Guest.Pending[len(d.Guest.Pending)-1]
		last.At = h.clock.Now().Add(last.Left)
		h.rearm(d)
	}
}

// schedule adds an action, in the place of one of the same kind.
func (d *domain) schedule(kind actionKind, in time.Duration) {
	d.Guest.Pending = slices.DeleteFunc(d.Guest.Pending, func(a action) bool { return a.Kind == kind })
	d.Guest.Pending = append(d.Guest.Pending, action{Kind: kind, Left: in})
}

// suspend makes the guest's time stand still.
func (h *Hypervisor) suspend(d *domain) {
	d.stopTimer()
	if !d.Guest.Ticking {
		return
	}
	d.Guest.Ticking = false
	now := h.clock.Now()
	for i := range d.Guest.Pending {
		a := &d.Guest.Pending[i]
		a.Left = max(0, a.At.Sub(now))
	}
}

// resume lets the guest's time go on, unless something else holds it.
func (h *Hypervisor) resume(d *domain) {
	if d.Guest.Ticking || d.saving || d.Guest.Behaviour.Frozen || d.State != xenctl.StateRunning {
		return
	}
	d.Guest.Ticking = true
	now := h.clock.Now()
	for i := range d.Guest.Pending {
		a := &d.Guest.Pending[i]
		a.At = now.Add(a.Left)
	}
	h.rearm(d)
}

// rearm sets the timer for the earliest action.
func (h *Hypervisor) rearm(d *domain) {
	d.stopTimer()
	if h.closed || d.gone || !d.Guest.Ticking || len(d.Guest.Pending) == 0 {
		return
	}
	first := slices.MinFunc(d.Guest.Pending, func(a, b action) int { return a.At.Compare(b.At) })
	d.timer = h.clock.AfterFunc(first.At.Sub(h.clock.Now()), func() { h.fire(d) })
}

func (d *domain) stopTimer() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// fire runs in the timer's goroutine and does what is due.
func (h *Hypervisor) fire(d *domain) {
	h.mu.Lock()
	if h.closed || d.gone {
		h.mu.Unlock()
		return
	}
	h.work.Add(1)
	defer h.work.Done()
	now := h.clock.Now()
	for d.Guest.Ticking && !d.gone {
		i := slices.IndexFunc(d.Guest.Pending, func(a action) bool { return !a.At.After(now) })
		if i < 0 {
			break
		}
		kind := d.Guest.Pending[i].Kind
		d.Guest.Pending = slices.Delete(d.Guest.Pending, i, i+1)
		h.act(d, kind)
	}
	h.rearm(d)
	h.mu.Unlock()
	h.record(d)
}

func (h *Hypervisor) act(d *domain, kind actionKind) {
	switch kind {
	case actBoot:
		h.booted(d)
	case actBalloon:
		h.ballooned(d)
	case actPoweroff:
		h.remove(d, xenctl.StopPoweroff)
	case actReboot:
		h.remove(d, xenctl.StopReboot)
	case actCrash:
		h.crashed(d)
	}
}

func (h *Hypervisor) booted(d *domain) {
	b := &d.Guest.Behaviour
	d.Guest.Up = true
	d.console.write(d.banner())
	if !b.NoAgent {
		h.publish(d, xenctl.EventGuestChanged, "")
	}
	h.startBalloon(d)
	for kind, in := range map[actionKind]time.Duration{
		actCrash: b.CrashAfter, actPoweroff: b.PoweroffAfter, actReboot: b.RebootAfter,
	} {
		if in >= 0 {
			h.plan(d, kind, in)
		}
	}
	h.obey(d)
}

func (h *Hypervisor) startBalloon(d *domain) {
	if d.Memory != d.Target && !d.Guest.Behaviour.IgnoreBalloon {
		h.plan(d, actBalloon, d.Guest.Behaviour.Balloon)
	}
}

// ballooned ends the way to the target; what was given back is the host's again.
func (h *Hypervisor) ballooned(d *domain) {
	d.Memory = d.Target
	h.usedBytes -= d.reserved - d.Memory
	d.reserved = d.Memory
	h.publish(d, xenctl.EventBalloonChanged, "")
}

func (h *Hypervisor) crashed(d *domain) {
	d.console.write("Kernel panic - not syncing: asked to\n")
	if d.Config.OnCrash != xenctl.CrashPreserve {
		h.remove(d, xenctl.StopCrash)
		return
	}
	h.suspend(d)
	d.State = xenctl.StateCrashed
	d.Guest.Pending = nil
	h.publish(d, xenctl.EventCrashed, xenctl.StopCrash)
}

// banner is what a guest writes on its console when it is up.
func (d *domain) banner() string {
	text := fmt.Sprintf("Linux version %s (sim)\nCommand line: %s\nMemory: %d KiB, %d VCPUs\n",
		d.Guest.Behaviour.OSVersion, d.Config.Boot.Cmdline, d.Memory>>10, d.VCPUs)
	for _, disk := range d.Config.Disks {
		text += fmt.Sprintf("%s: attached\n", disk.Device)
	}
	for _, nic := range d.Config.NICs {
		text += fmt.Sprintf("eth%d: %s\n", nic.Index, nic.MAC)
	}
	return text + fmt.Sprintf("\n%s\nlogin: ", d.Guest.Behaviour.OSName)
}
