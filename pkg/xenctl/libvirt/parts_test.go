package libvirt

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenctltest/libvirtd"
)

func TestAdmissionIsOneStep(t *testing.T) {
	var room admission
	free := func() (int64, error) { return 100, nil } // what is being made isn't counted yet
	var leave []func()
	for range 3 {
		l, err := room.enter(30, free)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	_, err := room.enter(30, free)
	var figures *xenctl.MemoryError
	if !errors.As(err, &figures) || figures.NeededBytes != 30 || figures.AvailableBytes != 10 || !errors.Is(err, xenctl.ErrNotEnoughMemory) {
		t.Errorf("a fourth: %v", err)
	}
	leave[1]()
	if _, err := room.enter(40, free); err != nil {
		t.Errorf("after one left: %v", err)
	}
	broken := errors.New("no answer")
	if _, err := room.enter(1, func() (int64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("without figures: %v", err)
	}
}

// TestXenImage reads the header that libvirt's Xen driver writes.
func TestXenImage(t *testing.T) {
	text := "<domain type='xen'><name>n</name><uuid>" + uuid + "</uuid></domain>"
	image := []byte("libvirt-xml\n \x00 \r")
	image = binary.NativeEndian.AppendUint32(image, 2)
	image = binary.NativeEndian.AppendUint32(image, uint32(len(text)))
	image = append(append(image, make([]byte, 40)...), text+"the guest's memory"...)
	path := filepath.Join(t.TempDir(), "image")
	for name, c := range map[string]struct {
		content []byte
		ok      bool
	}{
		"whole":           {image, true},
		"cut in the XML":  {image[:len(image)-40], false},
		"cut in the head": {image[:30], false},
		"endless":         {append(append([]byte(nil), image[:20]...), 0xff, 0xff, 0xff, 0x7f), false},
		"empty":           {nil, false},
	} {
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := readImage(path)
		if (err == nil) != c.ok || (c.ok && d.UUID != uuid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStopEventsAreCompleted(t *testing.T) {
	stop := xenctl.Event{Kind: xenctl.EventStopped, UUID: uuid, ID: -1, Reason: xenctl.StopPoweroff}
	var f facts
	if e := f.stopped(stop); e.ID != 0 || e.Reason != xenctl.StopPoweroff {
		t.Errorf("of an unknown domain: %+v", e)
	}
	f.started(uuid, 7, time.Now())
	f.update(uuid, 7, func(x *fact) { x.rebooting = true })
	if e := f.stopped(stop); e.ID != 7 || e.Reason != xenctl.StopReboot {
		t.Errorf("after a reboot was asked for: %+v", e)
	}
	f.started(uuid, 8, time.Now())
	if e := f.stopped(stop); e.ID != 8 || e.Reason != xenctl.StopPoweroff {
		t.Errorf("of the next incarnation: %+v", e)
	}
	f.update("gone", 3, func(*fact) {})
	f.update("new", 9, func(*fact) {})
	f.keep(map[string]int{"other": 5})
	if _, there := f.byUUID["gone"]; there || len(f.byUUID) != 1 {
		t.Errorf("kept: %v", f.byUUID)
	}
}

func TestBootFilesAreLookedFor(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "vmlinux")
	if err := os.WriteFile(kernel, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		boot xenctl.Boot
		ok   bool
	}{
		"a bootloader":          {xenctl.Boot{Bootloader: "pygrub"}, true},
		"a kernel":              {xenctl.Boot{Kernel: kernel}, true},
		"a kernel, no ramdisk":  {xenctl.Boot{Kernel: kernel, Ramdisk: kernel + "-none"}, false},
		"a folder for a kernel": {xenctl.Boot{Kernel: dir}, false},
	} {
		if err := checkBoot(&c.boot); (err == nil) != c.ok || err != nil && !errors.Is(err, xenctl.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADomainThatIsAboutToGoIsAwaited(t *testing.T) {
	l := libvirtd.Start(t).Connect()
	calls := 0
	err := persist(t.Context(), l, uuid, func(*libvirt.Libvirt) error {
		if calls++; calls < 3 {
			return libvirt.Error{Code: uint32(libvirt.ErrOperationInvalid), Message: "domain 'x' is already active as 'x'"}
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("after %d calls: %v", calls, err)
	}
	other := libvirt.Error{Code: uint32(libvirt.ErrOperationFailed), Message: "something else"}
	if err := persist(t.Context(), l, uuid, func(*libvirt.Libvirt) error { return other }); !errors.Is(err, other) {
		t.Errorf("another refusal: %v", err)
	}
}

func TestCodesHaveMeanings(t *testing.T) {
	for code, want := range sentinels {
		err := opError("op", uuid, libvirt.Error{Code: uint32(code), Message: "it said"})
		if !errors.Is(err, want) {
			t.Errorf("code %d: %v", code, err)
		}
	}
	if err := opError("op", uuid, libvirt.Error{Code: 1, Message: "internal"}); errors.Is(err, xenctl.ErrBadState) || err.Error() == "" {
		t.Errorf("an internal error: %v", err)
	}
}

func TestUUIDs(t *testing.T) {
	raw, err := parseUUID(uuid)
	if err != nil || formatUUID(raw) != uuid {
		t.Errorf("%s became %s, %v", uuid, formatUUID(raw), err)
	}
	for _, bad := range []string{"", "x", uuid[1:], uuid + "0", "../../etc/passwd"} {
		if _, err := parseUUID(bad); !errors.Is(err, xenctl.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCauseIsWhatLibxlLogged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "driver.log")
	const before = "2026-11-25 10:00:00.000+0000: libxl: of another domain\n"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	failure := libvirt.Error{Code: uint32(libvirt.ErrInternalError), Message: "failed to create"}
	if err := cause(failure, path, size(path)); err.Error() != failure.Error() {
		t.Errorf("without a log: %v", err)
	}
	write(before)
	from := size(path)
	if err := cause(failure, path, from); err.Error() != failure.Error() {
		t.Errorf("nothing logged: %v", err)
	}
	write(before + "2026-11-25 10:00:01.000+0000: xc: panic: no loader found\n\n" + strings.Repeat("\xff", 3*causeBytes) + strings.Repeat("\nmore", causeLines))
	err := cause(failure, path, from)
	var answer libvirt.Error
	if !errors.As(err, &answer) || !internal(err) {
		t.Errorf("%v is no longer libvirt's error", err)
	}
	want := failure.Error() + " (libxl: xc: panic: no loader found; ?; more; more)"
	if err.Error() != want {
		t.Errorf("%q, not %q", err, want)
	}
	write("x: rotated\n")
	if err := cause(failure, path, from); !strings.Contains(err.Error(), "(libxl: x: rotated)") {
		t.Errorf("rotated: %v", err)
	}
	for _, named := range []error{nil, errTaken, libvirt.Error{Code: uint32(libvirt.ErrOperationInvalid)}} {
		if err := cause(named, path, 0); err != named {
			t.Errorf("%v became %v", named, err)
		}
	}
}

// TestVanished looks for a domain of which libvirt's answer was an error.
func TestVanished(t *testing.T) {
	internal := libvirt.Error{Code: uint32(libvirt.ErrInternalError), Message: "libxl_domain_info failed"}
	missing := libvirt.Error{Code: uint32(libvirt.ErrNoDomain), Message: "no domain"}
	there := func() (libvirt.Domain, error) { return libvirt.Domain{ID: 7}, nil }
	gone := func() (libvirt.Domain, error) { return libvirt.Domain{}, missing }
	anew := func() (libvirt.Domain, error) { return libvirt.Domain{ID: 8}, nil }
	down := func() (libvirt.Domain, error) { return libvirt.Domain{}, os.ErrClosed }
	for name, c := range map[string]struct {
		failure error
		looks   []func() (libvirt.Domain, error)
		want    bool
		took    time.Duration
	}{
		"gone":                           {missing, looks(gone), true, 0},
		"made anew":                      {internal, looks(anew), true, 0},
		"named still, then gone":         {internal, looks(there, there, gone), true, 100 * time.Millisecond},
		"named still, then made anew":    {internal, looks(there, anew), true, 50 * time.Millisecond},
		"there for good":                 {internal, looks(there), false, time.Second},
		"there, and the error says more": {os.ErrPermission, looks(there), false, 0},
		"libvirtd went":                  {internal, looks(there, down), false, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, n := time.Now(), 0
				got := vanished(t.Context(), 7, c.failure, func() (libvirt.Domain, error) {
					look := c.looks[min(n, len(c.looks)-1)]
					n++
					return look()
				})
				if took := time.Since(began); got != c.want || took != c.took {
					t.Errorf("%v after %v, want %v after %v", got, took, c.want, c.took)
				}
			})
		})
	}
}

func looks(answers ...func() (libvirt.Domain, error)) []func() (libvirt.Domain, error) {
	return answers
}

func TestXenVersion(t *testing.T) {
	sys := t.TempDir()
	if got := xenVersion(sys); got != "" {
		t.Errorf("without Xen: %q", got)
	}
	dir := filepath.Join(sys, "hypervisor/version")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"major": "4\n", "minor": "17\n", "extra": ".7-pre\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := xenVersion(sys); got != "4.17.7-pre" {
		t.Errorf("on Xen: %q", got)
	}
}
