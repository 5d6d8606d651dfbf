package vm

import (
	"context"
	"errors"
	"strconv"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// limits are a VM's four memory settings, in bytes.
type limits struct{ staticMin, dynamicMin, dynamicMax, staticMax int64 }

func limitsOf(vm *xenapi.VM) limits {
	return limits{vm.MemoryStaticMin, vm.MemoryDynamicMin, vm.MemoryDynamicMax, vm.MemoryStaticMax}
}

func (l limits) ordered() bool {
	return 0 <= l.staticMin && l.staticMin <= l.dynamicMin && l.dynamicMin <= l.dynamicMax && l.dynamicMax <= l.staticMax
}

// setLimits changes memory settings as one operation; a running guest's
// balloon follows the dynamic ones.
func (s *VMs) setLimits(ctx context.Context, c *service.Call, ref xenapi.VMRef, op xenapi.VMOperations, change func(l *limits)) error {
	check := func(tx *db.Tx) error {
		vm, err := db.Get(tx, ref)
		if err != nil {
			return err
		}
		if err := Check(tx, ref, op); err != nil {
			return err
		}
		return checkLimits(vm, change)
	}
	return s.do(ctx, c, ref, ops.WaitQuick, []ops.Target{ops.On("VM", ref, op)}, check, func(ctx context.Context) error {
		err := s.Env.Update(ctx, func(tx *db.Tx) error {
			vm, err := db.Edit(tx, ref)
			if err != nil {
				return err
			}
			l := limitsOf(vm)
			change(&l)
			vm.MemoryStaticMin, vm.MemoryDynamicMin = l.staticMin, l.dynamicMin
			vm.MemoryDynamicMax, vm.MemoryStaticMax = l.dynamicMax, l.staticMax
			vm.MemoryTarget = l.dynamicMax
			return nil
		})
		if err != nil {
			return err
		}
		return s.balloon(ctx, ref)
	})
}

func checkLimits(vm *xenapi.VM, change func(l *limits)) error {
	l := limitsOf(vm)
	change(&l)
	if !l.ordered() {
		return xenapi.ErrMemoryConstraintViolationOrder()
	}
	nested := truthy(vm.Platform["nested-virt"]) || truthy(vm.Platform["exp-nested-hvm"])
	if (vm.IsControlDomain || nested) && (l.dynamicMin != l.dynamicMax || l.dynamicMax != l.staticMax) {
		return xenapi.ErrMemoryConstraintViolationMaxpin("the VM can't have dynamic memory")
	}
	return nil
}

// balloon tells a running domain its target.
func (s *VMs) balloon(ctx context.Context, ref xenapi.VMRef) error {
	vm, err := db.Get(s.Env.DB.View(), ref)
	if err != nil || vm.PowerState != xenapi.VMPowerStateRunning || vm.IsControlDomain {
		return err
	}
	resizer, ok := xenctl.As[xenctl.Resizer](s.Env.Node.Hypervisor)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, saga.DefaultStepTimeout)
	defer cancel()
	return hypervisorFault(ref, resizer.SetMemoryTarget(ctx, vm.UUID, vm.MemoryDynamicMax))
}

// SetMemoryDynamicMax sets the most that the balloon gives a guest.
func (s *VMs) SetMemoryDynamicMax(ctx context.Context, c *service.Call, p service.VMSetMemoryDynamicMaxParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingDynamicRange, func(l *limits) { l.dynamicMax = p.Value })
}

// SetMemoryDynamicMin sets the least that the balloon leaves a guest.
func (s *VMs) SetMemoryDynamicMin(ctx context.Context, c *service.Call, p service.VMSetMemoryDynamicMinParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingDynamicRange, func(l *limits) { l.dynamicMin = p.Value })
}

// SetMemoryDynamicRange sets both ends at once.
func (s *VMs) SetMemoryDynamicRange(ctx context.Context, c *service.Call, p service.VMSetMemoryDynamicRangeParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingDynamicRange, func(l *limits) { l.dynamicMin, l.dynamicMax = p.Min, p.Max })
}

