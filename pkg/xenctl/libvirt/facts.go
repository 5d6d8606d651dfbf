package libvirt

import (
	"sync"
	"time"

	"xapid/pkg/xenctl"
)

// facts is what is known of domains beyond what libvirt tells in one call: what doesn't change in a domain's
// life, what was asked of its guest, and the number of a domain that has already gone. The zero value knows
// nothing; what isn't known is asked for again.
type facts struct {
	mu     sync.Mutex
	byUUID map[string]fact
}

type fact struct {
	id        int
	startedAt time.Time
	maxVCPUs  int   // 0 is unknown
	target    int64 // of the balloon, 0 is unknown
	rebooting bool  // a reboot was asked for
}

// started notes a domain's start, unless a call has noted more of it already.
func (f *facts) started(uuid string, id int, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byUUID == nil {
		f.byUUID = make(map[string]fact)
	}
	x := f.byUUID[uuid]
	if x.id != id {
		x = fact{id: id}
	}
	x.startedAt = at
	f.byUUID[uuid] = x
}

// update changes what is known of one incarnation of a domain and returns it.
func (f *facts) update(uuid string, id int, change func(*fact)) fact {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byUUID == nil {
		f.byUUID = make(map[string]fact)
	}
	x := f.byUUID[uuid]
	if x.id != id {
		x = fact{id: id}
	}
	change(&x)
	f.byUUID[uuid] = x
	return x
}

// stopped completes a stop event with what is known of the domain, and forgets that.
func (f *facts) stopped(e xenctl.Event) xenctl.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	x, known := f.byUUID[e.UUID]
	if !known {
		e.ID = max(e.ID, 0)
		return e
	}
	if e.ID <= 0 {
		e.ID = x.id
	}
	if x.rebooting && x.id == e.ID && e.Reason == xenctl.StopPoweroff {
		e.Reason = xenctl.StopReboot
	}
	if x.id == e.ID {
		delete(f.byUUID, e.UUID)
	}
	return e
}

// keep forgets the domains that aren't among those there, given by UUID with their numbers. One that is
// newer than all of these may have been made since they were listed.
func (f *facts) keep(there map[string]int) {
	newest := 0
	for _, id := range there {
		newest = max(newest, id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for uuid, x := range f.byUUID {
		if _, ok := there[uuid]; !ok && x.id <= newest {
			delete(f.byUUID, uuid)
		}
	}
}
