package timing

import (
	"context"

	"xapid/pkg/xenctl"
)

// Of makes a hypervisor whose calls are measured as the Hypervisor part of the operation that makes them. Its
// capabilities are found by xenctl.As as before, and aren't measured.
func Of(h xenctl.Hypervisor) xenctl.Hypervisor { return measured{h} }

// measured measures what operations on one domain call. What it doesn't name goes to the hypervisor as it is.
type measured struct{ xenctl.Hypervisor }

// Unwrap implements xenctl.Unwrapper.
func (m measured) Unwrap() xenctl.Hypervisor { return m.Hypervisor }

// Create implements xenctl.Hypervisor.
func (m measured) Create(ctx context.Context, cfg *xenctl.DomainConfig) (xenctl.Domain, error) {
	defer Measure(ctx, Hypervisor)()
	return m.Hypervisor.Create(ctx, cfg)
}

// Destroy implements xenctl.Hypervisor.
func (m measured) Destroy(ctx context.Context, uuid string) error {
	defer Measure(ctx, Hypervisor)()
	return m.Hypervisor.Destroy(ctx, uuid)
}

// Pause implements xenctl.Hypervisor.
func (m measured) Pause(ctx context.Context, uuid string) error {
	defer Measure(ctx, Hypervisor)()
	return m.Hypervisor.Pause(ctx, uuid)
}

// Unpause implements xenctl.Hypervisor.
func (m measured) Unpause(ctx context.Context, uuid string) error {
	defer Measure(ctx, Hypervisor)()
	return m.Hypervisor.Unpause(ctx, uuid)
}

// Save implements xenctl.Hypervisor.
func (m measured) Save(ctx context.Context, uuid, path string) error {
	defer Measure(ctx, Hypervisor)()
	return m.Hypervisor.Save(ctx, uuid, path)
}

// Restore implements xenctl.Hypervisor.
func (m measured) Restore(ctx context.Context, path string, cfg *xenctl.DomainConfig) (xenctl.Domain, error) {
	defer Measure(ctx, Hypervisor)()
	return m.Hypervisor.Restore(ctx, path, cfg)
}

// RequestShutdown implements xenctl.Hypervisor.
func (m measured) RequestShutdown(ctx context.Context, uuid string, kind xenctl.ShutdownKind) error {
	defer Measure(ctx, Hypervisor)()
	return m.Hypervisor.RequestShutdown(ctx, uuid, kind)
}

// Lookup implements xenctl.Hypervisor.
func (m measured) Lookup(ctx context.Context, uuid string) (xenctl.Domain, error) {
	defer Measure(ctx, Hypervisor)()
	return m.Hypervisor.Lookup(ctx, uuid)
}
