package wire

import (
	"io"
	"testing"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

func someVM() *xenapi.VM {
	vm := xenapi.NewVM()
	vm.NameLabel, vm.NameDescription = "web <1>", "made for a benchmark"
	vm.OtherConfig = map[string]string{"mac_seed": "c3b7a0de-7a5b-4e0d-9c8f-1f2b3c4d5e6f", "base_template_name": "Debian Bookworm 12"}
	vm.Platform = map[string]string{"acpi": "1", "apic": "true", "pae": "true", "viridian": "false"}
	vm.VBDs = []xenapi.VBDRef{xenapi.NewRef[xenapi.VBDRef](), xenapi.NewRef[xenapi.VBDRef]()}
	return vm
}

func BenchmarkEncodeVM(b *testing.B) {
	vm, typ := someVM(), typ(b, "VM record")
	for name, encode := range map[string]func([]byte, *datamodel.Type, any) []byte{"xml": AppendXML, "json": AppendJSON} {
		b.Run(name, func(b *testing.B) {
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf = encode(buf[:0], typ, vm)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

const smallRef = "OpaqueRef:0165f154-ba3e-034e-6b27-5d271af109ba"

func BenchmarkDecodeSmallCall(b *testing.B) {
	inXML := AppendXMLCall(nil, "VM.get_name_label", smallRef, smallRef)
	inJSON := AppendJSONCall(nil, 1, "VM.get_name_label", smallRef, smallRef)
	ref := typ(b, "VM ref")
	typed := func(params []Value) {
		for i := range params {
			if _, err := Decode(ref, params[i], "self"); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("xml", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, params, err := DecodeXMLCall(inXML)
			if err != nil {
				b.Fatal(err)
			}
			typed(params)
		}
	})
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c, err := DecodeJSONCall(inJSON)
			if err != nil {
				b.Fatal(err)
			}
			typed(c.Params)
		}
	})
}

func BenchmarkSmallReply(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		XMLSuccess(nil, "web <1>").WriteTo(io.Discard)
	}
}

// BenchmarkListOf1000 writes what VM.get_all_records answers from fragments.
func BenchmarkListOf1000(b *testing.B) {
	vm := someVM()
	list := make(RawMap, 1000)
	for i := range list {
		list[i] = RawMember{string(xenapi.NewRef[xenapi.VMRef]()), AppendXML(nil, nil, vm)}
	}
	b.ReportAllocs()
	for b.Loop() {
		r := XMLSuccess(nil, list)
		r.WriteTo(io.Discard)
		b.SetBytes(r.Len())
	}
}
