package wire

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// xmlCall puts values, as XML, into a call.
func xmlCall(method string, values ...string) string {
	return "<?xml version='1.0'?>\n<methodCall>\n<methodName>" + method + "</methodName>\n<params>\n<param>" +
		strings.Join(values, "</param>\n<param>") + "</param></params>\n</methodCall>\n"
}

// oneXML decodes a call with one parameter.
func oneXML(tb testing.TB, value string) Value {
	tb.Helper()
	_, params, err := DecodeXMLCall([]byte(xmlCall("m", value)))
	if err != nil || len(params) != 1 {
		tb.Fatalf("%s: %v, %v", value, params, err)
	}
	return params[0]
}

func oneJSON(tb testing.TB, value string) Value {
	tb.Helper()
	c, err := DecodeJSONCall([]byte(`{"method":"m","params":[` + value + `],"id":1}`))
	if err != nil || len(c.Params) != 1 {
		tb.Fatalf("%s: %v, %v", value, c.Params, err)
	}
	return c.Params[0]
}

func TestXMLAccepted(t *testing.T) {
	for name, c := range map[string]struct {
		xml  string
		want Value
	}{
		"bare text":       {"<value>a b</value>", Value{Kind: String, Text: "a b"}},
		"bare blanks":     {"<value> \n</value>", Value{Kind: String, Text: " \n"}},
		"string":          {"<value> <string> x </string>\n</value>", Value{Kind: String, Text: " x "}},
		"empty value":     {"<value/>", Value{Kind: String}},
		"empty string":    {"<value><string/></value>", Value{Kind: String}},
		"entities":        {"<value>&lt;&gt;&amp;&quot;&apos;&#65;&#x42;</value>", Value{Kind: String, Text: `<>&"'AB`}},
		"CDATA":           {"<value>a<![CDATA[<&]]>b</value>", Value{Kind: String, Text: "a<&b"}},
		"comment in text": {"<value>a<!-- < -->b</value>", Value{Kind: String, Text: "ab"}},
		"comment between": {"<value><!-- x --><int>1</int><?pi?></value>", Value{Kind: Int, Text: "1"}},
		"attributes":      {`<value a="/>" ><i4 b='"'>5</i4></value>`, Value{Kind: Int, Text: "5"}},
		"i8":              {"<value><i8>-5</i8></value>", Value{Kind: Int, Text: "-5"}},
		"boolean":         {"<value><boolean>1</boolean></value>", Value{Kind: Bool, Text: "1"}},
		"double":          {"<value><double>0.5</double></value>", Value{Kind: Double, Text: "0.5"}},
		"dateTime":        {"<value><dateTime.iso8601>x</dateTime.iso8601></value>", Value{Kind: DateTime, Text: "x"}},
		"base64":          {"<value><base64>eA==</base64></value>", Value{Kind: Base64, Text: "eA=="}},
		"nil":             {"<value><nil/></value>", Value{Kind: Nil}},
		"nil in two tags": {"<value><nil></nil></value>", Value{Kind: Nil}},
		"empty array":     {"<value><array/></value>", Value{Kind: Array}},
		"array, no data":  {"<value><array></array></value>", Value{Kind: Array}},
		"array, data":     {"<value><array><data/></array></value>", Value{Kind: Array}},
		"array of two": {"<value><array> <data> <value>a</value> <value><array><data><value>b</value></data></array></value> </data> </array></value>",
			Value{Kind: Array, Items: []Value{{Kind: String, Text: "a"}, {Kind: Array, Items: []Value{{Kind: String, Text: "b"}}}}}},
		"empty struct": {"<value><struct/></value>", Value{Kind: Struct}},
		"struct": {"<value><struct> <member> <name>&lt;n</name> <value>v</value> </member> <member><name/><value/></member></struct></value>",
			Value{Kind: Struct, Items: []Value{{Kind: String, Name: "<n", Text: "v"}, {Kind: String}}}},
	} {
		if got := oneXML(t, c.xml); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestXMLCallWithoutParams(t *testing.T) {
	for _, params := range []string{"", "<params/>", "<params></params>", "<params> </params>"} {
		for _, head := range []string{"", "\xef\xbb\xbf", "<?xml version=\"1.0\" encoding='UTF-8' standalone=\"yes\"?><!-- c -->"} {
			m, p, err := DecodeXMLCall([]byte(head + "<methodCall><methodName>system.listMethods</methodName>" + params + "</methodCall>"))
			if m != "system.listMethods" || p != nil || err != nil {
				t.Errorf("%q %q: %q %v %v", head, params, m, p, err)
			}
		}
	}
}

func TestJSONAccepted(t *testing.T) {
	long := `"` + strings.Repeat("i", 1<<20) + `"`
	for name, c := range map[string]struct {
		body string
		want Call
	}{
		"1.0":              {`{"method":"m","params":["a",1],"id":7}`, Call{Method: "m", ID: []byte("7"), Params: []Value{{Kind: String, Text: "a"}, {Kind: Number, Text: "1"}}}},
		"1.0 said":         {`{"jsonrpc":"1.0","id":"x","params":[],"method":"m"}`, Call{Method: "m", ID: []byte(`"x"`)}},
		"2.0, no params":   {` {"jsonrpc" : "2.0" , "method":"m","id":-1.5e2} `, Call{Method: "m", ID: []byte("-1.5e2"), V2: true}},
		"2.0, object":      {`{"jsonrpc":"2.0","method":"m","id":0,"params":{"a":true}}`, Call{Method: "m", ID: []byte("0"), V2: true, Params: []Value{{Kind: Struct, Items: []Value{{Kind: Bool, Name: "a", Text: "1"}}}}}},
		"other members":    {`{"method":"m","params":[null],"id":"é\u00e9","x":{"y":[]}}`, Call{Method: "m", ID: []byte(`"é\u00e9"`), Params: []Value{{}}}},
		"long id":          {`{"method":"m","params":[],"id":` + long + `}`, Call{Method: "m", ID: []byte(long)}},
		"escapes":          {`{"method":"m","params":["\"\\\/\b\f\n\r\t\u0041\ud83d\ude00"],"id":1}`, Call{Method: "m", ID: []byte("1"), Params: []Value{{Kind: String, Text: "\"\\/\b\f\n\r\tA😀"}}}},
		"numbers as given": {`{"method":"m","params":[-0,0.0,1E-2,18446744073709551616],"id":1}`, Call{Method: "m", ID: []byte("1"), Params: []Value{{Kind: Number, Text: "-0"}, {Kind: Number, Text: "0.0"}, {Kind: Number, Text: "1E-2"}, {Kind: Number, Text: "18446744073709551616"}}}},
	} {
		got, err := DecodeJSONCall([]byte(c.body))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestDecodeTyped(t *testing.T) {
	utc := time.Date(2026, 8, 23, 10, 11, 12, 0, time.UTC)
	for _, c := range []struct {
		spelled, xml, json string
		want               any
	}{
		{"int", "<value><i4>5</i4></value>", "5", int64(5)},
		{"int", "<value>-9223372036854775808</value>", "-9223372036854775808", int64(-1 << 63)},
		{"int", "<value><int>9223372036854775807</int></value>", "9223372036854775807", int64(1<<63 - 1)},
		{"int", "<value>0x1F</value>", `"0x1f"`, int64(31)},
		{"float", "<value><double>0.5</double></value>", "0.5", 0.5},
		{"float", "<value><i4>5</i4></value>", "5", 5.0},
		{"float", "<value>1e3</value>", `"1e3"`, 1000.0},
		{"bool", "<value><boolean>0</boolean></value>", "false", false},
		{"bool", "<value><boolean>1</boolean></value>", "true", true},
		{"datetime", "<value><dateTime.iso8601>20260823T10:11:12Z</dateTime.iso8601></value>", `"20260823T10:11:12Z"`, utc},
		{"datetime", "<value>2026-08-23T10:11:12Z</value>", `"2026-08-23T10:11:12.999Z"`, utc},
		{"datetime", "<value>20260823T10:11:12</value>", `"2026-08-23T10:11:12"`, utc},
		{"datetime", "<value>20260823T12:11:12+02:00</value>", `"2026-08-23T02:41:12-0730"`, utc},
		{"string", "<value>x</value>", `"x"`, "x"},
		{"string", "<value><base64>w6k=\n</base64></value>", `"é"`, "é"},
		{"VM ref", "<value></value>", `""`, ""},
		{"enum vm_power_state", "<value>halted</value>", `"HALTED"`, "Halted"},
		{"VM ref set", "<value><array><data><value>a</value></data></array></value>", `["a"]`, []string{"a"}},
		{"int set", "<value><array><data><value>1</value></data></array></value>", "[1]", []int64{1}},
		{"string set set", "<value><array><data><value><array/></value></data></array></value>", "[[]]", [][]string{{}}},
		{"(string -> string) map", "<value><struct><member><name>k</name><value>v</value></member></struct></value>", `{"k":"v"}`, map[string]string{"k": "v"}},
		{"(int -> int) map", "<value><struct><member><name>1</name><value>2</value></member></struct></value>", `{"1":2}`, map[int64]int64{1: 2}},
		{"string option", "<value><nil/></value>", "null", nil},
		{"string option", "<value>x</value>", `"x"`, "x"},
		{"void", "<value/>", `""`, nil},
	} {
		for _, v := range []Value{oneXML(t, c.xml), oneJSON(t, c.json)} {
			got, err := Decode(typ(t, c.spelled), v, "p")
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s of %+v: got %#v, %v", c.spelled, v, got, err)
			}
		}
	}
}

func TestJSONScalarsOfAnotherType(t *testing.T) {
	for _, c := range []struct{ spelled, json string }{
		{"int", "5.0"}, {"int", "1e3"}, {"int", "9223372036854775808"}, {"int", "true"}, {"int", "null"},
		{"bool", "1"}, {"bool", `"true"`}, {"string", "1"}, {"string", "null"}, {"datetime", "0"}, {"float", "true"},
	} {
		if got, err := Decode(typ(t, c.spelled), oneJSON(t, c.json), "p"); xenapi.Code(err) != "XMLRPC_UNMARSHAL_FAILURE" {
			t.Errorf("%s as %s: %v, %v", c.json, c.spelled, got, err)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	for name, c := range map[string]struct {
		spelled, json string
		want          []string
	}{
		"enum":                  {"enum vm_power_state", `"Melted"`, []string{"INVALID_VALUE", "p", "Melted"}},
		"shape":                 {"int", `"x"`, []string{"XMLRPC_UNMARSHAL_FAILURE", "int", "string x"}},
		"secret is not told":    {"secretstring", `12345`, []string{"XMLRPC_UNMARSHAL_FAILURE", "secretstring", "number"}},
		"secret with NUL":       {"secretstring", `"pw\u0000"`, []string{"INVALID_VALUE", "p", ""}},
		"field type":            {"VM record", `{"VCPUs_max":[]}`, []string{"FIELD_TYPE_ERROR", "VCPUs_max"}},
		"field value":           {"VM record", `{"actions_after_crash":"explode"}`, []string{"INVALID_VALUE", "actions_after_crash", "explode"}},
		"long text is cut":      {"enum vm_power_state", `"` + strings.Repeat("é", 200) + `"`, []string{"INVALID_VALUE", "p", strings.Repeat("é", 128)}},
		"two spellings, a key":  {"(enum vm_operations -> string) map", `{"start":"","Start":""}`, []string{"XMLRPC_UNMARSHAL_FAILURE", "(enum vm_operations -> string) map", `struct with key "Start" twice`}},
		"key of no enum member": {"(enum vm_operations -> string) map", `{"x":""}`, []string{"INVALID_VALUE", "p", "x"}},
	} {
		_, err := Decode(typ(t, c.spelled), oneJSON(t, c.json), "p")
		e, ok := errors.AsType[*xenapi.Error](err)
		if !ok || !reflect.DeepEqual(e.Description(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestRecordMembers(t *testing.T) {
	vm := datamodel.Get().Class("VM")
	got, err := Decode(typ(t, "VM record"), oneJSON(t, `{"name_label":"n","nonsense":[],"allowed_operations":3,"VCPUs_max":"2"}`), "args")
	if err != nil {
		t.Fatal(err)
	}
	f := got.(*Fields)
	if v, ok := f.Get(vm.FieldByName("name_label")); v != "n" || !ok {
		t.Errorf("name_label %v %v", v, ok)
	}
	if v, ok := f.Get(vm.FieldByName("VCPUs_max")); v != int64(2) || !ok {
		t.Errorf("VCPUs_max %v %v", v, ok)
	}
	for _, name := range []string{"name_description", "allowed_operations"} {
		if v, ok := f.Get(vm.FieldByName(name)); v != nil || ok {
			t.Errorf("%s %v %v", name, v, ok)
		}
	}
}

func TestEveryTypeHasACanonicalValue(t *testing.T) {
	kinds := []Value{{}, {Kind: String}, {Kind: Array, Items: []Value{{Kind: String, Text: "1"}}},
		{Kind: Struct, Items: []Value{{Kind: String, Name: "1", Text: "1"}}}}
	for _, typ := range allTypes() {
		for _, v := range kinds {
			if _, err := Decode(typ, v, "p"); err != nil && xenapi.Code(err) == "" {
				t.Errorf("%s: %v", typ, err)
			}
		}
	}
}

func TestClip(t *testing.T) {
	for in, want := range map[string]string{
		"x": "x", strings.Repeat("a", 1<<20): strings.Repeat("a", 256), "a\x00b": "a\uFFFDb", "a\xffb": "a\uFFFDb",
		strings.Repeat("a", 255) + "é": strings.Repeat("a", 255),
	} {
		if got := Clip(in); got != want {
			t.Errorf("%.20q: got %q", in, got)
		}
	}
}
