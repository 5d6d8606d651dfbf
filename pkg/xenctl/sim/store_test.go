package sim_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/sim"
)

func TestGuestsOutliveClose(t *testing.T) {
	dir := t.TempDir()
	first := open(t, sim.Options{StateDir: dir})
	paused, running, gone := config("boot-ms", "0"), config("poweroff-after-ms", "3600000"), config()
	paused.StartPaused = true
	create(t, first, gone)
	create(t, first, paused)
	made := create(t, first, running)
	if err := first.Destroy(t.Context(), gone.UUID); err != nil {
		t.Fatal(err)
	}
	if err := first.SetVCPUs(t.Context(), running.UUID, 2); err != nil {
		t.Fatal(err)
	}
	shut(t, first)

	second := open(t, sim.Options{StateDir: dir})
	all, err := second.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if d, err := second.Lookup(t.Context(), paused.UUID); err != nil || d.State != xenctl.StatePaused {
		t.Errorf("%+v, %v", d, err)
	}
	d, err := second.Lookup(t.Context(), running.UUID)
	if err != nil || d.ID != made.ID || d.VCPUs != 2 || !d.StartedAt.Equal(made.StartedAt) {
		t.Errorf("%+v after %+v, %v", d, made, err)
	}
	host, err := second.Host(t.Context())
	if used := host.MemoryTotalBytes - host.ControlDomainBytes - host.MemoryFreeBytes; err != nil || used != 2*d.MaxBytes {
		t.Errorf("%d bytes used, %v", used, err)
	}
	if again := create(t, second, gone); again.ID <= made.ID {
		t.Errorf("id %d after %d", again.ID, made.ID)
	}
}

// TestIDsGrowAcrossRestarts: also when the domain with the highest number has gone.
func TestIDsGrowAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	cfg, last := config(), 0
	for range 3 {
		h := open(t, sim.Options{StateDir: dir})
		d := create(t, h, cfg)
		if d.ID <= last {
			t.Errorf("id %d after %d", d.ID, last)
		}
		last = d.ID
		if err := h.Destroy(t.Context(), cfg.UUID); err != nil {
			t.Fatal(err)
		}
		shut(t, h)
	}
}

// TestTimeGoesOnWithoutADaemon: a guest that was about to power off has done so in the meantime.
func TestTimeGoesOnWithoutADaemon(t *testing.T) {
	dir := t.TempDir()
	clock := &hands{now: time.Unix(1e9, 0)}
	first := open(t, sim.Options{StateDir: dir, Clock: clock})
	cfg := config("boot-ms", "10")
	create(t, first, cfg)
	if err := first.RequestShutdown(t.Context(), cfg.UUID, xenctl.ShutdownPoweroff); err != nil {
		t.Fatal(err)
	}
	shut(t, first)

	second := open(t, sim.Options{StateDir: dir, Clock: clock})
	events, err := second.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	clock.advance(time.Hour)
	for e := range events {
		if e.Kind == xenctl.EventStopped {
			if e.Reason != xenctl.StopPoweroff {
				t.Errorf("%+v", e)
			}
			break
		}
	}
	if left, _ := filepath.Glob(dir + "/*.json"); len(left) > 0 {
		t.Errorf("records of domains that have gone: %v", left)
	}
}

func TestRecordsThatAreNoGood(t *testing.T) {
	dir := t.TempDir()
	first := open(t, sim.Options{StateDir: dir})
	cfg := config()
	create(t, first, cfg)
	shut(t, first)
	for name, text := range map[string]string{"garbage.json": "{", "empty.json": "", cfg.UUID[:35] + "f.json": "{}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := open(t, sim.Options{StateDir: dir})
	if all, err := second.List(t.Context()); err != nil || len(all) != 1 || all[0].UUID != cfg.UUID {
		t.Errorf("%+v, %v", all, err)
	}
	shut(t, second)

	// The machine was booted again: its guests have gone.
	if err := os.WriteFile(filepath.Join(dir, "boot-id"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := open(t, sim.Options{StateDir: dir})
	if all, err := third.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

const victimVar = "XENCTL_SIM_TEST_VICTIM"

// TestGuestsOutliveAKill: what Create has answered is there after a kill -9.
func TestGuestsOutliveAKill(t *testing.T) {
	dir := t.TempDir()
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$")
	victim.Env = append(os.Environ(), victimVar+"="+dir)
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var made []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if uuid, ok := strings.CutPrefix(lines.Text(), "made "); ok {
			made = append(made, uuid)
		}
		if len(made) == 50 {
			victim.Process.Kill()
		}
	}
	victim.Wait()

	h := open(t, sim.Options{StateDir: dir})
	for _, uuid := range made {
		if _, err := h.Lookup(t.Context(), uuid); err != nil {
			t.Error(err)
		}
	}
	if all, err := h.List(t.Context()); err != nil || len(all) < len(made) || len(made) < 50 || len(all) > len(made)+1 {
		t.Errorf("%d domains, %d were made, %v", len(all), len(made), err)
	}
}

// TestVictim is the process that TestGuestsOutliveAKill kills.
func TestVictim(t *testing.T) {
	dir := os.Getenv(victimVar)
	if dir == "" {
		t.Skip("missing: a killer (TestGuestsOutliveAKill runs this)")
	}
	h := open(t, sim.Options{StateDir: dir})
	for {
		fmt.Println("made " + create(t, h, config()).UUID)
	}
}

func TestStateDirThatCantBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sim.New(sim.Options{StateDir: file}); err == nil {
		t.Error("a file was taken for a directory")
	}
}
