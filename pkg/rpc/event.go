package rpc

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// answersApart is the least time between two answers to one client while
// changes keep coming, so that bursts arrive together. The first change after
// a quiet time is answered at once.
const answersApart = 50 * time.Millisecond

// eventHub serves class event from the database's feed.
type eventHub struct {
	service.UnimplementedEvent
	s      *Server
	start  uint64    // the generation at which this process began
	began  time.Time // of the monotonic clock that answers are paced by
	all    db.Classes
	counts atomic.Pointer[refCounts]

	classic sync.Mutex // held to change which session has a subscription
}

// refCounts are the encoded valid_ref_counts of one generation.
type refCounts struct {
	gen uint64
	raw [2]wire.Raw
}

func newEventHub(s *Server) *eventHub {
	h := &eventHub{s: s, start: s.db.View().Gen(), began: time.Now()}
	for _, c := range s.model.Classes {
		if c.GenEvents {
			h.all.Add(c.ID)
		}
	}
	return h
}

// interest is what a client wants to hear of: classes, or single objects.
type interest struct {
	classes db.Classes // all that are looked at
	whole   db.Classes // of which every object counts
	objects map[string]bool
}

// parseInterest reads "*", "class" and "class/ref"; an unknown class matches
// nothing.
func (h *eventHub) parseInterest(subscriptions []string) (interest, error) {
	in := interest{objects: map[string]bool{}}
	for _, text := range subscriptions {
		name, ref, single := strings.Cut(text, "/")
		if text == "" || single && (name == "" || ref == "" || strings.Contains(ref, "/")) {
			return in, xenapi.ErrEventSubscriptionParseFailure(wire.Clip(text))
		}
		classes := h.named(name)
		for i := range classes {
			in.classes[i] |= classes[i]
			if !single {
				in.whole[i] |= classes[i]
			}
		}
		if single {
			in.objects[ref] = true
		}
	}
	return in, nil
}

// named gives the class of a name, whatever its case; all of them for "*".
func (h *eventHub) named(name string) db.Classes {
	if name == "*" {
		return h.all
	}
	var out db.Classes
	for _, c := range h.s.model.Classes {
		if c.GenEvents && strings.EqualFold(name, c.Name) {
			out.Add(c.ID)
		}
	}
	return out
}

// without leaves classes out.
func (in *interest) without(hidden db.Classes) *interest {
	out := *in
	for i := range hidden {
		out.classes[i] &^= hidden[i]
		out.whole[i] &^= hidden[i]
	}
	return &out
}

func (in *interest) wants(class *datamodel.Class, ref string) bool {
	return in.whole.Has(class.ID) || in.classes.Has(class.ID) && in.objects[ref]
}

// From waits for changes after a token and answers with one event an object.
func (h *eventHub) From(ctx context.Context, _ *service.Call, p service.EventFromParams) (any, error) {
	c := callOf(ctx)
	in, err := h.parseInterest(p.Classes)
	if err != nil {
		return nil, err
	}
	since, err := h.parseToken(p.Token)
	if err != nil {
		return nil, err
	}
	wait := time.Duration(0)
	if p.Timeout > 0 { // false for what is no number, too
		wait = time.Duration(min(p.Timeout, maxWait.Seconds()) * float64(time.Second))
	}
	return h.await(ctx, c, &in, since, wait)
}

// maxWait bounds the timeout that a client may ask for.
const maxWait = time.Hour

