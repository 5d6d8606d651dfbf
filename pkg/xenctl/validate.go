package xenctl

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
)

// MaxVCPUs is the most that one domain can have.
const MaxVCPUs = 1024

var (
	uuidShape   = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	deviceShape = regexp.MustCompile(`^(xvd[a-z]{1,2}|hd[a-z]|sd[a-z])$`)
	linkShape   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,15}$`)
	keymapShape = regexp.MustCompile(`^[a-z]{2}(-[a-z]{2,3})?$`)
	keyShape    = regexp.MustCompile(`^vm-data(/[A-Za-z0-9@_.:-]+)*$`)
)

// Validate says whether a config makes sense by itself: what fails here fails on every hypervisor. Errors
// are ErrInvalid.
func (c *DomainConfig) Validate() error {
	if !uuidShape.MatchString(c.UUID) {
		return fmt.Errorf("%w: %q is not a UUID", ErrInvalid, c.UUID)
	}
	if c.Memory.TargetBytes <= 0 || c.Memory.StaticMaxBytes < c.Memory.TargetBytes {
		return fmt.Errorf("%w: memory target %d, static maximum %d", ErrInvalid, c.Memory.TargetBytes, c.Memory.StaticMaxBytes)
	}
	if err := c.VCPUs.validate(); err != nil {
		return err
	}
	if err := c.validateBoot(); err != nil {
		return err
	}
	switch c.OnCrash {
	case "", CrashDestroy, CrashPreserve:
	default:
		return fmt.Errorf("%w: crash action %q", ErrInvalid, c.OnCrash)
	}
	for key, value := range c.Xenstore {
		if err := ValidateXenstoreKey(key); err != nil {
			return err
		}
		if !printable(strings.NewReplacer("\n", "", "\t", "").Replace(value)) {
			return fmt.Errorf("%w: value of xenstore key %q", ErrInvalid, key)
		}
	}
	return c.validateDevices()
}

func (v VCPUs) validate() error {
	switch {
	case v.Max < 1 || v.Max > MaxVCPUs || v.AtStart < 1 || v.AtStart > v.Max:
		return fmt.Errorf("%w: %d VCPUs of %d", ErrInvalid, v.AtStart, v.Max)
	case v.Weight < 0 || v.Weight > 65535:
		return fmt.Errorf("%w: VCPU weight %d", ErrInvalid, v.Weight)
	case v.CapPercent < 0:
		return fmt.Errorf("%w: VCPU cap %d", ErrInvalid, v.CapPercent)
	}
	for _, cpu := range v.Affinity {
		if cpu < 0 {
			return fmt.Errorf("%w: physical CPU %d", ErrInvalid, cpu)
		}
	}
	return nil
}

func (c *DomainConfig) validateBoot() error {
	switch c.Type {
	case TypePV, TypePVH:
		if c.Boot.Kernel == "" && c.Boot.Bootloader == "" {
			return fmt.Errorf("%w: a %s domain needs a kernel or a bootloader", ErrInvalid, c.Type)
		}
	case TypeHVM:
	default:
		return fmt.Errorf("%w: domain type %q", ErrInvalid, c.Type)
	}
	switch c.Boot.Firmware {
	case "", FirmwareBIOS, FirmwareUEFI:
	default:
		return fmt.Errorf("%w: firmware %q", ErrInvalid, c.Boot.Firmware)
	}
	for _, d := range c.Boot.Order {
		if d != BootDisk && d != BootCDROM && d != BootNetwork {
			return fmt.Errorf("%w: boot device %q", ErrInvalid, d)
		}
	}
	for _, path := range []string{c.Boot.Kernel, c.Boot.Ramdisk} {
		if path != "" && !hostPath(path) {
			return fmt.Errorf("%w: path %q", ErrInvalid, path)
		}
	}
	if b := c.Boot.Bootloader; b != "" && b != BootloaderPygrub {
		return fmt.Errorf("%w: bootloader %q: there is only %s", ErrInvalid, b, BootloaderPygrub)
	}
	if !printable(c.Boot.Cmdline) || !printable(c.Boot.BootloaderArgs) {
		return fmt.Errorf("%w: command line", ErrInvalid)
	}
	return nil
}

func (c *DomainConfig) validateDevices() error {
	devices := make(map[string]bool, len(c.Disks))
	for _, d := range c.Disks {
		if err := d.Validate(); err != nil {
			return err
		}
		if devices[d.Device] {
			return fmt.Errorf("%w: disk %q twice", ErrInvalid, d.Device)
		}
		devices[d.Device] = true
	}
	indices := make(map[int]bool, len(c.NICs))
	for _, n := range c.NICs {
		if err := n.Validate(); err != nil {
			return err
		}
		if indices[n.Index] {
			return fmt.Errorf("%w: NIC %d twice", ErrInvalid, n.Index)
		}
		indices[n.Index] = true
	}
	return c.Graphics.validate()
}

func (g *Graphics) validate() error {
	switch {
	case g == nil:
		return nil
	case g.Listen != "" && net.ParseIP(g.Listen) == nil:
		return fmt.Errorf("%w: graphics address %q", ErrInvalid, g.Listen)
	case g.Keymap != "" && !keymapShape.MatchString(g.Keymap):
		return fmt.Errorf("%w: keymap %q", ErrInvalid, g.Keymap)
	case g.VideoMiB < 0 || g.VideoMiB > 256:
		return fmt.Errorf("%w: %d MiB of video memory", ErrInvalid, g.VideoMiB)
	}
	return nil
}

// Validate is DomainConfig.Validate for one disk.
func (d Disk) Validate() error {
	if !deviceShape.MatchString(d.Device) {
		return fmt.Errorf("%w: disk device %q", ErrInvalid, d.Device)
	}
	if d.Source.Path == "" && d.CDROM {
		return nil
	}
	return d.Source.validate()
}

func (s DiskSource) validate() error {
	if !hostPath(s.Path) || (s.Kind != DiskBlock && s.Kind != DiskFile) {
		return fmt.Errorf("%w: disk source %s %q", ErrInvalid, s.Kind, s.Path)
	}
	return nil
}

// Validate is DomainConfig.Validate for one NIC.
func (n NIC) Validate() error {
	if n.Index < 0 || n.MTU < 0 || n.RateKBps < 0 {
		return fmt.Errorf("%w: NIC %d, MTU %d, rate %d", ErrInvalid, n.Index, n.MTU, n.RateKBps)
	}
	if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("%w: MAC address %q", ErrInvalid, n.MAC)
	}
	if !linkShape.MatchString(n.Bridge) || (n.Interface != "" && !linkShape.MatchString(n.Interface)) {
		return fmt.Errorf("%w: bridge %q, interface %q", ErrInvalid, n.Bridge, n.Interface)
	}
	return nil
}

// ValidateXenstoreKey accepts the keys that may be put into a domain's part of xenstore by others: those
// at and below vm-data.
func ValidateXenstoreKey(key string) error {
	if len(key) > 256 || !keyShape.MatchString(key) {
		return fmt.Errorf("%w: xenstore key %q", ErrInvalid, key)
	}
	return nil
}

// SafeName makes the name that a hypervisor's own tools show for a domain: what is harmless of the label,
// and the UUID, which makes it unique and never a number, an option or a path. (A part of the UUID wouldn't
// do: UUIDs that were counted up share their beginning, and two domains of a name can't run.)
func SafeName(label, uuid string) string {
	const maxLabel = 48
	var b strings.Builder
	for _, r := range label {
		if b.Len() == maxLabel {
			break
		}
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String(), "-.")
	if name == "" {
		name = "domain"
	}
	return name + "-" + uuid
}

func hostPath(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && len(path) <= 1024 && printable(path)
}

// printable is false for what neither XML nor xenstore can carry.
func printable(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == '\ufffd' || r == '\ufffe' || r == '\uffff' {
			return false
		}
	}
	return true
}
