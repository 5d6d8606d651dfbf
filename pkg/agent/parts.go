package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"xapid/pkg/auth"
	"xapid/pkg/facts"
	"xapid/pkg/rpc"
	"xapid/pkg/rpc/listen"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/libvirt"
	"xapid/pkg/xenctl/pygrub"
	"xapid/pkg/xenctl/sim"
	"xapid/pkg/xenctl/xenstore"
)

// lockDir makes sure that one daemon at most uses a state directory.
func lockDir(dir string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("agent: another daemon uses %s: %w", dir, err), f.Close())
	}
	return f.Close, nil
}

// hostUUID reads the host's uuid, which is drawn at the first start.
func hostUUID(dir string) (string, error) {
	path := filepath.Join(dir, "host-uuid")
	b, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	uuid := xenapi.NewUUID()
	return uuid, writeFile(path, uuid+"\n")
}

// writeFile replaces a file of mode 0600, durably.
func writeFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// hypervisor opens the one that the configuration names.
func (a *Agent) hypervisor(machine facts.Facts) (xenctl.Hypervisor, error) {
	if a.Config.Hypervisor == "libvirt" {
		uri, socket, err := splitURI(a.Config.LibvirtURI)
		if err != nil {
			return nil, err
		}
		opts := libvirt.Options{URI: uri, Socket: socket, Log: a.Log}
		if !strings.HasPrefix(opts.URI, "xen:") {
			return libvirt.New(opts)
		}
		if opts.Bootloader, err = pygrub.New(pygrub.Options{Dir: a.Config.BootDir}); err != nil {
			return nil, err
		}
		store := xenstore.New("")
		a.later(func() error { store.Close(); return nil })
		return libvirt.NewXen(libvirt.XenOptions{Options: opts, Store: store})
	}
	dir := filepath.Join(a.Config.StateDir, "sim")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	memory := a.Config.SimMemoryMiB << 20
	if memory == 0 {
		memory = machine.Memory.TotalBytes
	}
	return sim.New(sim.Options{Log: a.Log, StateDir: dir, MemoryBytes: memory, ControlDomainBytes: min(1<<30, memory/4)})
}

// splitURI takes the parameter socket out of libvirt's URI: the path of
// libvirtd's socket, as libvirt's own clients understand it.
func splitURI(text string) (uri, socket string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", "", fmt.Errorf("agent: libvirt-uri: %w", err)
	}
	q := u.Query()
	if socket = q.Get("socket"); socket == "" {
		return text, "", nil
	}
	q.Del("socket")
	u.RawQuery = q.Encode()
	return u.String(), socket, nil
}

// login is how names and passwords are checked.
type login struct {
	throttle *auth.Throttle
	set      func(user, password string) error
	// rootOnly says that root alone is a superuser: others in the password
	// file have the roles of their subject.
	rootOnly bool
}

// login opens the authenticator that the configuration names. drawn is the
// password that was made up for a new password file.
func (a *Agent) login() (l *login, drawn string, err error) {
	throttle := auth.ThrottleConfig{Answer: a.Config.LoginFailure}
	if a.Config.Auth == "pam" {
		return &login{throttle: auth.NewThrottle(auth.NewPAM(auth.PAMConfig{Helper: a.Config.PAMHelper}), throttle)}, "", nil
	}
	file, drawn, err := auth.OpenPasswordFile(a.Config.PasswordFile)
	if err != nil {
		return nil, "", err
	}
	return &login{throttle: auth.NewThrottle(file, throttle), set: file.SetPassword, rootOnly: true}, drawn, nil
}

func (l *login) check(ctx context.Context, address, user, password string) (rpc.User, error) {
	id, err := l.throttle.Login(ctx, address, user, password)
	switch {
	case errors.Is(err, auth.ErrNotAuthorized):
		return rpc.User{}, errors.Join(rpc.ErrNotAuthorized, err)
	case err != nil:
		return rpc.User{}, err
	}
	return rpc.User{Name: id.User, Root: id.IsRoot && (!l.rootOnly || id.User == "root")}, nil
}

// certificateNames are what the self-signed certificate is for.
func certificateNames() []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if h, err := os.Hostname(); err == nil {
		names = append(names, h)
	}
	return names
}

// ready writes the lines that scripts read, to standard output and to the
// ready file, and tells the service manager.
func (a *Agent) ready(server *listen.Server, drawn string) error {
	var b strings.Builder
	if addr := server.HTTPSAddr(); addr != nil {
		fmt.Fprintf(&b, "URL=https://%s\n", reachable(addr))
	}
	if addr := server.HTTPAddr(); addr != nil {
		fmt.Fprintf(&b, "HTTP_URL=http://%s\n", reachable(addr))
	}
	fmt.Fprintf(&b, "USER=root\n")
	if drawn != "" {
		fmt.Fprintf(&b, "PASSWORD=%s\n", drawn)
	}
	if a.Config.ReadyFile != "" {
		if err := writeFile(a.Config.ReadyFile, b.String()); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprint(a.Out, b.String()); err != nil {
		return err
	}
	if a.Notify != nil {
		return a.Notify("READY=1")
	}
	return nil
}

// reachable is an address that a client on this machine can use.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.String()
	}
	ip := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		ip = "127.0.0.1"
	}
	return net.JoinHostPort(ip, fmt.Sprint(tcp.Port))
}

// metrics is what GET /metrics answers.
type metrics struct {
	registry *prometheus.Registry
	handler  http.Handler
}

func newMetrics() *metrics {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &metrics{r, promhttp.HandlerFor(r, promhttp.HandlerOpts{})}
}

func (m *metrics) register(cs ...prometheus.Collector) { m.registry.MustRegister(cs...) }

func (m *metrics) serve(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }
