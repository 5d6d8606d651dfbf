// Package storage is the behaviour of disks and of what they lie on: the
// classes VDI, VBD, SR, PBD and SM.
//
// Its one invariant: a record and what is on the storage come and go together.
// What takes more than one step is a saga with an entry in the journal, and
// what a crash leaves is put right once the SR is attached again. Start
// reading at vdi_make.go, then vbd_check.go and ensure.go.
package storage

import (
	"context"
	"encoding/json"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Options are what storage is made with.
type Options struct {
	Env *xapi.Env
	// Dir is the directory below which the local SRs of the first start lie.
	Dir string
	// Post adds an alert about an object, within a transaction.
	Post func(tx *db.Tx, name string, cls xenapi.Cls, uuid, body string)
	// PlugTimeout bounds how long one SR may take to be attached; 0 is 2
	// minutes.
	PlugTimeout time.Duration
	// Hook interferes with the steps of sagas; only tests set it.
	Hook func(saga.Point) error
}

// Storage serves the classes of storage, and the disks that VMs need.
type Storage struct {
	Options
	journal ops.Journal
	// unfinished is what sagas of an earlier process left in the journal.
	unfinished []saga.Entry
	moving     moving
	ready      chan struct{}
}

// New makes a Storage. Ensure comes first, then Run.
func New(o Options) *Storage {
	if o.PlugTimeout == 0 {
		o.PlugTimeout = 2 * time.Minute
	}
	if o.Post == nil {
		o.Post = func(*db.Tx, string, xenapi.Cls, string, string) {}
	}
	return &Storage{Options: o, journal: ops.Journal{DB: o.Env.DB, Prefix: "storage."}, ready: make(chan struct{})}
}

// note is what a saga leaves in the journal: enough for its resolver.
type note struct {
	SR     string            `json:",omitempty"` // uuid
	Volume string            `json:",omitempty"` // the driver's name of it
	VDI    xenapi.VDIRef     `json:",omitempty"`
	VBD    xenapi.VBDRef     `json:",omitempty"`
	Type   string            `json:",omitempty"` // of an SR
	Config map[string]string `json:",omitempty"` // of an SR
	// UUID and Device name a disk to the hypervisor.
	UUID, Device string `json:",omitempty"`
}

// The kinds of journal entries; resolve.go has a resolver for each.
const (
	kindMake      = "storage.VDI.make"
	kindDestroy   = "storage.VDI.destroy"
	kindResize    = "storage.VDI.resize"
	kindPlug      = "storage.VBD.plug"
	kindUnplug    = "storage.VBD.unplug"
	kindMedia     = "storage.VBD.media"
	kindSRCreate  = "storage.SR.create"
	kindSRDestroy = "storage.SR.destroy"
)

// operation is a saga about to run.
type operation struct {
	s        *Storage
	id, kind string
	note     note
	progress func(float64)
}

func (s *Storage) begin(kind string, n note) *operation {
	return &operation{s: s, id: xenapi.NewUUID(), kind: kind, note: n}
}

// run runs the steps with an entry in the journal, which the last of them ends
// in its own transaction by calling done.
func (o *operation) run(ctx context.Context, steps []saga.Step) error {
	data, err := json.Marshal(o.note)
	if err != nil {
		return err
	}
	return saga.Run(ctx, saga.Options{Progress: o.progress, Journal: o.s.journal,
		Entry: saga.Entry{ID: o.id, Kind: o.kind, Data: data}, Log: o.s.Env.Log, Hook: o.s.Hook}, o.kind, steps)
}

// done ends the journal's entry within a transaction.
func (o *operation) done(tx *db.Tx) { tx.SetJournal(o.id, nil) }

// Register puts the messages and hooks of the classes where the server finds
// them.
func (s *Storage) Register(h xapi.Hooks, services *service.Services) {
	services.VDI, services.VBD, services.SR, services.PBD = &VDIs{s: s}, &VBDs{s: s}, &SRs{s: s}, &PBDs{s: s}
	h.Create["VDI.create"], h.Destroy["VDI.destroy"] = s.createVDIHook, s.destroyVDIHook
	h.Create["VBD.create"], h.Destroy["VBD.destroy"] = s.createVBDHook, s.destroyVBDHook
	h.Write["VBD.set_userdevice"], h.Write["VBD.set_type"] = s.setUserdeviceHook, s.setVBDTypeHook
	h.Create["PBD.create"], h.Destroy["PBD.destroy"] = s.createPBDHook, s.destroyPBDHook
}
