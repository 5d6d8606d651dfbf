package sim

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"xapid/pkg/xenctl"
)

// KnobPrefix is where in DomainConfig.Xenstore a guest is told how to behave.
//
//	boot-ms             how long it boots
//	shutdown, reboot    what it does when asked to: obey, ignore, crash, poweroff, reboot, or refuse
//	                    (which it says beforehand: such a request ends with ErrRefused)
//	shutdown-ms         how long it takes to do so (5)
//	crash-after-ms, poweroff-after-ms, reboot-after-ms
//	                    what it does by itself, counted from the end of its boot
//	balloon             obey or ignore; balloon-ms: how long it takes (5)
//	unplug              obey or refuse
//	agent               yes or no: whether it says anything of itself
//	ip, os-name, os-version
//	                    what it says
const KnobPrefix = "vm-data/sim/"

// behaviour is how a guest acts. It is data, so that it can be saved with the guest.
type behaviour struct {
	Boot, Shutdown, Balloon                      time.Duration // how long each takes
	OnPoweroff, OnReboot                         string
	CrashAfter, PoweroffAfter, RebootAfter       time.Duration // negative is never
	IgnoreBalloon, RefuseUnplug, NoAgent, Frozen bool
	IP, OSName, OSVersion                        string
}

// The answers to a request to shut down.
const (
	obey    = "obey"
	ignore  = "ignore"
	crash   = "crash"
	refuse  = "refuse"
	inherit = "" // do what was asked
)

func defaultBehaviour(boot time.Duration) behaviour {
	return behaviour{
		Boot: boot, Shutdown: 5 * time.Millisecond, Balloon: 5 * time.Millisecond,
		CrashAfter: -1, PoweroffAfter: -1, RebootAfter: -1,
		OSName: "Debian GNU/Linux 12 (bookworm)", OSVersion: "6.1.0",
	}
}

// set turns one knob.
func (b *behaviour) set(knob, value string) error {
	switch knob {
	case "boot-ms":
		return milliseconds(&b.Boot, value)
	case "shutdown-ms":
		return milliseconds(&b.Shutdown, value)
	case "balloon-ms":
		return milliseconds(&b.Balloon, value)
	case "crash-after-ms":
		return milliseconds(&b.CrashAfter, value)
	case "poweroff-after-ms":
		return milliseconds(&b.PoweroffAfter, value)
	case "reboot-after-ms":
		return milliseconds(&b.RebootAfter, value)
	case "shutdown":
		return answer(&b.OnPoweroff, value)
	case "reboot":
		return answer(&b.OnReboot, value)
	case "balloon":
		return choice(&b.IgnoreBalloon, value, obey, ignore)
	case "unplug":
		return choice(&b.RefuseUnplug, value, obey, refuse)
	case "agent":
		return choice(&b.NoAgent, value, "yes", "no")
	case "ip":
		b.IP = value
	case "os-name":
		b.OSName = value
	case "os-version":
		b.OSVersion = value
	default:
		return fmt.Errorf("unknown")
	}
	return nil
}

// setAll turns the knobs that are in a domain's xenstore data.
func (b *behaviour) setAll(xenstore map[string]string) error {
	for key, value := range xenstore {
		knob, ok := strings.CutPrefix(key, KnobPrefix)
		if !ok {
			continue
		}
		if err := b.set(knob, value); err != nil {
			return fmt.Errorf("%w: %s=%q: %w", xenctl.ErrInvalid, key, value, err)
		}
	}
	return nil
}

func milliseconds(d *time.Duration, value string) error {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return fmt.Errorf("not a number of milliseconds")
	}
	*d = time.Duration(n) * time.Millisecond
	return nil
}

func answer(a *string, value string) error {
	switch value {
	case obey:
		*a = inherit
	case ignore, crash, refuse, string(xenctl.ShutdownPoweroff), string(xenctl.ShutdownReboot):
		*a = value
	default:
		return fmt.Errorf("not one of obey, ignore, crash, poweroff, reboot, refuse")
	}
	return nil
}

func choice(b *bool, value, no, yes string) error {
	if value != no && value != yes {
		return fmt.Errorf("not one of %s, %s", no, yes)
	}
	*b = value == yes
	return nil
}
