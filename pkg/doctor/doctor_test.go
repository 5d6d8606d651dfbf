package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// healthy is a dom0 in which all is well: files below a root, and what else is asked.
func healthy(t *testing.T) *Host {
	root := t.TempDir()
	h := &Host{Root: root, Xen: true, StateDir: "/var/lib/xapid", LogDir: "/var/log/xapid", ReserveBytes: 192 << 20,
		Xenstore:   func(context.Context) error { return nil },
		Libvirt:    func(context.Context) (string, error) { return "libvirtd answers", nil },
		Bootloader: func() (string, error) { return "/usr/lib/xen-4.17/bin/pygrub as xapid-pygrub", nil },
		Command: func(_ context.Context, argv ...string) (string, error) {
			switch argv[0] {
			case "xl":
				return "host : a\nxen_commandline        : placeholder dom0_mem=2048M,max:2048M quiet\n", nil
			case "lvm":
				return "  LVM version:     2.03.16(2) (2022-05-18)\n  Driver version:  4.47.0\n", nil
			}
			return "", fmt.Errorf("%s: not found", argv[0])
		},
		FreeBytes:    func(string) (uint64, error) { return 8 << 30, nil },
		Synchronised: func() (bool, error) { return true, nil },
		Now:          func() time.Time { return time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC) }}
	for path, text := range map[string]string{
		"sys/hypervisor/type": "xen\n", "sys/hypervisor/version/major": "4\n", "sys/hypervisor/version/minor": "17\n",
		"sys/hypervisor/version/extra": ".7\n", "proc/xen/capabilities": "control_d\n", "dev/mapper/control": "",
		"sys/module/bridge/refcnt": "0\n", "etc/xen/xl.conf": "#autoballoon=\"auto\"\n", "var/lib/xapid/state.db": "",
		"proc/sys/kernel/osrelease": "6.1.0-41-amd64\n",
	} {
		put(t, h, path, text)
	}
	return h
}

