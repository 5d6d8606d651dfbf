package wire

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// text draws what may be stored.
func text() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringMatching(`[ -~\t\n\r]{0,20}`),
		rapid.SampledFrom([]string{"", "]]>", "<![CDATA[x]]>", "&amp;", "</value>", "\U0010FFFF", "é", "\u202e", `\u0000`, `"\`}),
		rapid.String().Filter(func(s string) bool { return checkText(s) == textGood }),
	)
}

// float draws what 15 digits hold, since %.16g loses the rest.
func float(t *rapid.T) float64 {
	f, _ := strconv.ParseFloat(strconv.FormatFloat(rapid.Float64Range(-1e300, 1e300).Draw(t, "f"), 'g', 15, 64), 64)
	return f
}

func draw[T any](t *rapid.T, g *rapid.Generator[T]) T { return g.Draw(t, "v") }

// canonical draws a canonical value of a type.
func canonical(t *rapid.T, typ *datamodel.Type) any {
	key := text()
	list := rapid.SliceOfN(text(), 0, 4).AsAny()
	switch typ.Kind {
	case datamodel.Int:
		return draw(t, rapid.Int64())
	case datamodel.Float:
		return float(t)
	case datamodel.Bool:
		return draw(t, rapid.Bool())
	case datamodel.DateTime:
		return time.Unix(draw(t, rapid.Int64Range(-62135596799, 253402300799)), 0).UTC()
	case datamodel.EnumType:
		return draw(t, rapid.SampledFrom(typ.Enum.Members))
	case datamodel.Void:
		return nil
	case datamodel.Option:
		return canonical(t, typ.Elem)
	}
	if typ.Textual() {
		return draw(t, key)
	}
	switch typ.String() {
	case "int set":
		return draw(t, rapid.SliceOfN(rapid.Int64(), 0, 4))
	case "string set set":
		return draw(t, rapid.SliceOfN(rapid.SliceOfN(text(), 0, 4), 0, 4))
	case "(int -> int) map":
		return draw(t, rapid.MapOfN(rapid.Int64(), rapid.Int64(), 0, 4))
	case "(string -> int) map":
		return draw(t, rapid.MapOfN(key, rapid.Int64(), 0, 20))
	case "(string -> string set) map":
		return draw(t, rapid.MapOfN(key, rapid.SliceOfN(text(), 0, 4), 0, 4))
	case "(int -> string set) map":
		return draw(t, rapid.MapOfN(rapid.Int64(), rapid.SliceOfN(text(), 0, 4), 0, 4))
	case "(string -> string) map":
		return draw(t, rapid.MapOfN(key, text(), 0, 20))
	case "string set":
		return draw(t, list)
	case "(VM ref -> (string -> string) map) map":
		return draw(t, rapid.MapOfN(key, rapid.MapOfN(key, text(), 0, 4), 0, 4))
	}
	return nil
}

// TestRoundTrip: what is encoded decodes to itself, in both encodings, and
// readers that others wrote find it well-formed.
func TestRoundTrip(t *testing.T) {
	for _, spelled := range []string{"string", "VM ref", "secretstring", "int", "float", "bool", "datetime", "void",
		"enum vm_power_state", "string option", "string set", "int set", "string set set", "(string -> string) map",
		"(string -> int) map", "(string -> string set) map", "(int -> int) map", "(int -> string set) map",
		"(VM ref -> (string -> string) map) map"} {
		typ := typ(t, spelled)
		t.Run(spelled, rapid.MakeCheck(func(t *rapid.T) {
			v := canonical(t, typ)
			inXML, inJSON := AppendXML(nil, typ, v), AppendJSON(nil, typ, v)
			if !json.Valid(inJSON) {
				t.Fatalf("no JSON: %s", inJSON)
			}
			wellFormed(t, inXML)
			for _, wired := range []func() (Value, error){
				func() (Value, error) { return DecodeXMLResponse(XMLSuccess(typ, v).Bytes()) },
				func() (Value, error) { return DecodeJSONResponse(JSONSuccess(&Call{ID: []byte("1")}, typ, v).Bytes()) },
			} {
				raw, err := wired()
				if err != nil {
					t.Fatalf("%#v: %v", v, err)
				}
				got, err := Decode(typ, raw, "p")
				if err != nil || !reflect.DeepEqual(got, v) {
					t.Fatalf("%#v became %#v, %v", v, got, err)
				}
			}
		}))
	}
}

func wellFormed(t *rapid.T, doc []byte) {
	d := xml.NewDecoder(strings.NewReader(string(doc)))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
	}
}

// TestRecordRoundTrip: a record of every class comes back field by field.
func TestRecordRoundTrip(t *testing.T) {
	for _, class := range datamodel.Get().Classes {
		r := xenapi.New(class.ID)
		typ := &datamodel.Type{Kind: datamodel.Record, Name: class.Name, Class: class}
		set := typOf(datamodel.Set, typ)
		byRef := typOf(datamodel.Map, typ)
		for name, c := range map[string]struct {
			typ *datamodel.Type
			v   any
		}{
			"record": {typ, r}, "set": {set, []xenapi.Record{r, r}}, "map": {byRef, map[string]xenapi.Record{"a": r, "b": r}},
		} {
			raw, err := DecodeXMLResponse(XMLSuccess(c.typ, c.v).Bytes())
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(c.typ, raw, "p")
			if err != nil {
				t.Fatalf("%s: %v", class.Name, err)
			}
			again := string(AppendXML(nil, c.typ, got))
			if want := string(AppendXML(nil, c.typ, c.v)); again != want {
				t.Errorf("%s %s:\n got %s\nwant %s", class.Name, name, again, want)
			}
		}
	}
}

func typOf(kind datamodel.TypeKind, elem *datamodel.Type) *datamodel.Type {
	return &datamodel.Type{Kind: kind, Key: &datamodel.Type{Kind: datamodel.String}, Elem: elem}
}

// TestCallRoundTrip: what our client writes, our server reads.
func TestCallRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		params := draw(t, rapid.SliceOfN(text(), 0, 5))
		in := make([]any, len(params))
		for i, p := range params {
			in[i] = p
		}
		method, x, err := DecodeXMLCall(AppendXMLCall(nil, "VM.start", in...))
		if err != nil || method != "VM.start" || len(x) != len(in) {
			t.Fatal(method, x, err)
		}
		c, err := DecodeJSONCall(AppendJSONCall(nil, 1, "VM.start", in...))
		if err != nil || c.Method != "VM.start" || !c.V2 || len(c.Params) != len(in) {
			t.Fatal(c, err)
		}
		for i := range in {
			if x[i].Text != params[i] || c.Params[i].Text != params[i] {
				t.Fatalf("%q became %q and %q", params[i], x[i].Text, c.Params[i].Text)
			}
		}
	})
}

func TestFailuresComeBack(t *testing.T) {
	fault := &xenapi.Error{Code: "VM_BAD_POWER_STATE", Params: []string{"r", "running", ""}}
	for _, err := range []error{
		second(DecodeXMLResponse(XMLFailure(fault).Bytes())),
		second(DecodeJSONResponse(JSONFailure(&Call{ID: []byte("1")}, fault).Bytes())),
		second(DecodeJSONResponse(JSONFailure(&Call{ID: []byte("1"), V2: true}, fault).Bytes())),
	} {
		if !reflect.DeepEqual(err, error(fault)) {
			t.Errorf("got %v", err)
		}
	}
	for _, body := range []string{"", "{}", "[]", `{"id":1}`, "<methodResponse/>", "<methodResponse><params/></methodResponse>"} {
		malformed(t, second(DecodeXMLResponse([]byte(body))))
		malformed(t, second(DecodeJSONResponse([]byte(body))))
	}
	v, err := DecodeXMLResponse(XMLBare(nil, []string{"a"}).Bytes())
	if err != nil || len(v.Items) != 1 {
		t.Errorf("bare: %v %v", v, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestEchoGivesBackWhatCame(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":[1,0.5,true,"x",null]}`: `{"a":[1,0.5,true,"x",null]}`,
		"18446744073709551616":        "1.844674407370955e+19",
	} {
		if got := string(AppendJSON(nil, nil, oneJSON(t, in))); got != want {
			t.Errorf("%s: got %s", in, got)
		}
	}
	in := "<value><struct><member><name>d</name><value><dateTime.iso8601>20260823T10:11:12Z</dateTime.iso8601></value></member></struct></value>"
	if got := string(AppendXML(nil, nil, oneXML(t, in))); got != in {
		t.Errorf("got %s", got)
	}
	if got := string(AppendJSON(nil, nil, oneXML(t, "<value><i4>nonsense</i4></value>"))); !json.Valid([]byte(got)) {
		t.Errorf("got %s", got)
	}
}

func TestFloatsPrintAsC(t *testing.T) {
	for f, want := range map[float64]string{0: "0", 1: "1", -2.5: "-2.5", 123456789012345678: "1.234567890123457e+17",
		1e15: "1000000000000000", 1e16: "1e+16", 0.0001: "0.0001", 0.00001: "1e-05", math.MaxFloat64: "1.797693134862316e+308"} {
		if got := string(appendFloat(nil, f)); got != want {
			t.Errorf("%v: got %s, want %s", f, got, want)
		}
	}
}
