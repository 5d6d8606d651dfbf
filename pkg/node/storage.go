package node

import (
	"context"
	"errors"
	"sync"

	"xapid/pkg/sm"
)

// ErrNotAttached says that an SR is not attached on this host.
var ErrNotAttached = errors.New("node: the storage repository is not attached here")

// Storage keeps the SRs that are attached on a host.
type Storage struct {
	drivers *sm.Registry

	mu  sync.Mutex
	srs map[string]sm.SR
}

// NewStorage makes a Storage with nothing attached.
func NewStorage(drivers *sm.Registry) *Storage {
	return &Storage{drivers: drivers, srs: map[string]sm.SR{}}
}

// Drivers lists the drivers that the host has.
func (s *Storage) Drivers() []sm.Driver { return s.drivers.Drivers() }

// Driver finds a driver by its SR type; sm.ErrUnknownDriver otherwise.
func (s *Storage) Driver(srType string) (sm.Driver, error) { return s.drivers.Driver(srType) }

// Attach opens an SR; attaching it again gives what is attached.
func (s *Storage) Attach(ctx context.Context, srType string, spec sm.Spec) (sm.SR, error) {
	if sr, err := s.SR(spec.UUID); err == nil {
		return sr, nil
	}
	driver, err := s.drivers.Driver(srType)
	if err != nil {
		return nil, err
	}
	sr, err := driver.Attach(ctx, spec)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.srs[spec.UUID] = sr
	s.mu.Unlock()
	return sr, nil
}

// Detach closes an SR; one that is not attached is content.
func (s *Storage) Detach(ctx context.Context, uuid string) error {
	sr, err := s.SR(uuid)
	if err != nil {
		return nil
	}
	if err := sr.Detach(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.srs, uuid)
	s.mu.Unlock()
	return nil
}

// SR gives an attached SR, or ErrNotAttached.
func (s *Storage) SR(uuid string) (sm.SR, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sr, ok := s.srs[uuid]
	if !ok {
		return nil, ErrNotAttached
	}
	return sr, nil
}

// Close detaches what nobody uses. What guests use stays as it is for them;
// this process lets go of it when it ends.
func (s *Storage) Close(ctx context.Context) error {
	s.mu.Lock()
	var uuids []string
	for uuid := range s.srs {
		uuids = append(uuids, uuid)
	}
	s.mu.Unlock()
	var errs []error
	for _, uuid := range uuids {
		if err := s.Detach(ctx, uuid); !errors.Is(err, sm.ErrSRInUse) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
