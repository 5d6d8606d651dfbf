// Package node is what one host can do: run domains and attach storage. The
// behaviour above decides; a node acts, by small calls that may be repeated.
//
// Its one invariant: an SR that Storage calls attached is attached in this
// process. Start reading at Node, then storage.go.
package node

import (
	"xapid/pkg/xenctl"
)

// Node is one host.
type Node struct {
	Hypervisor xenctl.Hypervisor
	Storage    *Storage
}
