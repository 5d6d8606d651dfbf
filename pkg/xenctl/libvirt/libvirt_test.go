package libvirt_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/libvirt"
	"xapid/pkg/xenctl/xenctltest"
	"xapid/pkg/xenctl/xenctltest/libvirtd"
	"xapid/pkg/xenctl/xenstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// open connects to a daemon and waits for it.
func open(t testing.TB, s *libvirtd.Server, opts libvirt.Options) *libvirt.Driver {
	t.Helper()
	opts.URI, opts.Socket = libvirtd.URI, s.Socket
	d, err := libvirt.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := d.Ready(soon(t)); err != nil {
		t.Fatal(err)
	}
	return d
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestContract(t *testing.T) {
	server := libvirtd.Start(t)
	xenctltest.Run(t, func(t *testing.T) xenctltest.Harness {
		return xenctltest.Harness{
			Hypervisor: open(t, server, libvirt.Options{}),
			Lacks: map[xenctltest.Trait]string{
				xenctltest.TraitMemory:     "libvirt's test driver has the same free memory whatever its domains use",
				xenctltest.TraitImageCheck: "libvirt's test driver saves a description and no checksum",
			},
		}
	})
}

func config() *xenctl.DomainConfig { return xenctltest.Config() }

func await(t *testing.T, events <-chan xenctl.Event, match func(xenctl.Event) bool) xenctl.Event {
	t.Helper()
	ctx := soon(t)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatal("the events have ended")
			}
			if match(e) {
				return e
			}
		case <-ctx.Done():
			t.Fatal("the event never came")
		}
	}
}

func TestLibvirtdIsKilledAndComesBack(t *testing.T) {
	server := libvirtd.Start(t)
	warned := make(warnings, 100)
	d := open(t, server, libvirt.Options{Log: slog.New(warned), BackoffMin: time.Millisecond, BackoffMax: 50 * time.Millisecond})
	events, err := d.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := config()
	if _, err := d.Create(soon(t), before); err != nil {
		t.Fatal(err)
	}

	warned.forget()
	server.Kill()
	_, err = d.List(soon(t))
	if !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("list without a libvirtd: %v", err)
	}
	if _, err = d.Create(soon(t), config()); !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("create without a libvirtd: %v", err)
	}
	warned.await(t)
	if err := d.Ready(expired()); !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("ready without a libvirtd: %v", err)
	}

	server.Restart()
	await(t, events, func(e xenctl.Event) bool { return e.Kind == xenctl.EventResync })
	if err := d.Ready(soon(t)); err != nil {
		t.Error(err)
	}
	if _, err := d.Lookup(soon(t), before.UUID); !errors.Is(err, xenctl.ErrNotFound) {
		t.Errorf("lookup after the restart: %v", err)
	}
	after := config()
	made, err := d.Create(soon(t), after)
	if err != nil {
		t.Fatal(err)
	}
	e := await(t, events, func(e xenctl.Event) bool { return e.UUID == after.UUID })
	if e.Kind != xenctl.EventStarted || e.ID != made.ID {
		t.Errorf("event %+v", e)
	}
}

func expired() context.Context {
	ctx, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	cancel()
	return ctx
}

// warnings is a log of which only warnings are of interest.
type warnings chan string

func (w warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w warnings) WithGroup(string) slog.Handler                { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	select {
	case w <- r.Message:
	default:
	}
	return nil
}

// forget drops those of a slow start.
func (w warnings) forget() {
	for len(w) > 0 {
		<-w
	}
}

// await waits until the connection for events has been given up.
func (w warnings) await(t *testing.T) {
	t.Helper()
	select {
	case <-w:
	case <-soon(t).Done():
		t.Fatal("nobody noticed that libvirtd has gone")
	}
}

func TestLibvirtdHangs(t *testing.T) {
	server := libvirtd.Start(t)
	server.Fill(3) // and keep them when all other connections have gone
	warned := make(warnings, 100)
	d := open(t, server, libvirt.Options{
		Log: slog.New(warned), Connections: 2, Keepalive: 200 * time.Millisecond, BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond,
	})
	events, err := d.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg := config()
	if _, err := d.Create(soon(t), cfg); err != nil {
		t.Fatal(err)
	}

	warned.forget()
	server.Stop()
	const callers, limit = 10, 300 * time.Millisecond
	results := make(chan error, callers)
	began := time.Now()
	for range callers { // more than there are connections
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			_, err := d.Lookup(ctx, cfg.UUID)
			results <- err
		}()
	}
	for range callers {
		if err := <-results; !errors.Is(err, xenctl.ErrTimeout) && !errors.Is(err, xenctl.ErrUnavailable) {
			t.Errorf("lookup: %v", err)
		}
	}
	if took := time.Since(began); took > limit+5*time.Second {
		t.Errorf("calls with %v took %v", limit, took)
	}

	warned.await(t)
	server.Continue()
	await(t, events, func(e xenctl.Event) bool { return e.Kind == xenctl.EventResync })
	if _, err := d.Lookup(soon(t), cfg.UUID); err != nil {
		t.Error(err)
	}
	if all, err := d.List(soon(t)); err != nil || len(all) < 4 {
		t.Errorf("%d domains, %v", len(all), err)
	}
	if err := d.Destroy(soon(t), cfg.UUID); err != nil {
		t.Error(err)
	}
}

func TestNoLibvirtd(t *testing.T) {
	store := xenstore.New(t.TempDir() + "/nothing either")
	defer store.Close()
	d, err := libvirt.NewXen(libvirt.XenOptions{Options: libvirt.Options{Socket: t.TempDir() + "/nothing"}, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Host(soon(t)); !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("host: %v", err)
	}
	if err := d.Close(soon(t)); err != nil {
		t.Error(err)
	}
	if _, err := d.Host(soon(t)); !errors.Is(err, xenctl.ErrClosed) {
		t.Errorf("host after close: %v", err)
	}
	if _, err := libvirt.Probe(soon(t), libvirt.Options{URI: "xen:///system", Socket: t.TempDir() + "/nothing"}); !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("probe: %v", err)
	}
	if _, err := libvirt.New(libvirt.Options{URI: "qemu:///system"}); err == nil {
		t.Error("a driver that isn't known was accepted")
	}
}

func TestCloseEndsCalls(t *testing.T) {
	server := libvirtd.Start(t)
	d := open(t, server, libvirt.Options{})
	server.Stop()
	defer server.Continue()
	result := make(chan error)
	go func() {
		_, err := d.List(context.Background())
		result <- err
	}()
	if err := d.Close(soon(t)); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, xenctl.ErrClosed) {
		t.Errorf("a call under way: %v", err)
	}
}

func TestProbe(t *testing.T) {
	server := libvirtd.Start(t)
	host, err := libvirt.Probe(soon(t), libvirt.Options{URI: libvirtd.URI, Socket: server.Socket})
	if err != nil || host.Hypervisor.Name != "test" || host.CPU.Count < 1 {
		t.Errorf("%+v, %v", host, err)
	}
}

func TestManyDomains(t *testing.T) {
	server := libvirtd.Start(t)
	server.Fill(1000)
	d := open(t, server, libvirt.Options{})
	for _, when := range []string{"first", "second"} {
		began := time.Now()
		all, err := d.List(soon(t))
		if err != nil || len(all) < 1000 {
			t.Fatalf("%d domains, %v", len(all), err)
		}
		t.Logf("the %s list of %d domains took %v", when, len(all), time.Since(began))
	}
}
