package libvirt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
)

// domainZero is the control domain in the Xen driver's list.
const domainZero = "00000000-0000-0000-0000-000000000000"

// quickly makes calls that change something and are answered at once.
func (d *Driver) quickly(ctx context.Context, op, uuid string, f func(*libvirt.Libvirt, libvirt.Domain) error) error {
	ctx, cancel := withDefault(ctx, d.opts.QuickTimeout)
	defer cancel()
	return opError(op, uuid, d.quick.call(ctx, false, on(uuid, f)))
}

// slowly is quickly for calls that may take their time.
func (d *Driver) slowly(ctx context.Context, op, uuid string, f func(*libvirt.Libvirt, libvirt.Domain) error) error {
	ctx, cancel := withDefault(ctx, d.opts.SlowTimeout)
	defer cancel()
	return opError(op, uuid, d.slow.call(ctx, false, on(uuid, f)))
}

// reading makes calls that change nothing.
func (d *Driver) reading(ctx context.Context, op, uuid string, f func(*libvirt.Libvirt) error) error {
	ctx, cancel := withDefault(ctx, d.opts.QuickTimeout)
	defer cancel()
	return opError(op, uuid, d.quick.call(ctx, true, f))
}

// on looks the domain up before f.
func on(uuid string, f func(*libvirt.Libvirt, libvirt.Domain) error) func(*libvirt.Libvirt) error {
	return func(l *libvirt.Libvirt) error {
		dom, err := lookup(l, uuid)
		if err != nil {
			return err
		}
		return f(l, dom)
	}
}

// lookup finds a domain that lives. libvirt still knows one for a moment after its end.
func lookup(l *libvirt.Libvirt, uuid string) (libvirt.Domain, error) {
	raw, err := parseUUID(uuid)
	if err != nil {
		return libvirt.Domain{}, err
	}
	dom, err := l.DomainLookupByUUID(raw)
	if err == nil && dom.ID < 0 {
		err = errGone
	}
	return dom, err
}

// errGone is ErrNotFound found out here, not told by libvirt.
var errGone = local(xenctl.ErrNotFound)

func withDefault(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}

// Destroy implements xenctl.Hypervisor.
func (d *Driver) Destroy(ctx context.Context, uuid string) error {
	return d.slowly(ctx, "destroy", uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		return l.DomainDestroy(dom)
	})
}

// Pause implements xenctl.Hypervisor.
func (d *Driver) Pause(ctx context.Context, uuid string) error {
	return d.quickly(ctx, "pause", uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		return bring(l, dom, xenctl.StatePaused, l.DomainSuspend)
	})
}

// Unpause implements xenctl.Hypervisor.
func (d *Driver) Unpause(ctx context.Context, uuid string) error {
	return d.quickly(ctx, "unpause", uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		return bring(l, dom, xenctl.StateRunning, l.DomainResume)
	})
}

// bring brings a domain into a state by a call that libvirt refuses when it is in that state already.
func bring(l *libvirt.Libvirt, dom libvirt.Domain, want xenctl.DomainState, by func(libvirt.Domain) error) error {
	switch now, err := state(l, dom); {
	case err != nil || now == want:
		return err
	case now != xenctl.StateRunning && now != xenctl.StatePaused:
		return local(fmt.Errorf("%w: %s", xenctl.ErrBadState, now))
	}
	err := by(dom)
	if err == nil {
		return nil
	}
	if now, e := state(l, dom); e == nil && now == want {
		return nil // somebody else was faster
	}
	return err
}

func state(l *libvirt.Libvirt, dom libvirt.Domain) (xenctl.DomainState, error) {
	s, reason, err := l.DomainGetState(dom, 0)
	if err != nil {
		return "", err
	}
	return stateOf(libvirt.DomainState(s), reason)
}

