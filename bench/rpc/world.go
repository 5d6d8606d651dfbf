package main

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
	"path/filepath"
	"strconv"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/rpc"
	"xapid/pkg/rpc/listen"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/host"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// vmCount is how many VMs the pool has.
const vmCount = 1000

// world is a server with a pool of VMs, and bare servers beside it.
type world struct {
	*xapi.Env
	b       *testing.B
	srv     *listen.Server
	session string
	vms     []xenapi.VMRef
	cert    tls.Certificate
}

func newWorld(b *testing.B) *world {
	w := &world{b: b, Env: xapitest.Open(b, b.TempDir(), nil)}
	machine := host.Machine{Facts: facts.Facts{Hostname: "host"}, Address: "127.0.0.1",
		Hypervisor: xenctl.HostInfo{CPU: xenctl.CPUInfo{Count: 8, Sockets: 1}, MemoryTotalBytes: 64 << 30, ControlDomainBytes: 1 << 30}}
	check(host.Ensure(b.Context(), w.Env, machine))
	w.fill()
	audit, err := rpc.OpenAudit(filepath.Join(b.TempDir(), "audit.log"), 64<<20, 3)
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	api := rpc.New(ctx, rpc.Options{DB: w.DB, Services: service.New(), Audit: audit, Log: slog.New(slog.DiscardHandler), ThisHost: w.Host,
		Login: func(_ context.Context, _, user, _ string) (rpc.User, error) {
			return rpc.User{Name: user, Root: true}, nil
		}})
	dir := b.TempDir()
	cert, err := listen.OpenCertificate(dir, "localhost")
	check(err)
	w.srv, err = listen.Listen(listen.Config{HTTPS: "127.0.0.1:0", HTTP: "127.0.0.1:0", Certificate: cert}, api, slog.New(slog.DiscardHandler))
	check(err)
	ran, served := make(chan error, 1), make(chan error, 1)
	go func() { ran <- api.Run(ctx) }()
	go func() { served <- w.srv.Serve() }()
	b.Cleanup(func() {
		cancel()
		check(errors.Join(<-ran, w.srv.Shutdown(context.Background()), <-served, audit.Close()))
	})
	w.cert = selfSigned()
	w.session = w.login("bench")
	return w
}

// fill makes the VMs, each with what a real one has.
func (w *world) fill() {
	for range vmCount / 100 {
		xapitest.Update(w.b, w.Env, func(tx *db.Tx) {
			var template xenapi.VM
			for _, vm := range db.All[xenapi.VMRef](tx) {
				if vm.IsDefaultTemplate {
					template = *vm
				}
			}
			for range 100 {
				w.vms = append(w.vms, vm(tx, template, len(w.vms)))
			}
		})
	}
}

func vm(tx *db.Tx, rec xenapi.VM, n int) xenapi.VMRef {
	metrics, guest := xenapi.NewVMMetrics(), xenapi.NewVMGuestMetrics()
	metrics.UUID, guest.UUID = xenapi.NewUUID(), xenapi.NewUUID()
	guest.Networks = map[string]string{"0/ip": "10.0.0.1", "0/ipv4/0": "10.0.0.1"}
	rec.UUID, rec.NameLabel = xenapi.NewUUID(), fmt.Sprintf("vm %d", n)
	rec.IsATemplate, rec.IsDefaultTemplate = false, false
	rec.PowerState = xenapi.VMPowerStateRunning
	rec.AllowedOperations = []xenapi.VMOperations{"changing_dynamic_range", "migrate_send", "pool_migrate", "changing_VCPUs_live", "suspend",
		"hard_reboot", "hard_shutdown", "clean_reboot", "clean_shutdown", "pause", "checkpoint", "snapshot"}
	rec.Metrics, rec.GuestMetrics = db.Insert[xenapi.VMMetricsRef](tx, metrics), db.Insert[xenapi.VMGuestMetricsRef](tx, guest)
	ref := db.Insert[xenapi.VMRef](tx, &rec)
	for i := range 2 {
		vbd := xenapi.NewVBD()
		vbd.UUID, vbd.VM, vbd.Userdevice = xenapi.NewUUID(), ref, strconv.Itoa(i)
		db.Insert[xenapi.VBDRef](tx, vbd)
	}
	vif := xenapi.NewVIF()
	vif.UUID, vif.VM, vif.Device = xenapi.NewUUID(), ref, "0"
	db.Insert[xenapi.VIFRef](tx, vif)
	return ref
}

// login opens a session of an originator.
func (w *world) login(originator string) string {
	c := dial(w.srv.HTTPAddr().String(), nil)
	defer c.conn.Close()
	v, err := wire.DecodeJSONResponse(c.fetch(jsonCall("session.login_with_password", "root", "pw", "", originator)))
	check(err)
	return v.Text
}

// bare serves a handler with nothing but net/http.
func (w *world) bare(secure bool, handler http.HandlerFunc) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	srv := &http.Server{Handler: handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{w.cert}, NextProtos: []string{"http/1.1"}}}
	done := make(chan error, 1)
	go func() {
		if secure {
			done <- srv.ServeTLS(l, "", "")
			return
		}
		done <- srv.Serve(l)
	}()
	w.b.Cleanup(func() {
		check(srv.Close())
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			check(err)
		}
	})
	return l.Addr().String()
}

// same answers every request with one body, having read what was sent.
func same(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		check(err)
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // the client may have gone
	}
}

// client is one connection, which costs as little as it can.
type client struct {
	conn net.Conn
	r    *bufio.Reader
}

var insecure = &tls.Config{InsecureSkipVerify: true}

func dial(addr string, config *tls.Config) *client {
	var conn net.Conn
	var err error
	if config != nil {
		conn, err = tls.Dial("tcp", addr, config)
	} else {
		conn, err = net.Dial("tcp", addr)
	}
	check(err)
	return &client{conn, bufio.NewReaderSize(conn, 64<<10)}
}

// send writes a request.
func (c *client) send(request []byte) {
	_, err := c.conn.Write(request)
	check(err)
}

// receive reads an answer into w.
func (c *client) receive(w io.Writer) {
	length := int64(-1)
	for {
		line, err := c.r.ReadSlice('\n')
		check(err)
		if len(line) <= 2 {
			break
		}
		const name = "Content-Length: "
		if len(line) > len(name) && string(line[:len(name)]) == name {
			length, err = strconv.ParseInt(string(line[len(name):len(line)-2]), 10, 64)
			check(err)
		}
	}
	_, err := io.CopyN(w, c.r, length)
	check(err)
}

// get sends a request and drops the answer.
func (c *client) get(request []byte) {
	c.send(request)
	c.receive(io.Discard)
}

// fetch sends a request and gives the answer's body.
func (c *client) fetch(request []byte) []byte {
	c.send(request)
	var b bufferWriter
	c.receive(&b)
	return b
}

type bufferWriter []byte

// Write implements io.Writer.
func (b *bufferWriter) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

func post(path, contentType string, body []byte) []byte {
	return append(fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", path, contentType, len(body)), body...)
}

func jsonCall(method string, params ...any) []byte {
	return post("/jsonrpc", "application/json", wire.AppendJSONCall(nil, 1, method, params...))
}

func xmlCall(method string, params ...any) []byte {
	return post("/", "text/xml", wire.AppendXMLCall(nil, method, params...))
}
