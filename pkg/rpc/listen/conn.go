package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// Peer is who is at the other end of a connection.
type Peer struct {
	Addr netip.Addr // of a TCP connection
	Unix bool       // on the Unix socket; then UID is the kernel's word
	UID  uint32
	TLS  bool
}

// IsRoot reports whether the peer is root on this host's Unix socket.
func (p Peer) IsRoot() bool { return p.Unix && p.UID == 0 }

type connKey struct{}

func withConn(ctx context.Context, c *conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// PeerOf gives the peer of the connection that a request's context belongs to.
func PeerOf(ctx context.Context) (Peer, bool) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return Peer{}, false
	}
	return c.peer, true
}

// listener hands out connections that have a slot and check their framing.
type listener struct {
	net.Listener
	gate   *gate
	limits Limits
	tls    *tls.Config
}

// Accept waits for a connection that gets a slot.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.wrap(raw); c != nil {
			return c, nil
		}
		raw.Close()
	}
}

// wrap puts the layers on a connection; nil if there is no slot for it.
func (l *listener) wrap(raw net.Conn) *conn {
	c := &conn{Conn: &pacedConn{raw, l.limits.Write}, bottom: raw}
	if u, ok := raw.(*net.UnixConn); ok {
		uid, err := peerUID(u)
		if err != nil {
			return nil
		}
		c.peer = Peer{Unix: true, UID: uid}
		return c
	}
	if c.slot = l.gate.admit(raw); c.slot == nil {
		return nil
	}
	if tcp, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		c.peer.Addr = tcp.AddrPort().Addr().Unmap()
	}
	if l.tls != nil {
		c.peer.TLS = true
		c.secure = tls.Server(c.Conn, l.tls)
		c.Conn = c.secure
	}
	return c
}

// peerUID asks the kernel who connected.
func peerUID(u *net.UnixConn) (uint32, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// conn is one connection as net/http sees it: plain text, whose framing is
// checked before net/http reads it.
type conn struct {
	net.Conn
	bottom net.Conn // the socket
	secure *tls.Conn
	state  *tls.ConnectionState
	peer   Peer
	slot   *slot
	strict strict
	spoken bool
	bad    atomic.Bool
}

// Read fails at the first request with bad framing, after what stands before
// it. net/http answers an error of this kind with 400 and closes.
func (c *conn) Read(p []byte) (int, error) {
	if c.bad.Load() {
		return 0, ErrFraming
	}
	n, err := c.Conn.Read(p)
	good, bad := c.strict.feed(p[:n])
	if !c.spoken && c.strict.heads > 0 {
		c.spoken = true
		c.slot.Spoke()
	}
	if bad != nil {
		c.bad.Store(true)
		if good == 0 {
			return 0, bad
		}
		return good, nil
	}
	return n, err
}

// CloseWrite tells the peer that nothing more comes, so that an answer sent
// before a close is not lost to a reset.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// tlsState is that of a finished handshake; it no longer changes.
func (c *conn) tlsState() *tls.ConnectionState {
	if c.state == nil {
		state := c.secure.ConnectionState()
		c.state = &state
	}
	return c.state
}

// Bounds on what is read after a refusal, so that the refusal arrives.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// Close gives the slot back; after a refusal it waits a little for the peer to
// have read it.
func (c *conn) Close() error {
	if c.bad.Swap(false) {
		c.CloseWrite()
		c.bottom.SetReadDeadline(time.Now().Add(lingerTime))
		io.CopyN(io.Discard, c.bottom, lingerBytes)
	}
	defer c.slot.Release()
	return c.Conn.Close()
}

// pacedConn cuts a peer that does not read what we write.
type pacedConn struct {
	net.Conn
	stall time.Duration
}

const writePiece = 256 << 10

// Write sends p in pieces, each under a deadline of its own.
func (c *pacedConn) Write(p []byte) (int, error) {
	written := 0
	for {
		piece := p[written:min(len(p), written+writePiece)]
		if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(piece)
		if written += n; err != nil || written == len(p) {
			return written, err
		}
	}
}

// CloseWrite closes the socket's sending half.
func (c *pacedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
