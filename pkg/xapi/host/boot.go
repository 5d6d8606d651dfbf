package host

import (
	"strconv"
	"strings"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/xapi"
)

// The keys of other_config that tell one boot of the machine from another.
const (
	bootTimeKey = "boot_time" // XenServer's
	bootIDKey   = "boot_id"
)

// clockSlack is how far the kernel's idea of its boot time may wander.
const clockSlack = time.Minute

// BootedSince reports whether the machine has booted since the daemon last
// ran on it. Ask before Ensure records this boot.
func BootedSince(env *xapi.Env, now facts.Facts) bool {
	h := db.Find(env.DB.View(), env.Host())
	return h != nil && rebooted(h.OtherConfig, now)
}

// rebooted reports whether other_config is of an earlier boot: by the kernel's
// name for it, or by its time where that was not recorded. (Two boots may be
// less than a minute apart.)
func rebooted(config map[string]string, now facts.Facts) bool {
	if id := config[bootIDKey]; id != "" && now.BootID != "" {
		return id != now.BootID
	}
	was, err := strconv.ParseInt(strings.TrimSuffix(config[bootTimeKey], "."), 10, 64)
	return err == nil && now.BootTime.Sub(time.Unix(was, 0)).Abs() > clockSlack
}
