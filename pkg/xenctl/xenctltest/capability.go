package xenctltest

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"xapid/pkg/xenctl"
)

func testResize(t *testing.T, s *suite) {
	r := capability[xenctl.Resizer](t, s)
	cfg := s.config()
	s.create(t, cfg)
	half := cfg.Memory.StaticMaxBytes / 2
	for _, target := range []int64{half, cfg.Memory.StaticMaxBytes} {
		noErr(t, "set memory", r.SetMemoryTarget(s.ctx(t), cfg.UUID, target))
		d := s.wantState(t, cfg.UUID, xenctl.StateRunning)
		if d.TargetBytes != target || d.MaxBytes != cfg.Memory.StaticMaxBytes {
			t.Errorf("target %d: %+v", target, d)
		}
		for ctx := s.ctx(t); d.MemoryBytes != target; {
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

func testScheduling(t *testing.T, s *suite) {
	c := capability[xenctl.Scheduler](t, s)
	d := s.create(t, s.config())
	noErr(t, "set", c.SetScheduling(s.ctx(t), d.UUID, 512, 50))
	noErr(t, "back to the default", c.SetScheduling(s.ctx(t), d.UUID, 0, 0))
	wantErr(t, "weight", c.SetScheduling(s.ctx(t), d.UUID, -1, 0), xenctl.ErrInvalid)
	wantErr(t, "unknown domain", c.SetScheduling(s.ctx(t), NewUUID(), 256, 0), xenctl.ErrNotFound)
}

func testDisks(t *testing.T, s *suite) {
	p := capability[xenctl.DiskPlugger](t, s)
	cfg := s.config()
	if s.Stubborn != nil {
		s.Stubborn(cfg)
	}
	s.create(t, cfg)
	disk := xenctl.Disk{Device: "xvdb", Source: xenctl.DiskSource{Kind: xenctl.DiskFile, Path: t.TempDir() + "/disk"}}
	noErr(t, "attach", p.AttachDisk(s.ctx(t), cfg.UUID, disk))
	wantErr(t, "attach again", p.AttachDisk(s.ctx(t), cfg.UUID, disk), xenctl.ErrExists)
	wantErr(t, "attach nonsense", p.AttachDisk(s.ctx(t), cfg.UUID, xenctl.Disk{Device: "/dev/sda"}), xenctl.ErrInvalid)
	if s.Stubborn != nil {
		wantErr(t, "detach", p.DetachDisk(s.ctx(t), cfg.UUID, "xvdb", false), xenctl.ErrRefused)
	}
	noErr(t, "detach by force", p.DetachDisk(s.ctx(t), cfg.UUID, "xvdb", true))
	wantErr(t, "detach again", p.DetachDisk(s.ctx(t), cfg.UUID, "xvdb", true), xenctl.ErrNoDevice)
	wantErr(t, "unknown domain", p.AttachDisk(s.ctx(t), NewUUID(), disk), xenctl.ErrNotFound)
}

func testNICs(t *testing.T, s *suite) {
	p := capability[xenctl.NICPlugger](t, s)
	cfg := s.config()
	s.create(t, cfg)
	nic := xenctl.NIC{Index: 3, MAC: "02:00:00:00:00:03", Bridge: "xenbr0"}
	noErr(t, "attach", p.AttachNIC(s.ctx(t), cfg.UUID, nic))
	wantErr(t, "attach again", p.AttachNIC(s.ctx(t), cfg.UUID, nic), xenctl.ErrExists)
	wantErr(t, "attach nonsense", p.AttachNIC(s.ctx(t), cfg.UUID, xenctl.NIC{MAC: "me"}), xenctl.ErrInvalid)
	noErr(t, "detach", p.DetachNIC(s.ctx(t), cfg.UUID, 3, false))
	wantErr(t, "detach again", p.DetachNIC(s.ctx(t), cfg.UUID, 3, false), xenctl.ErrNoDevice)
}

func testMedia(t *testing.T, s *suite) {
	m := capability[xenctl.MediaChanger](t, s)
	cfg := s.config()
	cfg.Disks = append(cfg.Disks, xenctl.Disk{Device: "xvdd", CDROM: true, ReadOnly: true})
	s.create(t, cfg)
	dir := t.TempDir()
	one := xenctl.DiskSource{Kind: xenctl.DiskFile, Path: dir + "/one.iso"}
	two := xenctl.DiskSource{Kind: xenctl.DiskFile, Path: dir + "/two.iso"}
	noErr(t, "insert", m.InsertMedia(s.ctx(t), cfg.UUID, "xvdd", one))
	wantErr(t, "insert into a full drive", m.InsertMedia(s.ctx(t), cfg.UUID, "xvdd", two), xenctl.ErrBadState)
	noErr(t, "eject", m.InsertMedia(s.ctx(t), cfg.UUID, "xvdd", xenctl.DiskSource{}))
	noErr(t, "insert another", m.InsertMedia(s.ctx(t), cfg.UUID, "xvdd", two))
	wantErr(t, "no such drive", m.InsertMedia(s.ctx(t), cfg.UUID, "xvde", one), xenctl.ErrNoDevice)
}

func testConsole(t *testing.T, s *suite) {
	c := capability[xenctl.Consoler](t, s)
	d := s.create(t, s.config())
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

func testStats(t *testing.T, s *suite) {
	c := capability[xenctl.Statser](t, s)
	d := s.create(t, s.config())
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

func testGuestInfo(t *testing.T, s *suite) {
	c := capability[xenctl.GuestInformer](t, s)
	d := s.create(t, s.config())
	s.await(t, d.UUID, xenctl.EventGuestChanged)
	info, err := c.GuestInfo(s.ctx(t), d.UUID)
	noErr(t, "guest info", err)
	if len(info.Features) == 0 && len(info.OS) == 0 && len(info.PVDrivers) == 0 {
		t.Errorf("nothing in %+v", info)
	}
	_, err = c.GuestInfo(s.ctx(t), NewUUID())
	wantErr(t, "unknown domain", err, xenctl.ErrNotFound)
}

func testXenstore(t *testing.T, s *suite) {
	c := capability[xenctl.XenstoreWriter](t, s)
	d := s.create(t, s.config())
	value := "héllo\nworld"
	noErr(t, "write", c.WriteXenstore(s.ctx(t), d.UUID, map[string]*string{"vm-data/key": &value, "vm-data/none": nil}))
	noErr(t, "remove", c.WriteXenstore(s.ctx(t), d.UUID, map[string]*string{"vm-data/key": nil}))
	wantErr(t, "outside", c.WriteXenstore(s.ctx(t), d.UUID, map[string]*string{"control/shutdown": &value}), xenctl.ErrInvalid)
}
