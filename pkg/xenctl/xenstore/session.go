package xenstore

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"xapid/pkg/xenctl"
)

// session is one connection. Its pump, the only one that reads it, ends when the connection does.
type session struct {
	conn  net.Conn
	turn  chan struct{} // held by who writes
	owner *sync.WaitGroup

	mu      sync.Mutex
	pending map[uint32]*call
	watches map[string]*Watch
	lastID  uint32
	err     error         // why it is dead
	done    chan struct{} // closed then
}

// call is a question that hasn't been answered.
type call struct {
	answer chan frame
	// late takes the answer when nobody waits for it any more.
	late      func(frame)
	abandoned bool
}

func newSession(conn net.Conn, owner *sync.WaitGroup) *session {
	s := &session{conn: conn, owner: owner, turn: make(chan struct{}, 1), done: make(chan struct{}),
		pending: map[uint32]*call{}, watches: map[string]*Watch{}}
	owner.Go(s.pump)
	return s
}

// kill ends the connection, once.
func (s *session) kill(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = cause
		s.conn.Close()
		close(s.done)
	}
}

func (s *session) dead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// pump hands answers to who waits for them and events to their watches.
func (s *session) pump() {
	r := bufio.NewReader(s.conn)
	for {
		f, err := readFrame(r)
		if err != nil {
			s.kill(fmt.Errorf("%w: xenstored: %w", xenctl.ErrUnavailable, err))
			return
		}
		s.deliver(f)
	}
}

func (s *session) deliver(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.op == opWatchEvent {
		if words := split(f.payload); len(words) == 2 && s.watches[words[1]] != nil {
			s.watches[words[1]].changed(words[0])
		}
		return
	}
	c := s.pending[f.id]
	if c == nil {
		return
	}
	delete(s.pending, f.id)
	if !c.abandoned {
		c.answer <- f
	} else if f.op != opError {
		s.owner.Go(func() { c.late(f) })
	}
}

// ask sends a question and waits for the answer. late, if given, gets an answer that came after ctx had ended.
func (s *session) ask(ctx context.Context, o op, tx uint32, path string, payload []byte, late func(frame)) ([]byte, error) {
	if len(payload) > payloadLimit {
		return nil, &Error{o.String(), path, "E2BIG"}
	}
	c := &call{answer: make(chan frame, 1), late: late}
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	for s.lastID++; s.lastID == 0 || s.pending[s.lastID] != nil; s.lastID++ {
	}
	id := s.lastID
	s.pending[id] = c
	s.mu.Unlock()
	if err := s.send(ctx, &frame{o, id, tx, payload}); err != nil {
		s.forget(id, nil)
		return nil, err
	}
	select {
	case f := <-c.answer:
		return result(f, o, path)
	case <-s.done:
		return nil, s.dead()
	case <-ctx.Done():
		s.forget(id, late)
		return nil, xenctl.ContextError(ctx)
	}
}

// forget gives a question up.
func (s *session) forget(id uint32, late func(frame)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c := s.pending[id]; {
	case c != nil && late != nil:
		c.abandoned = true
	default:
		delete(s.pending, id)
	}
}

func result(f frame, asked op, path string) ([]byte, error) {
	switch f.op {
	case asked:
		return f.payload, nil
	case opError:
		words := append(split(f.payload), "EIO")
		return nil, &Error{asked.String(), path, words[0]}
	}
	return nil, fmt.Errorf("%w: xenstored answers %d to %d", xenctl.ErrUnavailable, f.op, asked)
}

// send writes a frame while ctx lasts. A frame cut in two makes the connection useless.
func (s *session) send(ctx context.Context, f *frame) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-s.done:
		return s.dead()
	case <-ctx.Done():
		return xenctl.ContextError(ctx)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		s.conn.SetWriteDeadline(time.Unix(1, 0))
	})
	_, err := s.conn.Write(f.encode())
	if !stop() {
		<-interrupted
		if e := s.conn.SetWriteDeadline(time.Time{}); err == nil {
			err = e
		}
	}
	if err == nil {
		return nil
	}
	s.kill(fmt.Errorf("%w: xenstored: %w", xenctl.ErrUnavailable, err))
	if e := xenctl.ContextError(ctx); e != nil {
		return e
	}
	return s.dead()
}
