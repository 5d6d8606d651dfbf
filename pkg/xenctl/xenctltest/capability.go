package xenctltest

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xapid/pkg/xenctl"
)

// testRunning does with one guest, in order, all that can be done with a guest that runs, since booting one may take
// long. The last part ends it.
func testRunning(t *testing.T, s *suite) {
	cfg := s.config()
	cfg.Disks = append(cfg.Disks, xenctl.Disk{Device: "xvdd", CDROM: true, ReadOnly: true})
	s.boot(t, cfg)
	for _, part := range []struct {
		name string
		test func(*testing.T, *suite, *xenctl.DomainConfig)
	}{
		{"guest info", testGuestInfo},
		{"stats", testStats},
		{"xenstore", testXenstore},
		{"scheduling", testScheduling},
		{"resize", testResize},
		{"nics", testNICs},
		{"media", testMedia},
		{"disks", testDisks},
		{"console", testConsole},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, s, cfg) })
	}
}

func testResize(t *testing.T, s *suite, cfg *xenctl.DomainConfig) {
	r := capability[xenctl.Resizer](t, s)
	less := cfg.Memory.StaticMaxBytes * 7 / 8
	for _, target := range []int64{less, cfg.Memory.StaticMaxBytes} {
		noErr(t, "set memory", r.SetMemoryTarget(s.ctx(t), cfg.UUID, target))
		d := s.wantState(t, cfg.UUID, xenctl.StateRunning)
		if d.TargetBytes != target || d.MaxBytes != cfg.Memory.StaticMaxBytes {
			t.Errorf("target %d: %+v", target, d)
		}
		for ctx := s.ctx(t); !d.Ballooned(); {
			select {
			case <-s.events: // any may be the one that tells of the balloon
			case <-ctx.Done():
				t.Fatalf("memory %d never came to its target %d", d.MemoryBytes, target)
			}
			d = s.wantState(t, cfg.UUID, xenctl.StateRunning)
		}
	}
	wantErr(t, "above the maximum", r.SetMemoryTarget(s.ctx(t), cfg.UUID, cfg.Memory.StaticMaxBytes*2), xenctl.ErrInvalid)
	wantErr(t, "no memory", r.SetMemoryTarget(s.ctx(t), cfg.UUID, 0), xenctl.ErrInvalid)

	for _, n := range []int{2, 1} {
		noErr(t, "set vcpus", r.SetVCPUs(s.ctx(t), cfg.UUID, n))
		if d := s.wantState(t, cfg.UUID, xenctl.StateRunning); d.VCPUs != n || d.MaxVCPUs != 2 {
			t.Errorf("%d vcpus: %+v", n, d)
		}
	}
	wantErr(t, "too many vcpus", r.SetVCPUs(s.ctx(t), cfg.UUID, 3), xenctl.ErrInvalid)
	wantErr(t, "no vcpu", r.SetVCPUs(s.ctx(t), cfg.UUID, 0), xenctl.ErrInvalid)
}

func testScheduling(t *testing.T, s *suite, d *xenctl.DomainConfig) {
	c := capability[xenctl.Scheduler](t, s)
	noErr(t, "set", c.SetScheduling(s.ctx(t), d.UUID, 512, 50))
	noErr(t, "back to the default", c.SetScheduling(s.ctx(t), d.UUID, 0, 0))
	wantErr(t, "weight", c.SetScheduling(s.ctx(t), d.UUID, -1, 0), xenctl.ErrInvalid)
	wantErr(t, "unknown domain", c.SetScheduling(s.ctx(t), NewUUID(), 256, 0), xenctl.ErrNotFound)
}

func testDisks(t *testing.T, s *suite, cfg *xenctl.DomainConfig) {
	p := capability[xenctl.DiskPlugger](t, s)
	disk := xenctl.Disk{Device: "xvdb", Source: image(t, "disk")}
	noErr(t, "attach", p.AttachDisk(s.ctx(t), cfg.UUID, disk))
	wantErr(t, "attach again", p.AttachDisk(s.ctx(t), cfg.UUID, disk), xenctl.ErrExists)
	wantErr(t, "attach nonsense", p.AttachDisk(s.ctx(t), cfg.UUID, xenctl.Disk{Device: "/dev/sda"}), xenctl.ErrInvalid)
	s.uses(t, cfg.UUID)
	noErr(t, "pause", s.h.Pause(s.ctx(t), cfg.UUID)) // so that the guest can't let go
	wantErr(t, "detach", p.DetachDisk(s.ctx(t), cfg.UUID, "xvdb", false), xenctl.ErrRefused)
	noErr(t, "unpause", s.h.Unpause(s.ctx(t), cfg.UUID))
	noErr(t, "detach", p.DetachDisk(s.ctx(t), cfg.UUID, "xvdb", false))
	wantErr(t, "detach again", p.DetachDisk(s.ctx(t), cfg.UUID, "xvdb", false), xenctl.ErrNoDevice)
	noErr(t, "attach anew", p.AttachDisk(s.ctx(t), cfg.UUID, disk))
	noErr(t, "pause", s.h.Pause(s.ctx(t), cfg.UUID))
	noErr(t, "detach by force", p.DetachDisk(s.ctx(t), cfg.UUID, "xvdb", true))
	wantErr(t, "detach again by force", p.DetachDisk(s.ctx(t), cfg.UUID, "xvdb", true), xenctl.ErrNoDevice)
	noErr(t, "unpause", s.h.Unpause(s.ctx(t), cfg.UUID))
	wantErr(t, "unknown domain", p.AttachDisk(s.ctx(t), NewUUID(), disk), xenctl.ErrNotFound)
}

