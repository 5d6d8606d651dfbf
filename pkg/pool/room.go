package pool

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"xapid/pkg/xenapi"
)

// DefaultReserve is how much must be free for changes to be taken: three
// segments of the log.
const DefaultReserve = 192 << 20

// roomAge is how long an answer about free space holds.
const roomAge = 50 * time.Millisecond

// Room returns a function that fails with OUT_OF_SPACE while the file system
// of dir has less than reserve bytes free, so that changes stop before the log
// has no room to record that they stopped. It asks the file system at most
// twenty times a second.
func Room(dir string, reserve uint64) func() error {
	var mu sync.Mutex
	var asked time.Time
	var last error
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(asked) >= roomAge {
			asked, last = now, room(dir, reserve)
		}
		return last
	}
}

func room(dir string, reserve uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return xenapi.ErrInternalError(fmt.Sprintf("free space of %s: %v", dir, err))
	}
	if free := st.Bavail * uint64(st.Bsize); free < reserve {
		return xenapi.ErrOutOfSpace(fmt.Sprintf("%s: %d MiB free, changes need %d MiB", dir, free>>20, reserve>>20))
	}
	return nil
}
