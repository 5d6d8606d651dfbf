package vm

import (
	"context"
	"errors"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// imageHeadroom is what a saved image takes beyond the guest's memory.
const imageHeadroom = 64 << 20

// imageHolder holds a suspend image while it is written or read.
const imageHolder = "suspend-image"

// Suspend writes a running VM's memory to a VDI and stops it.
func (s *VMs) Suspend(ctx context.Context, c *service.Call, p service.VMSuspendParams) error {
	return s.locked(ctx, c, p.VM, xenapi.VMOperationsSuspend, func(ctx context.Context, parts *parts) error {
		sr, err := s.suspendSR(parts)
		if err != nil {
			return err
		}
		return s.suspend(ctx, c, parts, sr)
	})
}

// suspendSR is where a VM's image goes: the VM's own choice, the pool's, the
// host's.
func (s *VMs) suspendSR(p *parts) (xenapi.SRRef, error) {
	rd := s.Env.DB.View()
	choices := []xenapi.SRRef{p.vm.SuspendSR}
	if _, pool := xapi.Pool(rd); pool != nil {
		choices = append(choices, pool.SuspendImageSR)
	}
	if host := db.Find(rd, p.vm.ResidentOn); host != nil {
		choices = append(choices, host.SuspendImageSR)
	}
	for _, sr := range choices {
		if db.Find(rd, sr) != nil {
			return sr, nil
		}
	}
	return "", xenapi.ErrVMNoSuspendSR(string(p.ref))
}

func (s *VMs) suspend(ctx context.Context, c *service.Call, p *parts, sr xenapi.SRRef) error {
	image := xenapi.NewVDI()
	image.NameLabel, image.NameDescription = "Suspend image", "Suspend image of "+p.vm.NameLabel
	image.SR, image.Type = sr, xenapi.VDITypeSuspend
	image.VirtualSize = p.vm.MemoryStaticMax + overhead(p.vm) + imageHeadroom
	image.SMConfig = map[string]string{"type": "raw"}
	var ref xenapi.VDIRef
	var at sm.Attachment
	id, n := string(c.Task.Ref()), &note{Kind: kindSuspend, VM: p.ref, Boot: s.BootID}
	steps := []saga.Step{
		{Name: "make the image's disk",
			Do: func(ctx context.Context) (err error) {
				ref, err = s.Disks.CreateVDI(owning(ctx, id, n), image)
				return err
			},
			Undo: func(ctx context.Context) error { return s.Disks.DestroyVDI(ctx, ref) }},
		{Name: "attach it", Partial: true,
			Do: func(ctx context.Context) (err error) {
				at, err = s.Disks.AttachVDI(ctx, ref, imageHolder, false)
				return err
			},
			Undo: func(ctx context.Context) error { return s.Disks.DetachVDI(ctx, ref, imageHolder) }},
		{Name: "save the domain", Weight: 10,
			Do: func(ctx context.Context) error {
				err := s.Env.Node.Hypervisor.Save(ctx, p.vm.UUID, at.Path)
				if err != nil && ctx.Err() != nil && s.gone(context.WithoutCancel(ctx), p.vm) {
					return nil // it was saved before it heard that it should not be
				}
				return hypervisorFault(p.ref, err)
			}},
	}
	if err := s.owned(ctx, id, n, saga.Run(ctx, s.options(c), "suspend", steps)); err != nil {
		return err
	}
	// From here on the guest lives in the image alone: no way back.
	ctx = context.WithoutCancel(ctx)
	return errors.Join(
		s.Env.Update(ctx, func(tx *db.Tx) error {
			tx.SetJournal(id, nil)
			return s.recordSuspended(tx, p.ref, ref)
		}),
		s.Disks.DetachVDI(ctx, ref, imageHolder),
		s.detachDisks(ctx, p))
}

// recordSuspended writes what is true of a VM that is an image: its devices
// count as attached still.
func (s *VMs) recordSuspended(tx *db.Tx, ref xenapi.VMRef, image xenapi.VDIRef) error {
	vm, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	vm.PowerState, vm.Domid, vm.SuspendVDI = xenapi.VMPowerStateSuspended, -1, image
	vm.ResidentOn = xenapi.Null
	for _, r := range vm.Consoles {
		db.Delete(tx, r)
	}
	if m, err := db.Edit(tx, vm.Metrics); err == nil {
		m.MemoryActual, m.State = 0, nil
	}
	s.Post(tx, "VM_SUSPENDED", xenapi.ClsVM, vm.UUID, "VM '"+vm.NameLabel+"' suspended")
	return nil
}

// Resume brings a suspended VM back on whichever host suits it.
func (s *VMs) Resume(ctx context.Context, c *service.Call, p service.VMResumeParams) error {
	return s.resume(ctx, c, startPlan{ref: p.VM, op: xenapi.VMOperationsResume, paused: p.StartPaused, force: p.Force, host: xenapi.Null})
}

// ResumeOn brings it back on the host that the caller names.
func (s *VMs) ResumeOn(ctx context.Context, c *service.Call, p service.VMResumeOnParams) error {
	if _, err := db.Get(s.Env.DB.View(), p.Host); err != nil {
		return err
	}
	return s.resume(ctx, c, startPlan{ref: p.VM, op: xenapi.VMOperationsResumeOn, paused: p.StartPaused, force: p.Force, host: p.Host})
}

func (s *VMs) resume(ctx context.Context, c *service.Call, plan startPlan) error {
	journal := string(c.Task.Ref())
	reserve := func(tx *db.Tx) error { return s.reserve(tx, &plan, journal) }
	targets := []ops.Target{ops.On("VM", plan.ref, plan.op)}
	return s.do(ctx, c, plan.ref, ops.WaitQuick, targets, reserve, func(ctx context.Context) error {
		p, err := load(s.Env.DB.View(), plan.ref)
		if err == nil {
			err = s.restore(ctx, c, &plan, p, journal)
		}
		if err != nil {
			return s.release(ctx, plan.ref, journal, err)
		}
		return s.discarded(ctx, journal, plan.image)
	})
}

// restore is the saga of a resume: disks, image, domain, record.
func (s *VMs) restore(ctx context.Context, c *service.Call, plan *startPlan, p *parts, journal string) error {
	disks := map[xenapi.VBDRef]sm.Attachment{}
	var domain xenctl.Domain
	var image sm.Attachment
	steps := append(s.attachSteps(p, disks),
		saga.Step{Name: "attach the image", Partial: true,
			Do: func(ctx context.Context) (err error) {
				image, err = s.Disks.AttachVDI(ctx, plan.image, imageHolder, true)
				return err
			},
			Undo: func(ctx context.Context) error { return s.Disks.DetachVDI(ctx, plan.image, imageHolder) }},
		saga.Step{Name: "restore the domain", Weight: 10, Partial: true,
			Do: func(ctx context.Context) error {
				cfg, err := s.domainConfig(s.Env.DB.View(), p, disks, plan.paused)
				if err == nil {
					domain, err = s.Env.Node.Hypervisor.Restore(ctx, image.Path, cfg)
				}
				return hypervisorFault(plan.ref, err)
			},
			Undo: func(ctx context.Context) error { return s.destroyDomain(ctx, p.vm.UUID) }},
		saga.Step{Name: "let the image go", Do: func(ctx context.Context) error {
			return s.Disks.DetachVDI(ctx, plan.image, imageHolder)
		}},
		saga.Step{Name: "record that it runs", Do: func(ctx context.Context) error {
			return s.Env.Update(ctx, func(tx *db.Tx) error {
				tx.SetJournal(journal, nil)
				s.discard(tx, journal, p.ref, plan.image)
				s.Post(tx, "VM_RESUMED", xenapi.ClsVM, p.vm.UUID, "VM '"+p.vm.NameLabel+"' resumed")
				return s.recordRunning(tx, p, plan, domain)
			})
		}})
	return saga.Run(ctx, s.options(c), string(plan.op), steps)
}
