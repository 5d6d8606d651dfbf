// Package listen accepts connections for the API: HTTPS, plain HTTP and a
// Unix socket, all HTTP/1.1 and all served by one handler.
//
// Its one invariant: nothing that a stranger sends, or does not send, holds
// more than one bounded slot for a bounded time. A request reaches the handler
// only when its framing can be read in one way. Start reading at Listen, then
// strict.go for the framing and gate.go for the slots.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Config says where to listen; an empty address is not listened on.
type Config struct {
	HTTPS       string // host:port; port 0 picks one
	HTTP        string
	Socket      string       // path of the Unix socket, made with mode 0600
	Certificate *Certificate // for HTTPS
	Limits      Limits
}

// Limits bound what clients may hold. Zero fields take the defaults.
type Limits struct {
	Conns           int           // TCP connections in all: 8192
	ConnsPerAddress int           // from one IPv4 address or IPv6 /64: 2048
	Header          time.Duration // for a TLS handshake and the header after it: 10 s
	Idle            time.Duration // between the requests of a connection: 2 min
	Body            time.Duration // in which each KiB of a body must arrive: 10 s
	Write           time.Duration // in which each 256 KiB of an answer must leave: 60 s
	HeaderBytes     int           // of a request: 64 KiB; above it 431
	HeaderCount     int           // of a request: 256; above it 431
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Conns, 8192}, {&l.ConnsPerAddress, 2048}, {&l.HeaderBytes, 64 << 10}, {&l.HeaderCount, 256}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&l.Header, 10 * time.Second}, {&l.Idle, 2 * time.Minute}, {&l.Body, 10 * time.Second}, {&l.Write, time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return l
}

// Server is a set of open listeners. Make one with Listen.
type Server struct {
	http   *http.Server
	limits Limits
	gate   *gate
	cert   *Certificate
	https  net.Listener
	plain  net.Listener
	socket net.Listener
}

// Listen opens every listener of the configuration; nothing is answered until
// Serve. Errors of single connections go to the log at debug level.
func Listen(cfg Config, handler http.Handler, log *slog.Logger) (*Server, error) {
	s := newServer(cfg.Limits, handler, log)
	s.cert = cfg.Certificate
	err := errors.Join(open(&s.https, "tcp", cfg.HTTPS), open(&s.plain, "tcp", cfg.HTTP), openSocket(&s.socket, cfg.Socket))
	if err == nil && s.https != nil && s.cert == nil {
		err = errors.New("listen: HTTPS without a certificate")
	}
	if err != nil {
		s.closeListeners()
		return nil, err
	}
	return s, nil
}

func newServer(limits Limits, handler http.Handler, log *slog.Logger) *Server {
	limits = limits.withDefaults()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s := &Server{limits: limits, gate: newGate(limits.Conns, limits.ConnsPerAddress)}
	s.http = &http.Server{
		Handler:           &guard{handler, limits},
		ReadHeaderTimeout: limits.Header,
		IdleTimeout:       limits.Idle,
		MaxHeaderBytes:    limits.HeaderBytes,
		Protocols:         protocols,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return withConn(ctx, c.(*conn)) },
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateHijacked {
				c.(*conn).strict.raw()
			}
		},
	}
	return s
}

func open(l *net.Listener, network, addr string) error {
	if addr == "" {
		return nil
	}
	opened, err := net.Listen(network, addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	*l = opened
	return nil
}

// openSocket takes over the path of a socket that nobody serves any more.
func openSocket(l *net.Listener, path string) error {
	if path == "" {
		return nil
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("listen: %s is served by another process", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		os.Remove(path)
	}
	if err := open(l, "unix", path); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// HTTPSAddr is where HTTPS is served; nil if it is not.
func (s *Server) HTTPSAddr() net.Addr { return addrOf(s.https) }

// HTTPAddr is where plain HTTP is served; nil if it is not.
func (s *Server) HTTPAddr() net.Addr { return addrOf(s.plain) }

func addrOf(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}

func (s *Server) closeListeners() {
	for _, l := range []net.Listener{s.https, s.plain, s.socket} {
		if l != nil {
			l.Close()
		}
	}
}

// Serve answers until Shutdown, whose caller then sees nil here, or until a
// listener fails.
func (s *Server) Serve() error {
	var tlsConfig *tls.Config
	if s.https != nil {
		tlsConfig = s.cert.config()
	}
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i, l := range []net.Listener{s.https, s.plain, s.socket} {
		if l == nil {
			continue
		}
		entry := &listener{Listener: l, gate: s.gate, limits: s.limits}
		if i == 0 {
			entry.tls = tlsConfig
		}
		wg.Go(func() {
			if errs[i] = s.http.Serve(entry); !errors.Is(errs[i], http.ErrServerClosed) {
				s.http.Close()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("listen: %w", err)
		}
	}
	return nil
}

// Shutdown closes the listeners, waits for the requests at hand until ctx
// ends, then closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	s.closeListeners()
	if err != nil {
		s.http.Close()
	}
	return err
}
