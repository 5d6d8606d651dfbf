package sim_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/sim"
	"xapid/pkg/xenctl/xenctltest"
)

// config is a config with knobs turned, given as pairs.
func config(knobs ...string) *xenctl.DomainConfig {
	c := xenctltest.Config()
	c.Xenstore = make(map[string]string)
	for i := 0; i < len(knobs); i += 2 {
		c.Xenstore[sim.KnobPrefix+knobs[i]] = knobs[i+1]
	}
	return c
}

func create(t testing.TB, h *sim.Hypervisor, cfg *xenctl.DomainConfig) xenctl.Domain {
	t.Helper()
	d, err := h.Create(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// next returns the next event, and how long after since it came. It is for use in a bubble: when nothing
// more can happen the test fails with a deadlock.
func next(t *testing.T, events <-chan xenctl.Event, since time.Time) (xenctl.Event, time.Duration) {
	t.Helper()
	e := <-events
	if d := time.Since(since).Round(time.Millisecond); d != e.At.Sub(since).Round(time.Millisecond) {
		t.Errorf("event of %v came after %v", e.At.Sub(since), d)
	}
	return e, time.Since(since).Round(time.Millisecond)
}

// bubble runs a test in time of its own, with a host.
func bubble(t *testing.T, opts sim.Options, f func(t *testing.T, h *sim.Hypervisor, events <-chan xenctl.Event)) {
	synctest.Test(t, func(t *testing.T) {
		h, err := sim.New(opts)
		if err != nil {
			t.Fatal(err)
		}
		defer shut(t, h)
		events, err := h.Subscribe(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		f(t, h, events)
	})
}

const ms = time.Millisecond

// life is what a guest does and when, counted from its creation.
type life []struct {
	kind   xenctl.EventKind
	reason xenctl.StopReason
	after  time.Duration
}

func TestKnobs(t *testing.T) {
	started := struct {
		kind   xenctl.EventKind
		reason xenctl.StopReason
		after  time.Duration
	}{xenctl.EventStarted, "", 0}
	for name, c := range map[string]struct {
		knobs []string
		ask   xenctl.ShutdownKind
		want  life
	}{
		"boots and says so":         {nil, "", life{started, {xenctl.EventGuestChanged, "", 20 * ms}}},
		"boots slowly":              {[]string{"boot-ms", "700"}, "", life{started, {xenctl.EventGuestChanged, "", 700 * ms}}},
		"crashes at boot":           {[]string{"agent", "no", "crash-after-ms", "0"}, "", life{started, {xenctl.EventStopped, xenctl.StopCrash, 20 * ms}}},
		"powers itself off":         {[]string{"agent", "no", "poweroff-after-ms", "80"}, "", life{started, {xenctl.EventStopped, xenctl.StopPoweroff, 100 * ms}}},
		"reboots itself":            {[]string{"agent", "no", "reboot-after-ms", "80"}, "", life{started, {xenctl.EventStopped, xenctl.StopReboot, 100 * ms}}},
		"obeys":                     {[]string{"agent", "no"}, xenctl.ShutdownPoweroff, life{started, {xenctl.EventStopped, xenctl.StopPoweroff, 25 * ms}}},
		"obeys slowly":              {[]string{"agent", "no", "shutdown-ms", "500"}, xenctl.ShutdownPoweroff, life{started, {xenctl.EventStopped, xenctl.StopPoweroff, 520 * ms}}},
		"reboots when asked to":     {[]string{"agent", "no"}, xenctl.ShutdownReboot, life{started, {xenctl.EventStopped, xenctl.StopReboot, 25 * ms}}},
		"reboots instead":           {[]string{"agent", "no", "shutdown", "reboot"}, xenctl.ShutdownPoweroff, life{started, {xenctl.EventStopped, xenctl.StopReboot, 25 * ms}}},
		"crashes instead":           {[]string{"agent", "no", "shutdown", "crash"}, xenctl.ShutdownPoweroff, life{started, {xenctl.EventStopped, xenctl.StopCrash, 25 * ms}}},
		"ignores it and then stops": {[]string{"agent", "no", "shutdown", "ignore", "poweroff-after-ms", "980"}, xenctl.ShutdownPoweroff, life{started, {xenctl.EventStopped, xenctl.StopPoweroff, 1000 * ms}}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, sim.Options{}, func(t *testing.T, h *sim.Hypervisor, events <-chan xenctl.Event) {
				began := time.Now()
				d := create(t, h, config(c.knobs...))
				if c.ask != "" {
					if err := h.RequestShutdown(t.Context(), d.UUID, c.ask); err != nil {
						t.Fatal(err)
					}
				}
				for _, want := range c.want {
					e, after := next(t, events, began)
					if e.Kind != want.kind || e.Reason != want.reason || after != want.after || e.ID != d.ID {
						t.Errorf("%+v after %v, want %+v", e, after, want)
					}
				}
			})
		})
	}
}

func TestKnobsAreChecked(t *testing.T) {
	h := open(t, sim.Options{})
	for _, knob := range [][2]string{
		{"boot-ms", "soon"}, {"boot-ms", "-1"}, {"shutdown", "maybe"}, {"agent", "perhaps"}, {"unplug", ""}, {"colour", "blue"},
	} {
		if _, err := h.Create(t.Context(), config(knob[0], knob[1])); !errors.Is(err, xenctl.ErrInvalid) {
			t.Errorf("%v: %v", knob, err)
		}
	}
}

func TestRefusal(t *testing.T) {
	bubble(t, sim.Options{}, func(t *testing.T, h *sim.Hypervisor, events <-chan xenctl.Event) {
		d := create(t, h, config("shutdown", "refuse"))
		<-events
		<-events // it is up
		if err := h.RequestShutdown(t.Context(), d.UUID, xenctl.ShutdownPoweroff); !errors.Is(err, xenctl.ErrRefused) {
			t.Errorf("shutdown: %v", err)
		}
		info, err := h.GuestInfo(t.Context(), d.UUID)
		if err != nil || info.Features["feature-shutdown"] || !info.Features["feature-suspend"] {
			t.Errorf("features %v, %v", info.Features, err)
		}
		// Told otherwise at run time, it obeys.
		yes := "obey"
		if err := h.WriteXenstore(t.Context(), d.UUID, map[string]*string{sim.KnobPrefix + "shutdown": &yes}); err != nil {
			t.Fatal(err)
		}
		if err := h.RequestShutdown(t.Context(), d.UUID, xenctl.ShutdownPoweroff); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if e := <-events; e.Reason != xenctl.StopPoweroff {
			t.Errorf("%+v", e)
		}
	})
}

// TestTimeStandsStill: while a guest is paused, frozen or in a file, its plans wait.
func TestTimeStandsStill(t *testing.T) {
	for name, hold := range map[string]func(t *testing.T, h *sim.Hypervisor, cfg *xenctl.DomainConfig) (release func() error){
		"paused": func(t *testing.T, h *sim.Hypervisor, cfg *xenctl.DomainConfig) func() error {
			if err := h.Pause(t.Context(), cfg.UUID); err != nil {
				t.Fatal(err)
			}
			return func() error { return h.Unpause(t.Context(), cfg.UUID) }
		},
		"frozen": func(t *testing.T, h *sim.Hypervisor, cfg *xenctl.DomainConfig) func() error {
			if err := h.Guest(cfg.UUID).Freeze(); err != nil {
				t.Fatal(err)
			}
			return h.Guest(cfg.UUID).Thaw
		},
		"saved": func(t *testing.T, h *sim.Hypervisor, cfg *xenctl.DomainConfig) func() error {
			image := t.TempDir() + "/image"
			if err := h.Save(t.Context(), cfg.UUID, image); err != nil {
				t.Fatal(err)
			}
			return func() error { _, err := h.Restore(t.Context(), image, cfg); return err }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, sim.Options{}, func(t *testing.T, h *sim.Hypervisor, events <-chan xenctl.Event) {
				began := time.Now()
				cfg := config("agent", "no", "poweroff-after-ms", "80")
				create(t, h, cfg)
				<-time.After(30 * ms)
				release := hold(t, h, cfg)
				<-time.After(1000 * ms)
				if err := release(); err != nil {
					t.Fatal(err)
				}
				for e := range events {
					if e.Kind != xenctl.EventStopped || e.Reason == xenctl.StopSaved {
						continue
					}
					if after := time.Since(began).Round(ms); e.Reason != xenctl.StopPoweroff || after != 1100*ms {
						t.Errorf("%+v after %v", e, after)
					}
					break
				}
			})
		})
	}
}

