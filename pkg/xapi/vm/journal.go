package vm

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// note is what an operation leaves in the journal while it is under way: what
// a crash would orphan.
type note struct {
	Kind string
	VM   xenapi.VMRef
	// VDIs were made by the operation and are nobody's yet.
	VDIs []xenapi.VDIRef `json:",omitempty"`
	// Boot is the boot of the machine during which a suspend began: what it had
	// written and not synced is lost with that.
	Boot string `json:",omitempty"`
	// Paused: a start was to leave the domain paused, as it is made.
	Paused bool `json:",omitempty"`
}

// The kinds of notes.
const (
	kindStart   = "VM.start"   // or resume: a domain may be there without its record
	kindDisks   = "VM.disks"   // copies or new disks, not yet any VM's
	kindSuspend = "VM.suspend" // the image may hold the guest
)

func (n note) encode() []byte {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings alone
	}
	return b
}

// owning gives a context in which disks that are made are noted as this
// operation's, in the transaction that makes them.
func owning(ctx context.Context, id string, n *note) context.Context {
	known := slices.Clip(n.VDIs)
	return ops.OnCommit(ctx, func(tx *db.Tx, ref string) {
		n.VDIs = append(known, xenapi.VDIRef(ref))
		tx.SetJournal(id, n.encode())
	})
}

// owned ends the note of a saga that failed and was undone; what was not
// undone stays noted for the next start.
func (s *VMs) owned(ctx context.Context, id string, n *note, err error) error {
	if err == nil || errors.Is(err, saga.ErrCrash) || len(n.VDIs) == 0 {
		return err
	}
	for _, ref := range n.VDIs {
		if db.Find(s.Env.DB.View(), ref) != nil {
			return err
		}
	}
	return errors.Join(err, s.forget(ctx, id))
}

// forget ends a note.
func (s *VMs) forget(ctx context.Context, id string) error {
	return s.Env.Update(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		tx.SetJournal(id, nil)
		return nil
	})
}

// discard notes, within a transaction, that an image is nobody's from now on;
// discarded removes it after the commit.
func (s *VMs) discard(tx *db.Tx, id string, vm xenapi.VMRef, image xenapi.VDIRef) {
	if image != xenapi.Null {
		tx.SetJournal(id, note{Kind: kindDisks, VM: vm, VDIs: []xenapi.VDIRef{image}}.encode())
	}
}

// discarded removes an image that discard has noted.
func (s *VMs) discarded(ctx context.Context, id string, image xenapi.VDIRef) error {
	if image == xenapi.Null {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.Disks.DestroyVDI(ctx, image); err != nil {
		return err
	}
	return s.forget(ctx, id)
}

// journal reads the notes of operations that nobody is at any more, by id.
func (s *VMs) journal() map[string]note {
	snap := s.Env.DB.View()
	out := map[string]note{}
	for id, data := range snap.Journal() {
		var n note
		if json.Unmarshal(data, &n) != nil || n.Kind != kindStart && n.Kind != kindDisks && n.Kind != kindSuspend {
			continue
		}
		if vm := db.Find(snap, n.VM); vm == nil || !atWork(vm) {
			out[id] = n
		}
	}
	return out
}

// endNotes removes what cut operations left, once the VMs themselves are
// right. A note whose disks can't be removed yet stays.
func (s *VMs) endNotes(ctx context.Context, notes map[string]note) error {
	var errs []error
	for id, n := range notes {
		if err := s.dropOrphans(ctx, n); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.forget(ctx, id))
	}
	return errors.Join(errs...)
}

func (s *VMs) dropOrphans(ctx context.Context, n note) error {
	var errs []error
	for _, ref := range n.VDIs {
		rd := s.Env.DB.View()
		vdi := db.Find(rd, ref)
		if vdi == nil || len(vdi.VBDs) > 0 {
			continue
		}
		if vm := db.Find(rd, n.VM); vm != nil && vm.SuspendVDI == ref {
			continue
		}
		errs = append(errs, s.Disks.DestroyVDI(ctx, ref))
	}
	return errors.Join(errs...)
}