// SetMemoryStaticMax sets the most that a guest can ever have.
func (s *VMs) SetMemoryStaticMax(ctx context.Context, c *service.Call, p service.VMSetMemoryStaticMaxParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingStaticRange, func(l *limits) { l.staticMax = p.Value })
}

// SetMemoryStaticMin sets the least that a guest can ever have.
func (s *VMs) SetMemoryStaticMin(ctx context.Context, c *service.Call, p service.VMSetMemoryStaticMinParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingStaticRange, func(l *limits) { l.staticMin = p.Value })
}

// SetMemoryStaticRange sets both ends at once.
func (s *VMs) SetMemoryStaticRange(ctx context.Context, c *service.Call, p service.VMSetMemoryStaticRangeParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingStaticRange, func(l *limits) { l.staticMin, l.staticMax = p.Min, p.Max })
}

// SetMemoryLimits sets all four at once.
func (s *VMs) SetMemoryLimits(ctx context.Context, c *service.Call, p service.VMSetMemoryLimitsParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingMemoryLimits, func(l *limits) {
		*l = limits{p.StaticMin, p.DynamicMin, p.DynamicMax, p.StaticMax}
	})
}

// SetMemory sets the static maximum and both dynamic ends to one value.
func (s *VMs) SetMemory(ctx context.Context, c *service.Call, p service.VMSetMemoryParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingMemoryLimits, func(l *limits) {
		l.dynamicMin, l.dynamicMax, l.staticMax = p.Value, p.Value, p.Value
	})
}

// SetMemoryTargetLive is the old name of a dynamic range without width.
func (s *VMs) SetMemoryTargetLive(ctx context.Context, c *service.Call, p service.VMSetMemoryTargetLiveParams) error {
	return s.setLimits(ctx, c, p.Self, xenapi.VMOperationsChangingDynamicRange, func(l *limits) { l.dynamicMin, l.dynamicMax = p.Target, p.Target })
}

// memoryArrives is how long wait_memory_target_live waits, in steps of
// memoryLook, each of them bounded by the context.
const (
	memoryArrives = 4 * time.Minute
	memoryLook    = 250 * time.Millisecond
)

// WaitMemoryTargetLive waits until the guest's memory is at its target.
func (s *VMs) WaitMemoryTargetLive(ctx context.Context, c *service.Call, p service.VMWaitMemoryTargetLiveParams) error {
	return s.locked(ctx, c, p.Self, xenapi.VMOperationsAwaitingMemoryLive, func(ctx context.Context, parts *parts) error {
		ctx, cancel := context.WithTimeout(ctx, memoryArrives)
		defer cancel()
		tick := time.NewTicker(memoryLook)
		defer tick.Stop()
		for {
			d, err := s.Env.Node.Hypervisor.Lookup(ctx, parts.vm.UUID)
			if err != nil && ctx.Err() == nil {
				return hypervisorFault(p.Self, err)
			}
			if err == nil && d.Ballooned() {
				return nil
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				if errors.Is(ctx.Err(), context.DeadlineExceeded) {
					return xenapi.ErrVMMemoryTargetWaitTimeout(string(p.Self))
				}
				return context.Cause(ctx)
			}
		}
	})
}

// ComputeMemoryOverhead is what a VM costs the host beyond its own memory.
func (s *VMs) ComputeMemoryOverhead(_ context.Context, _ *service.Call, p service.VMComputeMemoryOverheadParams) (int64, error) {
	vm, err := db.Get(s.Env.DB.View(), p.VM)
	if err != nil {
		return 0, err
	}
	return overhead(vm), nil
}

