package libvirt

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
)

// OpenConsole implements xenctl.Consoler: a stream of libvirt's, on a connection of its own. Of the past it gives
// what nobody has read yet; who else has the console open loses it.
func (x *Xen) OpenConsole(ctx context.Context, uuid string) (io.ReadWriteCloser, error) {
	const op = "open console"
	ctx, cancel := withDefault(ctx, x.opts.QuickTimeout)
	defer cancel()
	if _, err := x.lookup(ctx, op, uuid); err != nil {
		return nil, err
	}
	if !x.quick.begin() {
		return nil, opError(op, uuid, xenctl.ErrClosed)
	}
	c, err := x.quick.dialer.dial(ctx)
	if err != nil {
		x.quick.busy.Done()
		return nil, opError(op, uuid, err)
	}
	var dom libvirt.Domain
	err = c.do(ctx, func(l *libvirt.Libvirt) error {
		dom, err = lookup(l, uuid)
		return err
	})
	if err != nil {
		c.wire.kill()
		x.quick.busy.Done()
		return nil, opError(op, uuid, err)
	}
	s := newConsole(c)
	x.quick.busy.Go(func() {
		defer x.quick.busy.Done()
		s.run(x.ctx, dom)
	})
	return s, nil
}

// console is an open console: what the guest writes comes through one pipe, what is typed goes through the other.
type console struct {
	conn     *conn
	out      *io.PipeReader // what the guest has written
	outEnd   *io.PipeWriter
	typed    *io.PipeWriter
	typedEnd *io.PipeReader
	once     sync.Once
	closed   chan struct{}
}

func newConsole(c *conn) *console {
	s := &console{conn: c, closed: make(chan struct{})}
	s.out, s.outEnd = io.Pipe()
	s.typedEnd, s.typed = io.Pipe()
	return s
}

// run carries the stream until the domain stops, somebody closes it, or ctx ends.
func (s *console) run(ctx context.Context, dom libvirt.Domain) {
	defer context.AfterFunc(ctx, func() { s.Close() })()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := s.conn.DomainOpenConsoleBidirectional(dom, nil, s.typedEnd, s.outEnd, 0)
		var answer libvirt.Error
		if err == nil || errors.As(err, &answer) {
			err = io.EOF // the console has gone, and with it the stream
		}
		s.outEnd.CloseWithError(err)
		s.typedEnd.CloseWithError(io.ErrClosedPipe)
	}()
	select {
	case <-ended:
	case <-s.closed:
	case <-s.conn.wire.dead:
	}
	s.conn.wire.kill()
	s.outEnd.CloseWithError(io.ErrClosedPipe)
	s.typedEnd.CloseWithError(io.ErrClosedPipe)
	<-ended
}

// Read implements io.Reader.
func (s *console) Read(p []byte) (int, error) { return s.out.Read(p) }

// Write implements io.Writer: keystrokes.
func (s *console) Write(p []byte) (int, error) { return s.typed.Write(p) }

// Close implements io.Closer.
func (s *console) Close() error {
	s.once.Do(func() { close(s.closed) })
	return errors.Join(s.out.Close(), s.typed.Close())
}

// VNCAddress implements xenctl.VNCer.
func (x *Xen) VNCAddress(ctx context.Context, uuid string) (network, address string, err error) {
	err = x.quickly(ctx, "find vnc", uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		described, err := description(l, dom)
		if err != nil {
			return err
		}
		for _, g := range described.Devices.Graphics {
			if g.VNC != nil && g.VNC.Port > 0 {
				network, address = "tcp", net.JoinHostPort(g.VNC.Listen, strconv.Itoa(g.VNC.Port))
				return nil
			}
		}
		return local(xenctl.ErrNoDevice)
	})
	return network, address, err
}
