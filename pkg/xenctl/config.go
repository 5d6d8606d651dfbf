package xenctl

// DomainConfig says all that is needed to make a domain. Implementations don't keep or change it.
type DomainConfig struct {
	UUID string // of the domain, lower case with dashes
	// Name is for people, any text; implementations make a readable and unique name from it (SafeName).
	Name   string
	Type   DomainType
	Boot   Boot
	Memory Memory
	VCPUs  VCPUs
	Disks  []Disk
	NICs   []NIC
	// Graphics gives the domain a graphical console, where its type has one.
	Graphics *Graphics
	// Platform are the switches of the virtual hardware: "acpi", "apic", "pae", "nx", "viridian", "hpet",
	// "nested-virt", "timeoffset" ... Unknown keys are ignored, none names a file or a device.
	Platform map[string]string
	OnCrash  CrashAction
	// Xenstore are keys below the domain's path that the guest can read ("vm-data/...").
	Xenstore    map[string]string
	StartPaused bool
}

// DomainType is how the guest is virtualised.
type DomainType string

// The domain types.
const (
	TypePV  DomainType = "pv"
	TypePVH DomainType = "pvh"
	TypeHVM DomainType = "hvm"
)

// Firmware is what an HVM guest boots through.
type Firmware string

// The firmwares.
const (
	FirmwareBIOS Firmware = "bios"
	FirmwareUEFI Firmware = "uefi"
)

// BootDevice is a kind of device to boot an HVM guest from.
type BootDevice string

// The boot devices.
const (
	BootDisk    BootDevice = "disk"
	BootCDROM   BootDevice = "cdrom"
	BootNetwork BootDevice = "network"
)

// Boot says what the guest starts with. PV and PVH have a kernel or a bootloader; HVM has firmware and an
// order, or a kernel.
type Boot struct {
	Kernel, Ramdisk, Cmdline string // files of the host
	// Bootloader is the name of what takes the kernel out of the first disk: BootloaderPygrub, the only one there is.
	// It never is a path: the program is the host's to choose. Cmdline is added to what the disk says.
	Bootloader, BootloaderArgs string
	Firmware                   Firmware // empty means BIOS
	Order                      []BootDevice
}

// BootloaderPygrub reads the configurations of GRUB and its like, without running anything of the guest's.
const BootloaderPygrub = "pygrub"

// Memory is in bytes. The domain can never have more than StaticMaxBytes and starts with TargetBytes.
type Memory struct {
	StaticMaxBytes int64
	TargetBytes    int64
}

// VCPUs says how many there are and how they are scheduled.
type VCPUs struct {
	Max        int // the domain can never have more
	AtStart    int // online at the start
	Weight     int // share of CPU time under contention, 1 to 65535; 0 is the hypervisor's default (256)
	CapPercent int // most CPU time, in hundredths of one CPU; 0 is no limit
	// Affinity lists the physical CPUs that may be used; empty is all.
	Affinity []int
}

// DiskKind is what a disk's path names.
type DiskKind string

// The kinds of a disk's source.
const (
	DiskBlock DiskKind = "phy"  // a block device of the host
	DiskFile  DiskKind = "file" // a raw file of the host
)

// DiskSource is where a disk's bytes are. An empty Path is an empty CD drive.
type DiskSource struct {
	Kind DiskKind
	Path string
}

// Disk is a virtual disk or a CD drive.
type Disk struct {
	Device   string // the guest's name for it: "xvda", "hdd"
	Source   DiskSource
	CDROM    bool
	ReadOnly bool
	// Shared: others may write to it too, so nobody may lock or cache it.
	Shared bool
	// Bootable disks come before others in the guest's boot order.
	Bootable bool
}

// NIC is a virtual network interface.
type NIC struct {
	Index  int    // the guest's number for it, from 0
	MAC    string // aa:bb:cc:dd:ee:ff
	Bridge string // the host's bridge to join
	MTU    int    // 0 is the bridge's
	// Interface is the name that the host's end gets, where the hypervisor lets it be chosen.
	Interface string
	// RateKBps limits what the guest sends, in kilobytes a second; 0 is no limit.
	RateKBps int
	// Disconnected: the guest sees no carrier.
	Disconnected bool
}

// Graphics is a graphical console (VNC).
type Graphics struct {
	Listen   string // an IP address of the host; empty is loopback
	Keymap   string // "de", "en-us"; empty is the hypervisor's default
	VideoMiB int    // memory of the video card, 0 is the default
}

// CrashAction is what becomes of a domain whose guest crashed.
type CrashAction string

// The crash actions.
const (
	CrashDestroy  CrashAction = "destroy"  // it goes, EventStopped tells (the default)
	CrashPreserve CrashAction = "preserve" // it stays as StateCrashed until it is destroyed
)
