package xenctl_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"xapid/pkg/xenctl"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const someUUID = "0f4a3c52-9b1e-4d0a-8f55-3c2f5a6b7c8d"

func goodConfig() *xenctl.DomainConfig {
	return &xenctl.DomainConfig{
		UUID: someUUID, Name: "web", Type: xenctl.TypeHVM,
		Memory: xenctl.Memory{StaticMaxBytes: 1 << 30, TargetBytes: 1 << 29},
		VCPUs:  xenctl.VCPUs{Max: 2, AtStart: 1},
		Disks:  []xenctl.Disk{{Device: "xvda", Source: xenctl.DiskSource{Kind: xenctl.DiskBlock, Path: "/dev/x"}}},
		NICs:   []xenctl.NIC{{MAC: "02:00:00:00:00:01", Bridge: "xenbr0"}},
	}
}

func TestValidate(t *testing.T) {
	if err := goodConfig().Validate(); err != nil {
		t.Fatalf("a good config: %v", err)
	}
	for name, spoil := range map[string]func(*xenctl.DomainConfig){
		"no uuid":                     func(c *xenctl.DomainConfig) { c.UUID = "" },
		"uuid in upper case":          func(c *xenctl.DomainConfig) { c.UUID = strings.ToUpper(someUUID) },
		"no memory":                   func(c *xenctl.DomainConfig) { c.Memory = xenctl.Memory{} },
		"target above the maximum":    func(c *xenctl.DomainConfig) { c.Memory.TargetBytes = 1 << 40 },
		"no vcpus":                    func(c *xenctl.DomainConfig) { c.VCPUs = xenctl.VCPUs{} },
		"more vcpus than the maximum": func(c *xenctl.DomainConfig) { c.VCPUs.AtStart = 3 },
		"weight":                      func(c *xenctl.DomainConfig) { c.VCPUs.Weight = 1 << 20 },
		"cap":                         func(c *xenctl.DomainConfig) { c.VCPUs.CapPercent = -1 },
		"affinity":                    func(c *xenctl.DomainConfig) { c.VCPUs.Affinity = []int{-1} },
		"unknown type":                func(c *xenctl.DomainConfig) { c.Type = "lxc" },
		"pv without a kernel":         func(c *xenctl.DomainConfig) { c.Type = xenctl.TypePV },
		"kernel by a relative path":   func(c *xenctl.DomainConfig) { c.Boot.Kernel = "../vmlinuz" },
		"kernel by an unclean path":   func(c *xenctl.DomainConfig) { c.Boot.Kernel = "/boot/../etc/shadow" },
		"nul in the command line":     func(c *xenctl.DomainConfig) { c.Boot.Cmdline = "a\x00b" },
		"firmware":                    func(c *xenctl.DomainConfig) { c.Boot.Firmware = "openfirmware" },
		"boot device":                 func(c *xenctl.DomainConfig) { c.Boot.Order = []xenctl.BootDevice{"tape"} },
		"crash action":                func(c *xenctl.DomainConfig) { c.OnCrash = "explode" },
		"disk device":                 func(c *xenctl.DomainConfig) { c.Disks[0].Device = "../xvda" },
		"disk without a path":         func(c *xenctl.DomainConfig) { c.Disks[0].Source.Path = "" },
		"disk kind":                   func(c *xenctl.DomainConfig) { c.Disks[0].Source.Kind = "net" },
		"two disks of a name":         func(c *xenctl.DomainConfig) { c.Disks = append(c.Disks, c.Disks[0]) },
		"multicast mac":               func(c *xenctl.DomainConfig) { c.NICs[0].MAC = "01:00:00:00:00:01" },
		"bridge that is a path":       func(c *xenctl.DomainConfig) { c.NICs[0].Bridge = "../x" },
		"two nics of an index":        func(c *xenctl.DomainConfig) { c.NICs = append(c.NICs, c.NICs[0]) },
		"graphics address":            func(c *xenctl.DomainConfig) { c.Graphics = &xenctl.Graphics{Listen: "all"} },
		"keymap that is a path":       func(c *xenctl.DomainConfig) { c.Graphics = &xenctl.Graphics{Keymap: "../x"} },
		"video memory":                func(c *xenctl.DomainConfig) { c.Graphics = &xenctl.Graphics{VideoMiB: 1 << 20} },
		"xenstore outside vm-data":    func(c *xenctl.DomainConfig) { c.Xenstore = map[string]string{"control/shutdown": "x"} },
		"xenstore climbing out":       func(c *xenctl.DomainConfig) { c.Xenstore = map[string]string{"vm-data//x": "x"} },
		"xenstore value":              func(c *xenctl.DomainConfig) { c.Xenstore = map[string]string{"vm-data/x": "\x01"} },
	} {
		t.Run(name, func(t *testing.T) {
			c := goodConfig()
			spoil(c)
			if err := c.Validate(); !errors.Is(err, xenctl.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}

func TestSafeName(t *testing.T) {
	for label, want := range map[string]string{
		"web server":               "web-server-" + someUUID,
		"":                         "domain-" + someUUID,
		"-rf":                      "rf-" + someUUID,
		"../../etc/passwd":         "etc-passwd-" + someUUID,
		"<b>&'\"</b>\n\x00":        "b-b-" + someUUID,
		"Überraschung 日本":          "berraschung-" + someUUID,
		strings.Repeat("long", 99): strings.Repeat("long", 12) + "-" + someUUID,
	} {
		if got := xenctl.SafeName(label, someUUID); got != want {
			t.Errorf("SafeName(%q) = %q, want %q", label, got, want)
		}
	}
}

func TestContextError(t *testing.T) {
	if err := xenctl.ContextError(t.Context()); err != nil {
		t.Errorf("live context: %v", err)
	}
	late, stop := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer stop()
	if err := xenctl.ContextError(late); !errors.Is(err, xenctl.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	why := errors.New("task cancelled")
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := xenctl.ContextError(gone); !errors.Is(err, why) || !errors.Is(err, context.Canceled) || errors.Is(err, xenctl.ErrTimeout) {
		t.Errorf("cancel: %v", err)
	}
}

func TestFeedKeepsOrderAndCoalescesForTheSlow(t *testing.T) {
	var feed xenctl.Feed
	defer feed.Close()
	slow, err := feed.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const many = 20000
	for i := range many {
		feed.Publish(xenctl.Event{Kind: xenctl.EventPaused, ID: i + 1})
	}
	last, resyncs := 0, 0
	for last < many {
		e := <-slow
		if e.Kind == xenctl.EventResync {
			resyncs++
			continue
		}
		if e.ID <= last || (e.ID > last+1 && resyncs == 0) {
			t.Fatalf("event %d after %d without a resync", e.ID, last)
		}
		last = e.ID
	}
	if resyncs == 0 {
		t.Error("a subscriber that fell behind got no resync")
	}
}

func TestFeedEndsWithItsContextAndWithClose(t *testing.T) {
	var feed xenctl.Feed
	ctx, cancel := context.WithCancel(t.Context())
	one, _ := feed.Subscribe(ctx)
	two, _ := feed.Subscribe(t.Context())
	cancel()
	if _, open := <-one; open {
		t.Error("event after the context's end")
	}
	feed.Close()
	if _, open := <-two; open {
		t.Error("event after close")
	}
	if _, err := feed.Subscribe(t.Context()); !errors.Is(err, xenctl.ErrClosed) {
		t.Errorf("subscribe after close: %v", err)
	}
}

// decorated hides what it wraps, as a decorator does.
type decorated struct{ xenctl.Hypervisor }

func (d decorated) Unwrap() xenctl.Hypervisor { return d.Hypervisor }

// resizable is a Hypervisor that is a Resizer, for its types alone.
type resizable struct {
	xenctl.Hypervisor
	xenctl.Resizer
}

func TestAsLooksInside(t *testing.T) {
	bare := decorated{decorated{resizable{}}}
	if _, ok := xenctl.As[xenctl.Resizer](bare); !ok {
		t.Error("a capability under two decorators isn't found")
	}
	if _, ok := xenctl.As[xenctl.Statser](bare); ok {
		t.Error("a capability that nobody has is found")
	}
	if _, ok := xenctl.As[xenctl.Statser](nil); ok {
		t.Error("nothing has a capability")
	}
}

func TestAwait(t *testing.T) {
	var owner sync.WaitGroup
	wrong := errors.New("wrong")
	if err := xenctl.Await(t.Context(), &owner, func() error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	release := make(chan struct{})
	if err := xenctl.Await(ctx, &owner, func() error { <-release; return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	owner.Wait()
}
