package xenstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"xapid/pkg/xenctl"
)

// changesLimit is how many changed keys a watch names; beyond, it says that all may have changed.
const changesLimit = 1024

// Watch tells of changes at and below a path. What isn't taken yet is kept as a set, so a guest that writes
// without end costs who watches it no memory and others nothing. Its first change comes at once, by itself.
type Watch struct {
	// C is ready when there are changes to take.
	C <-chan struct{}

	path, token string
	session     *session
	wake        chan struct{}

	mu    sync.Mutex
	paths map[string]struct{}
	whole bool
}

// lastToken numbers the watches of this process.
var lastToken atomic.Uint64

// Watch begins to watch a path, which need not be there. It ends with Stop, or with the connection (Done).
func (c *Client) Watch(ctx context.Context, path string) (*Watch, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	wake := make(chan struct{}, 1)
	w := &Watch{C: wake, wake: wake, path: path, token: "xapid-" + strconv.FormatUint(lastToken.Add(1), 10),
		session: s, paths: map[string]struct{}{}}
	s.mu.Lock()
	s.watches[w.token] = w
	s.mu.Unlock()
	if _, err = (Tx{session: s}).do(ctx, opWatch, path, terminated(path, w.token)); err != nil {
		s.unwatch(w)
		return nil, err
	}
	return w, nil
}

func (s *session) unwatch(w *Watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches, w.token)
}

// Stop ends the watch. Its changes stop whether xenstored answers or not.
func (w *Watch) Stop(ctx context.Context) error {
	w.session.unwatch(w)
	_, err := (Tx{session: w.session}).do(ctx, opUnwatch, w.path, terminated(w.path, w.token))
	return err
}

// Release is Stop for who has no time left, perhaps.
func (w *Watch) Release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if err := w.Stop(ctx); err != nil && !errors.Is(err, xenctl.ErrUnavailable) {
		w.session.kill(fmt.Errorf("%w: a watch could not be ended: %w", xenctl.ErrUnavailable, err))
	}
}

// until waits until the watched key has gone or has a value that is met, and says whether it was: no, without an error,
// when ctx ended first.
func (w *Watch) until(ctx context.Context, c *Client, met func(value string) bool) (bool, error) {
	for {
		select {
		case <-w.C:
			w.Take()
			value, err := c.Read(ctx, w.path)
			if errors.Is(err, ErrNotFound) || err == nil && met(value) {
				return true, nil
			}
			if err != nil && ctx.Err() == nil {
				return false, err
			}
		case <-w.Done():
			return false, fmt.Errorf("%w: the connection broke after the request", xenctl.ErrUnavailable)
		case <-ctx.Done():
			return false, nil
		}
	}
}

// Done is closed when the connection broke: changes are lost from then on, and a new watch is needed.
func (w *Watch) Done() <-chan struct{} { return w.session.done }

// Take returns the keys that have changed since the last call, in no order. whole says that there were too
// many to name: any key below the path may have changed.
func (w *Watch) Take() (paths []string, whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.paths {
		paths = append(paths, p)
	}
	whole = w.whole
	w.paths, w.whole = map[string]struct{}{}, false
	return paths, whole
}

// changed notes a change. It never blocks: the pump calls it.
func (w *Watch) changed(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.whole:
	case len(w.paths) >= changesLimit:
		w.paths, w.whole = map[string]struct{}{}, true
	default:
		w.paths[path] = struct{}{}
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
