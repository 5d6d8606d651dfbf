package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/guests"
	"xapid/pkg/xenctl/xenstore"
)

// XenOptions are what the Xen driver needs beside libvirtd.
type XenOptions struct {
	Options
	// Store is a client of the host's xenstored, which the one who made it closes. Requests to guests, what they
	// say, balloons and the release of devices go there: libvirt's own request to shut down blocks the whole of
	// libvirtd for a minute when the guest doesn't answer, and its unplug tears a device out of a guest's hands.
	Store *xenstore.Client
	// ShutdownPatience is how long a guest may take to acknowledge a request [30 s], ReleasePatience how long to
	// let go of a device [20 s].
	ShutdownPatience, ReleasePatience time.Duration
	// Pace is how often a guest's changes are looked at at most [1 s].
	Pace time.Duration
	// Sys is the kernel's sysfs [/sys], where back ends count traffic. Run is where the links to domains' disks lie
	// [/run/xapid/disks].
	Sys, Run string
	// Destroy ends a domain that libvirt has lost, by its number [xl destroy].
	Destroy func(ctx context.Context, domid int) error
}

// Xen is libvirt's Xen driver, completed by xenstore. It implements xenctl.Hypervisor and all capabilities.
type Xen struct {
	*Driver
	store    *xenstore.Client
	shutdown xenstore.Shutdown
	guests   *guests.Follower
	patience time.Duration // of a release
	sys, run string

	ctx  context.Context // of work that no call waits for; ends with Close
	stop context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex
	ended map[string]ending // domains whose stop is told, or being found out
	disks map[string]*staged
	made  map[string]int // domains that are being made, by how many calls

	destroy func(ctx context.Context, domid int) error
}

var (
	_ xenctl.DiskPlugger    = (*Xen)(nil)
	_ xenctl.NICPlugger     = (*Xen)(nil)
	_ xenctl.MediaChanger   = (*Xen)(nil)
	_ xenctl.Consoler       = (*Xen)(nil)
	_ xenctl.VNCer          = (*Xen)(nil)
	_ xenctl.Scheduler      = (*Xen)(nil)
	_ xenctl.GuestInformer  = (*Xen)(nil)
	_ xenctl.XenstoreWriter = (*Xen)(nil)
	_ xenctl.Surveyor       = (*Xen)(nil)
)

// NewXen is New for the Xen driver.
func NewXen(opts XenOptions) (*Xen, error) {
	d, err := newDriver(opts.Options, KindXen)
	if err != nil {
		return nil, err
	}
	setDefault(&opts.ReleasePatience, 20*time.Second)
	setDefault(&opts.Sys, "/sys")
	setDefault(&opts.Run, "/run/xapid/disks")
	x := &Xen{Driver: d, store: opts.Store, patience: opts.ReleasePatience, sys: opts.Sys, run: opts.Run,
		ended: map[string]ending{}, disks: map[string]*staged{}, made: map[string]int{}, destroy: opts.Destroy,
		shutdown: xenstore.Shutdown{Store: opts.Store, Patience: opts.ShutdownPatience}}
	if x.destroy == nil {
		x.destroy = xlDestroy
	}
	x.ctx, x.stop = context.WithCancel(context.Background())
	x.guests = guests.New(guests.Options{Store: opts.Store, Log: d.log, Pace: opts.Pace, Changed: func(uuid string, id int) {
		d.feed.Publish(xenctl.Event{Kind: xenctl.EventGuestChanged, UUID: uuid, ID: id, At: time.Now()})
	}})
	d.xen = x
	d.start()
	return x, nil
}

// Close implements xenctl.Hypervisor.
func (x *Xen) Close(ctx context.Context) error {
	x.mu.Lock()
	x.stop()
	x.mu.Unlock()
	err := x.Driver.Close(ctx) // which ends the calls of what is waited for now
	x.work.Wait()
	x.guests.Close()
	for _, s := range x.disks { // the domains' back ends hold theirs
		s.close()
	}
	return err
}

// later does what no call waits for, until Close.
func (x *Xen) later(f func(ctx context.Context)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ctx.Err() == nil {
		x.work.Go(func() { f(x.ctx) })
	}
}

// note keeps account of the domains that there are.
func (x *Xen) note(e xenctl.Event) {
	switch e.Kind {
	case xenctl.EventStarted:
		x.guests.Follow(e.UUID, e.ID)
	case xenctl.EventStopped:
		x.guests.Forget(e.UUID, e.ID)
		x.release(e.UUID, e.ID)
	}
}

// connected looks, once events come, at the domains that are there already.
func (x *Xen) connected() {
	x.later(func(ctx context.Context) {
		all, err := x.List(ctx)
		if err == nil {
			err = x.sweepAll(ctx)
		}
		if err != nil {
			x.log.Warn("the domains that are there can't be looked at", "error", err)
		}
		for _, d := range all {
			x.guests.Follow(d.UUID, d.ID)
			x.recall(ctx, d)
			if d.State == xenctl.StateDying { // its guest rebooted while nobody listened
				x.stopping(xenctl.Event{Kind: xenctl.EventStopped, UUID: d.UUID, ID: d.ID, Reason: xenctl.StopPoweroff, At: time.Now()})
			}
		}
	})
}

