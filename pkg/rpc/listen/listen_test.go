package listen

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with the peer and the body.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		w.Header().Set("Connection", "close")
		http.Error(w, err.Error(), BodyStatus(err))
		return
	}
	p, _ := PeerOf(r.Context())
	fmt.Fprintf(w, "%s %s root=%v tls=%v", r.Method, body, p.IsRoot(), r.TLS != nil)
})

// start serves handler on free ports until the test ends.
func start(t testing.TB, limits Limits, handler http.Handler) *Server {
	t.Helper()
	dir := t.TempDir()
	cert, err := OpenCertificate(dir, "localhost", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(Config{HTTPS: "127.0.0.1:0", HTTP: "127.0.0.1:0", Socket: filepath.Join(dir, "s"),
		Certificate: cert, Limits: limits}, handler, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

func dial(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// ask sends raw bytes and reads all that comes back until the server closes.
func ask(t *testing.T, c net.Conn, request string) string {
	t.Helper()
	// A server that refuses need not read the rest.
	go io.WriteString(c, request)
	answer, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("not closed after %.40q", answer)
	}
	return string(answer)
}

func statusOf(answer string) string {
	line, _, _ := strings.Cut(answer, "\r\n")
	_, status, _ := strings.Cut(line, " ")
	return status[:min(3, len(status))]
}

const get = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

func TestH3Headers(t *testing.T) {
	s := start(t, Limits{}, echo)
	for name, request := range map[string]string{
		"1 MiB of headers": "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 1000) + "\r\n",
		"10,000 headers":   "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a:b\r\n", 10_000) + "\r\n",
		"line without end": "GET / HTTP/1.1\r\nHost: " + strings.Repeat("x", 1<<20),
		"endless path":     "GET /" + strings.Repeat("x", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			if got := statusOf(ask(t, dial(t, s.HTTPAddr()), request)); got != "431" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// smuggling are the requests of H4.
func smuggling() map[string]string {
	post := func(headers, body string) string {
		return "POST / HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" + body
	}
	return map[string]string{
		"both lengths":           post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
		"both, other order":      post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
		"two lengths":            post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
		"two equal lengths":      post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
		"length list":            post("Content-Length: 5, 5\r\n", "hello"),
		"-1":                     post("Content-Length: -1\r\n", ""),
		"+5":                     post("Content-Length: +5\r\n", "hello"),
		"0x5":                    post("Content-Length: 0x5\r\n", "hello"),
		"empty length":           post("Content-Length:\r\n", ""),
		"2^63":                   post("Content-Length: 9223372036854775808\r\n", ""),
		"20 digits":              post("Content-Length: 00000000000000000005\r\n", "hello"),
		"bare LF":                "POST / HTTP/1.1\nHost: x\n\n",
		"bare LF, one header":    "POST / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
		"bare CR":                post("A: b\rContent-Length: 5\r\n", ""),
		"CR CR LF":               post("A: b\r\r\n", ""),
		"NUL":                    post("A: b\x00c\r\n", ""),
		"folded header":          post("A: b\r\n c\r\n", ""),
		"blank before colon":     post("Content-Length : 5\r\n", "hello"),
		"header without colon":   post("A\r\n", ""),
		"empty name":             post(": a\r\n", ""),
		"blank line first":       "\r\n" + get,
		"chunk size all f":       post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\nx"),
		"chunk size, 17 digits":  post("Transfer-Encoding: chunked\r\n", "10000000000000001\r\nx"),
		"chunk size no hex":      post("Transfer-Encoding: chunked\r\n", "5g\r\nhello\r\n0\r\n\r\n"),
		"chunk size signed":      post("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"),
		"chunk ends in LF":       post("Transfer-Encoding: chunked\r\n", "5\r\nhello\n0\r\n\r\n"),
		"chunk size ends in LF":  post("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n"),
		"chunk longer than said": post("Transfer-Encoding: chunked\r\n", "5\r\nhello world\r\n0\r\n\r\n"),
		"chunked twice":          post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
		"other encoding":         post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
		"chunked in 1.0":         "POST /" + strings.Repeat("x", 200) + " HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	}
}

func TestH4Smuggling(t *testing.T) {
	s := start(t, Limits{}, echo)
	rows := smuggling()
	for name, request := range rows {
		t.Run(name, func(t *testing.T) {
			c := dial(t, s.HTTPAddr())
			if got := ask(t, c, request+get); statusOf(got) != "400" || strings.Count(got, "HTTP/1.1") != 1 {
				t.Errorf("plain: got %q", got)
			}
			secure := tls.Client(dial(t, s.HTTPSAddr()), &tls.Config{InsecureSkipVerify: true})
			if got := ask(t, secure, request+get); statusOf(got) != "400" || strings.Count(got, "HTTP/1.1") != 1 {
				t.Errorf("TLS: got %q", got)
			}
		})
	}
	t.Run("byte by byte", func(t *testing.T) {
		for name, request := range rows {
			c := dial(t, s.HTTPAddr())
			go func() {
				for i := range len(request) {
					if _, err := c.Write([]byte{request[i]}); err != nil {
						return
					}
				}
			}()
			if got, _ := io.ReadAll(c); statusOf(string(got)) != "400" {
				t.Errorf("%s: got %q", name, got)
			}
		}
	})
}

func TestGoodFramingPasses(t *testing.T) {
	s := start(t, Limits{}, echo)
	requests := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" +
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n3;ext=1\r\nabc\r\n002\r\nde\r\n0\r\nT: r\r\n\r\n" +
		"GET / HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n" + get
	for _, c := range []net.Conn{dial(t, s.HTTPAddr()), tls.Client(dial(t, s.HTTPSAddr()), &tls.Config{InsecureSkipVerify: true})} {
		got := ask(t, c, requests)
		if strings.Count(got, "HTTP/1.1 200 OK") != 4 || !strings.Contains(got, "POST hello ") || !strings.Contains(got, "POST abcde ") {
			t.Errorf("got %q", got)
		}
	}
}

func TestGoodBeforeBadIsAnswered(t *testing.T) {
	s := start(t, Limits{}, echo)
	got := ask(t, dial(t, s.HTTPAddr()), "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\nHost: x\n\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200") || !strings.Contains(got, "HTTP/1.1 400") {
		t.Errorf("got %q", got)
	}
}

func TestNothingFollowsAnUpgradeThatWasNone(t *testing.T) {
	s := start(t, Limits{}, echo)
	for _, first := range []string{"GET / HTTP/1.1\r\nHost: x\r\nUpgrade:\r\n\r\n", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"} {
		got := ask(t, dial(t, s.HTTPAddr()), first+"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx")
		if strings.Count(got, "HTTP/1.1") != 1 {
			t.Errorf("got %q", got)
		}
	}
}

func TestHijackedConnectionIsRaw(t *testing.T) {
	s := start(t, Limits{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		line, _ := rw.ReadString('\x00')
		io.WriteString(c, line)
	}))
	for _, method := range []string{"CONNECT", "GET"} {
		c := dial(t, s.HTTPAddr())
		io.WriteString(c, method+" /console HTTP/1.1\r\nHost: x\r\n\r\n")
		r := bufio.NewReader(c)
		r.ReadString('\n')
		r.ReadString('\n')
		io.WriteString(c, "RFB\n\r\n\x01\x00")
		if got, err := io.ReadAll(r); string(got) != "RFB\n\r\n\x01\x00" {
			t.Errorf("%s: got %q, %v", method, got, err)
		}
	}
}

func TestUnixSocketKnowsItsPeer(t *testing.T) {
	s := start(t, Limits{}, echo)
	got := ask(t, dial(t, s.socket.Addr()), get)
	if want := fmt.Sprintf("root=%v tls=false", os.Getuid() == 0); !strings.Contains(got, want) {
		t.Errorf("got %q, want %s", got, want)
	}
	info, err := os.Stat(s.socket.Addr().String())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := ask(t, dial(t, s.HTTPAddr()), get); !strings.Contains(got, "root=false tls=false") {
		t.Errorf("TCP: got %q", got)
	}
}

func TestSocketPath(t *testing.T) {
	s := start(t, Limits{}, echo)
	path := s.socket.Addr().String()
	if _, err := Listen(Config{Socket: path}, echo, slog.Default()); err == nil {
		t.Error("two servers on one socket")
	}
	stale := filepath.Join(t.TempDir(), "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	again, err := Listen(Config{Socket: stale}, echo, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	again.closeListeners()
	if _, err := Listen(Config{HTTPS: "127.0.0.1:0"}, echo, slog.Default()); err == nil {
		t.Error("HTTPS without a certificate")
	}
}

func TestShutdownLetsRequestsFinish(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	s := start(t, Limits{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(inside)
		<-release
		io.WriteString(w, "done")
	}))
	c := dial(t, s.HTTPAddr())
	io.WriteString(c, get)
	<-inside
	ended := make(chan error)
	go func() { ended <- s.Shutdown(context.Background()) }()
	for {
		if probe, err := net.Dial("tcp", s.HTTPAddr().String()); err != nil {
			break
		} else {
			probe.Close()
		}
	}
	close(release)
	if got, _ := io.ReadAll(c); !strings.HasSuffix(string(got), "done") {
		t.Errorf("got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
