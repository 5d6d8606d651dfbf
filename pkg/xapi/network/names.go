package network

import (
	"fmt"
	"strconv"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// maxLinkName is what the kernel allows for a link's name.
const maxLinkName = 15

// The bounds of an MTU that a client may ask for.
const (
	minMTU     = 68
	maxMTU     = 65535
	defaultMTU = 1500
)

// maxDevice bounds VIF.device: no guest has more interfaces.
const maxDevice = 255

// linkName reports whether the kernel could have a link of this name, and
// nothing could mistake it for a path, an option or a pattern.
func linkName(name string) bool {
	if name == "" || len(name) > maxLinkName || name[0] == '-' || strings.Trim(name, ".") == "" {
		return false
	}
	for _, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune("-_.:@", r) {
			return false
		}
	}
	return true
}

// reserved begin the names of links that others make.
var reserved = []string{"xen", "xapi", "vif", "tap", "eth"}

// checkBridge decides on the name that a client wants for a network's bridge.
func checkBridge(rd db.Reader, bridge string, managed bool) error {
	if !linkName(bridge) {
		return xenapi.ErrInvalidValue("bridge", bridge)
	}
	for _, prefix := range reserved {
		if managed && strings.HasPrefix(bridge, prefix) {
			return xenapi.ErrInvalidValue("bridge", bridge)
		}
	}
	if bridges(rd)[bridge] {
		return xenapi.ErrBridgeNameExists(bridge)
	}
	return nil
}

// bridges are the names that networks have taken.
func bridges(rd db.Reader) map[string]bool {
	taken := map[string]bool{}
	for _, n := range db.All[xenapi.NetworkRef](rd) {
		taken[n.Bridge] = true
	}
	return taken
}

// freeBridge is the next name for a network without a PIF.
func freeBridge(taken map[string]bool) string {
	for n := 0; ; n++ {
		if name := fmt.Sprintf("xapi%d", n); !taken[name] {
			return name
		}
	}
}

// bridgeFor names the bridge of a link: xenbr0 for eth0, brX for others.
func bridgeFor(device string, taken map[string]bool) string {
	name := "br" + device
	if n, ok := strings.CutPrefix(device, "eth"); ok {
		name = "xenbr" + n
	}
	if len(name) > maxLinkName || taken[name] {
		return freeBridge(taken)
	}
	return name
}

// checkMTU bounds an MTU; 0 stands for a default.
func checkMTU(mtu int64) error {
	if mtu != 0 && (mtu < minMTU || mtu > maxMTU) {
		return xenapi.ErrInvalidValue("MTU", strconv.FormatInt(mtu, 10))
	}
	return nil
}

// position reads VIF.device: a decimal number without signs or leading zeros.
func position(device string) (int, bool) {
	n, err := strconv.Atoi(device)
	return n, err == nil && n >= 0 && n <= maxDevice && strconv.Itoa(n) == device
}
