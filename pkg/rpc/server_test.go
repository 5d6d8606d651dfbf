package rpc_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"xapid/pkg/rpc"
	"xapid/pkg/rpc/client"
	"xapid/pkg/rpc/listen"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// TestMetrics: they pass the linter of Prometheus and count what happens.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	e := open(t, func(o *rpc.Options) { o.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) })
	registry.MustRegister(e.api.Collectors()...)
	e.must("VM.get_all_records")
	e.call("VM.pause", "x")
	resp, body := e.do(http.MethodGet, "/metrics", "", nil)
	same(t, "status", resp.StatusCode, 200)
	for _, want := range []string{"xapid_sessions 1\n", `xapid_api_failures_total{code="NOT_IMPLEMENTED"} 1`,
		`xapid_api_call_seconds_count{family="list"} 1`, "xapid_event_waiters 0\n", "xapid_commits_total", "xapid_row_cache_bytes"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %s", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(string(body))).Lint()
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// TestRowCache: what is encoded is kept within the limit, and what was used
// last stays.
func TestRowCache(t *testing.T) {
	const limit = 1 << 20
	e := open(t, func(o *rpc.Options) { o.CacheBytes = limit })
	e.must("VM.get_all_records") // 50 templates, some 5 KB each
	full := rpc.CacheBytes(e.api)
	if full < 100<<10 || full > limit {
		t.Fatalf("%d bytes for the templates", full)
	}
	vm := e.vm("a")
	for i := range 2000 {
		e.rename(vm, fmt.Sprint(i))
		v := e.must("VM.get_record", vm).(*wire.Fields)
		name, _ := v.Get(v.Class.FieldByName("name_label"))
		same(t, "name", name, i)
		if got := rpc.CacheBytes(e.api); got > limit {
			t.Fatalf("%d bytes kept", got)
		}
	}
	for range 3 { // the whole list is kept when nothing changes, and given up when something does
		same(t, "VMs", len(e.must("VM.get_all_records").(map[string]*wire.Fields)), 51)
	}
	same(t, "listed twice", rpc.CacheBytes(e.api) > 2*full-full/4, true)
	e.vm("b")
	same(t, "VMs", len(e.must("VM.get_all_records").(map[string]*wire.Fields)), 52)
	same(t, "within the limit", rpc.CacheBytes(e.api) <= limit, true)
	if got := rpc.CacheBytes(e.api); got < full {
		t.Errorf("the templates were let go for versions that nobody can ask for: %d bytes", got)
	}
}

// TestNothingLeaks: after the server has stopped there is no goroutine of it.
func TestNothingLeaks(t *testing.T) {
	e := open(t)
	before := goleak.IgnoreCurrent()
	for range 20 {
		session := e.login("root")
		go e.direct("/", wire.AppendXMLCall(nil, "event.from", session, []string{"VBD_metrics"}, "", 60.0))
		e.must("Async.VM.pause", "x")
	}
	eventually(t, "they wait", func() bool { return e.DB.Feed().Waiting() == 20 })
	e.stop()
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, before)
	same(t, "waiters", e.DB.Feed().Waiting(), 0)
}

// overListeners serves a graph on all kinds of listeners.
func overListeners(t *testing.T, limits listen.Limits) (e *env, srv *listen.Server, socket string) {
	t.Helper()
	e = open(t)
	cert, err := listen.OpenCertificate(t.TempDir(), "localhost")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "xapi")
	root := e.api.RootHandler()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, ok := listen.PeerOf(r.Context()); ok && peer.IsRoot() {
			root.ServeHTTP(w, r)
			return
		}
		e.api.ServeHTTP(w, r)
	})
	srv, err = listen.Listen(listen.Config{HTTPS: "127.0.0.1:0", HTTP: "127.0.0.1:0", Socket: socket, Certificate: cert, Limits: limits},
		handler, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e, srv, socket
}

