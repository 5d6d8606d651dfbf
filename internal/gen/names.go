package main

import (
	"fmt"
	"strings"
	"text/template"
	"unicode"

	"xapid/pkg/datamodel"
)

// initialisms are written in capitals in Go names, as the field writes them.
var initialisms = words("VM VMs VDI VDIs VBD VBDs VIF VIFs SR SRs PBD PBDs PIF PIFs VLAN SM HVM PV VCPU VCPUs CPU CPUs" +
	" UUID ID IP IPs IPv4 IPv6 DNS MAC MTU MACs GPU PGPU VGPU PCI PCIs PVS USB PUSB VUSB VTPM VTPMs VMPP VMSS HA RRD URL" +
	" TLS SSL HTTP HTTPS SDN NBD CBT NVRAM BIOS DR LVHD WLB NTP OS API RBAC XML XMLRPC SSH NUMA PSR AD CA RPU TTL" +
	" XAPI PVH UEFI ISO IO QOS SCSI DB VNC PGPUs VGPUs VUSBs PUSBs PCPUs IOMMU CRL RAM")

func words(s string) map[string]string {
	m := map[string]string{}
	for _, w := range strings.Fields(s) {
		m[strings.ToLower(w)] = w
	}
	return m
}

// goName turns a name of the API into an exported Go name: name_label becomes
// NameLabel, get_all_VBDs GetAllVBDs, VM VM.
func goName(s string) string {
	var b strings.Builder
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if known, ok := initialisms[strings.ToLower(w)]; ok {
			b.WriteString(known)
			continue
		}
		b.WriteString(strings.ToUpper(w[:1]) + w[1:])
	}
	return b.String()
}

// errorName turns VM_BAD_POWER_STATE into ErrVMBadPowerState.
func errorName(code string) string { return "Err" + goName(strings.ToLower(code)) }

// argName makes a parameter name of Go: the first word in lower case, apart
// from the language's own words.
func argName(s string, i int) string {
	n := goName(s)
	if n == "" || unicode.IsDigit(rune(n[0])) {
		return fmt.Sprintf("p%d", i)
	}
	rest := strings.TrimLeftFunc(n, unicode.IsUpper)
	head := n[:len(n)-len(rest)]
	if rest != "" && len(head) > 1 {
		rest = head[len(head)-1:] + rest
		head = head[:len(head)-1]
	}
	n = strings.ToLower(head) + rest
	switch n {
	case "type", "range", "map", "func", "var", "interface", "import", "default", "string", "ctx", "err", "error":
		return n + "_"
	}
	return n
}

// errorArgs lists the Go parameters of an error constructor, all distinct.
func errorArgs(e datamodel.ErrorCode) []string {
	seen := map[string]bool{}
	var out []string
	for i, p := range e.Params {
		n := argName(p, i)
		if seen[n] {
			n = fmt.Sprintf("%s%d", n, i)
		}
		seen[n] = true
		out = append(out, n)
	}
	return out
}

// enumName is the Go type of an enum.
func enumName(e *datamodel.Enum) string {
	n := goName(e.Name)
	if n == goName(e.Name) && n != "" && classNames[n] {
		return n + "Enum"
	}
	return n
}

// classNames are the Go names of records, which enums must not take.
var classNames = func() map[string]bool {
	m := map[string]bool{}
	for _, c := range datamodel.Get().Classes {
		m[goName(c.Name)] = true
	}
	return m
}()

// memberName is the Go constant of an enum member.
func memberName(e *datamodel.Enum, m string) string {
	if m == "" {
		return enumName(e) + "Empty"
	}
	return enumName(e) + goName(m)
}

var funcs = template.FuncMap{
	"goName": goName, "errorName": errorName, "errorArgs": errorArgs, "enumName": enumName,
	"memberName": memberName, "goType": goType, "ptr": ptr, "arg": arg, "result": result, "zero": zero,
	"defaults": defaults, "decode": decodeResult, "lower": strings.ToLower, "join": strings.Join,
	"explicit": explicit, "doc": docLine, "cell": cell, "clientArg": clientArg, "comment": comment,
	"byKind": func(m *datamodel.Message, k string) bool { return string(m.Kind) == k },
	"quote":  func(s string) string { return fmt.Sprintf("%q", s) },
	"local":  argName,
}