// stateOf says what libvirt's state of a domain that has a number means. One that is off is kept by Xen after its
// guest has stopped: for inspection, or (on_reboot) until stopping has seen it.
func stateOf(s libvirt.DomainState, reason int32) (xenctl.DomainState, error) {
	switch s {
	case libvirt.DomainShutoff:
		switch libvirt.DomainShutoffReason(reason) {
		case libvirt.DomainShutoffCrashed:
			return xenctl.StateCrashed, nil
		case libvirt.DomainShutoffShutdown:
			return xenctl.StateDying, nil
		}
		return "", errGone
	case libvirt.DomainPaused, libvirt.DomainPmsuspended:
		return xenctl.StatePaused, nil
	case libvirt.DomainShutdown:
		return xenctl.StateDying, nil
	case libvirt.DomainCrashed:
		return xenctl.StateCrashed, nil
	default:
		return xenctl.StateRunning, nil
	}
}

const opShutdown = "request shutdown"

// askable returns a domain whose guest can be asked to power off or reboot.
func (d *Driver) askable(ctx context.Context, uuid string, kind xenctl.ShutdownKind) (xenctl.Domain, error) {
	if kind != xenctl.ShutdownPoweroff && kind != xenctl.ShutdownReboot {
		return xenctl.Domain{}, opError(opShutdown, uuid, fmt.Errorf("%w: shutdown kind %q", xenctl.ErrInvalid, kind))
	}
	dom, err := d.lookup(ctx, opShutdown, uuid)
	if err == nil && dom.State != xenctl.StateRunning && dom.State != xenctl.StatePaused {
		err = opError(opShutdown, uuid, fmt.Errorf("%w: %s", xenctl.ErrBadState, dom.State))
	}
	return dom, err
}

// RequestShutdown implements xenctl.Hypervisor.
func (d *Driver) RequestShutdown(ctx context.Context, uuid string, kind xenctl.ShutdownKind) error {
	dom, err := d.askable(ctx, uuid, kind)
	if err != nil {
		return err
	}
	d.facts.update(uuid, dom.ID, func(x *fact) { x.rebooting = kind == xenctl.ShutdownReboot })
	return d.quickly(ctx, opShutdown, uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		if kind == xenctl.ShutdownReboot {
			return l.DomainReboot(dom, 0)
		}
		return l.DomainShutdown(dom)
	})
}

// Lookup implements xenctl.Hypervisor.
func (d *Driver) Lookup(ctx context.Context, uuid string) (xenctl.Domain, error) {
	return d.lookup(ctx, "lookup", uuid)
}

func (d *Driver) lookup(ctx context.Context, op, uuid string) (found xenctl.Domain, err error) {
	err = d.reading(ctx, op, uuid, func(l *libvirt.Libvirt) error {
		dom, err := lookup(l, uuid)
		if err == nil {
			found, err = d.describe(l, dom)
		}
		return err
	})
	return found, err
}

// List implements xenctl.Hypervisor.
func (d *Driver) List(ctx context.Context) (all []xenctl.Domain, err error) {
	err = d.reading(ctx, "list", "", func(l *libvirt.Libvirt) (err error) {
		if all, err = each(ctx, l, d.describe); err != nil {
			return err
		}
		there := make(map[string]int, len(all))
		for _, one := range all {
			there[one.UUID] = one.ID
		}
		d.facts.keep(there)
		return nil
	})
	return all, err
}

// each asks for something of every domain but dom0, leaving out those that end meanwhile.
func each[T any](ctx context.Context, l *libvirt.Libvirt, ask func(l *libvirt.Libvirt, dom libvirt.Domain) (T, error)) ([]T, error) {
	doms, _, err := l.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive)
	if err != nil {
		return nil, err
	}
	all := make([]T, 0, len(doms))
	for _, dom := range doms {
		uuid := formatUUID(dom.UUID)
		if uuid == domainZero {
			continue
		}
		one, err := ask(l, dom)
		switch {
		case err == nil:
			all = append(all, one)
		case !vanished(ctx, dom.ID, err, func() (libvirt.Domain, error) { return lookup(l, uuid) }):
			return nil, err
		}
	}
	return all, nil
}