// TestListeners: the same API on TLS, plain HTTP and the Unix socket, by the
// typed client.
func TestListeners(t *testing.T) {
	_, srv, socket := overListeners(t, listen.Limits{})
	for name, c := range map[string]*client.Client{
		"https":  client.New("https://"+srv.HTTPSAddr().String(), client.Options{TLS: &tls.Config{InsecureSkipVerify: true}}),
		"http":   client.New("http://"+srv.HTTPAddr().String(), client.Options{}),
		"socket": client.New("http://socket", client.Options{Socket: socket}),
	} {
		t.Run(name, func(t *testing.T) {
			defer c.Close()
			password := "pw"
			if name == "socket" {
				password = "any"
			}
			if err := c.Login(t.Context(), "root", password); err != nil {
				t.Fatal(err)
			}
			vms, err := c.VM().GetAllRecords(t.Context())
			if err != nil || len(vms) != 50 {
				t.Fatalf("%d VMs, %v", len(vms), err)
			}
			if err := c.Login(t.Context(), "root", "wrong"); name != "socket" {
				fails(t, err, "SESSION_AUTHENTICATION_FAILED", "root", "*")
			}
		})
	}
}

// TestRawRequests: what reaches the listeners of H3, H4, H6, L1 and X1, with
// the answer that stands there and the graph as it was.
func TestRawRequests(t *testing.T) {
	e, srv, _ := overListeners(t, listen.Limits{Header: time.Second, Body: time.Second})
	before := e.DB.View().Gen()
	post := "POST / HTTP/1.1\r\nHost: x\r\n"
	for name, c := range map[string]struct{ request, status string }{
		"two lengths":                 {post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "400"},
		"a length beside an encoding": {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		"a negative length":           {post + "Content-Length: -1\r\n\r\n", "400"},
		"a length of 2^63":            {post + "Content-Length: 9223372036854775808\r\n\r\n", "400"},
		"a chunk of 2^64":             {post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc", "400"},
		"bare LF":                     {"POST / HTTP/1.1\nHost: x\nContent-Length: 0\n\n", "400"},
		"1 MiB of headers":            {post + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "431"},
		"10,000 headers":              {post + strings.Repeat("X: y\r\n", 10_000) + "\r\n", "431"},
		"a body of 1 GiB":             {post + "Content-Length: 1073741824\r\n\r\nabc", "413"},
		"the same in chunks":          {post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 5), "413"},
		"a DTD":                       {post + "Content-Length: 43\r\n\r\n" + `<!DOCTYPE a SYSTEM "file:///etc/shadow"><a>`, "500"},
		"a body that stalls":          {post + "Content-Length: 100\r\n\r\nabc", "408"},
		"chunks are taken":            {post + "Transfer-Encoding: chunked\r\n\r\n" + chunk(string(wire.AppendXMLCall(nil, "system.isAlive:x", "hello"))) + "0\r\n\r\n", "200"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.HTTPAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go io.WriteString(conn, c.request)
			answer := make([]byte, 12)
			if _, err := io.ReadFull(conn, answer); err != nil {
				t.Fatal(err)
			}
			same(t, "answer", string(answer), "HTTP/1.1 "+c.status)
		})
	}
	same(t, "generation", e.DB.View().Gen(), before)
	_, err := tls.Dial("tcp", srv.HTTPSAddr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11})
	if err == nil {
		t.Error("TLS 1.1 is served")
	}
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

// slowBody gives a byte in each half of a minute.
type slowBody struct {
	clock *clock
	left  int
}

// Read implements io.Reader.
func (b *slowBody) Read(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		return 0, io.EOF
	}
	b.clock.move(29 * time.Second)
	p[0] = ' '
	return 1, nil
}

// TestSlowBody: a body has a minute in all, however steadily it comes.
func TestSlowBody(t *testing.T) {
	e := open(t)
	for length, want := range map[int]int{2: http.StatusInternalServerError, 5: http.StatusRequestTimeout} {
		for _, announced := range []int64{int64(length), -1} {
			r := httptest.NewRequest(http.MethodPost, "/", &slowBody{e.clock, length})
			r.ContentLength = announced
			w := httptest.NewRecorder()
			e.api.ServeHTTP(w, r)
			same(t, fmt.Sprint("status for ", length, " bytes"), w.Code, want)
		}
	}
}

