package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener in memory, so that time can be a test's own.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// inBubble serves handler in memory, under the default limits and a fake clock.
func inBubble(t *testing.T, handler http.Handler, test func(t *testing.T, p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		s := newServer(Limits{}, handler, slog.New(slog.DiscardHandler))
		s.plain = p
		served := make(chan error)
		go func() { served <- s.Serve() }()
		test(t, p)
		s.Shutdown(context.Background())
		<-served
		time.Sleep(2 * time.Second) // the bubble's clock moves until every trickle has ended
	})
}

// untilClosed returns how long the server keeps a connection and its answer.
func untilClosed(c net.Conn) (time.Duration, string) {
	begin := time.Now()
	answer, _ := io.ReadAll(c)
	return time.Since(begin), string(answer)
}

// trickle sends text, one piece each second.
func trickle(c net.Conn, text string, piece int) {
	for len(text) > 0 {
		n := min(piece, len(text))
		if _, err := io.WriteString(c, text[:n]); err != nil {
			return
		}
		text = text[n:]
		time.Sleep(time.Second)
	}
}

func TestH2SlowHeader(t *testing.T) {
	inBubble(t, echo, func(t *testing.T, p *pipes) {
		c := p.dial()
		go trickle(c, "GET / HTTP/1.1\r\nHost: "+strings.Repeat("x", 100), 1)
		if took, _ := untilClosed(c); took != 10*time.Second {
			t.Errorf("closed after %v", took)
		}
	})
}

func TestH1SilentConnection(t *testing.T) {
	inBubble(t, echo, func(t *testing.T, p *pipes) {
		if took, _ := untilClosed(p.dial()); took != 10*time.Second {
			t.Errorf("closed after %v", took)
		}
	})
}

func TestIdleAfterARequest(t *testing.T) {
	inBubble(t, echo, func(t *testing.T, p *pipes) {
		c := p.dial()
		go io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if took, answer := untilClosed(c); took != 2*time.Minute || statusOf(answer) != "200" {
			t.Errorf("closed after %v: %q", took, answer)
		}
	})
}

func TestH2SlowBody(t *testing.T) {
	inBubble(t, echo, func(t *testing.T, p *pipes) {
		c := p.dial()
		go trickle(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n", 1000)
		go func() { time.Sleep(time.Millisecond); trickle(c, strings.Repeat("x", 2000), 1) }()
		if took, answer := untilClosed(c); took > 11*time.Second || statusOf(answer) != "408" {
			t.Errorf("closed after %v: %q", took, answer)
		}
	})
}

func TestH2TransferThatMovesLives(t *testing.T) {
	inBubble(t, echo, func(t *testing.T, p *pipes) {
		c := p.dial()
		body := strings.Repeat("x", 60*128)
		go trickle(c, fmt.Sprintf("PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", len(body))+body, 128)
		if took, answer := untilClosed(c); took < 59*time.Second || statusOf(answer) != "200" {
			t.Errorf("closed after %v: %.100q", took, answer)
		}
	})
}

func TestBodyTimeIsTheClientsAlone(t *testing.T) {
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 1)
		for {
			if _, err := r.Body.Read(buf); err != nil {
				fmt.Fprint(w, err)
				return
			}
			time.Sleep(time.Minute) // the handler's own storage is slow
		}
	})
	inBubble(t, slow, func(t *testing.T, p *pipes) {
		c := p.dial()
		go io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
		if _, answer := untilClosed(c); !strings.HasSuffix(answer, "EOF") {
			t.Errorf("got %q", answer)
		}
	})
}

func TestLongPollOutlivesEveryDeadline(t *testing.T) {
	poll := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
			t.Error("cut:", r.Context().Err())
		case <-time.After(10 * time.Minute):
		}
		io.WriteString(w, "event")
	})
	inBubble(t, poll, func(t *testing.T, p *pipes) {
		c := p.dial()
		go io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
		if took, answer := untilClosed(c); took != 10*time.Minute || !strings.HasSuffix(answer, "event") {
			t.Errorf("closed after %v: %q", took, answer)
		}
	})
}

