// Package iso is the storage driver "iso": a local directory of CD images as a library of read-only volumes.
//
// The invariant: nothing in the directory is ever changed. Its only writer is WriteImage, which makes the small image
// of the guest tools' library for whoever lays that out.
//
// Start with Driver; image.go writes ISO 9660.
package iso

import (
	"context"
	"fmt"
	"os"
	"sync"

	"xapid/pkg/sm"
)

// Driver attaches ISO libraries.
type Driver struct {
	mu       sync.Mutex
	attached map[string]*sr // by uuid
}

// New returns the driver.
func New() *Driver { return &Driver{attached: map[string]*sr{}} }

var _ sm.Driver = (*Driver)(nil)

// Info describes the driver.
func (d *Driver) Info() sm.Info {
	return sm.Info{
		Type: "iso", Label: "ISO library", Description: "CD images in a local directory, read-only",
		Vendor: "xapid", Copyright: "xapid authors", Version: "1.0", RequiredAPIVersion: "1.0",
		Config: []sm.ConfigKey{
			{Name: "location", Description: "absolute path of the directory"},
			{Name: "legacy_mode", Description: `"true": the location is a local directory`},
		},
	}
}

// Model returns an SR of this driver's kind, for looking at its method set.
func (d *Driver) Model() sm.SR { return (*sr)(nil) }

// location takes the directory out of a device_config.
func location(spec sm.Spec) (string, error) {
	if err := sm.CheckConfig(spec.Config); err != nil {
		return "", err
	}
	if !sm.IsUUID(spec.UUID) {
		return "", sm.Failure(sm.CodeInvalidArgument, "the SR's uuid is none", nil)
	}
	path := spec.Config["location"]
	if path == "" {
		return "", sm.Failure(sm.CodeISOLocation, "", nil)
	}
	if spec.Config["legacy_mode"] != "true" {
		return "", fmt.Errorf("%w: ISO libraries on the network", sm.ErrNotSupported)
	}
	return sm.CheckLocation(path)
}

func open(path string, otherwise sm.Code) (*os.Root, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, sm.Failure(otherwise, "", err)
	}
	return root, nil
}

// Create checks that the library is there; there is nothing to lay out.
func (d *Driver) Create(ctx context.Context, spec sm.Spec, _ int64) error {
	path, err := location(spec)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	root, err := open(path, sm.CodeISOPath)
	if err != nil {
		return err
	}
	return root.Close()
}

// Attach opens the directory. Several SRs may share it.
func (d *Driver) Attach(ctx context.Context, spec sm.Spec) (sm.SR, error) {
	path, err := location(spec)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.attached[spec.UUID]; s != nil {
		if s.path != path {
			return nil, fmt.Errorf("%w: attached at another place", sm.ErrSRInUse)
		}
		return s, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	root, err := open(path, sm.CodeSRGone)
	if err != nil {
		return nil, err
	}
	s := &sr{driver: d, uuid: spec.UUID, path: path, root: root}
	d.attached[spec.UUID] = s
	return s, nil
}

// Destroy leaves the library alone.
func (d *Driver) Destroy(_ context.Context, spec sm.Spec) error {
	if _, err := location(spec); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attached[spec.UUID] != nil {
		return sm.ErrSRInUse
	}
	return nil
}

func (d *Driver) forget(s *sr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.attached, s.uuid)
}