func put(t *testing.T, h *Host, path, text string) {
	t.Helper()
	path = filepath.Join(h.Root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func drop(t *testing.T, h *Host, path string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(h.Root, path)); err != nil {
		t.Fatal(err)
	}
}

// answering gives one program's answer, the others stay.
func answering(h *Host, program, text string, err error) {
	before := h.Command
	h.Command = func(ctx context.Context, argv ...string) (string, error) {
		if argv[0] == program {
			return text, err
		}
		return before(ctx, argv...)
	}
}

func TestAllIsWell(t *testing.T) {
	results := healthy(t).Check(t.Context())
	if len(results) != len(checks) || !Fit(results) {
		t.Fatalf("%+v", results)
	}
	for _, r := range results {
		if r.Status != OK || r.Detail == "" || r.Remedy != "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	no := errors.New("it broke")
	for name, c := range map[string]struct {
		spoil  func(*testing.T, *Host)
		check  string
		status Status
		detail string
	}{
		"plain Linux":  {func(t *testing.T, h *Host) { drop(t, h, "sys/hypervisor") }, "xen", Failure, "does not run on Xen"},
		"a guest":      {func(t *testing.T, h *Host) { put(t, h, "proc/xen/capabilities", "\n") }, "xen", Failure, "not dom0"},
		"no xenfs":     {func(t *testing.T, h *Host) { drop(t, h, "proc/xen") }, "xen", Failure, "/proc/xen is not mounted"},
		"no version":   {func(t *testing.T, h *Host) { drop(t, h, "sys/hypervisor/version") }, "xen", Warning, "version"},
		"no xl":        {func(_ *testing.T, h *Host) { answering(h, "xl", "", no) }, "dom0 memory", Warning, "it broke"},
		"no dom0_mem":  {func(_ *testing.T, h *Host) { answering(h, "xl", "xen_commandline : quiet\n", nil) }, "dom0 memory", Warning, "dom0_mem is not"},
		"ballooning":   {func(t *testing.T, h *Host) { put(t, h, "etc/xen/xl.conf", "autoballoon=\"on\"\n") }, "dom0 memory", Warning, "/etc/xen/xl.conf"},
		"libvirt does": {func(t *testing.T, h *Host) { put(t, h, "etc/libvirt/libxl.conf", "autoballoon = 1\n") }, "dom0 memory", Warning, "libxl.conf"},
		"no xenstored": {func(_ *testing.T, h *Host) { h.Xenstore = func(context.Context) error { return no } }, "xenstore", Failure, "it broke"},
		"no libvirtd":  {func(_ *testing.T, h *Host) { h.Libvirt = func(context.Context) (string, error) { return "", no } }, "libvirt", Failure, "it broke"},
		"no pygrub":    {func(_ *testing.T, h *Host) { h.Bootloader = func() (string, error) { return "", no } }, "pygrub", Warning, "it broke"},
		"no lvm":       {func(_ *testing.T, h *Host) { answering(h, "lvm", "", no) }, "lvm", Warning, "it broke"},
		"no dm":        {func(t *testing.T, h *Host) { drop(t, h, "dev/mapper") }, "lvm", Warning, "device mapper"},
		"no bridges":   {func(t *testing.T, h *Host) { drop(t, h, "sys/module") }, "bridges", Failure, "6.1.0-41-amd64"},
		"a full disk":  {func(_ *testing.T, h *Host) { h.FreeBytes = room(100 << 20) }, "state directory", Failure, "100 MiB"},
		"a small disk": {func(_ *testing.T, h *Host) { h.FreeBytes = room(500 << 20) }, "log directory", Warning, "500 MiB"},
		"a file":       {func(t *testing.T, h *Host) { put(t, h, "var/log/xapid", "") }, "log directory", Failure, "no directory"},
		"the epoch":    {func(_ *testing.T, h *Host) { h.Now = func() time.Time { return time.Unix(0, 0) } }, "clock", Failure, "1970"},
		"adrift":       {func(_ *testing.T, h *Host) { h.Synchronised = func() (bool, error) { return false, nil } }, "clock", Warning, "nothing keeps"},
		"no adjtimex":  {func(_ *testing.T, h *Host) { h.Synchronised = func() (bool, error) { return false, no } }, "clock", Warning, "it broke"},
		"a bad port":   {func(_ *testing.T, h *Host) { h.Listen = []string{"127.0.0.1:none"} }, "ports", Failure, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			h := healthy(t)
			c.spoil(t, h)
			results := h.Check(t.Context())
			for _, r := range results {
				switch {
				case r.Name != c.check:
					if r.Status != OK && c.check != "log directory" && c.check != "state directory" {
						t.Errorf("%+v", r)
					}
				case r.Status != c.status || !strings.Contains(r.Detail, c.detail) || r.Remedy == "":
					t.Errorf("%+v, want a %s with %q", r, c.status, c.detail)
				}
			}
			if Fit(results) != (c.status != Failure) {
				t.Errorf("fit: %v", Fit(results))
			}
		})
	}
}

func room(bytes uint64) func(string) (uint64, error) {
	return func(string) (uint64, error) { return bytes, nil }
}

func TestBridgesThatCanBeLoaded(t *testing.T) {
	h := healthy(t)
	drop(t, h, "sys/module")
	put(t, h, "lib/modules/6.1.0-41-amd64/modules.dep", "kernel/net/bridge/bridge.ko: kernel/net/llc/llc.ko\n")
	if v := h.checkBridges(t.Context()); v.status != OK {
		t.Errorf("%+v", v)
	}
	put(t, h, "sys/class/net/xapi0/bridge/bridge_id", "")
	if v := h.checkBridges(t.Context()); v.status != OK || !strings.Contains(v.detail, "xapi0") {
		t.Errorf("%+v", v)
	}
}

func TestAHungCheckHoldsUpNoOther(t *testing.T) {
	h := healthy(t)
	h.Timeout = 50 * time.Millisecond
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	h.Libvirt = func(context.Context) (string, error) { <-never; return "", nil } // heeds no deadline
	for _, r := range h.Check(t.Context()) {
		if want := map[bool]Status{true: Failure, false: OK}[r.Name == "libvirt"]; r.Status != want {
			t.Errorf("%+v", r)
		}
	}
}

func TestTheSimulatedHypervisorNeedsNoXen(t *testing.T) {
	h := healthy(t)
	h.Xen = false
	drop(t, h, "sys")
	if results := h.Check(t.Context()); !Fit(results) || len(results) != 4 {
		t.Errorf("%+v", results)
	}
}

// TestWhoHoldsAPort takes a port, and tells the holder by a made-up /proc.
func TestWhoHoldsAPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := healthy(t)
	h.Listen = []string{l.Addr().String()}
	if v := h.checkPorts(t.Context()); v.status != Failure || !strings.Contains(v.detail, "another program") {
		t.Errorf("%+v", v)
	}
	table := fmt.Sprintf("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"+
		"   0: 0100007F:%04X 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n", l.Addr().(*net.TCPAddr).Port)
	put(t, h, "proc/net/tcp", table)
	fds := filepath.Join(h.Root, "proc/42/fd")
	if err := errors.Join(os.MkdirAll(fds, 0o755), os.Symlink("socket:[4711]", filepath.Join(fds, "7"))); err != nil {
		t.Fatal(err)
	}
	for exe, want := range map[string]Status{"/usr/sbin/nginx": Failure, "/usr/sbin/xapid": OK, "/usr/sbin/xapid (deleted)": OK} {
		drop(t, h, "proc/42/exe")
		if err := os.Symlink(exe, filepath.Join(h.Root, "proc/42/exe")); err != nil {
			t.Fatal(err)
		}
		if v := h.checkPorts(t.Context()); v.status != want || !strings.Contains(v.detail, "process 42") {
			t.Errorf("%s: %+v", exe, v)
		}
	}
	h.Listen = []string{"127.0.0.1:0"}
	if v := h.checkPorts(t.Context()); v.status != OK {
		t.Errorf("%+v", v)
	}
}

func TestPrint(t *testing.T) {
	var b strings.Builder
	if err := Print(&b, []Result{{"xen", OK, "Xen 4.17", ""}, {"log directory", Failure, "it is full", "make room"}}); err != nil {
		t.Fatal(err)
	}
	const want = "" +
		"ok       xen            Xen 4.17\n" +
		"failure  log directory  it is full\n" +
		"                        -> make room\n"
	if b.String() != want {
		t.Errorf("\n%s\nwant\n%s", b.String(), want)
	}
}
