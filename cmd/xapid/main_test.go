package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
)

// TestStopDrains tells a daemon to stop that has a task under way and a client
// that waits for events: the task ends well, the client is answered at once,
// and the exit code is 0.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	d := testenv.Start(t)
	c, waiting := d.Client(t), d.Client(t)
	r := xenapi.NewVM()
	r.NameLabel, r.MemoryStaticMax, r.MemoryDynamicMax, r.MemoryDynamicMin = "slow", 64<<20, 64<<20, 64<<20
	r.VCPUsMax, r.VCPUsAtStartup, r.HVMBootPolicy, r.HVMShadowMultiplier = 1, 1, "BIOS order", 1
	r.XenstoreData = map[string]string{"vm-data/sim/shutdown-ms": "1500"}
	vm, err := c.VM().Create(t.Context(), r)
	ok(t, err)
	ok(t, c.VM().Start(t.Context(), vm, false, false))
	token := from(t, d, waiting, "", 1)
	answered := make(chan time.Time, 1)
	go func() {
		from(t, d, waiting, token, 60) // the answer may be that the session has ended
		answered <- time.Now()
	}()
	_, err = c.Async(t.Context(), "VM.clean_shutdown", string(vm))
	ok(t, err)
	testenv.Eventually(t, "a shutdown under way", 10*time.Second, func() bool {
		ops, err := c.VM().GetCurrentOperations(t.Context(), vm)
		ok(t, err)
		return len(ops) > 0
	})
	told := time.Now()
	ok(t, d.Stop())
	if took := (<-answered).Sub(told); took > time.Second {
		t.Errorf("who waited for events was answered after %s", took)
	}
	if took := time.Since(told); took < time.Second || took > 15*time.Second {
		t.Errorf("the daemon stopped after %s; the task takes 1.5 s", took)
	}
	d.Run(t)
	state, err := d.Client(t).VM().GetPowerState(t.Context(), vm)
	ok(t, err)
	if state != xenapi.VMPowerStateHalted {
		t.Errorf("the task under way left the VM %s", state)
	}
}

// from waits for events of SRs and gives the token after them.
func from(t *testing.T, d *testenv.Daemon, c *client.Client, token string, seconds float64) string {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "event.from",
		"params": []any{c.SessionRef(), []string{"sr"}, token, seconds}})
	if err != nil {
		t.Error(err)
		return ""
	}
	resp, err := http.Post(d.HTTPURL+"/jsonrpc", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Error("the call that waits:", err)
		return ""
	}
	defer resp.Body.Close()
	var answer struct{ Result struct{ Token string } }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Error(err)
	}
	return answer.Result.Token
}

// TestNotify plays the service manager.
func TestNotify(t *testing.T) {
	dir, err := os.MkdirTemp("", "n") // a socket's path must be short
	ok(t, err)
	t.Cleanup(func() { ok(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	ok(t, err)
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	testenv.Start(t)
	ok(t, l.SetReadDeadline(time.Now().Add(10*time.Second)))
	b := make([]byte, 256)
	n, err := l.Read(b)
	ok(t, err)
	if got := string(b[:n]); !strings.Contains(got, "READY=1") {
		t.Errorf("systemd was told %q", got)
	}
}

// TestBadSR makes the directory of the local SR unusable: the daemon serves,
// what needs no disk works, and an alert says what is wrong.
func TestBadSR(t *testing.T) {
	t.Parallel()
	d := testenv.Start(t)
	ok(t, d.Stop())
	local := filepath.Join(d.Dir, "state", "sr", "local")
	ok(t, os.RemoveAll(local))
	ok(t, os.WriteFile(local, []byte("not a directory"), 0o600))
	d.Run(t)
	c := d.Client(t)
	testenv.Eventually(t, "an alert", 20*time.Second, func() bool {
		all, err := c.Message().GetAllRecords(t.Context())
		ok(t, err)
		for _, m := range all {
			if strings.Contains(m.(*xenapi.Message).Name, "PBD_PLUG_FAILED") {
				return true
			}
		}
		return false
	})
	hosts, err := c.Host().GetAll(t.Context())
	ok(t, err)
	ok(t, c.Host().SetNameLabel(t.Context(), hosts[0], "still here"))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
