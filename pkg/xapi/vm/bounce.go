package vm

import (
	"context"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// A guest that crashes right after each start would be started for ever, at
// the expense of the others.
const (
	// bounceTime is how long a guest has to have run for its crash to be no
	// bounce. XenServer has the same, and halts it at the first.
	bounceTime = 2 * time.Minute
	// mostBounces is how many in a row leave a VM halted.
	mostBounces = 3
)

// bounces counts the crash of a guest that is to be restarted, and says
// whether it is the one too many. A VM that is halted begins anew.
func (s *VMs) bounces(ref xenapi.VMRef, vm *xenapi.VM) bool {
	m := db.Find(s.Env.DB.View(), vm.Metrics)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m == nil || s.Env.Now().Sub(m.StartTime) >= bounceTime {
		delete(s.bounced, ref)
		return false
	}
	s.bounced[ref]++
	return s.bounced[ref] >= mostBounces
}

// landed forgets the bounces of a VM.
func (s *VMs) landed(ref xenapi.VMRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bounced, ref)
}

// giveUp leaves a VM halted whose guest has bounced too often.
func (s *VMs) giveUp(ctx context.Context, ref xenapi.VMRef, message string) error {
	s.Env.Log.Warn("a guest crashes right after each start and is left halted", "vm", ref, "crashes", mostBounces)
	if err := s.postAbout(ctx, ref, message, "crashes right after each start and is left halted"); err != nil {
		return err
	}
	return s.halted(ctx, ref, "")
}
