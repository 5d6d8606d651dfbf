// Package libvirtd runs a private libvirtd for tests and benchmarks, with nothing but its built-in test
// driver: own configuration, own socket, none of the machine's state.
//
// The invariant: when the test ends the daemon has gone, whatever the test did to it.
//
// Start reading at Start.
package libvirtd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// URI names the driver that the daemon has. All its connections see the same domains, and they are there as
// long as one is open.
const URI = "test:///default"

// patience is how long the daemon may take to start.
const patience = 30 * time.Second

// Server is a private libvirtd.
type Server struct {
	// Socket is the Unix socket that it listens on.
	Socket string

	t    testing.TB
	dir  string
	cmd  *exec.Cmd
	gone chan struct{} // closed when the process has ended
}

// Start runs a daemon until the test's end. It skips the test where none is installed.
func Start(t testing.TB) *Server {
	t.Helper()
	if _, err := exec.LookPath("libvirtd"); err != nil {
		t.Skip("missing: libvirtd (Debian package libvirt-daemon)")
	}
	// Not t.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "lv")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir, Socket: filepath.Join(dir, "libvirt-sock")}
	t.Cleanup(func() {
		if s.cmd != nil {
			s.Kill()
		}
		os.RemoveAll(dir)
	})
	config := fmt.Sprintf("listen_tls = 0\nlisten_tcp = 0\nunix_sock_dir = %q\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "libvirtd.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	// The drivers that touch the machine are modules; a directory without any leaves the test driver.
	if err := os.Mkdir(filepath.Join(dir, "drivers"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	return s
}

// Restart starts the daemon again after Kill.
func (s *Server) Restart() {
	s.t.Helper()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(s.dir, "notify"), Net: "unixgram"})
	if err != nil {
		s.t.Fatal(err)
	}
	defer os.Remove(filepath.Join(s.dir, "notify"))
	defer notify.Close()
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()

	s.cmd = exec.Command("libvirtd", "--config", filepath.Join(s.dir, "libvirtd.conf"), "--pid-file", filepath.Join(s.dir, "pid"))
	s.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(s.dir, "notify"), "LIBVIRT_DRIVER_DIR="+filepath.Join(s.dir, "drivers"))
	for _, name := range []string{"HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"} {
		s.cmd.Env = append(s.cmd.Env, name+"="+s.dir)
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, gone := s.cmd, make(chan struct{})
	s.gone = gone
	go func() {
		defer close(gone)
		cmd.Wait()
	}()
	notify.SetReadDeadline(time.Now().Add(patience))
	for message := make([]byte, 4096); ; {
		n, err := notify.Read(message)
		if err != nil {
			text, _ := os.ReadFile(s.logPath())
			s.Kill()
			s.t.Fatalf("libvirtd doesn't start: %v\n%s", err, text)
		}
		if string(message[:min(n, 7)]) == "READY=1" {
			return
		}
	}
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "log") }

// Kill ends the daemon at once, as a crash would, and with it all its domains.
func (s *Server) Kill() {
	s.cmd.Process.Kill()
	<-s.gone
}

// Stop makes the daemon hang: connections stand and nothing is answered.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Continue ends Stop.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Connect opens a connection of the test's own, closed at its end. It keeps the domains there.
func (s *Server) Connect() *libvirt.Libvirt {
	s.t.Helper()
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(s.Socket)))
	if err := l.ConnectToURI(URI); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Disconnect() })
	return l
}

// Fill makes n domains and returns the connection that keeps them there.
func (s *Server) Fill(n int) *libvirt.Libvirt {
	s.t.Helper()
	l := s.Connect()
	for i := range n {
		xml := fmt.Sprintf(`<domain type='test'><name>filled-%d</name><uuid>f111ed00-0000-4000-8000-%012x</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type>hvm</type></os>
<devices><disk type='block' device='disk'><source dev='/dev/disk-%d'/><target dev='xvda' bus='xen'/></disk>
<interface type='bridge'><mac address='02:00:00:%02x:%02x:%02x'/><source bridge='xenbr0'/></interface></devices></domain>`,
			i, i+1, i, i>>16&0xff, i>>8&0xff, i&0xff)
		if _, err := l.DomainCreateXML(xml, 0); err != nil {
			s.t.Fatal(err)
		}
	}
	return l
}
