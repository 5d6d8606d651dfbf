package facts

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fixture lays an archive in the txtar format out as a root file system in a temporary directory and returns its path.
func fixture(t *testing.T, archive string) string {
	t.Helper()
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, section := range strings.Split(string(text), "\n-- ")[1:] {
		name, data, _ := strings.Cut(section, " --\n")
		if name != "symlinks" {
			put(t, root, name, data)
			continue
		}
		for line := range strings.Lines(data) {
			name, target, _ := strings.Cut(strings.TrimSpace(line), " -> ")
			name = filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.Symlink(target, name)); err != nil {
				t.Fatal(err)
			}
			if !filepath.IsAbs(target) { // drivers and buses are only names in the archive
				os.MkdirAll(filepath.Join(filepath.Dir(name), target), 0o755)
			}
		}
	}
	return root
}

func put(t *testing.T, root, name, data string) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(data), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestReadServer(t *testing.T) {
	root := fixture(t, "testdata/server.txtar")
	put(t, root, "proc/sys/kernel/random/boot_id", "cdf28122-0b21-40c8-b072-baffed511f45\n")
	put(t, root, "sys/firmware/dmi/entries/11-0/raw", "\x0b\x05\x00\x0b\x02PSF:\x00Product ID: 8\x00\x00")
	got, err := Read(t.Context(), Source{FS: os.DirFS(root)})
	if err != nil {
		t.Error(err)
	}
	want := Facts{
		Hostname: "xs-7", KernelRelease: "6.12.9-amd64", KernelVersion: "#1 SMP PREEMPT_DYNAMIC", Hypervisor: "xen",
		Timezone: "Europe/Berlin", BootTime: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		BootID: "cdf28122-0b21-40c8-b072-baffed511f45",
		Load:   [3]float64{0.42, 1.5, 2.25},
		CPU: CPU{
			Count: 8, Sockets: 2, Cores: 4, ThreadsPerCore: 2, Vendor: "GenuineIntel",
			ModelName: "Intel(R) Xeon(R) Gold 6134 CPU @ 3.20GHz", Family: 6, Model: 85, Stepping: 4, MHz: 3192.504,
			Flags: got.CPU.Flags,
		},
		Memory: Memory{TotalBytes: 65799188 << 10, FreeBytes: 1 << 30, AvailableBytes: 52000000 << 10},
		DMI: DMI{
			BIOSVendor: "HPE", BIOSVersion: "U32", BIOSDate: "05/01/2024", SystemManufacturer: "HPE",
			SystemProduct: "ProLiant DL360 Gen10", SystemSerial: "CZ1234", BoardManufacturer: "HPE",
			BoardProduct: "ProLiant DL360 Gen10", BoardSerial: "PXY", ChassisAssetTag: "rack 9",
			OEMStrings: []string{"PSF:", "Product ID: 8"},
		},
		IOMMU: true, DNS: []string{"10.0.0.2", "fd00::2"}, SearchDomains: []string{"lab.example", "example"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !got.CPU.HasVirtualization() {
		t.Error("vmx is among the flags")
	}
	// Word for word: sse2 is bit 26 of the first, hypervisor bit 31 of the second, lm bit 29 of the third …
	const features = "17898b75-" + "96982221-" + "28100800-" + "00000001-" + "00000000-" + "00000020-" + "00000000-" +
		"00000100-" + "00000001-" + "00000000-" + "00000010"
	if f := got.CPU.Features(); f != features {
		t.Errorf("features %s, want %s", f, features)
	}
	bios := got.DMI.BIOSStrings()
	for k, v := range map[string]string{"system-product-name": "ProLiant DL360 Gen10", "oem-1": "Xen",
		"oem-3": "PSF:", "oem-4": "Product ID: 8", "hp-rombios": "", "baseboard-serial-number": "PXY"} {
		if s, ok := bios[k]; !ok || s != v {
			t.Errorf("bios_strings[%s] = %q, want %q", k, s, v)
		}
	}
}

func TestHPROMBIOS(t *testing.T) {
	root := t.TempDir()
	put(t, root, "dev/mem", strings.Repeat("\x00", 0xfffea)+"COMPAQ")
	for maker, want := range map[string]string{"HP": "COMPAQ", "Hewlett-Packard": "COMPAQ", "Dell Inc.": ""} {
		if got := hpROMBIOS(tree{os.DirFS(root)}, maker); got != want {
			t.Errorf("%s: %q, want %q", maker, got, want)
		}
	}
}

// TestOneMissingFactHidesNoOther takes every file of the tree away in turn: the facts of the others stay.
func TestOneMissingFactHidesNoOther(t *testing.T) {
	for _, gone := range []string{"proc/cpuinfo", "proc/meminfo", "proc/stat", "proc/loadavg",
		"proc/sys/kernel/hostname", "sys/class/dmi"} {
		t.Run(gone, func(t *testing.T) {
			root := fixture(t, "testdata/server.txtar")
			whole, err := Read(t.Context(), Source{FS: os.DirFS(root)})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(root, gone)); err != nil {
				t.Fatal(err)
			}
			got, err := Read(t.Context(), Source{FS: os.DirFS(root)})
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("error %v names no missing file", err)
			}
			a, b := reflect.ValueOf(whole), reflect.ValueOf(got)
			lost := 0
			for i := range a.NumField() {
				if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
					lost++
				}
			}
			if lost != 1 {
				t.Errorf("%d facts changed, want 1: %+v", lost, got)
			}
		})
	}
}

func TestReadNonsense(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/cpuinfo": "processor : 0\ncpu family : six\nflags:\n\nprocessor : 1\n", "proc/meminfo": "MemTotal: lots kB\n",
		"proc/stat": "btime soon\n", "proc/loadavg": "high\n", "etc/resolv.conf": "nameserver\n\n",
		"sys/firmware/dmi/entries/11-0/raw": "\x0b\xff\x00", "sys/class/dmi/id/bios_vendor": "\x00\xff", "etc/timezone": "UTC\n",
	} {
		put(t, root, name, text)
	}
	got, err := Read(t.Context(), Source{FS: os.DirFS(root)})
	for _, part := range []string{"cpu family", "MemTotal", "btime", "loadavg", "no structure"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
	if got.CPU.Count != 2 || got.CPU.Cores != 2 || got.CPU.ThreadsPerCore != 1 || got.CPU.Features() != "" {
		t.Errorf("two processors without a topology: %+v", got.CPU)
	}
	if got.Timezone != "UTC" || got.DMI.BIOSVendor != "" || got.IOMMU {
		t.Errorf("got %+v", got)
	}
}

// TestReadHere reads the machine that runs the test, of which only this much is sure.
func TestReadHere(t *testing.T) {
	f, err := Read(t.Context(), Source{})
	t.Logf("%+v, beside: %v", f, err)
	if f.Hostname == "" || f.CPU.Count == 0 || f.Memory.TotalBytes == 0 || f.BootTime.IsZero() {
		t.Errorf("got %+v", f)
	}
}
