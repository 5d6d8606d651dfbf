package host

import (
	"strconv"
	"strings"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
)

// clockSlack is how far the kernel's idea of its boot time may wander.
const clockSlack = time.Minute

// BootedSince reports whether the machine has booted since the daemon last
// ran on it, by the boot time that the host's record kept. Ask before Ensure
// writes the new one.
func BootedSince(env *xapi.Env, boot time.Time) bool {
	h := db.Find(env.DB.View(), env.Host())
	if h == nil {
		return false
	}
	was, err := strconv.ParseInt(strings.TrimSuffix(h.OtherConfig["boot_time"], "."), 10, 64)
	return err == nil && boot.Sub(time.Unix(was, 0)).Abs() > clockSlack
}
