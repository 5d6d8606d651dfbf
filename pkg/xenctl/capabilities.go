package xenctl

import (
	"context"
	"io"
	"time"
)

// The interfaces here are what a hypervisor may offer beside Hypervisor. Find them with As; one that isn't
// found means ErrNotSupported to the user. What Hypervisor says of contexts and errors holds for them too.

// Resizer changes the memory and the VCPUs of a running domain.
type Resizer interface {
	// SetMemoryTarget tells the guest's balloon driver to grow or shrink to target bytes, at most the
	// domain's static maximum (ErrInvalid). It returns when the guest has been told; Domain.MemoryBytes
	// follows at the guest's pace. *MemoryError when the host doesn't have what the guest would grow by.
	SetMemoryTarget(ctx context.Context, uuid string, targetBytes int64) error

	// SetVCPUs brings n VCPUs of the domain online, at least one and at most VCPUs.Max (ErrInvalid).
	SetVCPUs(ctx context.Context, uuid string, n int) error
}

// Scheduler changes how a running domain's VCPUs share the CPUs.
type Scheduler interface {
	// SetScheduling sets weight and cap (see VCPUs); zero leaves weight at the hypervisor's default and
	// means no cap.
	SetScheduling(ctx context.Context, uuid string, weight, capPercent int) error
}

// DiskPlugger plugs and unplugs disks of running domains.
type DiskPlugger interface {
	// AttachDisk plugs a disk; it can be used by the guest when this returns. ErrExists when the device
	// name is taken.
	AttachDisk(ctx context.Context, uuid string, disk Disk) error

	// DetachDisk unplugs it. The guest is asked to let go; when it doesn't, ErrRefused (and the disk stays)
	// unless force. ErrNoDevice when there is none of that name.
	DetachDisk(ctx context.Context, uuid, device string, force bool) error
}

// NICPlugger plugs and unplugs network interfaces of running domains.
type NICPlugger interface {
	// AttachNIC plugs a NIC. ErrExists when its index is taken.
	AttachNIC(ctx context.Context, uuid string, nic NIC) error

	// DetachNIC unplugs it, with force even against the guest's will; errors as for DetachDisk.
	DetachNIC(ctx context.Context, uuid string, index int, force bool) error
}

// MediaChanger changes what lies in the CD drives of running domains.
type MediaChanger interface {
	// InsertMedia puts the image at source into the drive; an empty source ejects. ErrNoDevice when there
	// is no such drive, ErrBadState when something else is in it, or it is a disk.
	InsertMedia(ctx context.Context, uuid, device string, source DiskSource) error
}

// Consoler gives the text console of a domain.
type Consoler interface {
	// OpenConsole attaches to the console: reads give what the guest writes, beginning with what is kept
	// of the past, writes are keystrokes. Reads end with io.EOF when the domain stops. The stream is not
	// bound to ctx (that is for opening only): the caller closes it.
	OpenConsole(ctx context.Context, uuid string) (io.ReadWriteCloser, error)
}

// VNCer tells where the graphical console of a domain listens.
type VNCer interface {
	// VNCAddress returns network and address as net.Dial takes them; ErrNoDevice when the domain has no
	// graphical console.
	VNCAddress(ctx context.Context, uuid string) (network, address string, err error)
}

// Statser gives resource use.
type Statser interface {
	// Stats returns the counters of all domains, read at about one moment, in no order.
	Stats(ctx context.Context) ([]DomainStats, error)
}

// DomainStats is what a domain has used. Counters grow from the domain's creation.
type DomainStats struct {
	UUID        string
	ID          int
	At          time.Time
	VCPUTime    []time.Duration // one an online VCPU
	MemoryBytes int64
	// GuestFreeBytes is what the guest says is unused inside, -1 when it says nothing.
	GuestFreeBytes int64
	Disks          []DiskStats
	NICs           []NICStats
}

// DiskStats counts one disk's traffic.
type DiskStats struct {
	Device                string
	ReadBytes, WriteBytes int64
	Reads, Writes         int64
}

// NICStats counts one NIC's traffic, as seen by the guest.
type NICStats struct {
	Index            int
	RxBytes, TxBytes int64
}

// GuestInformer tells what a guest says of itself through its agent and its drivers. Changes come as
// EventGuestChanged.
type GuestInformer interface {
	// GuestInfo returns what is known now; a guest that has said nothing yet gives the zero GuestInfo.
	GuestInfo(ctx context.Context, uuid string) (GuestInfo, error)
}

// GuestInfo is what a guest says of itself. Maps are the caller's to keep.
type GuestInfo struct {
	// OS has the keys of the agent's protocol: "name", "uname", "distro", "major", "minor".
	OS map[string]string
	// Networks has IP addresses by "INDEX/ip", "INDEX/ipv4/N" and "INDEX/ipv6/N".
	Networks map[string]string
	// PVDrivers is the version of the guest's drivers: "major", "minor", "micro", "build"; empty while
	// there are none.
	PVDrivers map[string]string
	// Features are the control features that the guest has offered, by their xenstore names:
	// "feature-shutdown", "feature-reboot", "feature-suspend", "feature-vcpu-hotplug", "feature-balloon".
	Features map[string]bool
	// PVDetected: the guest's drivers are at work on a device.
	PVDetected bool
	// Memory has what the agent says of it, in KiB: "total", "free".
	Memory map[string]string
	// Other is whatever else the agent writes below data/.
	Other map[string]string
}

// Surveyor knows of domains that somebody else made behind its back: they are of no Hypervisor's List, and nothing
// here ever touches them.
type Surveyor interface {
	// Foreign lists them; State is not known and left empty.
	Foreign(ctx context.Context) ([]Domain, error)
}

// XenstoreWriter changes what a running guest reads from its part of xenstore.
type XenstoreWriter interface {
	// WriteXenstore sets keys below the domain's path (vm-data/... only, others give ErrInvalid) and
	// removes those whose value is nil.
	WriteXenstore(ctx context.Context, uuid string, data map[string]*string) error
}

// Readier is a hypervisor that may be away.
type Readier interface {
	// Ready returns when the hypervisor answers and its events come, or ErrUnavailable when ctx ends first.
	Ready(ctx context.Context) error
}