func TestBalloon(t *testing.T) {
	bubble(t, sim.Options{MemoryBytes: 1 << 30}, func(t *testing.T, h *sim.Hypervisor, events <-chan xenctl.Event) {
		free := func() int64 {
			host, err := h.Host(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return host.MemoryFreeBytes
		}
		most := free()
		cfg := config("agent", "no", "balloon-ms", "300")
		cfg.Memory = xenctl.Memory{StaticMaxBytes: most, TargetBytes: most / 2}
		create(t, h, cfg)
		<-events
		began := time.Now()
		if err := h.SetMemoryTarget(t.Context(), cfg.UUID, most/4); err != nil {
			t.Fatal(err)
		}
		if got := free(); got != most/2 {
			t.Errorf("%d free before the guest gave any back", got)
		}
		if e, after := next(t, events, began); e.Kind != xenctl.EventBalloonChanged || after != 320*ms {
			t.Errorf("%+v after %v", e, after)
		}
		if got := free(); got != most-most/4 {
			t.Errorf("%d free, want %d", got, most-most/4)
		}
		other := config()
		other.Memory = xenctl.Memory{StaticMaxBytes: most / 2, TargetBytes: most / 2}
		create(t, h, other)
		err := h.SetMemoryTarget(t.Context(), cfg.UUID, most)
		var figures *xenctl.MemoryError
		if !errors.As(err, &figures) || figures.NeededBytes != most-most/4 || figures.AvailableBytes != most/4 {
			t.Errorf("growing beyond the host: %v", err)
		}
	})
}

func TestConsoleIsAConversation(t *testing.T) {
	bubble(t, sim.Options{}, func(t *testing.T, h *sim.Hypervisor, events <-chan xenctl.Event) {
		cfg := config("agent", "no")
		d := create(t, h, cfg)
		console, err := h.OpenConsole(t.Context(), d.UUID)
		if err != nil {
			t.Fatal(err)
		}
		defer console.Close()
		lines := bufio.NewReader(console)
		if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "Linux version") {
			t.Errorf("%q, %v", line, err)
		}
		if err := h.Guest(d.UUID).Print(strings.Repeat("x", 1<<20)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(console, "poweroff\r"); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(lines)
		if err != nil || len(rest) > 64<<10 || !strings.HasSuffix(string(rest), "poweroff\r\n") {
			t.Errorf("%d bytes, %v", len(rest), err)
		}
		if _, err := io.WriteString(console, "hello\r"); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("typing to nobody: %v", err)
		}
		<-events
		if e := <-events; e.Reason != xenctl.StopPoweroff {
			t.Errorf("%+v", e)
		}
	})
}

