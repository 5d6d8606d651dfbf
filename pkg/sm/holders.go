package sm

import (
	"fmt"
	"sync"
)

// Holders remembers who uses which volume of an SR in this process, for drivers to build AttachVolume on. The zero
// value is ready; it is safe for concurrent use.
type Holders struct {
	mu     sync.Mutex
	volume map[string]map[string]Mode
}

// exclusive is the holder during a call that must be alone with a volume. No caller of AttachVolume has that name.
const exclusive = "\x00exclusive"

// Acquire makes holder a holder of a volume. It fails with ErrInUse if another holder's mode, or the same
// holder's different mode, is against it. added is false when it was one already.
func (h *Holders) Acquire(id, holder string, mode Mode) (added bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, again := h.volume[id][holder]
	if again && now == mode {
		return false, nil
	}
	if again {
		return false, fmt.Errorf("%w: %s holds it %s", ErrInUse, id, now)
	}
	for _, other := range h.volume[id] {
		if mode == ReadWrite || other == ReadWrite {
			return false, fmt.Errorf("%w: %s is held %s", ErrInUse, id, other)
		}
	}
	if h.volume == nil {
		h.volume = map[string]map[string]Mode{}
	}
	if h.volume[id] == nil {
		h.volume[id] = map[string]Mode{}
	}
	h.volume[id][holder] = mode
	return true, nil
}

// Release ends a hold; one that is not there is no error.
func (h *Holders) Release(id, holder string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.volume[id], holder)
	if len(h.volume[id]) == 0 {
		delete(h.volume, id)
	}
}

// Exclusive takes a volume for one call, which calls release when it is done. ErrInUse if there is any holder.
func (h *Holders) Exclusive(id string) (release func(), err error) {
	added, err := h.Acquire(id, exclusive, ReadWrite)
	if err != nil {
		return nil, err
	}
	if !added {
		return nil, fmt.Errorf("%w: %s is being changed", ErrInUse, id)
	}
	return func() { h.Release(id, exclusive) }, nil
}

// Busy tells whether any volume has a holder.
func (h *Holders) Busy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.volume) > 0
}
