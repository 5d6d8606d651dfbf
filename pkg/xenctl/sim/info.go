package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"xapid/pkg/xenctl"
)

// GuestInfo implements xenctl.GuestInformer.
func (h *Hypervisor) GuestInfo(ctx context.Context, uuid string) (xenctl.GuestInfo, error) {
	var info xenctl.GuestInfo
	err := h.do(ctx, "guest info", uuid, func() error {
		d := h.domains[uuid]
		if d == nil {
			return xenctl.ErrNotFound
		}
		info = d.says()
		return nil
	})
	return info, err
}

// says is what the guest reports.
func (d *domain) says() xenctl.GuestInfo {
	g := &d.Guest
	switch {
	case g.Info != nil:
		return cloneInfo(*g.Info)
	case !g.Up || g.Behaviour.NoAgent:
		return xenctl.GuestInfo{}
	}
	info := xenctl.GuestInfo{
		OS:        map[string]string{"name": g.Behaviour.OSName, "uname": g.Behaviour.OSVersion, "distro": "debian", "major": "12"},
		Networks:  make(map[string]string),
		PVDrivers: map[string]string{"major": "8", "minor": "4", "micro": "0", "build": "1"}, PVDetected: true,
		Memory: map[string]string{"total": strconv.FormatInt(d.Memory>>10, 10), "free": strconv.FormatInt(d.Memory>>11, 10)},
		Features: map[string]bool{
			"feature-shutdown": g.Behaviour.OnPoweroff != refuse, "feature-reboot": g.Behaviour.OnReboot != refuse,
			"feature-suspend": true, "feature-vcpu-hotplug": true, "feature-balloon": true,
		},
	}
	for _, nic := range d.Config.NICs {
		ip := g.Behaviour.IP
		if ip == "" || len(info.Networks) > 0 {
			ip = fmt.Sprintf("10.%d.%d.%d", nic.Index&0xff, d.ID>>8&0xff, d.ID&0xff)
		}
		info.Networks[strconv.Itoa(nic.Index)+"/ip"] = ip
		info.Networks[strconv.Itoa(nic.Index)+"/ipv4/0"] = ip
	}
	return info
}

func cloneInfo(i xenctl.GuestInfo) xenctl.GuestInfo {
	return xenctl.GuestInfo{
		OS: maps.Clone(i.OS), Networks: maps.Clone(i.Networks), PVDrivers: maps.Clone(i.PVDrivers),
		PVDetected: i.PVDetected, Memory: maps.Clone(i.Memory), Features: maps.Clone(i.Features), Other: maps.Clone(i.Other),
	}
}

// WriteXenstore implements xenctl.XenstoreWriter. Knobs written so work at once.
func (h *Hypervisor) WriteXenstore(ctx context.Context, uuid string, data map[string]*string) error {
	return h.onDomain(ctx, "write xenstore", uuid, func(d *domain) error {
		next := make(map[string]string, len(d.Config.Xenstore)+len(data))
		maps.Copy(next, d.Config.Xenstore)
		turned := make(map[string]string)
		for key, value := range data {
			if err := xenctl.ValidateXenstoreKey(key); err != nil {
				return err
			}
			if value == nil {
				delete(next, key)
				continue
			}
			next[key], turned[key] = *value, *value
		}
		b := d.Guest.Behaviour
		if err := b.setAll(turned); err != nil {
			return err
		}
		d.Guest.Behaviour, d.Config.Xenstore = b, next
		return nil
	})
}

// Stats implements xenctl.Statser: the figures of a guest that does a little all the time.
func (h *Hypervisor) Stats(ctx context.Context) ([]xenctl.DomainStats, error) {
	var all []xenctl.DomainStats
	err := h.do(ctx, "stats", "", func() error {
		now := h.clock.Now()
		all = make([]xenctl.DomainStats, 0, len(h.domains))
		for _, d := range h.domains {
			all = append(all, d.stats(now))
		}
		return nil
	})
	return all, err
}

func (d *domain) stats(now time.Time) xenctl.DomainStats {
	age := max(0, now.Sub(d.StartedAt))
	s := xenctl.DomainStats{UUID: d.Config.UUID, ID: d.ID, At: now, MemoryBytes: d.Memory, GuestFreeBytes: -1}
	if d.Guest.Up && !d.Guest.Behaviour.NoAgent {
		s.GuestFreeBytes = d.Memory / 2
	}
	for range d.VCPUs {
		s.VCPUTime = append(s.VCPUTime, age/10)
	}
	ms := age.Milliseconds()
	for _, disk := range d.Config.Disks {
		s.Disks = append(s.Disks, xenctl.DiskStats{
			Device: disk.Device, ReadBytes: ms * 4096, WriteBytes: ms * 2048, Reads: ms, Writes: ms / 2,
		})
	}
	for _, nic := range d.Config.NICs {
		s.NICs = append(s.NICs, xenctl.NICStats{Index: nic.Index, RxBytes: ms * 100, TxBytes: ms * 50})
	}
	return s
}

// OpenConsole implements xenctl.Consoler. What is typed is echoed, and a line that says poweroff, reboot or
// crash is obeyed.
func (h *Hypervisor) OpenConsole(ctx context.Context, uuid string) (io.ReadWriteCloser, error) {
	var s *consoleStream
	err := h.do(ctx, "open console", uuid, func() error {
		d := h.domains[uuid]
		if d == nil {
			return xenctl.ErrNotFound
		}
		s = &consoleStream{console: d.console, closed: make(chan struct{}), typed: func(p []byte) error { return h.typed(d, p) }}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (h *Hypervisor) typed(d *domain, p []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.gone || h.closed {
		return io.ErrClosedPipe
	}
	if !d.Guest.Ticking || !d.Guest.Up {
		return nil // nobody listens
	}
	d.console.write(strings.ReplaceAll(string(p), "\r", "\r\n"))
	for _, c := range p {
		if c != '\r' && c != '\n' {
			if len(d.typed) < 256 {
				d.typed = append(d.typed, c)
			}
			continue
		}
		switch kind := actionKind(strings.TrimSpace(string(d.typed))); kind {
		case actPoweroff, actReboot, actCrash:
			h.plan(d, kind, d.Guest.Behaviour.Shutdown)
		}
		d.typed = d.typed[:0]
	}
	return nil
}

// thisMachine reads the CPU of the machine that this runs on.
func thisMachine(cpuinfo string) xenctl.CPUInfo {
	cpu := xenctl.CPUInfo{Count: runtime.NumCPU(), Sockets: 1, Vendor: "GenuineIntel", Model: "simulated CPU", SpeedMHz: 2000}
	f, err := os.Open(cpuinfo)
	if err != nil {
		return cpu
	}
	defer f.Close()
	sockets := make(map[string]bool)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "vendor_id":
			cpu.Vendor = value
		case "model name":
			cpu.Model = value
		case "cpu family":
			cpu.Family, _ = strconv.Atoi(value)
		case "model":
			cpu.ModelNumber, _ = strconv.Atoi(value)
		case "stepping":
			cpu.Stepping, _ = strconv.Atoi(value)
		case "cpu MHz":
			if mhz, err := strconv.ParseFloat(value, 64); err == nil {
				cpu.SpeedMHz = int(mhz)
			}
		case "flags":
			cpu.Flags = strings.Fields(value)
		case "physical id":
			sockets[value] = true
		}
	}
	cpu.Sockets = max(1, len(sockets))
	return cpu
}
