// Package libvirt is xenctl.Hypervisor over libvirtd: its Xen driver (xen:///system), completed by xenstore, and,
// for tests without Xen, its built-in test driver (test:///default).
//
// The invariant: nothing here waits for libvirtd longer than the caller's deadline. A call that isn't
// answered in time costs its connection (calls can't be cancelled), never a slot of the pool or a goroutine.
//
// Start reading at New; pool.go has the connections, events.go the one for events, domain.go the calls and
// xml.go what a domain looks like to libvirt. What is Xen's alone begins at NewXen.
package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"xapid/pkg/xenctl"
)

// DefaultSocket is where a system's libvirtd listens.
const DefaultSocket = "/var/run/libvirt/libvirt-sock"

// Options say which libvirt and how patient to be with it. Zero values give the defaults in brackets.
type Options struct {
	URI    string // the driver's [xen:///system, test:///default]
	Socket string // libvirtd's Unix socket [DefaultSocket]
	Log    *slog.Logger

	// Connections are for calls that are quick, and as many again for those that aren't (create, save,
	// restore, destroy), so that these never keep a lookup waiting [4]. Each carries one call at a time.
	Connections int
	// QuickTimeout ends quick calls whose context has no deadline [30 s], SlowTimeout the others [10 min].
	QuickTimeout, SlowTimeout time.Duration
	// Keepalive is how often libvirtd is asked whether it is there, and how long it may take to answer [5 s].
	Keepalive time.Duration
	// BackoffMin and BackoffMax bound the pause between attempts to connect again [100 ms, 5 s].
	BackoffMin, BackoffMax time.Duration

	// Bootloader reads the disks of PV and PVH guests that have no kernel among dom0's files. Without one such
	// guests are ErrNotSupported on Xen.
	Bootloader Bootloader
}

// Kind is a driver of libvirt.
type Kind string

// The drivers that this package knows.
const (
	KindXen  Kind = "xen"
	KindTest Kind = "test"
)

// Driver is a connection to a libvirtd, which may come and go. It implements xenctl.Hypervisor and the
// capabilities Resizer, Statser and Readier.
type Driver struct {
	opts  Options
	kind  Kind
	log   *slog.Logger
	quick *pool
	slow  *pool
	feed  xenctl.Feed
	facts facts
	room  admission
	xen   *Xen // nil for the test driver

	stop context.CancelFunc // ends the event loop
	done chan struct{}      // closed when it has ended

	mu    sync.Mutex
	ready chan struct{} // closed while the event connection stands
}

var (
	_ xenctl.Hypervisor = (*Driver)(nil)
	_ xenctl.Resizer    = (*Driver)(nil)
	_ xenctl.Statser    = (*Driver)(nil)
	_ xenctl.Readier    = (*Driver)(nil)
)

// New starts to look after a libvirtd and its test driver. It doesn't wait for it: calls are ErrUnavailable until
// it is there, and Ready waits for that.
func New(opts Options) (*Driver, error) {
	d, err := newDriver(opts, KindTest)
	if err == nil {
		d.start()
	}
	return d, err
}

// Probe asks a libvirtd, of whichever driver, what it runs on. It touches no domain and listens to no events.
func Probe(ctx context.Context, opts Options) (host xenctl.HostInfo, err error) {
	kind, err := kindOf(opts.URI)
	if err != nil {
		return host, err
	}
	d, err := newDriver(opts, kind)
	if err != nil {
		return host, err
	}
	d.stop = func() {}
	close(d.done) // nothing was started that Close could wait for
	defer func() { err = errors.Join(err, d.Close(ctx)) }()
	return d.Host(ctx)
}

func newDriver(opts Options, want Kind) (*Driver, error) {
	if opts.URI == "" {
		opts.URI = defaultURIs[want]
	}
	if kind, err := kindOf(opts.URI); err != nil || kind != want {
		return nil, errors.Join(err, fmt.Errorf("libvirt: URI %q is not of the %s driver", opts.URI, want))
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&opts.Socket, DefaultSocket)
	setDefault(&opts.Connections, 4)
	setDefault(&opts.QuickTimeout, 30*time.Second)
	setDefault(&opts.SlowTimeout, 10*time.Minute)
	setDefault(&opts.Keepalive, 5*time.Second)
	setDefault(&opts.BackoffMin, 100*time.Millisecond)
	setDefault(&opts.BackoffMax, 5*time.Second)

	dial := dialer{socket: opts.Socket, uri: opts.URI}
	return &Driver{
		opts: opts, kind: want, log: opts.Log.With("libvirt", opts.URI),
		quick: newPool(dial, opts.Connections), slow: newPool(dial, opts.Connections),
		done: make(chan struct{}), ready: make(chan struct{}),
	}, nil
}

// defaultURIs are a system's own.
var defaultURIs = map[Kind]string{KindXen: "xen:///system", KindTest: "test:///default"}

// start begins to listen to events.
func (d *Driver) start() {
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	go func() {
		defer close(d.done)
		d.watch(ctx, d.quick.dialer)
	}()
}

func setDefault[T comparable](value *T, def T) {
	var zero T
	if *value == zero {
		*value = def
	}
}

func kindOf(uri string) (Kind, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", fmt.Errorf("libvirt: URI: %w", err)
	}
	switch kind := Kind(u.Scheme); kind {
	case KindXen, KindTest:
		return kind, nil
	default:
		return "", fmt.Errorf("libvirt: URI %q: neither the xen nor the test driver", uri)
	}
}

// Close implements xenctl.Hypervisor.
func (d *Driver) Close(ctx context.Context) error {
	d.stop()
	d.quick.close()
	d.slow.close()
	idle := make(chan struct{})
	go func() {
		<-d.done
		d.quick.wait()
		d.slow.wait()
		d.feed.Close()
		close(idle)
	}()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return &xenctl.OpError{Op: "close", Err: xenctl.ContextError(ctx)}
	}
}

// Subscribe implements xenctl.Hypervisor. It works without a libvirtd: an EventResync comes when there is
// one.
func (d *Driver) Subscribe(ctx context.Context) (<-chan xenctl.Event, error) {
	return d.feed.Subscribe(ctx)
}

// Ready implements xenctl.Readier.
func (d *Driver) Ready(ctx context.Context) error {
	d.mu.Lock()
	ready := d.ready
	d.mu.Unlock()
	select {
	case <-ready:
		return nil
	default:
	}
	select {
	case <-ready:
		return nil
	case <-d.done:
		return &xenctl.OpError{Op: "ready", Err: xenctl.ErrClosed}
	case <-ctx.Done():
		return &xenctl.OpError{Op: "ready", Err: fmt.Errorf("%w: %w", xenctl.ErrUnavailable, xenctl.ContextError(ctx))}
	}
}
