package facts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// DMI is what the firmware says about the machine.
type DMI struct {
	BIOSVendor, BIOSVersion, BIOSDate                              string
	SystemManufacturer, SystemProduct, SystemVersion, SystemSerial string
	SystemUUID                                                     string
	BoardManufacturer, BoardProduct, BoardVersion, BoardSerial     string
	BoardAssetTag                                                  string
	ChassisManufacturer, ChassisVersion, ChassisSerial             string
	ChassisAssetTag                                                string
	OEMStrings                                                     []string // SMBIOS type 11
	HPROMBIOS                                                      string   // COMPAQ on a machine that has it
}

const dmiDir = "sys/class/dmi/id/"

func readDMI(t tree, f *Facts) error {
	if !t.exists(dmiDir[:len(dmiDir)-1]) {
		return fmt.Errorf("%s: %w", dmiDir, fs.ErrNotExist)
	}
	d := &f.DMI
	var errs []error
	for name, dst := range map[string]*string{
		"bios_vendor": &d.BIOSVendor, "bios_version": &d.BIOSVersion, "bios_date": &d.BIOSDate,
		"sys_vendor": &d.SystemManufacturer, "product_name": &d.SystemProduct, "product_version": &d.SystemVersion,
		"product_serial": &d.SystemSerial, "product_uuid": &d.SystemUUID,
		"board_vendor": &d.BoardManufacturer, "board_name": &d.BoardProduct, "board_version": &d.BoardVersion,
		"board_serial": &d.BoardSerial, "board_asset_tag": &d.BoardAssetTag,
		"chassis_vendor": &d.ChassisManufacturer, "chassis_version": &d.ChassisVersion,
		"chassis_serial": &d.ChassisSerial, "chassis_asset_tag": &d.ChassisAssetTag,
	} {
		text, err := t.text(dmiDir + name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		*dst = printable(text)
	}
	var err error
	if d.OEMStrings, err = oemStrings(t); err != nil {
		errs = append(errs, err)
	}
	d.HPROMBIOS = hpROMBIOS(t, d.SystemManufacturer)
	return errors.Join(errs...)
}

// oemStrings reads the first SMBIOS structure of type 11: byte 1 is the length of the formatted part, byte 4 the
// count, the strings follow the formatted part, each ended by a NUL (SMBIOS 3.7, 6.1.3 and 7.12).
func oemStrings(t tree) ([]string, error) {
	const name = "sys/firmware/dmi/entries/11-0/raw"
	raw, err := fs.ReadFile(t.fs, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(raw) < 5 || int(raw[1]) > len(raw) {
		return nil, fmt.Errorf("%s: %d bytes are no structure", name, len(raw))
	}
	var all []string
	rest := raw[raw[1]:]
	for range raw[4] {
		s, tail, ok := bytes.Cut(rest, []byte{0})
		if !ok || len(s) == 0 {
			break
		}
		all, rest = append(all, printable(strings.TrimSpace(string(s)))), tail
	}
	return all, nil
}

// hpROMBIOS looks for the mark that HP's licensed software looks for. Physical memory is read on HP's machines
// only, and a kernel that forbids it has no mark.
func hpROMBIOS(t tree, manufacturer string) string {
	m := strings.ToLower(manufacturer)
	if !strings.HasPrefix(m, "hp") && !strings.HasPrefix(m, "hewlett") && !strings.HasPrefix(m, "compaq") {
		return ""
	}
	const mark, at = "COMPAQ", 0xfffea
	mem, err := t.fs.Open("dev/mem")
	if err != nil {
		return ""
	}
	defer mem.Close()
	buf := make([]byte, len(mark))
	if r, ok := mem.(io.ReaderAt); ok {
		if _, err := r.ReadAt(buf, at); err == nil && string(buf) == mark {
			return mark
		}
	}
	return ""
}

// printable drops what would not survive XML or a terminal: firmware is full of it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}

// vmCert is the second OEM string that XenServer shows to guests on every host: Windows' OEM activation looks for it.
const vmCert = "MS_VM_CERT/SHA1/bdbeb6e0a816d43fa6d3fe8aaef04c2bad9d3e3d"

// BIOSStrings are the strings under the keys of XenServer's host.bios_strings. Unknown ones are empty but present;
// oem-1 and oem-2 are the same on every host, the machine's own follow.
func (d DMI) BIOSStrings() map[string]string {
	m := map[string]string{
		"bios-vendor": d.BIOSVendor, "bios-version": d.BIOSVersion,
		"system-manufacturer": d.SystemManufacturer, "system-product-name": d.SystemProduct,
		"system-version": d.SystemVersion, "system-serial-number": d.SystemSerial,
		"baseboard-manufacturer": d.BoardManufacturer, "baseboard-product-name": d.BoardProduct,
		"baseboard-version": d.BoardVersion, "baseboard-serial-number": d.BoardSerial,
		"baseboard-asset-tag": d.BoardAssetTag, "enclosure-asset-tag": d.ChassisAssetTag,
		"hp-rombios": d.HPROMBIOS,
		"oem-1":      "Xen", "oem-2": vmCert,
	}
	for i, s := range d.OEMStrings {
		m["oem-"+strconv.Itoa(i+3)] = s
	}
	return m
}
