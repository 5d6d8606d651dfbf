package vm

import (
	"context"
	"errors"
	"strconv"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// Start starts a halted VM on whichever host suits it.
func (s *VMs) Start(ctx context.Context, c *service.Call, p service.VMStartParams) error {
	return s.start(ctx, c, startPlan{ref: p.VM, op: xenapi.VMOperationsStart, paused: p.StartPaused, force: p.Force, host: xenapi.Null})
}

// StartOn starts a halted VM on the host that the caller names.
func (s *VMs) StartOn(ctx context.Context, c *service.Call, p service.VMStartOnParams) error {
	if _, err := db.Get(s.Env.DB.View(), p.Host); err != nil {
		return err
	}
	return s.start(ctx, c, startPlan{ref: p.VM, op: xenapi.VMOperationsStartOn, paused: p.StartPaused, force: p.Force, host: p.Host})
}

// startPlan is what a start or a resume is going to do.
type startPlan struct {
	ref           xenapi.VMRef
	op            xenapi.VMOperations
	paused, force bool
	host          xenapi.HostRef // asked for, then chosen
	image         xenapi.VDIRef  // of a resume
}

// start takes the locks and reserves the memory in one commit, runs the steps,
// and writes the outcome in a second one.
func (s *VMs) start(ctx context.Context, c *service.Call, plan startPlan) error {
	p, err := load(s.Env.DB.View(), plan.ref)
	if err != nil {
		return err
	}
	device := "attach"
	if plan.op == xenapi.VMOperationsResume || plan.op == xenapi.VMOperationsResumeOn {
		device = ""
	}
	journal := string(c.Task.Ref())
	reserve := func(tx *db.Tx) error { return s.reserve(tx, &plan, journal) }
	return s.do(ctx, c, plan.ref, ops.WaitQuick, p.targets(plan.op, device), reserve, func(ctx context.Context) error {
		p, err := load(s.Env.DB.View(), plan.ref)
		if err == nil {
			err = s.launch(ctx, c, &plan, p, journal)
		}
		return s.release(ctx, plan.ref, journal, err)
	})
}

// reserve checks a start, chooses the host and takes its memory, all in the
// transaction that marks the VM as starting.
func (s *VMs) reserve(tx *db.Tx, plan *startPlan, journal string) error {
	vm, err := db.Get(tx, plan.ref)
	if err != nil {
		return err
	}
	if err := Check(tx, plan.ref, plan.op); err != nil {
		return err
	}
	if !plan.force {
		if err := validate(vm); err != nil {
			return err
		}
	}
	if plan.op == xenapi.VMOperationsStart || plan.op == xenapi.VMOperationsStartOn {
		for _, vbd := range vm.VBDs {
			if err := s.Attachable(tx, vbd); err != nil {
				return err
			}
		}
	}
	edit, err := db.Edit(tx, plan.ref)
	if err != nil {
		return err
	}
	clamped(edit)
	host, err := choose(tx, plan.ref, edit, plan.host)
	if err != nil {
		return err
	}
	plan.host, plan.image = host, vm.SuspendVDI
	edit.ScheduledToBeResidentOn = host
	tx.SetJournal(journal, note{Kind: kindStart, VM: plan.ref, Paused: plan.paused}.encode())
	return nil
}

// release gives the reserved memory back after a start that came to nothing,
// and returns its error.
func (s *VMs) release(ctx context.Context, ref xenapi.VMRef, journal string, failure error) error {
	if failure == nil || errors.Is(failure, saga.ErrCrash) {
		return failure
	}
	return errors.Join(failure, s.Env.Update(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		tx.SetJournal(journal, nil)
		vm, err := db.Edit(tx, ref)
		if err == nil {
			vm.ScheduledToBeResidentOn = xenapi.Null
		}
		return nil
	}))
}