// MaximiseMemory is the largest static maximum with which the VM fits into a
// total, in bytes.
func (s *VMs) MaximiseMemory(_ context.Context, _ *service.Call, p service.VMMaximiseMemoryParams) (int64, error) {
	vm, err := db.Get(s.Env.DB.View(), p.Self)
	if err != nil {
		return 0, err
	}
	fits := vm.Clone().(*xenapi.VM)
	const step = 1 << 20
	lo, hi := int64(0), p.Total/step
	for lo < hi {
		mid := (lo + hi + 1) / 2
		fits.MemoryStaticMax, fits.MemoryDynamicMax = mid*step, mid*step
		if needed(fits) <= p.Total {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo * step, nil
}

// SetVCPUsMax sets the most processors that a guest can have.
func (s *VMs) SetVCPUsMax(ctx context.Context, c *service.Call, p service.VMSetVCPUsMaxParams) error {
	return s.setVCPUs(ctx, c, p.Self, func(vm *xenapi.VM) error {
		if p.Value < 1 || p.Value > xenctl.MaxVCPUs || p.Value < vm.VCPUsAtStartup {
			return xenapi.ErrInvalidValue("VCPUs_max", strconv.FormatInt(p.Value, 10))
		}
		vm.VCPUsMax = p.Value
		return nil
	})
}

// SetVCPUsAtStartup sets how many processors a guest starts with.
func (s *VMs) SetVCPUsAtStartup(ctx context.Context, c *service.Call, p service.VMSetVCPUsAtStartupParams) error {
	return s.setVCPUs(ctx, c, p.Self, func(vm *xenapi.VM) error {
		if p.Value < 1 || p.Value > vm.VCPUsMax {
			return xenapi.ErrInvalidValue("VCPUs_at_startup", strconv.FormatInt(p.Value, 10))
		}
		vm.VCPUsAtStartup = p.Value
		return nil
	})
}

func (s *VMs) setVCPUs(ctx context.Context, c *service.Call, ref xenapi.VMRef, change func(vm *xenapi.VM) error) error {
	return s.locked(ctx, c, ref, xenapi.VMOperationsChangingVCPUs, func(ctx context.Context, _ *parts) error {
		return s.edit(ctx, ref, change)
	})
}

// edit changes a VM's record.
func (s *VMs) edit(ctx context.Context, ref xenapi.VMRef, change func(vm *xenapi.VM) error) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		vm, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		return change(vm)
	})
}

// SetVCPUsNumberLive changes how many processors a running guest has.
func (s *VMs) SetVCPUsNumberLive(ctx context.Context, c *service.Call, p service.VMSetVCPUsNumberLiveParams) error {
	return s.locked(ctx, c, p.Self, xenapi.VMOperationsChangingVCPUsLive, func(ctx context.Context, parts *parts) error {
		if p.Nvcpu < 1 || p.Nvcpu > parts.vm.VCPUsMax {
			return xenapi.ErrInvalidValue("nvcpu", strconv.FormatInt(p.Nvcpu, 10))
		}
		resizer, ok := xenctl.As[xenctl.Resizer](s.Env.Node.Hypervisor)
		if !ok {
			return xenapi.ErrOperationNotAllowed("the hypervisor can't change the processors of a running guest")
		}
		ctx, cancel := context.WithTimeout(ctx, saga.DefaultStepTimeout)
		defer cancel()
		if err := resizer.SetVCPUs(ctx, parts.vm.UUID, int(p.Nvcpu)); err != nil {
			return hypervisorFault(p.Self, err)
		}
		return s.Env.Update(ctx, func(tx *db.Tx) error {
			m, err := db.Edit(tx, parts.vm.Metrics)
			if err == nil {
				m.VCPUsNumber = p.Nvcpu
			}
			return err
		})
	})
}

// SetHVMShadowMultiplier sets how much shadow memory a guest has, of what it
// needs at least.
func (s *VMs) SetHVMShadowMultiplier(ctx context.Context, c *service.Call, p service.VMSetHVMShadowMultiplierParams) error {
	if !(p.Value >= 1) {
		return xenapi.ErrInvalidValue("multiplier", strconv.FormatFloat(p.Value, 'g', -1, 64))
	}
	return s.locked(ctx, c, p.Self, xenapi.VMOperationsChangingShadowMemory, func(ctx context.Context, _ *parts) error {
		return s.edit(ctx, p.Self, func(vm *xenapi.VM) error { vm.HVMShadowMultiplier = p.Value; return nil })
	})
}