// uses waits until the guest drives a device.
func (s *suite) uses(t *testing.T, uuid string) {
	t.Helper()
	c, ok := xenctl.As[xenctl.GuestInformer](s.h)
	if !ok {
		return
	}
	for {
		info, err := c.GuestInfo(s.ctx(t), uuid)
		noErr(t, "guest info", err)
		if info.PVDetected {
			return
		}
		s.await(t, uuid, xenctl.EventGuestChanged)
	}
}

// image makes a raw image.
func image(t *testing.T, name string) xenctl.DiskSource {
	path := filepath.Join(t.TempDir(), name)
	noErr(t, "make", os.WriteFile(path, nil, 0o600))
	noErr(t, "size", os.Truncate(path, 8<<20))
	return xenctl.DiskSource{Kind: xenctl.DiskFile, Path: path}
}

func testNICs(t *testing.T, s *suite, cfg *xenctl.DomainConfig) {
	p := capability[xenctl.NICPlugger](t, s)
	nic := xenctl.NIC{Index: 3, MAC: "02:00:00:00:00:03", Bridge: "xenbr0"}
	if s.Bridge != "" {
		nic.Bridge = s.Bridge
	}
	noErr(t, "attach", p.AttachNIC(s.ctx(t), cfg.UUID, nic))
	wantErr(t, "attach again", p.AttachNIC(s.ctx(t), cfg.UUID, nic), xenctl.ErrExists)
	wantErr(t, "attach nonsense", p.AttachNIC(s.ctx(t), cfg.UUID, xenctl.NIC{MAC: "me"}), xenctl.ErrInvalid)
	s.uses(t, cfg.UUID)
	noErr(t, "detach", p.DetachNIC(s.ctx(t), cfg.UUID, 3, false))
	wantErr(t, "detach again", p.DetachNIC(s.ctx(t), cfg.UUID, 3, false), xenctl.ErrNoDevice)
}

func testMedia(t *testing.T, s *suite, cfg *xenctl.DomainConfig) {
	m := capability[xenctl.MediaChanger](t, s)
	one, two := image(t, "one.iso"), image(t, "two.iso")
	noErr(t, "insert", m.InsertMedia(s.ctx(t), cfg.UUID, "xvdd", one))
	wantErr(t, "insert into a full drive", m.InsertMedia(s.ctx(t), cfg.UUID, "xvdd", two), xenctl.ErrBadState)
	noErr(t, "eject", m.InsertMedia(s.ctx(t), cfg.UUID, "xvdd", xenctl.DiskSource{}))
	noErr(t, "insert another", m.InsertMedia(s.ctx(t), cfg.UUID, "xvdd", two))
	wantErr(t, "no such drive", m.InsertMedia(s.ctx(t), cfg.UUID, "xvde", one), xenctl.ErrNoDevice)
}

func testConsole(t *testing.T, s *suite, d *xenctl.DomainConfig) {
	c := capability[xenctl.Consoler](t, s)
	stream, err := c.OpenConsole(s.ctx(t), d.UUID)
	noErr(t, "open", err)
	defer stream.Close()
	if line, err := bufio.NewReader(stream).ReadString('\n'); err != nil || strings.TrimSpace(line) == "" {
		t.Errorf("first words %q, %v", line, err)
	}
	noErr(t, "destroy", s.h.Destroy(s.ctx(t), d.UUID))
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("the end of the console: %v", err)
	}
	_, err = c.OpenConsole(s.ctx(t), d.UUID)
	wantErr(t, "open after the end", err, xenctl.ErrNotFound)
}

func testStats(t *testing.T, s *suite, cfg *xenctl.DomainConfig) {
	c := capability[xenctl.Statser](t, s)
	d := s.wantState(t, cfg.UUID, xenctl.StateRunning)
	all, err := c.Stats(s.ctx(t))
	noErr(t, "stats", err)
	for _, st := range all {
		if st.UUID == d.UUID {
			if st.ID != d.ID || st.At.IsZero() || st.MemoryBytes <= 0 || len(st.VCPUTime) != d.VCPUs {
				t.Errorf("%+v", st)
			}
			return
		}
	}
	t.Error("the domain isn't among the stats")
}

func testGuestInfo(t *testing.T, s *suite, d *xenctl.DomainConfig) {
	c := capability[xenctl.GuestInformer](t, s)
	for {
		s.await(t, d.UUID, xenctl.EventGuestChanged)
		info, err := c.GuestInfo(s.ctx(t), d.UUID)
		noErr(t, "guest info", err)
		if info.Features["feature-shutdown"] { // a guest says little at first
			break
		}
	}
	_, err := c.GuestInfo(s.ctx(t), NewUUID())
	wantErr(t, "unknown domain", err, xenctl.ErrNotFound)
}

func testXenstore(t *testing.T, s *suite, d *xenctl.DomainConfig) {
	c := capability[xenctl.XenstoreWriter](t, s)
	value := "héllo\nworld"
	noErr(t, "write", c.WriteXenstore(s.ctx(t), d.UUID, map[string]*string{"vm-data/key": &value, "vm-data/none": nil}))
	noErr(t, "remove", c.WriteXenstore(s.ctx(t), d.UUID, map[string]*string{"vm-data/key": nil}))
	wantErr(t, "outside", c.WriteXenstore(s.ctx(t), d.UUID, map[string]*string{"control/shutdown": &value}), xenctl.ErrInvalid)
}
