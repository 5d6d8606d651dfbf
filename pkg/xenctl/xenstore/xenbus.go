package xenstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"xapid/pkg/xenctl"
)

// XenbusState is what an end of a paravirtual device says of itself: Xen's public/io/xenbus.h.
type XenbusState string

// The states of a device, as xenstore spells them.
const (
	XenbusInitialised XenbusState = "3"
	XenbusConnected   XenbusState = "4"
	XenbusClosing     XenbusState = "5"
	XenbusClosed      XenbusState = "6"
)

// Device is a paravirtual device of a domain, as the toolstack has noted it. The keys that name the two ends are
// those below /libxl: a guest can change the ones in its own part.
type Device struct {
	ID                int // the number in its path, which is the guest's for a NIC
	Backend, Frontend string
}

// Devices lists a domain's devices of a class, "vbd" or "vif", in the order of their numbers.
func (c *Client) Devices(ctx context.Context, domid int, class string) ([]Device, error) {
	base := fmt.Sprintf("/libxl/%d/device/%s", domid, class)
	names, err := c.List(ctx, base)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Device
	for _, name := range names {
		d := Device{}
		if d.ID, err = strconv.Atoi(name); err != nil {
			continue
		}
		for key, value := range map[string]*string{"backend": &d.Backend, "frontend": &d.Frontend} {
			if *value, err = c.Read(ctx, base+"/"+name+"/"+key); err != nil {
				break
			}
		}
		if errors.Is(err, ErrNotFound) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Device) int { return a.ID - b.ID })
	return all, nil
}

// used says that a guest's driver is at work on the device.
func (s XenbusState) used() bool { return s == XenbusInitialised || s == XenbusConnected }

// Release asks the guest to let go of a device, by the steps of Xen's own toolstack, and returns when it has, or
// when its driver was not using it; what is left of the device is then the toolstack's to remove. ErrRefused when it
// hasn't after patience: the request is taken back then and the device stays. (libxl itself would tear it out.)
func (c *Client) Release(ctx context.Context, d Device, patience time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w, err := c.Watch(waiting, d.Backend+"/state")
	if err != nil {
		return err
	}
	defer w.Release(ctx)
	before, err := c.closing(waiting, d)
	if err != nil || before == "" {
		return err
	}
	released, err := w.until(waiting, c, func(now string) bool { return XenbusState(now) == XenbusClosed })
	if released || err != nil {
		return err
	}
	return c.reopen(ctx, d, before)
}

// closing writes the request and returns the state before, or nothing when nobody uses the device.
func (c *Client) closing(ctx context.Context, d Device) (before XenbusState, err error) {
	err = c.Update(ctx, func(tx Tx) error {
		before = ""
		now, err := tx.Read(ctx, d.Backend+"/state")
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		front, err := tx.Read(ctx, d.Frontend+"/state")
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if !XenbusState(front).used() || !XenbusState(now).used() {
			return nil
		}
		before = XenbusState(now)
		if err := tx.Write(ctx, d.Backend+"/online", "0"); err != nil {
			return err
		}
		return tx.Write(ctx, d.Backend+"/state", string(XenbusClosing))
	})
	return before, err
}

// reopen takes a request back, unless the guest has obeyed it at the last moment.
func (c *Client) reopen(ctx context.Context, d Device, before XenbusState) error {
	cause := xenctl.ContextError(ctx)
	if cause == nil {
		cause = fmt.Errorf("%w: it holds on to the device", xenctl.ErrRefused)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	closed := false
	err := c.Update(ctx, func(tx Tx) error {
		now, err := tx.Read(ctx, d.Backend+"/state")
		closed = errors.Is(err, ErrNotFound) || err == nil && XenbusState(now) == XenbusClosed
		if closed || err != nil {
			return nil
		}
		if err := tx.Write(ctx, d.Backend+"/online", "1"); err != nil {
			return err
		}
		return tx.Write(ctx, d.Backend+"/state", string(before))
	})
	switch {
	case err != nil:
		return errors.Join(cause, fmt.Errorf("the request is still there: %w", err))
	case closed:
		return nil
	}
	return cause
}
