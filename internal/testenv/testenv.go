// Package testenv starts the real daemon for tests: the binary, with a state
// directory of its own, on the simulated hypervisor.
//
// Its one invariant: when the test ends the process has gone. Start reading
// at Start.
package testenv

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"xapid/pkg/rpc/client"
)

// Daemon is a running xapid.
type Daemon struct {
	Dir      string
	URL      string
	HTTPURL  string
	Password string
	Socket   string

	bin  string
	args []string
	cmd  *exec.Cmd
	done chan error
	log  *bytes.Buffer
	mu   sync.Mutex
}

var build = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("XAPID_BIN"); bin != "" {
		return bin, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "bin", "xapid-test")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/xapid")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("testenv: go build: %w\n%s", err, out)
	}
	return bin, nil
})

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
}

// Start builds the daemon, starts it in a directory of the test's and waits
// until it serves. args follow those that every test needs.
func Start(t testing.TB, args ...string) *Daemon {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Dir: t.TempDir(), bin: bin, args: args}
	d.Socket = filepath.Join(d.Dir, "xapi.sock")
	t.Cleanup(d.cleanup(t))
	d.Run(t)
	return d
}

func (d *Daemon) cleanup(t testing.TB) func() {
	return func() {
		if err := d.Stop(); err != nil {
			t.Errorf("the daemon ended badly: %v", err)
		}
		d.noteCalls(t)
		if t.Failed() && d.log != nil {
			t.Logf("the daemon's log:\n%s", tail(d.log.String(), 16<<10))
		}
	}
}

// callsDir is the variable that names where to note which messages were
// called: what internal/coverage reads.
const callsDir = "XAPID_CALLS_DIR"

var callLine = regexp.MustCompile(`msg=call message=(\S+) .*code=(\S+)`)

// noteCalls writes the messages that the daemon served, but for those that it
// said it does not implement.
func (d *Daemon) noteCalls(t testing.TB) {
	dir := os.Getenv(callsDir)
	if dir == "" || d.log == nil {
		return
	}
	var b bytes.Buffer
	for _, m := range callLine.FindAllStringSubmatch(d.log.String(), -1) {
		if m[2] != "NOT_IMPLEMENTED" {
			fmt.Fprintln(&b, m[1])
		}
	}
	name := fmt.Sprintf("%s-%d.calls", strings.ReplaceAll(t.Name(), "/", "_"), d.PID())
	if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644); err != nil {
		t.Error(err)
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return s[len(s)-n:]
	}
	return s
}

// startTimeout bounds the start of the daemon.
const startTimeout = 60 * time.Second

// Run starts the daemon, again after Stop or Kill.
func (d *Daemon) Run(t testing.TB) {
	t.Helper()
	ready := filepath.Join(d.Dir, "ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	args := append([]string{"--hypervisor", "sim", "--auth", "file", "--state-dir", filepath.Join(d.Dir, "state"),
		"--log-dir", filepath.Join(d.Dir, "log"), "--https", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--socket", d.Socket, "--ready-file", ready, "--sim-memory", "65536", "--reserve", "16"}, d.args...)
	if os.Getenv(callsDir) != "" {
		args = append(args, "--log-level", "debug")
	}
	d.cmd = exec.Command(d.bin, args...)
	if d.log == nil {
		d.log = &bytes.Buffer{}
	}
	d.cmd.Stderr = d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(d.cmd, d.done)
	deadline := time.After(startTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(ready); err == nil {
			d.readReady(string(b))
			return
		}
		select {
		case err := <-d.done:
			d.done = nil
			t.Fatalf("the daemon did not start: %v\n%s", err, d.log)
		case <-deadline:
			t.Fatalf("the daemon does not serve after %s\n%s", startTimeout, d.log)
		case <-tick.C:
		}
	}
}

func (d *Daemon) readReady(text string) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "URL":
			d.URL = value
		case "HTTP_URL":
			d.HTTPURL = value
		case "PASSWORD":
			d.Password = value
		}
	}
}

// Stop ends the daemon as the service manager does, and waits for it.
func (d *Daemon) Stop() error { return d.end(syscall.SIGTERM) }

// Kill ends the daemon as a crash does, and waits for it.
func (d *Daemon) Kill() {
	if err := d.end(syscall.SIGKILL); err != nil {
		return // killed: that is what the error says
	}
}

func (d *Daemon) end(sig syscall.Signal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-d.done:
		d.done = nil
		return err
	case <-time.After(30 * time.Second):
		err := d.cmd.Process.Kill()
		<-d.done
		d.done = nil
		return errors.Join(errors.New("it had to be killed"), err)
	}
}

// Bin is the program.
func (d *Daemon) Bin() string { return d.bin }

// PID is the daemon's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log is what the daemon has logged; only to be read once it has stopped.
func (d *Daemon) Log() string { return d.log.String() }

// Client logs in over HTTPS.
func (d *Daemon) Client(t testing.TB) *client.Client {
	t.Helper()
	c := d.Anonymous(t)
	if err := c.Login(t.Context(), "root", d.Password); err != nil {
		t.Fatal(err)
	}
	return c
}

// Anonymous is a client that has not logged in.
func (d *Daemon) Anonymous(t testing.TB) *client.Client {
	t.Helper()
	c := client.New(d.URL, client.Options{TLS: &tls.Config{InsecureSkipVerify: true}}) // self-signed
	t.Cleanup(c.Close)
	return c
}

// Eventually asks again and again until it is told yes, or fails the test.
func Eventually(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", within, what)
		case <-tick.C:
		}
	}
}
