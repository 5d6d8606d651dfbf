package xapi

import (
	"context"

	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Hooks collects the implicit messages with a side effect of their own, by
// wire name; it has the shape of what the server takes.
type Hooks struct {
	// Create makes an object from a record that has every field at what the
	// client gave, or its default; given tells which those were.
	Create map[string]func(ctx context.Context, c *service.Call, rec xenapi.Record, given func(field string) bool) (string, error)
	// Destroy removes an object that is there.
	Destroy map[string]func(ctx context.Context, c *service.Call, ref string) error
	// Write carries out a setter, add_to, remove_from, add or remove; args
	// are the canonical arguments, the reference first.
	Write map[string]func(ctx context.Context, c *service.Call, args []any) error
}

// NewHooks makes empty tables.
func NewHooks() Hooks {
	return Hooks{
		Create:  map[string]func(ctx context.Context, c *service.Call, rec xenapi.Record, given func(field string) bool) (string, error){},
		Destroy: map[string]func(ctx context.Context, c *service.Call, ref string) error{},
		Write:   map[string]func(ctx context.Context, c *service.Call, args []any) error{},
	}
}