func TestUnreadBodyIsNotAwaitedForEver(t *testing.T) {
	ignore := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "no") })
	inBubble(t, ignore, func(t *testing.T, p *pipes) {
		c := p.dial()
		go io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
		if took, answer := untilClosed(c); took > 11*time.Second || statusOf(answer) != "200" {
			t.Errorf("closed after %v: %q", took, answer)
		}
	})
}

func TestClientThatDoesNotReadIsCut(t *testing.T) {
	var ended chan error // made in the bubble, or its clock would stand still
	flood := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write(make([]byte, 1<<20))
		ended <- err
	})
	inBubble(t, flood, func(t *testing.T, p *pipes) {
		ended = make(chan error, 1)
		begin, c := time.Now(), p.dial()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := <-ended; err == nil || time.Since(begin) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		c.Close()
	})
}

func TestH1ManySilentConnections(t *testing.T) {
	const per, flood = 20, 200
	s := start(t, Limits{ConnsPerAddress: per}, echo)
	loggedIn := dial(t, s.HTTPAddr())
	request := "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	answer := make([]byte, 4096)
	exchange := func(c net.Conn) {
		t.Helper()
		begin := time.Now()
		io.WriteString(c, request)
		if n, err := c.Read(answer); err != nil || statusOf(string(answer[:n])) != "200" {
			t.Fatalf("%q, %v", answer[:n], err)
		}
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("served after %v", took)
		}
	}
	exchange(loggedIn)
	var silent []net.Conn
	for range flood {
		silent = append(silent, dial(t, s.HTTPAddr()))
		if len(silent)%50 == 0 {
			exchange(loggedIn)
			exchange(dial(t, s.socket.Addr()))
		}
	}
	exchange(dial(t, s.HTTPAddr())) // a stranger who speaks gets in, too
	// The oldest have been closed, whatever they do.
	for i, c := range silent[:flood-per] {
		if _, err := c.Read(answer); err == nil || os.IsTimeout(err) {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	if s.gate.total > per {
		t.Errorf("%d connections are held", s.gate.total)
	}
}

func TestGate(t *testing.T) {
	from := func(ip string) net.Conn { return &fakeConn{addr: netip.MustParseAddr(ip)} }
	g := newGate(4, 2)
	a, b := g.admit(from("10.0.0.1")), g.admit(from("10.0.0.1"))
	a.Spoke()
	c := g.admit(from("10.0.0.1")) // in b's place
	if c == nil || !b.conn.(*fakeConn).closed || a.conn.(*fakeConn).closed {
		t.Fatal("the wrong one was closed")
	}
	c.Spoke()
	if g.admit(from("10.0.0.1")) != nil {
		t.Error("one too many of an address that speaks")
	}
	d := g.admit(from("2001:db8::1"))
	e := g.admit(from("2001:db8::2"))
	if g.admit(from("2001:db8::3")) == nil || !d.conn.(*fakeConn).closed {
		t.Error("addresses of one network are not counted together")
	}
	e.Spoke()
	b.Release() // evicted long ago: nothing
	if g.total != 4 {
		t.Errorf("%d counted", g.total)
	}
	f := g.admit(from("10.0.0.2")) // evicts the silent 2001:db8::3
	if f == nil || g.total != 4 {
		t.Errorf("total: %d", g.total)
	}
	f.Spoke()
	if g.admit(from("10.0.0.3")) != nil {
		t.Error("one too many in all")
	}
	for _, s := range []*slot{a, c, e, f} {
		s.Release()
		s.Release()
	}
	if g.total != 0 || len(g.by) != 0 || g.silent.Len() != 0 {
		t.Errorf("%d left, %d addresses", g.total, len(g.by))
	}
}

type fakeConn struct {
	net.Conn
	addr   netip.Addr
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.addr, 1))
}
func (c *fakeConn) Close() error { c.closed = true; return nil }