// TestTexts is X7 and N1, N2: what can't be carried is refused with the
// field's name, what can comes back as it is, everywhere.
func TestTexts(t *testing.T) {
	e := open(t)
	network := e.network()
	_, token := e.events(e.login("root"), "", 0)
	for name, text := range map[string]string{
		"RTL override": "a\u202eb", "newline": "a\nsr-uuid=x", "shell": "$(id) --help", "markup": "]]>&lt;<a>\"'", "wide": "日本語 🎉",
		"tab and CR": "a\tb\rc", "long": strings.Repeat("é", 1<<19),
	} {
		t.Run(name, func(t *testing.T) {
			for _, call := range []func(string, ...any) (wire.Value, error){e.xml, e.json} {
				if _, err := call("network.set_name_label", e.root, network, text); err != nil {
					t.Fatal(err)
				}
				for _, read := range []func(string, ...any) (wire.Value, error){e.xml, e.json} {
					v, err := read("network.get_name_label", e.root, network)
					if err != nil || v.Text != text {
						t.Errorf("%.40q comes back as %.40q, %v", text, v.Text, err)
					}
				}
			}
			got, _ := e.events(e.login("root"), token, 0, "network")
			if len(got) != 1 || got[0].member("name_label") != text {
				t.Errorf("in events %d", len(got))
			}
		})
	}
	for name, text := range map[string]string{"ESC": "\x1b[31m", "NUL": "a\x00", "not a character": "a\ufffe", "another": "\uffff", "bell": "\a"} {
		t.Run(name, func(t *testing.T) {
			_, err := e.json("network.set_name_label", e.root, network, text)
			fails(t, err, "INVALID_VALUE", "*", "*")
			_, err = e.json("network.add_to_other_config", e.root, network, text, "x")
			fails(t, err, "INVALID_VALUE", "*", "*")
			_, err = e.json("network.add_tags", e.root, network, text)
			fails(t, err, "INVALID_VALUE", "*", "*")
		})
	}
	many := map[string]string{}
	for i := range 20_000 {
		many[fmt.Sprint(i)] = "x"
	}
	_, err := e.call("network.set_other_config", network, many)
	fails(t, err, "INVALID_VALUE", "other_config", "*")
	_, err = e.call("network.set_other_config", network, map[string]string{"a": strings.Repeat("x", 3<<20)})
	fails(t, err, "INVALID_VALUE", "other_config", "*")
	_, err = e.call("VM.get_record", strings.Repeat("x", 1<<20))
	if e, ok := err.(*xenapi.Error); !ok || len(e.Params[1]) > 256 {
		t.Errorf("a reference of 1 MiB comes back: %.80v", err)
	}
}

// TestQueries: the query language over the wire.
func TestQueries(t *testing.T) {
	e := open(t)
	e.vm("a")
	e.vm("b")
	for expr, want := range map[string]int{
		`field "name__label" = "a"`: 1, `field "name_label" = "a"`: 1, `"a" = field "name_label"`: 1,
		`field "is_a_template" = "true"`: 49, `not field "is_a_template" = "true"`: 3, `true`: 52, `false`: 0,
		`field "name_label" = "a" or field "name_label" = "b"`: 2, `field "name_label" = "a" and field "name_label" = "b"`: 0,
		`true or true and false`: 0, `(field "name_label"="a") or (false)`: 1, "\tfield \"name_label\"\n=\"b\" ": 1,
		`field "power_state" = "Halted" and field "is_a_template" = "false"`: 2,
	} {
		same(t, expr, len(e.must("VM.get_all_where", expr).([]string)), want)
		same(t, expr, len(e.must("VM.get_all_records_where", expr).(map[string]*wire.Fields)), want)
	}
	for _, expr := range []string{"", "x", `field name = "a"`, `field "name_label" =`, `field "nothing" = "a"`, `field "session" = ""`, `(true`, `true)`, `"a`, strings.Repeat("(", 10_000)} {
		_, err := e.call("VM.get_all_where", expr)
		fails(t, err, "INVALID_VALUE", "*", "*")
	}
}
