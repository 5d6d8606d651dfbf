package facts

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// CPU describes the processors; the model is that of the first.
type CPU struct {
	Count          int // logical processors
	Sockets        int
	Cores          int // over all sockets
	ThreadsPerCore int
	Vendor         string // GenuineIntel
	ModelName      string
	Family         int
	Model          int
	Stepping       int
	MHz            float64
	Flags          []string // in the kernel's names and order
}

// HasVirtualization reports VT-x or SVM.
func (c CPU) HasVirtualization() bool {
	return slices.Contains(c.Flags, "vmx") || slices.Contains(c.Flags, "svm")
}

// readCPU reads proc/cpuinfo in its x86 form: a paragraph a logical processor.
func readCPU(t tree, f *Facts) error {
	text, err := t.text("proc/cpuinfo")
	if err != nil {
		return err
	}
	type core struct{ socket, id string }
	sockets, cores := map[string]bool{}, map[core]bool{}
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		cpu := keyValues(paragraph)
		if _, ok := cpu["processor"]; !ok {
			continue
		}
		if f.CPU.Count == 0 {
			err = f.CPU.describe(cpu)
		}
		f.CPU.Count++
		id, ok := cpu["core id"]
		if !ok { // a kernel that tells no topology: every processor is a core of one socket
			id = "processor " + cpu["processor"]
		}
		sockets[cpu["physical id"]] = true
		cores[core{cpu["physical id"], id}] = true
	}
	if f.CPU.Count == 0 {
		return errors.New("proc/cpuinfo: no processor")
	}
	f.CPU.Sockets, f.CPU.Cores = len(sockets), len(cores)
	f.CPU.ThreadsPerCore = max(1, f.CPU.Count/len(cores))
	return err
}

// describe takes over what one paragraph says about the kind of processor.
func (c *CPU) describe(cpu map[string]string) error {
	c.Vendor, c.ModelName = cpu["vendor_id"], cpu["model name"]
	c.Flags = strings.Fields(cpu["flags"])
	var errs []error
	number := func(key string) int {
		n, err := strconv.Atoi(cpu[key])
		if err != nil && cpu[key] != "" && cpu[key] != "unknown" {
			errs = append(errs, fmt.Errorf("proc/cpuinfo: %s: %w", key, err))
		}
		return n
	}
	c.Family, c.Model, c.Stepping = number("cpu family"), number("model"), number("stepping")
	if s := cpu["cpu MHz"]; s != "" {
		mhz, err := strconv.ParseFloat(s, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("proc/cpuinfo: cpu MHz: %w", err))
		}
		c.MHz = mhz
	}
	return errors.Join(errs...)
}

func keyValues(paragraph string) map[string]string {
	kv := map[string]string{}
	for line := range strings.Lines(paragraph) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			kv[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return kv
}

// featureWords are the words of Xen's feature set in its order (xen include/public/arch-x86/cpufeatureset.h), each
// with the kernel's names of its bits from 0 on; - is a bit that the kernel does not show.
var featureWords = [...]string{
	// 0: leaf 1, edx
	"fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
	// 1: leaf 1, ecx
	"pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor",
	// 2: leaf 0x80000001, edx, without the bits that repeat word 0
	"- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
	// 3: leaf 0x80000001, ecx
	"lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx - -",
	// 4: leaf 0xd:1, eax
	"xsaveopt xsavec xgetbv1 xsaves",
	// 5: leaf 7:0, ebx
	"fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
	// 6: leaf 7:0, ecx
	"- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 user_shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc -",
	// 7: leaf 0x80000007, edx
	"- - - - - - - hw_pstate nonstop_tsc cpb aperfmperf",
	// 8: leaf 0x80000008, ebx
	"clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - - - - - - - - - - - - amd_ppin - virt_ssbd",
	// 9: leaf 7:0, edx
	"- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 - - flush_l1d arch_capabilities - -",
	// 10: leaf 7:1, eax
	"- - - - avx_vnni avx512_bf16 - - - - fzrm fsrs fsrc - - - - - - - - amx_fp16 - avx_ifma - - lam",
}

// Features is the feature set as XenServer prints it in host.cpu_info: eight hex digits a word, joined by hyphens.
// It holds what the kernel shows, so a bit that the kernel hides is 0; on a Xen host the hypervisor's own set is
// the better one.
func (c CPU) Features() string {
	if len(c.Flags) == 0 {
		return ""
	}
	has := make(map[string]bool, len(c.Flags))
	for _, flag := range c.Flags {
		has[flag] = true
	}
	words := make([]string, len(featureWords))
	for i, names := range featureWords {
		var word uint32
		for bit, name := range strings.Fields(names) {
			if has[name] {
				word |= 1 << bit
			}
		}
		words[i] = fmt.Sprintf("%08x", word)
	}
	return strings.Join(words, "-")
}