func TestL1TLS(t *testing.T) {
	s := start(t, Limits{Header: 300 * time.Millisecond}, echo)
	for name, c := range map[string]struct {
		cfg  *tls.Config
		good bool
	}{
		"TLS 1.0":        {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, false},
		"TLS 1.1":        {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		"RC4":            {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}}, false},
		"64 KiB hello":   {&tls.Config{NextProtos: strings.Split(strings.Repeat(strings.Repeat("p", 254)+" ", 256)+"q", " ")}, false},
		"h2 only":        {&tls.Config{NextProtos: []string{"h2"}}, false},
		"no SNI":         {&tls.Config{}, true},
		"another's name": {&tls.Config{ServerName: "example.org"}, true},
		"TLS 1.2":        {&tls.Config{MaxVersion: tls.VersionTLS12}, true},
		"offers h2":      {&tls.Config{NextProtos: []string{"h2", "http/1.1"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.InsecureSkipVerify = true
			got := ask(t, tls.Client(dial(t, s.HTTPSAddr()), c.cfg), get)
			if (statusOf(got) == "200" && strings.Contains(got, "tls=true")) != c.good {
				t.Errorf("got %q", got)
			}
		})
	}
	t.Run("stalled handshake", func(t *testing.T) {
		for _, begin := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"} {
			c := dial(t, s.HTTPSAddr())
			io.WriteString(c, begin)
			if took, _ := untilClosed(c); took > 5*time.Second {
				t.Errorf("%q: closed after %v", begin, took)
			}
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		if got := ask(t, dial(t, s.HTTPSAddr()), get); statusOf(got) == "200" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("200 handshakes, then another client", func(t *testing.T) {
		for range 200 {
			tls.Client(dial(t, s.HTTPSAddr()), &tls.Config{InsecureSkipVerify: true}).Handshake()
		}
		if got := ask(t, dial(t, s.HTTPAddr()), get); statusOf(got) != "200" {
			t.Errorf("got %q", got)
		}
	})
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenCertificate(dir, "host.example", "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, certFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	leaf := first.current.Load().Leaf
	for _, name := range []string{"host.example", "192.0.2.1"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	again, err := OpenCertificate(dir)
	if err != nil || again.Fingerprint() != first.Fingerprint() {
		t.Errorf("another one at the second start: %v", err)
	}
	other, err := selfSigned([]string{"new.example"})
	if err != nil {
		t.Fatal(err)
	}
	keyEnd := bytes.Index(other, []byte("-----BEGIN CERT"))
	if err := again.Replace(first.PEM(), other[:keyEnd]); err == nil || again.Fingerprint() != first.Fingerprint() {
		t.Error("took the key of another certificate")
	}
	if err := again.Replace(other[keyEnd:], other[:keyEnd]); err != nil || again.Fingerprint() == first.Fingerprint() {
		t.Errorf("not replaced: %v", err)
	}
	third, err := OpenCertificate(dir)
	if err != nil || third.Fingerprint() != again.Fingerprint() {
		t.Errorf("not on disk: %v", err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if err := os.WriteFile(filepath.Join(dir, certFile), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCertificate(dir); err == nil {
		t.Error("took a broken file")
	}
}

func FuzzStrict(f *testing.F) {
	for _, s := range []string{get, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"} {
		f.Add([]byte(s), 3)
	}
	// However the bytes are cut, the verdict is the same.
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		var whole, parts strict
		good, err := whole.feed(in)
		piece = max(1, piece%64)
		for i := 0; i < len(in); i += piece {
			part := in[i:min(len(in), i+piece)]
			n, err2 := parts.feed(part)
			if err2 != nil {
				if err == nil || i+n != good {
					t.Fatalf("%q: %d %v in one, %d %v in parts", in, good, err, i+n, err2)
				}
				return
			}
		}
		if err != nil {
			t.Fatalf("%q: %d %v in one, none in parts", in, good, err)
		}
	})
}