// recall reads what libxl has noted of a domain that was there before: when it was made, and its balloon's target.
// What can't be read stays unknown.
func (x *Xen) recall(ctx context.Context, d xenctl.Domain) {
	number := func(path string) float64 {
		text, err := x.store.Read(ctx, path)
		n, e := strconv.ParseFloat(text, 64)
		if err != nil || e != nil {
			return 0
		}
		return n
	}
	made := number("/vm/" + d.UUID + "/start_time")
	target := number(fmt.Sprintf("/local/domain/%d/memory/target", d.ID))
	x.facts.update(d.UUID, d.ID, func(f *fact) {
		if f.startedAt.IsZero() && made > 0 {
			f.startedAt = time.UnixMilli(int64(made * 1000))
		}
		if f.target == 0 {
			f.target = int64(target) << 10
		}
	})
}

// mine is where a domain's notes of ours lie; they go with the domain.
func mine(uuid string, parts ...string) string {
	return "/vm/" + uuid + "/xapid/" + strings.Join(parts, "/")
}

// complete gives a new domain, which doesn't run yet, what libvirt can't: data in xenstore, notes of its NICs and
// drives, and how it is scheduled.
func (x *Xen) complete(ctx context.Context, l *libvirt.Libvirt, dom libvirt.Domain, cfg *xenctl.DomainConfig) error {
	x.staying(cfg.UUID, int(dom.ID))
	x.facts.update(cfg.UUID, int(dom.ID), func(f *fact) { f.target = cfg.Memory.TargetBytes })
	keys := map[string]string{mine(cfg.UUID, "complete"): "1"}
	for key, value := range cfg.Xenstore {
		keys[fmt.Sprintf("/local/domain/%d/%s", dom.ID, key)] = value
	}
	for _, nic := range cfg.NICs {
		keys[mine(cfg.UUID, "nic", strconv.Itoa(nic.Index))] = strings.ToLower(nic.MAC)
	}
	for _, disk := range cfg.Disks {
		if cfg.Type != xenctl.TypeHVM && disk.CDROM {
			keys[mine(cfg.UUID, "drive", disk.Device)] = disk.Source.Path
		}
	}
	err := x.store.Update(ctx, func(tx xenstore.Tx) error {
		for path, value := range keys {
			if err := tx.Write(ctx, path, value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return local(fmt.Errorf("xenstore: %w", err))
	}
	if cfg.VCPUs.CapPercent > 0 {
		return schedule(l, dom, cfg.VCPUs.Weight, cfg.VCPUs.CapPercent)
	}
	return nil
}

// RequestShutdown implements xenctl.Hypervisor.
func (x *Xen) RequestShutdown(ctx context.Context, uuid string, kind xenctl.ShutdownKind) error {
	dom, err := x.askable(ctx, uuid, kind)
	if err != nil {
		return err
	}
	return opError(opShutdown, uuid, x.shutdown.RequestShutdown(ctx, dom, kind))
}

// SetScheduling implements xenctl.Scheduler.
func (x *Xen) SetScheduling(ctx context.Context, uuid string, weight, capPercent int) error {
	if weight < 0 || weight > 65535 || capPercent < 0 {
		return opError("set scheduling", uuid, fmt.Errorf("%w: weight %d, cap %d", xenctl.ErrInvalid, weight, capPercent))
	}
	return x.quickly(ctx, "set scheduling", uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		return schedule(l, dom, weight, capPercent)
	})
}

// defaultWeight is the hypervisor's own.
const defaultWeight = 256

func schedule(l *libvirt.Libvirt, dom libvirt.Domain, weight, capPercent int) error {
	if weight == 0 {
		weight = defaultWeight
	}
	return l.DomainSetSchedulerParametersFlags(dom, []libvirt.TypedParam{
		{Field: "weight", Value: *libvirt.NewTypedParamValueUint(uint32(weight))},
		{Field: "cap", Value: *libvirt.NewTypedParamValueUint(uint32(capPercent))},
	}, 0)
}

// WriteXenstore implements xenctl.XenstoreWriter.
func (x *Xen) WriteXenstore(ctx context.Context, uuid string, data map[string]*string) error {
	const op = "write xenstore"
	for key := range data {
		if err := xenctl.ValidateXenstoreKey(key); err != nil {
			return opError(op, uuid, err)
		}
	}
	dom, err := x.lookup(ctx, op, uuid)
	if err != nil {
		return err
	}
	base := fmt.Sprintf("/local/domain/%d/", dom.ID)
	return opError(op, uuid, x.store.Update(ctx, func(tx xenstore.Tx) error {
		if err := tx.Check(ctx, dom); err != nil {
			return err
		}
		for key, value := range data {
			if err := set(ctx, tx, base+key, value); err != nil {
				return err
			}
		}
		return nil
	}))
}

// set writes a key, or removes it where the value is nil.
func set(ctx context.Context, tx xenstore.Tx, path string, value *string) error {
	if value != nil {
		return tx.Write(ctx, path, *value)
	}
	if err := tx.Remove(ctx, path); err != nil && !errors.Is(err, xenstore.ErrNotFound) {
		return err
	}
	return nil
}

// readCounter reads a number that the kernel keeps; one that isn't there counts as 0.
func readCounter(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
