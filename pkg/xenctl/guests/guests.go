// Package guests follows what the guests of a Xen host say of themselves in xenstore: the operating system, addresses,
// drivers and features that an agent and the kernel inside write there.
//
// The invariant: what a guest writes costs what it changed, at most once a second, and never more than a bound that no
// guest can move; one guest's writes delay no other's.
//
// Start reading at Follower; keys.go says which keys count, info.go what they mean.
package guests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenstore"
)

// Store is what is needed of xenstore; *xenstore.Client has it.
type Store interface {
	Read(ctx context.Context, path string) (string, error)
	List(ctx context.Context, path string) ([]string, error)
	Watch(ctx context.Context, path string) (*xenstore.Watch, error)
}

// Options are what a Follower is made with; Store and Changed are required.
type Options struct {
	Store Store
	// Changed is told of a guest that says something new. It must not block.
	Changed func(uuid string, id int)
	Log     *slog.Logger
	// Pace is how long a guest's next changes wait at least [1 s].
	Pace time.Duration
}

// Follower follows guests until it is closed.
type Follower struct {
	opts Options
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup

	mu     sync.Mutex
	guests map[string]*guest // by uuid
}

// guest is one incarnation of a domain.
type guest struct {
	uuid string
	id   int
	stop context.CancelFunc

	mu     sync.Mutex
	known  bool // the keys have been read
	keys   keys
	readAt chan struct{} // closed when known becomes true
}

// Times between attempts to follow a guest when xenstored is away, and the most that a look at a guest takes.
const (
	againMin = 200 * time.Millisecond
	againMax = 10 * time.Second
	lookTime = 10 * time.Second
	// lookShare is how many times longer than a look the pause after it is.
	lookShare = 20
)

// New makes a Follower that follows nobody yet.
func New(opts Options) *Follower {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Pace == 0 {
		opts.Pace = time.Second
	}
	f := &Follower{opts: opts, guests: map[string]*guest{}}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// Close ends all following and waits for it.
func (f *Follower) Close() {
	f.mu.Lock()
	f.stop()
	f.mu.Unlock()
	f.work.Wait()
}

// Follow begins to follow the guest in a domain, unless it is followed already.
func (f *Follower) Follow(uuid string, id int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.guests[uuid]
	if f.ctx.Err() != nil || old != nil && old.id >= id {
		return
	}
	if old != nil {
		old.stop()
	}
	ctx, stop := context.WithCancel(f.ctx)
	g := &guest{uuid: uuid, id: id, stop: stop, readAt: make(chan struct{})}
	f.guests[uuid] = g
	f.work.Go(func() {
		defer stop()
		f.follow(ctx, g)
	})
}

// Forget ends the following of a domain that has gone.
func (f *Follower) Forget(uuid string, id int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.guests[uuid]; g != nil && g.id <= id {
		g.stop()
		delete(f.guests, uuid)
	}
}

// Info is what the guest in a domain says now, with networks numbered by the devices' numbers. ErrNotFound when it
// isn't followed.
func (f *Follower) Info(ctx context.Context, uuid string) (xenctl.GuestInfo, error) {
	f.mu.Lock()
	g := f.guests[uuid]
	f.mu.Unlock()
	if g == nil {
		return xenctl.GuestInfo{}, xenctl.ErrNotFound
	}
	select {
	case <-g.readAt:
	case <-ctx.Done():
		return xenctl.GuestInfo{}, xenctl.ContextError(ctx)
	case <-f.ctx.Done():
		return xenctl.GuestInfo{}, xenctl.ErrClosed
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.keys.info(), nil
}

// Value is a key that the guest has written, below its domain's path; empty when there is none or it isn't known.
func (f *Follower) Value(uuid, key string) string {
	f.mu.Lock()
	g := f.guests[uuid]
	f.mu.Unlock()
	if g == nil {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.keys[key]
}

// follow keeps a watch on a guest until ctx ends, also over breaks of xenstored's connection.
func (f *Follower) follow(ctx context.Context, g *guest) {
	pause := againMin
	for {
		err := f.watch(ctx, g, &pause)
		if ctx.Err() != nil {
			return
		}
		f.opts.Log.Debug("a guest can't be followed; trying again", "domain", g.uuid, "domid", g.id, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, againMax)
	}
}

// watch follows a guest over one connection.
func (f *Follower) watch(ctx context.Context, g *guest, pause *time.Duration) error {
	w, err := f.opts.Store.Watch(ctx, g.path())
	if err != nil {
		return err
	}
	defer w.Release(ctx)
	first := true
	for {
		select {
		case <-w.C:
		case <-w.Done():
			return errors.New("the connection broke")
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		paths, whole := w.Take()
		if err := f.look(ctx, g, paths, whole, first); err != nil {
			return err
		}
		first, *pause = false, againMin
		select {
		case <-time.After(max(f.opts.Pace, lookShare*time.Since(began))):
		case <-ctx.Done():
			return nil
		}
	}
}

// look reads what has changed and tells of it.
func (f *Follower) look(ctx context.Context, g *guest, paths []string, whole, first bool) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	g.mu.Lock()
	next := g.keys.clone()
	g.mu.Unlock()
	var names []string
	var err error
	switch {
	case first:
		next = keys{}
		names, err = survey(ctx, f.opts.Store, g.path())
	case whole:
		names = next.names()
		names = append(names, meaningful...)
	default:
		names = relative(g.path(), paths)
	}
	if err == nil {
		err = next.read(ctx, f.opts.Store, g.path(), names)
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	same := g.known && g.keys.equal(next)
	g.keys = next
	if !g.known {
		g.known = true
		close(g.readAt)
	}
	g.mu.Unlock()
	if !same && len(next) > 0 {
		f.opts.Changed(g.uuid, g.id)
	}
	return nil
}

func (g *guest) path() string { return fmt.Sprintf("/local/domain/%d", g.id) }
