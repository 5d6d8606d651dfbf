package storage

import (
	"context"
	"fmt"
	"sync"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// atOnce bounds the objects that one transaction looks at when allowed
// operations are worked out anew.
const atOnce = 500

// Run attaches this host's SRs, each by itself, so that one that is bad holds
// up no other, and puts right what a crash left; then it waits for ctx to end.
func (s *Storage) Run(ctx context.Context) error {
	snap := s.Env.DB.View()
	var wg sync.WaitGroup
	srs := map[string]bool{}
	if host := db.Find(snap, s.Env.Host()); host != nil {
		for _, ref := range host.PBDs {
			pbd := db.Find(snap, ref)
			if pbd == nil {
				continue
			}
			if sr := db.Find(snap, pbd.SR); sr != nil {
				srs[sr.UUID] = true
				wg.Go(func() { s.startPBD(ctx, ref, sr) })
			}
		}
	}
	wg.Go(func() {
		s.resolve(ctx, func(kind string, n note) bool {
			return n.SR == "" || !srs[n.SR] && (kind == kindSRCreate || kind == kindSRDestroy)
		})
		s.deriveAll(ctx)
	})
	wg.Wait()
	close(s.ready)
	<-ctx.Done()
	return nil
}

// Ready is closed when Run has tried to attach every SR.
func (s *Storage) Ready() <-chan struct{} { return s.ready }

// startPBD attaches one SR at the start.
func (s *Storage) startPBD(ctx context.Context, ref xenapi.PBDRef, sr *xenapi.SR) {
	s.resolve(ctx, ofSR(sr.UUID))
	pbd := db.Find(s.Env.DB.View(), ref)
	if pbd == nil {
		return
	}
	if err := s.plugPBD(ctx, ref); err != nil {
		s.startFailed(context.WithoutCancel(ctx), ref, sr, err)
		return
	}
	s.settle(ctx, pbd.SR)
	if sr.IsToolsSR || sr.OtherConfig["auto-scan"] == "true" {
		if err := s.scan(ctx, pbd.SR); err != nil {
			s.Env.Log.Warn("an SR cannot be scanned at the start", "sr", sr.UUID, "error", err)
		}
	}
}

// startFailed tells people that an SR is not there.
func (s *Storage) startFailed(ctx context.Context, ref xenapi.PBDRef, sr *xenapi.SR, cause error) {
	s.Env.Log.Warn("an SR cannot be attached at the start", "sr", sr.UUID, "error", cause)
	err := s.Env.Update(ctx, func(tx *db.Tx) error {
		pbd := db.Find(tx, ref)
		if pbd == nil {
			return nil
		}
		if host := db.Find(tx, pbd.Host); host != nil {
			s.Post(tx, "PBD_PLUG_FAILED_ON_SERVER_START", xenapi.ClsHost, host.UUID,
				fmt.Sprintf("SR '%s' (%s) could not be attached: %s", sr.NameLabel, sr.UUID, xenapi.Code(cause)))
		}
		return nil
	})
	if err != nil {
		s.Env.Log.Error("an alert cannot be posted", "error", err)
	}
}

// settle does what is due once an SR is attached: what a crash left is put
// right, the drives of VMs that run on hold their volumes again, and its disks
// may be changed.
func (s *Storage) settle(ctx context.Context, ref xenapi.SRRef) {
	rd := s.Env.DB.View()
	sr := db.Find(rd, ref)
	if sr == nil {
		return
	}
	s.resolve(ctx, onVolumesOf(sr.UUID))
	g := look(rd)
	var wg sync.WaitGroup
	for _, r := range sr.VDIs {
		vdi := db.Find(rd, r)
		if vdi == nil {
			continue
		}
		g.vbdsOf(r, vdi, func(v xenapi.VBDRef, vbd *xenapi.VBD) bool {
			if inDomain(rd, vbd) {
				wg.Go(func() { s.holdAgain(ctx, v, vbd.VM) })
			}
			return true
		})
	}
	wg.Wait()
	s.rederive(ctx, ref)
}

// inDomain reports whether a drive is one of a domain that lives.
func inDomain(rd db.Reader, vbd *xenapi.VBD) bool {
	vm := db.Find(rd, vbd.VM)
	return vbd.CurrentlyAttached && vm != nil && (vm.PowerState == xenapi.VMPowerStateRunning || vm.PowerState == xenapi.VMPowerStatePaused)
}

// ownJob is the task of work that nobody called for.
type ownJob struct{ ref xenapi.TaskRef }

func (j ownJob) Ref() xenapi.TaskRef { return j.ref }
func (ownJob) Progress(float64)      {}

// holdAgain lets the drive of a VM that runs on hold its volume again. Nobody
// else is at the VM meanwhile: one that was shut down must not be left with a
// holder.
func (s *Storage) holdAgain(ctx context.Context, ref xenapi.VBDRef, vm xenapi.VMRef) {
	free := func(tx *db.Tx) error {
		rec, err := db.Get(tx, vm)
		if err == nil && len(rec.CurrentOperations) > 0 {
			err = ops.Busy("VM", string(vm), rec.CurrentOperations)
		}
		return err
	}
	targets := []ops.Target{ops.On("VM", vm, xenapi.VMOperationsUpdateAllowedOperations)}
	call := &service.Call{Task: ownJob{xenapi.NewRef[xenapi.TaskRef]()}, Log: s.Env.Log}
	err := s.Env.Locks.Do(ctx, call, ops.WaitQuick, targets, free, func(ctx context.Context) error {
		rd := s.Env.DB.View()
		vbd := db.Find(rd, ref)
		if vbd == nil || !inDomain(rd, vbd) {
			return nil
		}
		_, err := s.AttachVDI(ctx, vbd.VDI, Holder(ref), vbd.Mode == xenapi.VBDModeRO || vbd.Type == xenapi.VBDTypeCD)
		return err
	})
	if err != nil && xenapi.Code(err) != "HANDLE_INVALID" && ctx.Err() == nil {
		s.Env.Log.Error("a running VM's disk cannot be attached again", "vm", vm, "vbd", ref, "error", err)
	}
}

// rederive works out what may be done to the disks of an SR, after it was
// attached or detached.
func (s *Storage) rederive(ctx context.Context, ref xenapi.SRRef) {
	if sr := db.Find(s.Env.DB.View(), ref); sr != nil {
		s.visit(ctx, xenapi.Class((*xenapi.VDI)(nil)), xenapi.Texts(sr.VDIs))
	}
}

// deriveAll works out what may be done to everything: what the datamodel does
// not keep over a restart.
func (s *Storage) deriveAll(ctx context.Context) {
	snap := s.Env.DB.View()
	for _, name := range []string{"SR", "VDI", "VBD"} {
		class := datamodel.Get().Class(name)
		var refs []string
		for row := range snap.Rows(class) {
			refs = append(refs, row.Ref)
		}
		s.visit(ctx, class, refs)
	}
}

// visit lets Derive look at objects, a few at a time.
func (s *Storage) visit(ctx context.Context, class *datamodel.Class, refs []string) {
	for len(refs) > 0 && ctx.Err() == nil {
		n := min(len(refs), atOnce)
		some := refs[:n]
		refs = refs[n:]
		err := s.Env.Update(ctx, func(tx *db.Tx) error {
			for _, ref := range some {
				if _, there := tx.Row(class, ref); there {
					if _, err := tx.Edit(class, ref); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			s.Env.Log.Error("allowed operations cannot be worked out", "class", class.Name, "error", err)
		}
	}
}
