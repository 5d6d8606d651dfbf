package rpc

import (
	"context"
	"fmt"
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

// subscription is a session's part in the classic event calls.
type subscription struct {
	mu      sync.Mutex
	in      interest
	queue   []classicEvent
	lost    bool
	wake    chan struct{}
	stop    func()
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

// Register adds classes to the session's subscription, from now on.
func (h *eventHub) Register(ctx context.Context, _ *service.Call, p service.EventRegisterParams) error {
	in, err := h.parseInterest(p.Classes)
	sess := callOf(ctx).session
	if err != nil || sess == nil {
		return err
	}
	h.s.sessions.mu.Lock()
	defer h.s.sessions.mu.Unlock()
	old := sess.sub
	if old != nil {
		old.stop()
		in = merge(in, old.in)
	}
	sub := &subscription{in: in, wake: make(chan struct{}, 1)}
	if old != nil && !old.lost {
		sub.queue, sub.counter = old.queue, old.counter
	}
	sub.stop = h.s.db.Feed().Tap(in.classes, sub.put)
	sess.sub = sub
	return nil
}

func merge(a, b interest) interest {
	out := interest{objects: map[string]bool{}}
	for i := range a.classes {
		out.classes[i] = a.classes[i] | b.classes[i]
		out.whole[i] = a.whole[i] | b.whole[i]
	}
	for _, m := range []map[string]bool{a.objects, b.objects} {
		for ref := range m {
			out.objects[ref] = true
		}
	}
	return out
}

// Unregister takes classes out of the subscription; without any left it ends.
func (h *eventHub) Unregister(ctx context.Context, _ *service.Call, p service.EventUnregisterParams) error {
	in, err := h.parseInterest(p.Classes)
	sess := callOf(ctx).session
	if err != nil || sess == nil {
		return err
	}
	h.s.sessions.mu.Lock()
	defer h.s.sessions.mu.Unlock()
	if sess.sub == nil {
		return nil
	}
	sess.sub.mu.Lock()
	defer sess.sub.mu.Unlock()
	for i := range in.whole {
		sess.sub.in.whole[i] &^= in.whole[i]
	}
	for ref := range in.objects {
		delete(sess.sub.in.objects, ref)
	}
	if sess.sub.in.whole == (db.Classes{}) && len(sess.sub.in.objects) == 0 {
		sess.sub.stop()
		sess.sub = nil
	}
	return nil
}

// drop ends the subscription of a session that has ended.
func (h *eventHub) drop(sess *session) {
	h.s.sessions.mu.Lock()
	defer h.s.sessions.mu.Unlock()
	if sess.sub != nil {
		sess.sub.stop()
		sess.sub = nil
	}
}

// Next waits, without an end, for events of the subscription.
func (h *eventHub) Next(ctx context.Context, _ *service.Call) (any, error) {
	c := callOf(ctx)
	for {
		h.s.sessions.mu.RLock()
		var sub *subscription
		if c.session != nil {
			sub = c.session.sub
		}
		h.s.sessions.mu.RUnlock()
		if sub == nil {
			return nil, xenapi.ErrSessionNotRegistered(c.Session.UUID)
		}
		if events, err := h.drain(sub, c.enc); err != nil || len(events) > 0 {
			return events, err
		}
		select {
		case <-sub.wake:
		case <-c.session.ended:
			return nil, xenapi.ErrSessionInvalid(string(c.session.identity.Ref))
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// drain encodes what is queued; every write is its own event.
func (h *eventHub) drain(sub *subscription, enc encoding) (wire.List, error) {
	sub.mu.Lock()
	queue, lost := sub.queue, sub.lost
	sub.queue, sub.lost = nil, false
	first := sub.counter
	sub.counter += len(queue)
	sub.mu.Unlock()
	if lost {
		return nil, xenapi.ErrEventsLost()
	}
	out := make(wire.List, 0, len(queue))
	for i, e := range queue {
		o := wire.Object{{Name: "id", Value: fmt.Sprint(first + i + 1)},
			{Name: "timestamp", Value: fmt.Sprintf("%d.", h.s.now().Unix())},
			{Name: "class", Value: strings.ToLower(e.Class.Name)}, {Name: "operation", Value: opNames[e.Op]}, {Name: "ref", Value: e.Ref}}
		if e.row != nil {
			o = append(o, wire.Member{Name: "snapshot", Value: h.s.rows.encoded(e.row, enc)})
		}
		out = append(out, o)
	}
	return out, nil
}

// heartbeat tells classic subscribers of the pool every half minute, so that
// idle connections move.
func (h *eventHub) heartbeat() {
	class := h.s.model.Class("pool")
	h.s.sessions.mu.RLock()
	defer h.s.sessions.mu.RUnlock()
	for row := range h.s.db.View().Rows(class) {
		for _, sess := range h.s.sessions.byRef {
			if sess.sub != nil {
				sess.sub.put(db.Event{Gen: row.Gen, Created: row.Created, Class: class, Op: db.OpUpdate, Ref: row.Ref}, row)
			}
		}
	}
}
