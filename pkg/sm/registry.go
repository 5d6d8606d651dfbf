package sm

import (
	"fmt"
	"maps"
	"slices"
)

// Registry is the set of drivers that a host has. It does not change once made.
type Registry struct {
	drivers map[string]Driver
}

// NewRegistry makes a registry of these drivers, each under its Info().Type. It panics if two have the same type.
func NewRegistry(drivers ...Driver) *Registry {
	r := &Registry{drivers: make(map[string]Driver, len(drivers))}
	for _, d := range drivers {
		name := d.Info().Type
		if _, dup := r.drivers[name]; dup {
			panic("sm: two drivers of type " + name)
		}
		r.drivers[name] = d
	}
	return r
}

// Driver returns the driver of an SR type, or ErrUnknownDriver.
func (r *Registry) Driver(srType string) (Driver, error) {
	d, ok := r.drivers[srType]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknownDriver, srType)
	}
	return d, nil
}

// Drivers returns all drivers, ordered by type.
func (r *Registry) Drivers() []Driver {
	out := make([]Driver, 0, len(r.drivers))
	for _, name := range slices.Sorted(maps.Keys(r.drivers)) {
		out = append(out, r.drivers[name])
	}
	return out
}