// launch is the saga of a start: disks, domain, record.
func (s *VMs) launch(ctx context.Context, c *service.Call, plan *startPlan, p *parts, journal string) error {
	disks := map[xenapi.VBDRef]sm.Attachment{}
	var domain xenctl.Domain
	steps := s.attachSteps(p, disks)
	steps = append(steps,
		saga.Step{Name: "create the domain", Weight: 5, Partial: true,
			Do: func(ctx context.Context) (err error) {
				cfg, err := s.domainConfig(s.Env.DB.View(), p, disks, plan.paused)
				if err == nil {
					domain, err = s.Env.Node.Hypervisor.Create(ctx, cfg)
				}
				return hypervisorFault(plan.ref, err)
			},
			Undo: func(ctx context.Context) error { return s.destroyDomain(ctx, p.vm.UUID) }},
		saga.Step{Name: "record that it runs",
			Do: func(ctx context.Context) error {
				return s.Env.Update(ctx, func(tx *db.Tx) error {
					tx.SetJournal(journal, nil)
					if err := s.recordRunning(tx, p, plan, domain); err != nil {
						return err
					}
					if plan.op == xenapi.VMOperationsHardReboot {
						s.Post(tx, "VM_REBOOTED", xenapi.ClsVM, p.vm.UUID, "VM '"+p.vm.NameLabel+"' rebooted")
					} else {
						s.Post(tx, "VM_STARTED", xenapi.ClsVM, p.vm.UUID, "VM '"+p.vm.NameLabel+"' started")
					}
					return nil
				})
			}})
	return saga.Run(ctx, s.options(c), string(plan.op), steps)
}

// attachSteps attach the disks of a VM, one step each, filling in disks.
func (s *VMs) attachSteps(p *parts, disks map[xenapi.VBDRef]sm.Attachment) []saga.Step {
	var steps []saga.Step
	for ref, vbd := range p.vbds {
		if vbd.Empty || vbd.VDI == xenapi.Null {
			continue
		}
		readOnly := vbd.Mode == xenapi.VBDModeRO || vbd.Type == xenapi.VBDTypeCD
		steps = append(steps, saga.Step{Name: "attach disk " + vbd.Userdevice, Partial: true,
			Do: func(ctx context.Context) error {
				at, err := s.Disks.AttachVDI(ctx, vbd.VDI, holder(ref), readOnly)
				disks[ref] = at
				return err
			},
			Undo: func(ctx context.Context) error { return s.Disks.DetachVDI(ctx, vbd.VDI, holder(ref)) }})
	}
	return steps
}

// destroyDomain makes sure that there is no domain of a uuid.
func (s *VMs) destroyDomain(ctx context.Context, uuid string) error {
	if err := s.Env.Node.Hypervisor.Destroy(ctx, uuid); err != nil && !errors.Is(err, xenctl.ErrNotFound) {
		return err
	}
	return nil
}

// hypervisorFault makes the hypervisor's errors those of the API.
func hypervisorFault(ref xenapi.VMRef, err error) error {
	var memory *xenctl.MemoryError
	var op *xenctl.OpError
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &memory):
		return errors.Join(xenapi.ErrHostNotEnoughFreeMemory(strconv.FormatInt(memory.NeededBytes, 10),
			strconv.FormatInt(max(memory.AvailableBytes, 0), 10)), err)
	case errors.Is(err, xenctl.ErrUnavailable), errors.Is(err, xenctl.ErrTimeout):
		return errors.Join(xenapi.ErrInternalError("the hypervisor does not answer: "+err.Error()), err)
	case errors.Is(err, xenctl.ErrBootloader):
		return errors.Join(xenapi.ErrBootloaderFailed(string(ref), bare(err)), err)
	case errors.Is(err, xenctl.ErrInvalid), errors.Is(err, xenctl.ErrNotSupported):
		return errors.Join(xenapi.ErrOperationNotAllowed(err.Error()), err)
	case errors.Is(err, xenctl.ErrNotFound): // it stopped, and its record does not say so yet
		return errors.Join(xenapi.ErrVMBadPowerState(string(ref), (paused|running).String(), halted.String()), err)
	case errors.As(err, &op):
		return errors.Join(xenapi.ErrInternalError("the hypervisor: "+err.Error()), err)
	}
	return err
}

// bare is the cause without the operation that failed.
func bare(err error) string {
	var op *xenctl.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return err.Error()
}

// recordRunning writes what is true once a VM's domain is there.
func (s *VMs) recordRunning(tx *db.Tx, p *parts, plan *startPlan, domain xenctl.Domain) error {
	vm, err := db.Edit(tx, p.ref)
	if err != nil {
		return err
	}
	vm.PowerState = xenapi.VMPowerStateRunning
	if plan.paused {
		vm.PowerState = xenapi.VMPowerStatePaused
	}
	vm.ResidentOn, vm.ScheduledToBeResidentOn = plan.host, xenapi.Null
	vm.Domid, vm.MemoryTarget = int64(domain.ID), vm.MemoryDynamicMax
	vm.LastBootedRecord, vm.MemoryOverhead, vm.RequiresReboot = lastBooted(vm), overhead(vm), false
	vm.SuspendVDI = xenapi.Null
	if err := s.recordDevices(tx, p); err != nil {
		return err
	}
	if err := s.recordMetrics(tx, p.ref, domain); err != nil {
		return err
	}
	return s.makeConsoles(tx, p.ref)
}

