package libvirt

import (
	"encoding/xml"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenctltest/libvirtd"
)

var update = flag.Bool("update", false, "write testdata/*.xml anew")

const uuid = "0f4a3c52-9b1e-4d0a-8f55-3c2f5a6b7c8d"

func base(t xenctl.DomainType) xenctl.DomainConfig {
	return xenctl.DomainConfig{
		UUID: uuid, Name: "web server", Type: t,
		Memory: xenctl.Memory{StaticMaxBytes: 1 << 30, TargetBytes: 512 << 20},
		VCPUs:  xenctl.VCPUs{Max: 4, AtStart: 2},
	}
}

func block(device, path string) xenctl.Disk {
	return xenctl.Disk{Device: device, Source: xenctl.DiskSource{Kind: xenctl.DiskBlock, Path: path}}
}

// configs are the golden files, by name.
func configs() map[string]xenctl.DomainConfig {
	pv := base(xenctl.TypePV)
	pv.Boot = xenctl.Boot{Bootloader: "pygrub", BootloaderArgs: "-q"}
	data, root := block("xvdb", "/dev/vg/data"), block("xvda", "/dev/vg/root")
	root.Bootable = true
	pv.Disks = []xenctl.Disk{data, root}
	pv.VCPUs.Weight, pv.VCPUs.Affinity = 512, []int{3, 1, 3, 2}
	pv.OnCrash = xenctl.CrashPreserve

	pvh := base(xenctl.TypePVH)
	pvh.Boot = xenctl.Boot{Kernel: "/boot/vmlinux", Ramdisk: "/boot/initrd", Cmdline: "console=hvc0 root=/dev/xvda"}
	pvh.Disks = []xenctl.Disk{{
		Device: "xvda", Source: xenctl.DiskSource{Kind: xenctl.DiskFile, Path: "/srv/disk.img"}, ReadOnly: true, Shared: true,
	}}
	pvh.NICs = []xenctl.NIC{
		{Index: 0, MAC: "02:00:00:00:00:01", Bridge: "xenbr0", MTU: 9000, Interface: "vif7.0", RateKBps: 1250},
		{Index: 1, MAC: "02:00:00:00:00:02", Bridge: "xapi1", Disconnected: true},
	}

	bios := base(xenctl.TypeHVM)
	bios.Boot = xenctl.Boot{Order: []xenctl.BootDevice{xenctl.BootCDROM, xenctl.BootDisk, xenctl.BootNetwork}}
	bios.Disks = []xenctl.Disk{block("hda", "/dev/nbd0"), {Device: "hdd", CDROM: true}}
	bios.NICs = []xenctl.NIC{{MAC: "02:00:00:00:00:01", Bridge: "xenbr0"}}
	bios.Platform = map[string]string{"viridian": "true", "acpi": "1", "apic": "false", "timeoffset": "-3600"}
	bios.Graphics = &xenctl.Graphics{Keymap: "de", VideoMiB: 16}

	uefi := base(xenctl.TypeHVM)
	uefi.Boot = xenctl.Boot{Firmware: xenctl.FirmwareUEFI, Order: []xenctl.BootDevice{xenctl.BootDisk}}
	uefi.Disks = []xenctl.Disk{
		block("xvda", "/dev/nbd1"),
		{Device: "xvdd", CDROM: true, Source: xenctl.DiskSource{Kind: xenctl.DiskFile, Path: "/iso/a.iso"}},
	}
	uefi.Graphics = &xenctl.Graphics{Listen: "::1"}

	hostile := base(xenctl.TypePVH)
	hostile.Name = "</name><devices><disk/>&amp;\x00\x1b\n\"'🙂 ]]>"
	hostile.Boot = xenctl.Boot{Kernel: "/boot/<vm>&'\"linux", Cmdline: `init="</cmdline>" a=b&c`}
	hostile.Disks = []xenctl.Disk{block("xvda", `/dev/vg/"><source dev='/dev/sda'/>`)}
	hostile.Platform = map[string]string{"timeoffset": "0'/><!--", "device_model": "/bin/sh", "acpi": "</features>"}

	return map[string]xenctl.DomainConfig{"pv": pv, "pvh": pvh, "hvm-bios": bios, "hvm-uefi": uefi, "hostile": hostile}
}

func TestDomainXML(t *testing.T) {
	for _, kind := range []Kind{KindXen, KindTest} {
		for name, cfg := range configs() {
			t.Run(string(kind)+" "+name, func(t *testing.T) {
				if err := cfg.Validate(); err != nil {
					t.Fatal(err)
				}
				got, err := DomainXML(kind, &cfg)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", string(kind)+"-"+name+".xml"), got+"\n")
			})
		}
	}
}

// TestLibvirtdTakesThem shows them to a real libvirt, as far as its test driver looks at them.
func TestLibvirtdTakesThem(t *testing.T) {
	l := libvirtd.Start(t).Connect()
	for name, cfg := range configs() {
		text, err := DomainXML(KindTest, &cfg)
		if err != nil {
			t.Fatal(err)
		}
		dom, err := l.DomainCreateXML(text, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := l.DomainDestroy(dom); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s has changed (go test -update writes it anew):\n%s", path, got)
	}
}

// TestHostileTextStaysText counts the elements: text of a stranger's must not become any.
func TestHostileTextStaysText(t *testing.T) {
	cfg := configs()["hostile"]
	got, err := DomainXML(KindXen, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for d := xml.NewDecoder(strings.NewReader(got)); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			counts[e.Name.Local]++
		}
	}
	for _, name := range []string{"name", "devices", "disk", "source", "cmdline", "features"} {
		if counts[name] != 1 {
			t.Errorf("%d elements %q in %v", counts[name], name, maps.All(counts))
		}
	}
	if strings.Contains(got, "/bin/sh") {
		t.Error("a platform key named a program")
	}
}
