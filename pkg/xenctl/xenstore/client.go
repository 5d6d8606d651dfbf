// Package xenstore is a client of xenstored, the small tree of keys that a Xen host shares with its guests.
// It speaks the wire protocol of Xen's docs/misc/xenstore.txt on the daemon's Unix socket.
//
// The invariant: nothing that a guest or a silent xenstored does holds up a call longer than its context, nor
// one call another: calls under way share a connection, one goroutine reads it, and what nobody takes is
// bounded.
//
// Start reading at Client; session.go has the connection, tx.go the operations, watch.go the watches and
// shutdown.go the one use of them all.
package xenstore

import (
	"context"
	"fmt"
	"net"
	"sync"

	"xapid/pkg/xenctl"
)

// DefaultSocket is where a system's xenstored listens.
const DefaultSocket = "/run/xenstored/socket"

// Client calls a xenstored, to which it connects when it is first needed and again after the connection broke.
// It is safe for concurrent use. Errors wrap xenctl.ErrUnavailable when xenstored can't be reached,
// xenctl.ErrTimeout when it gave no answer in time, and are *Error when it said no.
type Client struct {
	socket string

	dialing chan struct{} // held by who makes the connection
	mu      sync.Mutex
	current *session
	closed  bool
	busy    sync.WaitGroup // pumps, and the ends of transactions that nobody waited for
}

// New makes a client of the xenstored at a socket, DefaultSocket if that is empty. It doesn't connect yet.
func New(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	return &Client{socket: socket, dialing: make(chan struct{}, 1)}
}

// Close ends the connection and with it all calls and watches, and waits for the goroutines.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	if c.current != nil {
		c.current.kill(xenctl.ErrClosed)
	}
	c.mu.Unlock()
	c.busy.Wait()
}

// alive returns the connection if there is one.
func (c *Client) alive() (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, xenctl.ErrClosed
	}
	if c.current != nil && c.current.dead() == nil {
		return c.current, nil
	}
	return nil, nil
}

// session returns the connection, and makes one if there is none.
func (c *Client) session(ctx context.Context) (*session, error) {
	if s, err := c.alive(); s != nil || err != nil {
		return s, err
	}
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, xenctl.ContextError(ctx)
	}
	if s, err := c.alive(); s != nil || err != nil {
		return s, err // somebody else was faster
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		if e := xenctl.ContextError(ctx); e != nil {
			return nil, e
		}
		return nil, fmt.Errorf("%w: %w", xenctl.ErrUnavailable, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, xenctl.ErrClosed
	}
	c.current = newSession(conn, &c.busy)
	return c.current, nil
}

// with runs f outside of any transaction.
func (c *Client) with(ctx context.Context, f func(tx Tx) error) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	return f(Tx{session: s})
}

// Read returns the value of a key, which may hold any bytes. ErrNotFound when there is none.
func (c *Client) Read(ctx context.Context, path string) (value string, err error) {
	err = c.with(ctx, func(tx Tx) (err error) {
		value, err = tx.Read(ctx, path)
		return err
	})
	return value, err
}

// Write sets a key; its parents are made.
func (c *Client) Write(ctx context.Context, path, value string) error {
	return c.with(ctx, func(tx Tx) error { return tx.Write(ctx, path, value) })
}

// Mkdir makes a key without a value; one that is there stays as it is.
func (c *Client) Mkdir(ctx context.Context, path string) error {
	return c.with(ctx, func(tx Tx) error { return tx.Mkdir(ctx, path) })
}

// Remove removes a key and all below; one that isn't there is no error, if its parent is there.
func (c *Client) Remove(ctx context.Context, path string) error {
	return c.with(ctx, func(tx Tx) error { return tx.Remove(ctx, path) })
}

// List returns the names of the keys right below one. A key changes while long lists are read in parts; then
// it is read again.
func (c *Client) List(ctx context.Context, path string) (names []string, err error) {
	err = c.with(ctx, func(tx Tx) (err error) {
		names, err = tx.List(ctx, path)
		return err
	})
	return names, err
}
