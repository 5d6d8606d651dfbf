package vm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// Disks is what VMs need of storage; storage.Storage has it.
type Disks interface {
	CreateVDI(ctx context.Context, rec *xenapi.VDI) (xenapi.VDIRef, error)
	DestroyVDI(ctx context.Context, ref xenapi.VDIRef) error
	// CloneVDI copies a VDI into an SR, its own if sr is null.
	CloneVDI(ctx context.Context, ref xenapi.VDIRef, sr xenapi.SRRef, progress func(float64)) (xenapi.VDIRef, error)
	// AttachVDI makes a VDI usable by a holder; attaching again is content.
	AttachVDI(ctx context.Context, vdi xenapi.VDIRef, holder string, readOnly bool) (sm.Attachment, error)
	DetachVDI(ctx context.Context, vdi xenapi.VDIRef, holder string) error
}

// Options are what VMs are made with; all are required but the times.
type Options struct {
	Env   *xapi.Env
	Disks Disks
	// Device names a VBD's device for its userdevice: 0 is xvda.
	Device func(userdevice string) (string, error)
	// Attachable checks that a VBD's disk may be attached: who else has it.
	Attachable func(rd db.Reader, ref xenapi.VBDRef) error
	// NIC describes a VIF to the hypervisor.
	NIC func(rd db.Reader, ref xenapi.VIFRef) xenctl.NIC
	// MAC makes a VIF's address from its VM's seed.
	MAC func(seed string, device int) string
	// Post adds an alert about an object, within a transaction.
	Post func(tx *db.Tx, name string, cls xenapi.Cls, uuid, body string)
	// ShutdownTimeout is how long a guest may take to power off; 0 is 20
	// minutes.
	ShutdownTimeout time.Duration
	// FreshBoot says that the machine has booted since the daemon last ran:
	// then the VMs that start with the host do.
	FreshBoot bool
	// BootID is the kernel's name for this boot of the machine.
	BootID string
	// Hook interferes with the steps of sagas; only tests set it.
	Hook func(saga.Point) error
}

// VMs serves class VM.
type VMs struct {
	service.UnimplementedVM
	Options

	mu       sync.Mutex
	stopping map[string][]waiter                 // who waits for a domain to stop, by uuid
	underway map[xenapi.VMRef]map[*underway]bool // what is at work on each VM
	bounced  map[xenapi.VMRef]int                // crashes in a row, each right after a start
	settled  atomic.Bool                         // reconciled with all VMs once
	// strangers are the domains that are no VM's and were told of, with their numbers.
	strangers map[string]int
	seconds   *prometheus.HistogramVec // where the time of operations goes
}

// New makes the service.
func New(o Options) *VMs {
	if o.ShutdownTimeout == 0 {
		o.ShutdownTimeout = 20 * time.Minute
	}
	o.Disks = timedDisks{o.Disks}
	return &VMs{Options: o, stopping: map[string][]waiter{}, underway: map[xenapi.VMRef]map[*underway]bool{},
		bounced: map[xenapi.VMRef]int{}, seconds: newSeconds()}
}

// parts are a VM with its devices, as one snapshot has them.
type parts struct {
	ref  xenapi.VMRef
	vm   *xenapi.VM
	vbds map[xenapi.VBDRef]*xenapi.VBD
	vifs map[xenapi.VIFRef]*xenapi.VIF
}

func load(rd db.Reader, ref xenapi.VMRef) (*parts, error) {
	vm, err := db.Get(rd, ref)
	if err != nil {
		return nil, err
	}
	p := &parts{ref: ref, vm: vm, vbds: map[xenapi.VBDRef]*xenapi.VBD{}, vifs: map[xenapi.VIFRef]*xenapi.VIF{}}
	for _, r := range vm.VBDs {
		if vbd := db.Find(rd, r); vbd != nil {
			p.vbds[r] = vbd
		}
	}
	for _, r := range vm.VIFs {
		if vif := db.Find(rd, r); vif != nil {
			p.vifs[r] = vif
		}
	}
	return p, nil
}

// targets marks the VM with an operation, and its devices with theirs.
func (p *parts) targets(op xenapi.VMOperations, device string) []ops.Target {
	out := []ops.Target{ops.On("VM", p.ref, op)}
	if device == "" {
		return out
	}
	for ref := range p.vbds {
		out = append(out, ops.On("VBD", ref, device))
	}
	for ref := range p.vifs {
		out = append(out, ops.On("VIF", ref, device))
	}
	return out
}

// holder names a VBD to the storage driver.
func holder(ref xenapi.VBDRef) string { return "vbd-" + string(ref) }

// options are those of every saga here.
func (s *VMs) options(c *service.Call) saga.Options {
	return saga.Options{Progress: c.Task.Progress, Log: s.Env.Log, Hook: s.Hook}
}

// location is where a console is reached.
func (s *VMs) location(rd db.Reader, ref xenapi.ConsoleRef) string {
	host := db.Find(rd, s.Env.Host())
	if host == nil {
		return ""
	}
	return fmt.Sprintf("https://%s/console?ref=%s", host.Address, ref)
}