// vanished says whether a domain that was listed, and of which something failed since, has ended; look asks libvirt
// for it. The error alone doesn't tell: of one that libxl can't find, libvirt says that something internal failed, and
// goes on naming it until it has seen its end too.
func vanished(ctx context.Context, id int32, failure error, look func() (libvirt.Domain, error)) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		now, err := look()
		if errors.Is(opError("", "", err), xenctl.ErrNotFound) || err == nil && now.ID != id {
			return true
		}
		if err != nil || !internal(failure) {
			return false
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return false
		}
	}
}

// internal says that libvirt does not know itself what failed.
func internal(err error) bool {
	var answer libvirt.Error
	return errors.As(err, &answer) && answer.Code == uint32(libvirt.ErrInternalError)
}

// describe asks for what is known of a domain.
func (d *Driver) describe(l *libvirt.Libvirt, dom libvirt.Domain) (xenctl.Domain, error) {
	uuid, id := formatUUID(dom.UUID), int(dom.ID)
	s, maxKiB, nowKiB, vcpus, _, err := l.DomainGetInfo(dom)
	if err != nil {
		return xenctl.Domain{}, err
	}
	now, err := xenctl.DomainState(""), error(nil)
	if libvirt.DomainState(s) == libvirt.DomainShutoff {
		now, err = state(l, dom) // which knows why
	} else {
		now, err = stateOf(libvirt.DomainState(s), 0)
	}
	if err != nil {
		return xenctl.Domain{}, err
	}
	known := d.facts.update(uuid, id, func(*fact) {})
	if known.maxVCPUs == 0 {
		n, err := l.DomainGetVcpusFlags(dom, uint32(libvirt.DomainVCPULive|libvirt.DomainVCPUMaximum))
		if err != nil {
			return xenctl.Domain{}, err
		}
		known = d.facts.update(uuid, id, func(x *fact) { x.maxVCPUs = int(n) })
	}
	memory := int64(nowKiB) << 10
	if known.target == 0 {
		known.target = memory
	}
	return xenctl.Domain{
		UUID: uuid, ID: id, Name: dom.Name, State: now, StartedAt: known.startedAt,
		MemoryBytes: memory, TargetBytes: known.target, MaxBytes: int64(maxKiB) << 10,
		VCPUs: int(vcpus), MaxVCPUs: known.maxVCPUs,
	}, nil
}

// SetMemoryTarget implements xenctl.Resizer.
func (d *Driver) SetMemoryTarget(ctx context.Context, uuid string, targetBytes int64) error {
	return d.quickly(ctx, "set memory", uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		most, err := l.DomainGetMaxMemory(dom)
		if err != nil {
			return err
		}
		if targetBytes < 1<<10 || targetBytes>>10 > int64(most) {
			return local(fmt.Errorf("%w: memory target %d of at most %d", xenctl.ErrInvalid, targetBytes, most<<10))
		}
		if err := l.DomainSetMemoryFlags(dom, uint64(targetBytes>>10), uint32(libvirt.DomainMemLive)); err != nil {
			return err
		}
		d.facts.update(uuid, int(dom.ID), func(x *fact) { x.target = targetBytes &^ 1023 })
		return nil
	})
}

// SetVCPUs implements xenctl.Resizer.
func (d *Driver) SetVCPUs(ctx context.Context, uuid string, n int) error {
	return d.quickly(ctx, "set vcpus", uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		most, err := l.DomainGetVcpusFlags(dom, uint32(libvirt.DomainVCPULive|libvirt.DomainVCPUMaximum))
		if err != nil {
			return err
		}
		if n < 1 || n > int(most) {
			return local(fmt.Errorf("%w: %d VCPUs of at most %d", xenctl.ErrInvalid, n, most))
		}
		return l.DomainSetVcpusFlags(dom, uint32(n), uint32(libvirt.DomainVCPULive))
	})
}

func formatUUID(u libvirt.UUID) string {
	x := hex.EncodeToString(u[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

func parseUUID(uuid string) (u libvirt.UUID, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(raw) != len(u) {
		return u, local(fmt.Errorf("%w: %q is not a UUID", xenctl.ErrInvalid, uuid))
	}
	return libvirt.UUID(raw), nil
}
