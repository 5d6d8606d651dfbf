package xenctl

import "time"

// DomainState is what a domain is doing.
type DomainState string

// The states of a domain. One that has stopped is no domain any more, so there is no such state, except
// for a crash that is kept for inspection.
const (
	StateRunning DomainState = "running" // its VCPUs may run; a guest that idles is running
	StatePaused  DomainState = "paused"
	// StateDying: it has stopped and is being taken apart; it will be gone without further ado.
	StateDying DomainState = "dying"
	// StateCrashed: it crashed and is kept (CrashPreserve) until somebody destroys it.
	StateCrashed DomainState = "crashed"
)

// Domain is a domain as it was at the moment of the call.
type Domain struct {
	UUID string
	// ID is the number that the hypervisor gave this incarnation. It grows with each domain made since the
	// host booted and tells events of an earlier incarnation from those of this one.
	ID    int
	Name  string // what the hypervisor's own tools show
	State DomainState
	// StartedAt is when the domain was made or restored; zero when the hypervisor doesn't know.
	StartedAt time.Time
	// MemoryBytes is what the domain holds now, with up to MemorySlackBytes of pages that the hypervisor has added,
	// TargetBytes what its balloon was told, MaxBytes the most that it can be told.
	MemoryBytes, TargetBytes, MaxBytes int64
	// VCPUs are online, of MaxVCPUs.
	VCPUs, MaxVCPUs int
}

// MemorySlackBytes is how far a domain's memory may be from its target, at most, when its balloon has arrived.
const MemorySlackBytes = 1 << 20

// Ballooned says whether the domain's memory is at its target.
func (d Domain) Ballooned() bool {
	off := d.MemoryBytes - d.TargetBytes
	return -MemorySlackBytes < off && off < MemorySlackBytes
}

// HostInfo is the machine below.
type HostInfo struct {
	Hypervisor HypervisorInfo
	CPU        CPUInfo
	// MemoryTotalBytes is what the machine has, MemoryFreeBytes what new domains can have now.
	MemoryTotalBytes, MemoryFreeBytes int64
	// ControlDomainBytes is what the control domain holds; 0 when the hypervisor has none.
	ControlDomainBytes int64
	// BootedAt is zero when the hypervisor doesn't know.
	BootedAt time.Time
}

// HypervisorInfo says which hypervisor this is.
type HypervisorInfo struct {
	Name    string // "Xen", "sim", "test"
	Version string // "4.17.5"
	// Capabilities are the kinds of guest in Xen's spelling: "xen-3.0-x86_64", "hvm-3.0-x86_32p".
	Capabilities []string
	// Types are the domain types that Create can make here.
	Types []DomainType
}

// CPUInfo describes the CPUs, all of them alike.
type CPUInfo struct {
	Count, Sockets int // logical CPUs; sockets
	Vendor, Model  string
	SpeedMHz       int
	Flags          []string
	// Family, ModelNumber and Stepping as CPUID has them; zero when unknown.
	Family, ModelNumber, Stepping int
}