// recordDevices marks the devices as attached and fills in their names.
func (s *VMs) recordDevices(tx *db.Tx, p *parts) error {
	for ref := range p.vbds {
		vbd, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		vbd.CurrentlyAttached = true
		if vbd.Device, err = s.Device(vbd.Userdevice); err != nil {
			return err
		}
	}
	for ref := range p.vifs {
		vif, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		vif.CurrentlyAttached = true
	}
	return nil
}

func (s *VMs) recordMetrics(tx *db.Tx, ref xenapi.VMRef, domain xenctl.Domain) error {
	vm, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	if db.Find(tx, vm.Metrics) == nil {
		fresh := xenapi.NewVMMetrics()
		fresh.UUID = xenapi.NewUUID()
		vm.Metrics = db.Insert[xenapi.VMMetricsRef](tx, fresh)
	}
	m, err := db.Edit(tx, vm.Metrics)
	if err != nil {
		return err
	}
	m.MemoryActual, m.VCPUsNumber = domain.MemoryBytes, int64(domain.VCPUs)
	m.StartTime, m.LastUpdated = s.Env.Time(), s.Env.Time()
	m.CurrentDomainType = domainType(vm)
	m.HVM = m.CurrentDomainType == xenapi.DomainTypeHVM
	m.State = []string{"running"}
	return nil
}

// makeConsoles gives a running VM its console objects, once.
func (s *VMs) makeConsoles(tx *db.Tx, ref xenapi.VMRef) error {
	vm, err := db.Get(tx, ref)
	if err != nil {
		return err
	}
	if len(vm.Consoles) > 0 {
		return nil
	}
	protocols := []xenapi.ConsoleProtocol{xenapi.ConsoleProtocolVt100}
	if domainType(vm) == xenapi.DomainTypeHVM {
		protocols = append(protocols, xenapi.ConsoleProtocolRfb)
	}
	for _, protocol := range protocols {
		console := xenapi.NewConsole()
		console.UUID, console.VM, console.Protocol = xenapi.NewUUID(), ref, protocol
		r := db.Insert[xenapi.ConsoleRef](tx, console)
		console.Location = s.location(tx, r)
	}
	return nil
}

// Pause stops a running VM's processors.
func (s *VMs) Pause(ctx context.Context, c *service.Call, p service.VMPauseParams) error {
	return s.simple(ctx, c, p.VM, xenapi.VMOperationsPause, xenapi.VMPowerStatePaused, s.Env.Node.Hypervisor.Pause)
}

// Unpause lets them go on.
func (s *VMs) Unpause(ctx context.Context, c *service.Call, p service.VMUnpauseParams) error {
	return s.simple(ctx, c, p.VM, xenapi.VMOperationsUnpause, xenapi.VMPowerStateRunning, s.Env.Node.Hypervisor.Unpause)
}

// quickTimeout is how long a hypervisor that answers may take for what it does
// at once.
const quickTimeout = 30 * time.Second

// simple is an operation that is one quick call of the hypervisor.
func (s *VMs) simple(ctx context.Context, c *service.Call, ref xenapi.VMRef, op xenapi.VMOperations, then xenapi.VMPowerState,
	act func(ctx context.Context, uuid string) error) error {
	check := func(tx *db.Tx) error { return Check(tx, ref, op) }
	return s.do(ctx, c, ref, ops.WaitQuick, []ops.Target{ops.On("VM", ref, op)}, check, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, quickTimeout)
		defer cancel()
		vm, err := db.Get(s.Env.DB.View(), ref)
		if err != nil {
			return err
		}
		if err := act(ctx, vm.UUID); err != nil {
			return hypervisorFault(ref, err)
		}
		return s.Env.Update(context.WithoutCancel(ctx), func(tx *db.Tx) error {
			vm, err := db.Edit(tx, ref)
			if err == nil && up(vm) {
				vm.PowerState = then
			}
			return err
		})
	})
}
