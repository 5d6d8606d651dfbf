package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
)

// dialer makes connections to a libvirtd.
type dialer struct{ socket, uri string }

// conn is one connection. Killing it is what ends a call that takes too long.
type conn struct {
	*libvirt.Libvirt
	wire *wire
}

// wire is a net.Conn that knows when it is dead.
type wire struct {
	net.Conn
	in   *inOrder
	once sync.Once
	dead chan struct{}
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if err != nil {
		w.kill()
	}
	return n, err
}

func (w *wire) kill() {
	w.once.Do(func() {
		w.Conn.Close()
		close(w.dead)
	})
}

// Dial makes a wire the socket.Dialer of itself.
func (w *wire) Dial() (net.Conn, error) { return w, nil }

func (c *conn) alive() bool {
	select {
	case <-c.wire.dead:
		return false
	default:
		return true
	}
}

// do runs f, which makes calls on c, until it ends or ctx does; then c is dead. Since that ends the calls, f
// has always returned when do returns.
func (c *conn) do(ctx context.Context, f func(*libvirt.Libvirt) error) error {
	result := make(chan error, 1)
	go func() { result <- f(c.Libvirt) }()
	var err error
	select {
	case err = <-result:
	case <-ctx.Done():
		c.wire.kill()
		<-result
		return xenctl.ContextError(ctx)
	}
	var answer libvirt.Error
	if err != nil && !errors.As(err, &answer) && !isLocal(err) {
		c.wire.kill()
		return fmt.Errorf("%w: %w", xenctl.ErrUnavailable, err)
	}
	return err
}

// localError is an error of the functions given to do that says nothing about the connection.
type localError struct{ error }

// Unwrap gives the cause.
func (e localError) Unwrap() error { return e.error }

func local(err error) error { return localError{err} }

func isLocal(err error) bool {
	var e localError
	return errors.As(err, &e)
}

func (d dialer) dial(ctx context.Context) (*conn, error) {
	plain, err := new(net.Dialer).DialContext(ctx, "unix", d.socket)
	if err != nil {
		if e := xenctl.ContextError(ctx); e != nil {
			return nil, e
		}
		return nil, fmt.Errorf("%w: %w", xenctl.ErrUnavailable, err)
	}
	w := &wire{Conn: plain, in: newInOrder(plain), dead: make(chan struct{})}
	c := &conn{Libvirt: libvirt.NewWithDialer(w), wire: w}
	err = c.do(ctx, func(l *libvirt.Libvirt) error { return l.ConnectToURI(libvirt.ConnectURI(d.uri)) })
	if err != nil {
		w.kill()
		var answer libvirt.Error
		if errors.As(err, &answer) {
			return nil, fmt.Errorf("%w: open %s: %w", xenctl.ErrUnavailable, d.uri, err)
		}
		return nil, err
	}
	return c, nil
}

// pool is a bounded set of connections, made when they are needed, each for one call at a time.
type pool struct {
	dialer dialer
	slots  chan struct{} // a token a call under way

	mu     sync.Mutex
	idle   []*conn // the one used last is at the end
	closed bool
	busy   sync.WaitGroup
	ending context.Context // ends with the pool, and with it the calls under way
	end    context.CancelCauseFunc
}

func newPool(d dialer, size int) *pool {
	p := &pool{dialer: d, slots: make(chan struct{}, size)}
	p.ending, p.end = context.WithCancelCause(context.Background())
	return p
}

// call runs f on a connection. again says that f only reads, so that it may be tried a second time when the
// connection turns out to have been broken.
func (p *pool) call(ctx context.Context, again bool, f func(*libvirt.Libvirt) error) error {
	if err := xenctl.ContextError(ctx); err != nil {
		return err
	}
	if !p.begin() {
		return xenctl.ErrClosed
	}
	defer p.busy.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ending, func() { cancel(xenctl.ErrClosed) })()
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return xenctl.ContextError(ctx)
	}
	defer func() { <-p.slots }()

	c, fresh, err := p.take(ctx)
	if err != nil {
		return err
	}
	err = c.do(ctx, f)
	p.give(c)
	if again && !fresh && errors.Is(err, xenctl.ErrUnavailable) {
		return p.once(ctx, f)
	}
	return err
}

// once runs f on a new connection.
func (p *pool) once(ctx context.Context, f func(*libvirt.Libvirt) error) error {
	c, err := p.dialer.dial(ctx)
	if err != nil {
		return err
	}
	defer p.give(c)
	return c.do(ctx, f)
}

func (p *pool) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.busy.Add(1)
	}
	return !p.closed
}

// take returns an idle connection, or a fresh one.
func (p *pool) take(ctx context.Context) (c *conn, fresh bool, err error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		c = p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if c.alive() {
			p.mu.Unlock()
			return c, false, nil
		}
	}
	p.mu.Unlock()
	c, err = p.dialer.dial(ctx)
	return c, true, err
}

func (p *pool) give(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		c.wire.kill()
	case c.alive():
		p.idle = append(p.idle, c)
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.end(xenctl.ErrClosed)
	for _, c := range p.idle {
		c.wire.kill()
	}
	p.idle = nil
}

func (p *pool) wait() { p.busy.Wait() }