// await looks, and looks again whenever an object of interest has changed.
func (h *eventHub) await(ctx context.Context, c *call, in *interest, since uint64, wait time.Duration) (any, error) {
	w := h.s.db.Feed().Wait(in.classes)
	defer h.s.db.Feed().Done(w)
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	pace := pacer{began: h.began, last: c.session.lastAnswer.Load()}
	defer pace.stop()
	for expired := false; ; {
		if !pace.hold() || expired {
			snap := h.snapshot()
			events := h.collect(snap, in.without(h.s.hidden(c)), since, c.enc)
			if len(events) > 0 || expired {
				c.session.lastAnswer.Store(int64(time.Since(h.began)))
				return h.answer(snap, events, c.enc), nil
			}
			since = snap.Gen() // so that each look costs what is new
		}
		select {
		case <-w.C:
		case <-pace.due():
		case <-timeout.C:
			expired = true
		case <-c.session.ended:
			return nil, xenapi.ErrSessionInvalid(string(c.session.identity.Ref))
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// snapshot is the newest state whose changes the feed knows all of.
func (h *eventHub) snapshot() *db.Snapshot {
	if snap := h.s.db.Feed().Snapshot(); snap != nil {
		return snap
	}
	return h.s.db.View()
}

// pacer holds an answer back until the last one to the same client, before
// this call, is long enough ago.
type pacer struct {
	began time.Time
	last  int64 // when, since began; 0: never
	timer *time.Timer
}

// hold reports whether it is too early for an answer, and sets the timer.
func (p *pacer) hold() bool {
	left := answersApart - (time.Since(p.began) - time.Duration(p.last))
	if p.last == 0 || left <= 0 {
		return false
	}
	if p.timer == nil {
		p.timer = time.NewTimer(left)
	} else {
		p.timer.Reset(left)
	}
	return true
}

// due fires when hold's time is over.
func (p *pacer) due() <-chan time.Time {
	if p.timer == nil {
		return nil
	}
	return p.timer.C
}

func (p *pacer) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// parseToken gives the generation that a token stands for: 0, which is older
// than anything, for none and for one of another life of the master.
func (h *eventHub) parseToken(token string) (uint64, error) {
	if token == "" {
		return 0, nil
	}
	first, second, ok := strings.Cut(token, ",")
	_, err1 := strconv.ParseUint(first, 10, 64)
	gen, err2 := strconv.ParseUint(second, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return 0, xenapi.ErrEventFromTokenParseFailure(wire.Clip(token))
	}
	if gen < h.start || gen > h.snapshot().Gen() {
		return 0, nil
	}
	return gen, nil
}

func token(snap *db.Snapshot) string { return fmt.Sprintf("%020d,%020d", snap.Index(), snap.Gen()) }

// collect lists the events of interest since a generation, one an object, as
// the wire has them: additions, then changes, then deletions.
func (h *eventHub) collect(snap *db.Snapshot, in *interest, since uint64, enc encoding) []wire.Object {
	h.s.rows.tick()
	if since != 0 {
		if changes, ok := h.s.db.Feed().Since(since, snap.Gen(), in.classes); ok {
			return h.coalesce(snap, in, since, changes, enc)
		}
	}
	var out []wire.Object
	for _, class := range h.s.model.Classes {
		if !in.classes.Has(class.ID) {
			continue
		}
		for row := range snap.Rows(class) {
			if in.wants(class, row.Ref) {
				out = append(out, h.event(class, row.Ref, row.Gen, db.OpCreate, row, enc))
			}
		}
	}
	return out
}

func (h *eventHub) coalesce(snap *db.Snapshot, in *interest, since uint64, changes []db.Event, enc encoding) []wire.Object {
	var groups [db.OpDelete + 1][]wire.Object
	seen := make(map[string]bool, len(changes))
	for _, e := range slices.Backward(changes) {
		if seen[e.Ref] || !in.wants(e.Class, e.Ref) {
			continue
		}
		seen[e.Ref] = true
		row := snap.Find(e.Class, e.Ref)
		op := db.OpUpdate
		switch {
		case row == nil && e.Created > since:
			continue // came and went in between
		case row == nil:
			op = db.OpDelete
		case row.Created > since:
			op = db.OpCreate
		}
		groups[op] = append(groups[op], h.event(e.Class, e.Ref, e.Gen, op, row, enc))
	}
	return slices.Concat(groups[db.OpCreate], groups[db.OpUpdate], groups[db.OpDelete])
}

var opNames = [...]string{db.OpCreate: "add", db.OpUpdate: "mod", db.OpDelete: "del"}

// event is one event as the wire has it; a deletion has no snapshot.
func (h *eventHub) event(class *datamodel.Class, ref string, gen uint64, op db.Op, row *db.Row, enc encoding) wire.Object {
	id := strconv.FormatUint(gen, 10)
	o := wire.Object{{Name: "id", Value: id}, {Name: "timestamp", Value: "0.0"},
		{Name: "class", Value: strings.ToLower(class.Name)}, {Name: "operation", Value: opNames[op]}, {Name: "ref", Value: ref}}
	if op != db.OpDelete {
		o = append(o, wire.Member{Name: "snapshot", Value: h.s.rows.encoded(row, enc)})
	}
	return o
}

func (h *eventHub) answer(snap *db.Snapshot, events []wire.Object, enc encoding) any {
	list := make(wire.List, len(events))
	for i, e := range events {
		list[i] = e
	}
	return wire.Object{{Name: "events", Value: list}, {Name: "valid_ref_counts", Value: h.refCounts(snap, enc)}, {Name: "token", Value: token(snap)}}
}

// refCounts gives the number of objects in every class, encoded once a
// generation.
func (h *eventHub) refCounts(snap *db.Snapshot, enc encoding) wire.Raw {
	if known := h.counts.Load(); known != nil && known.gen == snap.Gen() {
		return known.raw[enc]
	}
	var o wire.Object
	for _, c := range h.s.model.Classes {
		if c.InDatabase {
			o = append(o, wire.Member{Name: strings.ToLower(c.Name), Value: wire.Int32(snap.Count(c))})
		}
	}
	fresh := &refCounts{gen: snap.Gen(), raw: [2]wire.Raw{wire.AppendXML(nil, nil, o), wire.AppendJSON(nil, nil, o)}}
	h.counts.Store(fresh)
	return fresh.raw[enc]
}

// Inject touches an object and returns a token from which event.from will
// tell of it.
func (h *eventHub) Inject(ctx context.Context, _ *service.Call, p service.EventInjectParams) (string, error) {
	class := h.s.model.Class(p.Class)
	if class == nil || !class.GenEvents || h.s.hidden(callOf(ctx)).Has(class.ID) || h.s.db.View().Find(class, p.Ref) == nil {
		return "", xenapi.ErrHandleInvalid(wire.Clip(p.Class), wire.Clip(p.Ref))
	}
	var before string
	err := h.s.db.Update(ctx, func(tx *db.Tx) error {
		before = token(tx.Snapshot())
		return tx.Touch(class, p.Ref)
	})
	return before, err
}

// GetCurrentID is the newest generation.
func (h *eventHub) GetCurrentID(context.Context, *service.Call) (int64, error) {
	return int64(h.s.db.View().Gen()), nil
}
