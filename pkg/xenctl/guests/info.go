package guests

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenstore"
)

// The keys of the Linux guest agent (xe-guest-utilities) and what they are called in GuestInfo.
var (
	osKeys = map[string]string{"data/os_name": "name", "data/os_uname": "uname", "data/os_distro": "distro",
		"data/os_majorver": "major", "data/os_minorver": "minor"}
	driverKeys = map[string]string{"attr/PVAddons/MajorVersion": "major", "attr/PVAddons/MinorVersion": "minor",
		"attr/PVAddons/MicroVersion": "micro", "attr/PVAddons/BuildVersion": "build"}
	memoryKeys = map[string]string{"data/meminfo_total": "total", "data/meminfo_free": "free"}
)

// meaningful are the keys that are looked at when a guest has changed too many to name.
var meaningful = slices.Concat(slices.Collect(maps.Keys(osKeys)), slices.Collect(maps.Keys(driverKeys)), slices.Collect(maps.Keys(memoryKeys)))

// other says that a key has no meaning of its own here.
func other(key string) bool {
	return strings.HasPrefix(key, "data/") && osKeys[key] == "" && memoryKeys[key] == ""
}

// info says what the keys mean. Networks are numbered by the devices' numbers.
func (k keys) info() xenctl.GuestInfo {
	i := xenctl.GuestInfo{OS: map[string]string{}, Networks: map[string]string{}, PVDrivers: map[string]string{},
		Features: map[string]bool{}, Other: map[string]string{}, Memory: map[string]string{}}
	for key, value := range k {
		switch {
		case osKeys[key] != "":
			i.OS[osKeys[key]] = value
		case driverKeys[key] != "":
			i.PVDrivers[driverKeys[key]] = value
		case memoryKeys[key] != "":
			i.Memory[memoryKeys[key]] = value
		case strings.HasPrefix(key, "control/"):
			feature(i.Features, strings.TrimPrefix(key, "control/"), value)
		case strings.HasPrefix(key, "attr/"):
			address(i.Networks, strings.Split(key, "/"), value)
		case strings.HasPrefix(key, "device/") && strings.HasSuffix(key, "/state"):
			i.PVDetected = i.PVDetected || xenstore.XenbusState(value) == xenstore.XenbusConnected
		case strings.HasPrefix(key, "data/"):
			i.Other[strings.ReplaceAll(key, "/", "-")] = value
		}
	}
	return i
}

// feature notes what the guest offers. Linux says feature-poweroff for what others call feature-shutdown.
func feature(features map[string]bool, name, value string) {
	on := value == "1"
	features[name] = on
	if name == "feature-poweroff" && on {
		features["feature-shutdown"] = true
	}
}

// address notes an IP address: attr/vif/N/ipv4/M and ipv6/M, or the older attr/ethN/ip and attr/ethN/ipv6/M/addr.
func address(networks map[string]string, path []string, value string) {
	ip, err := netip.ParseAddr(value)
	if err != nil || ip.Zone() != "" {
		return
	}
	text := ip.String()
	switch {
	case len(path) == 5 && path[1] == "vif" && path[3] == "ipv4" && ip.Is4():
		networks[path[2]+"/ipv4/"+path[4]] = text
		if path[4] == "0" {
			networks[path[2]+"/ip"] = text
		}
	case len(path) == 5 && path[1] == "vif" && path[3] == "ipv6" && ip.Is6():
		networks[path[2]+"/ipv6/"+path[4]] = text
	case len(path) == 3 && path[2] == "ip" && ip.Is4():
		device := strings.TrimPrefix(path[1], "eth")
		networks[device+"/ip"], networks[device+"/ipv4/0"] = text, text
	case len(path) == 5 && path[2] == "ipv6" && path[4] == "addr" && ip.Is6():
		networks[strings.TrimPrefix(path[1], "eth")+"/ipv6/"+path[3]] = text
	}
}
