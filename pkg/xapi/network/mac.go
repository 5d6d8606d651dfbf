package network

import (
	"crypto/md5"
	"net"
	"strings"
)

// MACFor generates the address of a VM's VIF from the VM's mac_seed and the
// position of the VIF: always the same one, locally administered.
func MACFor(seed string, device int) string {
	h := []byte(seed)
	for range 2*device + 1 {
		sum := md5.Sum(h)
		h = sum[:]
	}
	again := md5.Sum(h)
	mac := net.HardwareAddr{h[0], h[1], h[2], h[3], again[1], again[2]}
	mac[0] = mac[0]&^1 | 2
	return mac.String()
}

// parseMAC gives a unicast address of six octets in the form that records
// hold; false for anything else.
func parseMAC(text string) (string, bool) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || len(text) != 17 || strings.Contains(text, "-") {
		return "", false
	}
	zero := mac.String() == "00:00:00:00:00:00"
	return mac.String(), !zero && mac[0]&1 == 0
}
