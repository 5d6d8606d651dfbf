package rpc

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"

	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// classicQueue is how many events wait for a client of event.next before it
// has lost some.
const classicQueue = 5000

// subscription is a session's part in the classic event calls. It taps every
// class: what it wants of them changes under its own lock, which the commit
// takes, so nothing may be waited for under it.
type subscription struct {
	wake chan struct{}
	gone chan struct{} // closed when nothing is subscribed to any more
	stop func()

	mu      sync.Mutex
	in      interest
	queue   []classicEvent
	lost    bool
	counter int
}

type classicEvent struct {
	db.Event
	row *db.Row
}

// put queues an event; it runs within the commit, and never waits.
func (sub *subscription) put(e db.Event, row *db.Row) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if !sub.in.wants(e.Class, e.Ref) {
		return
	}
	if len(sub.queue) == classicQueue {
		sub.queue, sub.lost = nil, true
	}
	if !sub.lost {
		sub.queue = append(sub.queue, classicEvent{e, row})
	}
	select {
	case sub.wake <- struct{}{}:
	default:
	}
}

// add widens the subscription.
func (sub *subscription) add(in interest) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	for i := range in.classes {
		sub.in.classes[i] |= in.classes[i]
		sub.in.whole[i] |= in.whole[i]
	}
	for ref := range in.objects {
		sub.in.objects[ref] = true
	}
}

// remove narrows it, and reports whether nothing is left.
func (sub *subscription) remove(in interest) bool {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	for i := range in.whole {
		sub.in.whole[i] &^= in.whole[i]
	}
	for ref := range in.objects {
		delete(sub.in.objects, ref)
	}
	return sub.in.whole == (db.Classes{}) && len(sub.in.objects) == 0
}

// maxObjects bounds the single objects in a subscription.
const maxObjects = 10_000

// Register adds classes to the session's subscription, from now on.
func (h *eventHub) Register(ctx context.Context, _ *service.Call, p service.EventRegisterParams) error {
	in, err := h.parseInterest(p.Classes)
	if err != nil {
		return err
	}
	sess := callOf(ctx).session
	h.classic.Lock()
	defer h.classic.Unlock()
	sub := sess.sub.Load()
	if sub == nil {
		sub = &subscription{in: interest{objects: map[string]bool{}}, wake: make(chan struct{}, 1), gone: make(chan struct{})}
		sub.stop = h.s.db.Feed().Tap(h.all, sub.put)
		sess.sub.Store(sub)
	}
	if len(sub.in.objects)+len(in.objects) > maxObjects {
		return xenapi.ErrInvalidValue("classes", "more than "+strconv.Itoa(maxObjects)+" single objects")
	}
	sub.add(in)
	select {
	case <-sess.ended: // meanwhile: end has looked for a subscription before there was one
		h.end(sess)
	default:
	}
	return nil
}

// Unregister takes classes out of the subscription; without any left it ends.
func (h *eventHub) Unregister(ctx context.Context, _ *service.Call, p service.EventUnregisterParams) error {
	in, err := h.parseInterest(p.Classes)
	if err != nil {
		return err
	}
	sess := callOf(ctx).session
	h.classic.Lock()
	defer h.classic.Unlock()
	if sub := sess.sub.Load(); sub != nil && sub.remove(in) {
		h.end(sess)
	}
	return nil
}

// drop ends the subscription of a session that has ended.
func (h *eventHub) drop(sess *session) {
	h.classic.Lock()
	defer h.classic.Unlock()
	h.end(sess)
}

// end stops a session's subscription; under classic.
func (h *eventHub) end(sess *session) {
	if sub := sess.sub.Swap(nil); sub != nil {
		sub.stop()
		close(sub.gone)
	}
}

// Next waits, without an end, for events of the subscription.
func (h *eventHub) Next(ctx context.Context, _ *service.Call) (any, error) {
	c := callOf(ctx)
	for {
		sub := c.session.sub.Load()
		if sub == nil {
			select {
			case <-c.session.ended:
				return nil, xenapi.ErrSessionInvalid(string(c.session.identity.Ref))
			default:
				return nil, xenapi.ErrSessionNotRegistered(c.Session.UUID)
			}
		}
		if events, err := h.drain(c, sub); err != nil || len(events) > 0 {
			return events, err
		}
		select {
		case <-sub.wake:
		case <-sub.gone:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// drain encodes what is queued; every write is its own event.
func (h *eventHub) drain(c *call, sub *subscription) (wire.List, error) {
	hidden := h.s.hidden(c)
	sub.mu.Lock()
	queue, lost := sub.queue, sub.lost
	sub.queue, sub.lost = nil, false
	queue = slices.DeleteFunc(queue, func(e classicEvent) bool { return hidden.Has(e.Class.ID) })
	id := sub.counter
	sub.counter += len(queue)
	sub.mu.Unlock()
	if lost {
		return nil, xenapi.ErrEventsLost()
	}
	h.s.rows.tick()
	timestamp := strconv.FormatInt(h.s.now().Unix(), 10) + "."
	out := make(wire.List, 0, len(queue))
	for _, e := range queue {
		id++
		o := wire.Object{{Name: "id", Value: strconv.Itoa(id)}, {Name: "timestamp", Value: timestamp},
			{Name: "class", Value: strings.ToLower(e.Class.Name)}, {Name: "operation", Value: opNames[e.Op]}, {Name: "ref", Value: e.Ref}}
		if e.row != nil {
			o = append(o, wire.Member{Name: "snapshot", Value: h.s.rows.encoded(e.row, c.enc)})
		}
		out = append(out, o)
	}
	return out, nil
}

// heartbeat tells classic subscribers of the pool every half minute, so that
// idle connections move.
func (h *eventHub) heartbeat() {
	class := h.s.model.Class("pool")
	for row := range h.s.db.View().Rows(class) {
		for _, sess := range h.s.sessions.all() {
			if sub := sess.sub.Load(); sub != nil {
				sub.put(db.Event{Gen: row.Gen, Created: row.Created, Class: class, Op: db.OpUpdate, Ref: row.Ref}, row)
			}
		}
	}
}
