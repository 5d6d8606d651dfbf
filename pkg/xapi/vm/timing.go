package vm

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"xapid/pkg/sm"
	"xapid/pkg/xapi/timing"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// newSeconds makes the metric of where the time of operations goes.
func newSeconds() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "xapid_operation_seconds",
		Help:    "Time that operations on VMs took, by operation and by who took it; own is the daemon itself.",
		Buckets: prometheus.ExponentialBuckets(1e-3, 4, 10)}, []string{"op", "part"})
}

// Collectors are the metrics of operations, to be registered.
func (s *VMs) Collectors() []prometheus.Collector { return []prometheus.Collector{s.seconds} }

// power are the operations whose time is told of.
var power = map[xenapi.VMOperations]bool{
	xenapi.VMOperationsStart: true, xenapi.VMOperationsStartOn: true, xenapi.VMOperationsPause: true, xenapi.VMOperationsUnpause: true,
	xenapi.VMOperationsSuspend: true, xenapi.VMOperationsResume: true, xenapi.VMOperationsResumeOn: true,
	xenapi.VMOperationsCleanShutdown: true, xenapi.VMOperationsHardShutdown: true,
	xenapi.VMOperationsCleanReboot: true, xenapi.VMOperationsHardReboot: true,
}

// timed starts the clock of an operation; the function that it returns, given how the operation ended, tells where
// the time went.
func (s *VMs) timed(ctx context.Context, c *service.Call, ref xenapi.VMRef, op string) (context.Context, func(error)) {
	if !power[xenapi.VMOperations(op)] {
		return ctx, func(error) {}
	}
	ctx, split := timing.Begin(ctx)
	return ctx, func(err error) {
		if errors.Is(err, errOldNews) {
			return
		}
		t := split.Times()
		c.Log.Info("operation ended", "op", op, "vm", ref, "task", c.Task.Ref(), "succeeded", err == nil, "total", t.Total,
			"hypervisor", t.Hypervisor, "disks", t.Disks, "networks", t.Networks, "guest", t.Guest, "own", t.Own)
		if err != nil {
			return
		}
		for part, took := range map[string]time.Duration{"total": t.Total, "hypervisor": t.Hypervisor, "disks": t.Disks,
			"networks": t.Networks, "guest": t.Guest, "own": t.Own} {
			s.seconds.WithLabelValues(op, part).Observe(took.Seconds())
		}
	}
}

// timedDisks measures what storage takes of an operation.
type timedDisks struct{ Disks }

// CreateVDI implements Disks.
func (d timedDisks) CreateVDI(ctx context.Context, rec *xenapi.VDI) (xenapi.VDIRef, error) {
	defer timing.Measure(ctx, timing.Disks)()
	return d.Disks.CreateVDI(ctx, rec)
}

// DestroyVDI implements Disks.
func (d timedDisks) DestroyVDI(ctx context.Context, ref xenapi.VDIRef) error {
	defer timing.Measure(ctx, timing.Disks)()
	return d.Disks.DestroyVDI(ctx, ref)
}

// AttachVDI implements Disks.
func (d timedDisks) AttachVDI(ctx context.Context, vdi xenapi.VDIRef, holder string, readOnly bool) (sm.Attachment, error) {
	defer timing.Measure(ctx, timing.Disks)()
	return d.Disks.AttachVDI(ctx, vdi, holder, readOnly)
}

// DetachVDI implements Disks.
func (d timedDisks) DetachVDI(ctx context.Context, vdi xenapi.VDIRef, holder string) error {
	defer timing.Measure(ctx, timing.Disks)()
	return d.Disks.DetachVDI(ctx, vdi, holder)
}
