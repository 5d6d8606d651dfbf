package libvirt

import (
	"context"
	"errors"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
)

// watch keeps a connection for events until ctx ends.
func (d *Driver) watch(ctx context.Context, dial dialer) {
	pause := d.opts.BackoffMin
	for {
		stood, err := d.watchOnce(ctx, dial)
		if ctx.Err() != nil {
			return
		}
		if stood > d.opts.BackoffMax {
			pause = d.opts.BackoffMin
		}
		d.log.Warn("no connection for events", "error", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, d.opts.BackoffMax)
	}
}

// watchOnce makes a connection and hands on its events until it breaks. It says how long the connection stood.
func (d *Driver) watchOnce(ctx context.Context, dial dialer) (stood time.Duration, err error) {
	dialing, cancel := context.WithTimeout(ctx, d.opts.Keepalive)
	defer cancel()
	c, err := dial.dial(dialing)
	if err != nil {
		return 0, err
	}
	// The subscription lives as long as the connection; its goroutine ends when the channel is drained.
	var events <-chan libvirt.DomainEventLifecycleMsg
	err = c.do(dialing, func(l *libvirt.Libvirt) (err error) {
		events, err = l.LifecycleEvents(context.WithoutCancel(ctx))
		return err
	})
	defer func() {
		c.wire.kill()
		if events != nil {
			for range events {
			}
		}
	}()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	d.connected()
	defer d.disconnected()
	err = d.deliver(ctx, c, events)
	return time.Since(began), err
}

// deliver hands on events, and asks from time to time whether libvirtd is still there.
func (d *Driver) deliver(ctx context.Context, c *conn, events <-chan libvirt.DomainEventLifecycleMsg) error {
	alive := make(chan error, 1)
	go func() { alive <- d.keepalive(ctx, c) }()
	defer func() {
		c.wire.kill()
		<-alive
	}()
	for {
		select {
		case e, open := <-events:
			if !open {
				return errors.New("the connection broke")
			}
			d.handle(e)
		case <-c.wire.dead:
			return errors.New("the connection broke")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keepalive asks libvirtd something small every now and then, until c is dead; no answer in time is what
// kills it.
func (d *Driver) keepalive(ctx context.Context, c *conn) error {
	tick := time.NewTicker(d.opts.Keepalive)
	defer tick.Stop()
	for {
		select {
		case <-c.wire.dead:
			return nil
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, d.opts.Keepalive)
		err := c.do(asking, func(l *libvirt.Libvirt) error {
			_, err := l.ConnectGetLibVersion()
			return err
		})
		cancel()
		if err != nil {
			return err
		}
	}
}

// connected tells that events come from now on. Those before may have been missed.
func (d *Driver) connected() {
	d.mu.Lock()
	close(d.ready)
	d.mu.Unlock()
	d.log.Info("connected")
	d.feed.Publish(xenctl.Event{Kind: xenctl.EventResync, At: time.Now()})
	if d.xen != nil {
		d.xen.connected()
	}
}

func (d *Driver) disconnected() {
	d.mu.Lock()
	d.ready = make(chan struct{})
	d.mu.Unlock()
}

// stopReasons is what libvirt's details of a stop mean here.
var stopReasons = map[libvirt.DomainEventStoppedDetailType]xenctl.StopReason{
	libvirt.DomainEventStoppedShutdown:  xenctl.StopPoweroff,
	libvirt.DomainEventStoppedDestroyed: xenctl.StopDestroyed,
	libvirt.DomainEventStoppedCrashed:   xenctl.StopCrash,
	libvirt.DomainEventStoppedMigrated:  xenctl.StopMigrated,
	libvirt.DomainEventStoppedSaved:     xenctl.StopSaved,
}

// handle hands on one event of libvirt's, if it is one of ours.
func (d *Driver) handle(m libvirt.DomainEventLifecycleMsg) {
	e := xenctl.Event{UUID: formatUUID(m.Dom.UUID), ID: int(m.Dom.ID), At: time.Now()}
	switch libvirt.DomainEventType(m.Event) {
	case libvirt.DomainEventStarted:
		e.Kind = xenctl.EventStarted
		d.facts.started(e.UUID, e.ID, e.At)
	case libvirt.DomainEventSuspended:
		e.Kind = xenctl.EventPaused
	case libvirt.DomainEventResumed:
		e.Kind = xenctl.EventResumed
	case libvirt.DomainEventCrashed:
		e.Kind, e.Reason = xenctl.EventCrashed, xenctl.StopCrash
	case libvirt.DomainEventStopped:
		e.Kind = xenctl.EventStopped
		if e.Reason = stopReasons[libvirt.DomainEventStoppedDetailType(m.Detail)]; e.Reason == "" {
			e.Reason = xenctl.StopFailed
		}
		if d.xen != nil && d.xen.stopping(e) {
			return // what it was is being found out
		}
		e = d.facts.stopped(e)
	default:
		return
	}
	d.publish(e)
}

// publish tells of an event, after who keeps account of the domains.
func (d *Driver) publish(e xenctl.Event) {
	if d.xen != nil {
		d.xen.note(e)
	}
	d.feed.Publish(e)
}
