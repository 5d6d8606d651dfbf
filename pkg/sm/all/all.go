// Package all lists the storage drivers that there are. A new driver is one line here; nothing registers itself.
package all

import (
	"xapid/pkg/sm"
	"xapid/pkg/sm/file"
	"xapid/pkg/sm/iso"
)

// Drivers returns a registry of every driver, in its production form.
func Drivers() *sm.Registry {
	return sm.NewRegistry(
		file.New(file.Options{}),
		iso.New(),
	)
}