func TestReadersOfAConsoleCanLeave(t *testing.T) {
	bubble(t, sim.Options{}, func(t *testing.T, h *sim.Hypervisor, _ <-chan xenctl.Event) {
		cfg := config()
		cfg.StartPaused = true
		d := create(t, h, cfg)
		console, err := h.OpenConsole(t.Context(), d.UUID)
		if err != nil {
			t.Fatal(err)
		}
		left := make(chan error)
		go func() {
			_, err := console.Read(make([]byte, 1))
			left <- err
		}()
		synctest.Wait() // until the reader waits
		if err := console.Close(); err != nil {
			t.Error(err)
		}
		if err := <-left; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestGuestSays(t *testing.T) {
	bubble(t, sim.Options{}, func(t *testing.T, h *sim.Hypervisor, events <-chan xenctl.Event) {
		cfg := config("ip", "192.0.2.7", "os-name", "BeOS")
		cfg.NICs = []xenctl.NIC{{Index: 0, MAC: "02:00:00:00:00:01", Bridge: "xenbr0"}}
		d := create(t, h, cfg)
		before, err := h.GuestInfo(t.Context(), d.UUID)
		if err != nil || len(before.OS) > 0 || len(before.Features) > 0 {
			t.Errorf("it speaks before it is up: %+v, %v", before, err)
		}
		<-events
		<-events
		up, err := h.GuestInfo(t.Context(), d.UUID)
		if err != nil || up.OS["name"] != "BeOS" || up.Networks["0/ip"] != "192.0.2.7" || up.PVDrivers["major"] == "" {
			t.Errorf("%+v, %v", up, err)
		}
		if err := h.Guest(d.UUID).Say(xenctl.GuestInfo{OS: map[string]string{"name": "AmigaOS"}}); err != nil {
			t.Fatal(err)
		}
		if e := <-events; e.Kind != xenctl.EventGuestChanged {
			t.Errorf("%+v", e)
		}
		if now, _ := h.GuestInfo(t.Context(), d.UUID); now.OS["name"] != "AmigaOS" {
			t.Errorf("%+v", now)
		}
	})
}
