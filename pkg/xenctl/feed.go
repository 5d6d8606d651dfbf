package xenctl

import (
	"context"
	"sync"
)

// feedLimit is how many events wait for one subscriber before they become a single EventResync.
const feedLimit = 4096

// Feed fans events out to subscribers with the promises of Event: order is kept, a slow subscriber holds
// up nobody and gets one EventResync for what it missed. Implementations of Hypervisor publish into one.
// The zero value is ready.
type Feed struct {
	mu     sync.Mutex
	subs   map[*feedSub]struct{}
	closed bool
	done   sync.WaitGroup
}

// feedSub is one subscriber: a queue, and a goroutine that empties it into the channel.
type feedSub struct {
	queue []Event // guarded by Feed.mu
	wake  chan struct{}
	stop  chan struct{}
}

// Publish hands an event to every subscriber. It never blocks.
func (f *Feed) Publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		if len(s.queue) >= feedLimit {
			s.queue = append(s.queue[:0], Event{Kind: EventResync, At: e.At})
		}
		s.queue = append(s.queue, e)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Subscribe returns the events from now on until ctx ends or the feed is closed, then closes the channel.
func (f *Feed) Subscribe(ctx context.Context) (<-chan Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	if err := ContextError(ctx); err != nil {
		return nil, err
	}
	s := &feedSub{wake: make(chan struct{}, 1), stop: make(chan struct{})}
	if f.subs == nil {
		f.subs = make(map[*feedSub]struct{})
	}
	f.subs[s] = struct{}{}
	out := make(chan Event)
	f.done.Go(func() { f.deliver(ctx, s, out) })
	return out, nil
}

func (f *Feed) deliver(ctx context.Context, s *feedSub, out chan<- Event) {
	defer close(out)
	defer func() {
		f.mu.Lock()
		delete(f.subs, s)
		f.mu.Unlock()
	}()
	for {
		f.mu.Lock()
		batch := s.queue
		s.queue = nil
		f.mu.Unlock()
		for _, e := range batch {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			case <-s.stop:
				return
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		case <-s.stop:
			return
		}
	}
}

// Close ends all subscriptions and waits for their goroutines.
func (f *Feed) Close() {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		for s := range f.subs {
			close(s.stop)
		}
	}
	f.mu.Unlock()
	f.done.Wait()
}
