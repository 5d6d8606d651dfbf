package wire

import (
	"errors"
	"reflect"
	"runtime"
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

// malformed wants a SyntaxError.
func malformed(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*SyntaxError](err); !ok {
		t.Errorf("got %v, want a syntax error", err)
	}
}

func TestX1NotXMLRPC(t *testing.T) {
	lol := `<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>`
	call := xmlCall("m", "<value>x</value>")
	for name, body := range map[string]string{
		"billion laughs":     strings.Replace(xmlCall("m", "<value>&b;</value>"), "<methodCall>", lol+"<methodCall>", 1),
		"external entity":    `<!DOCTYPE l SYSTEM "file:///etc/shadow">` + call,
		"any DTD":            strings.Replace(call, "<methodCall>", "<!DOCTYPE methodCall><methodCall>", 1),
		"DTD inside":         xmlCall("m", "<value><!DOCTYPE x>x</value>"),
		"undefined entity":   xmlCall("m", "<value>&b;</value>"),
		"entity without end": xmlCall("m", "<value>&amp</value>"),
		"number too big":     xmlCall("m", "<value>&#x110000;</value>"),
		"empty number":       xmlCall("m", "<value>&#;</value>"),
		"empty":              "",
		"blank":              " \n ",
		"JSON":               `{"method":"m"}`,
		"binary":             "\x16\x03\x01\x02\x00",
		"another root":       "<html></html>",
		"trailing garbage":   call + "x",
		"second document":    call + call,
		"UTF-16":             "\xff\xfe<\x00m\x00",
		"other encoding":     `<?xml version="1.0" encoding="UTF-7"?>` + call[22:],
		"no method":          "<methodCall></methodCall>",
		"params first":       "<methodCall><params/><methodName>m</methodName></methodCall>",
		"value missing":      "<methodCall><methodName>m</methodName><params><param></param></params></methodCall>",
		"text beside type":   xmlCall("m", "<value>a<i4>5</i4></value>"),
		"two types":          xmlCall("m", "<value><i4>5</i4><i4>5</i4></value>"),
		"unknown type":       xmlCall("m", "<value><short>5</short></value>"),
		"member, no name":    xmlCall("m", "<value><struct><member><value>1</value></member></struct></value>"),
		"crossed tags":       xmlCall("m", "<value><string>x</value></string>"),
		"nested values":      xmlCall("m", strings.Repeat("<value>", 10_000)),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := DecodeXMLCall([]byte(body))
			malformed(t, err)
		})
	}
}

func TestXMLCutAnywhereIsRefused(t *testing.T) {
	call := xmlCall("m", `<value a="b"><array><data><value>x&amp;<![CDATA[y]]></value><value><struct><member><name>n</name><value><i4>1</i4></value></member></struct></value></data></array></value>`)
	call = strings.TrimSpace(call)
	for i := range len(call) {
		_, _, err := DecodeXMLCall([]byte(call[:i]))
		malformed(t, err)
	}
}

func TestX2Limits(t *testing.T) {
	nest := func(open, close string, n int) string {
		return xmlCall("m", strings.Repeat(open, n)+"<value/>"+strings.Repeat(close, n))
	}
	const openA, closeA = "<value><array><data>", "</data></array></value>"
	const openS, closeS = "<value><struct><member><name>a</name>", "</member></struct></value>"
	if _, _, err := DecodeXMLCall([]byte(nest(openA, closeA, MaxDepth))); err != nil {
		t.Errorf("depth %d: %v", MaxDepth, err)
	}
	members := func(n int) string {
		return xmlCall("m", "<value><struct>"+strings.Repeat("<member><name>a</name><value/></member>", n)+"</struct></value>")
	}
	for name, body := range map[string]string{
		"65 arrays":          nest(openA, closeA, MaxDepth+1),
		"10,000 arrays":      nest(openA, closeA, 10_000),
		"10,000 structs":     nest(openS, closeS, 10_000),
		"1 M empty elements": xmlCall("m", "<value><array><data>"+strings.Repeat("<value/>", 1_000_000)+closeA),
		"1 M members":        members(1_000_000),
		"10,000 JSON arrays": "",
		"JSON depth":         "",
		"1 M JSON elements":  "",
		"1 M parameters":     xmlCall("m", strings.Repeat("<value/></param><param>", 1_000_000)),
	} {
		t.Run(name, func(t *testing.T) {
			switch name {
			case "10,000 JSON arrays":
				body = strings.Repeat("[", 10_000)
			case "JSON depth":
				body = `{"method":"m","id":1,"params":[` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + "]}"
			case "1 M JSON elements":
				body = `{"method":"m","id":1,"params":[` + strings.Repeat("0,", 1_000_000) + "0]}"
			}
			raw := []byte(body)
			decode := func() error { _, _, err := DecodeXMLCall(raw); return err }
			if body[0] != '<' {
				decode = func() error { _, err := DecodeJSONCall(raw); return err }
			}
			malformed(t, decode())
			if kept := liveBytes(decode); kept > 32<<20 {
				t.Errorf("%d bytes were held", kept)
			}
		})
	}
}

// liveBytes bounds what a call may hold at once by what it allocates, less
// what growing slices give back.
func liveBytes(decode func() error) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	decode()
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / 2
}

func TestX3Scalars(t *testing.T) {
	for _, c := range []struct{ spelled, xml string }{
		{"int", "<value><i4>2147483648</i4></value>"},
		{"int", "<value><i4>9223372036854775808</i4></value>"},
		{"int", "<value><int>9223372036854775808</int></value>"},
		{"int", "<value><i8>-9223372036854775809</i8></value>"},
		{"int", "<value>9223372036854775808</value>"},
		{"int", "<value>0x8000000000000000</value>"},
		{"int", "<value>0x</value>"},
		{"int", "<value>0x-1</value>"},
		{"int", "<value>--1</value>"},
		{"int", "<value>1_000</value>"},
		{"int", "<value><i4>1e9</i4></value>"},
		{"int", "<value><i4> 5</i4></value>"},
		{"int", "<value>+5</value>"},
		{"int", "<value> 5</value>"},
		{"int", "<value><i4></i4></value>"},
		{"int", "<value/>"},
		{"int", "<value><double>5</double></value>"},
		{"int", "<value><boolean>1</boolean></value>"},
		{"int", "<value><nil/></value>"},
		{"int", "<value><array/></value>"},
		{"float", "<value><double>nan</double></value>"},
		{"float", "<value><double>inf</double></value>"},
		{"float", "<value><double>-Infinity</double></value>"},
		{"float", "<value><double>1e999</double></value>"},
		{"float", "<value><double>0x1p4</double></value>"},
		{"float", "<value><double></double></value>"},
		{"float", "<value> 1</value>"},
		{"bool", "<value><boolean>2</boolean></value>"},
		{"bool", "<value><boolean>true</boolean></value>"},
		{"bool", "<value><boolean/></value>"},
		{"bool", "<value>true</value>"},
		{"bool", "<value>1</value>"},
		{"bool", "<value><i4>1</i4></value>"},
		{"datetime", "<value><dateTime.iso8601>20260823</dateTime.iso8601></value>"},
		{"datetime", "<value><dateTime.iso8601>20261323T10:11:12Z</dateTime.iso8601></value>"},
		{"datetime", "<value><dateTime.iso8601>20260823T24:11:12Z</dateTime.iso8601></value>"},
		{"datetime", "<value><dateTime.iso8601>20260823T10:11:12X</dateTime.iso8601></value>"},
		{"datetime", "<value><dateTime.iso8601>2026-08-23T10:11:12Z junk</dateTime.iso8601></value>"},
		{"datetime", "<value/>"},
		{"datetime", "<value><i4>0</i4></value>"},
		{"string", "<value><base64>!</base64></value>"},
		{"string", "<value><i4>1</i4></value>"},
		{"string", "<value><struct/></value>"},
		{"string", "<value><nil/></value>"},
		{"string set", "<value>a</value>"},
		{"string set", "<value><array><data><value><i4>1</i4></value></data></array></value>"},
		{"(string -> string) map", "<value><array/></value>"},
		{"(int -> int) map", "<value><struct><member><name>x</name><value>1</value></member></struct></value>"},
		{"VM record", "<value/>"},
	} {
		typ := typ(t, c.spelled)
		got, err := Decode(typ, oneXML(t, c.xml), "p")
		e, ok := errors.AsType[*xenapi.Error](err)
		if !ok || e.Code != "XMLRPC_UNMARSHAL_FAILURE" || len(e.Params) != 2 {
			t.Errorf("%s as %s: %v, %v", c.xml, c.spelled, got, err)
		}
	}
}

func TestX5DuplicateMember(t *testing.T) {
	member := "<member><name>k</name><value>v</value></member>"
	fill := ""
	for i := range 30 {
		fill += "<member><name>" + string(rune('A'+i)) + "</name><value/></member>"
	}
	for _, body := range []string{member + member, fill + member + member} {
		v := oneXML(t, "<value><struct>"+body+"</struct></value>")
		for _, spelled := range []string{"(string -> string) map", "VM record"} {
			_, err := Decode(typ(t, spelled), v, "p")
			if xenapi.Code(err) != "XMLRPC_UNMARSHAL_FAILURE" {
				t.Errorf("%s: %v", spelled, err)
			}
		}
	}
	v := oneXML(t, "<value><struct><member><name>1</name><value>1</value></member><member><name>0x1</name><value>1</value></member></struct></value>")
	if _, err := Decode(typ(t, "(int -> int) map"), v, "p"); xenapi.Code(err) != "XMLRPC_UNMARSHAL_FAILURE" {
		t.Errorf("one key written in two ways: %v", err)
	}
}

func TestX7TextThatCannotBeStored(t *testing.T) {
	notUTF8 := []string{"\xff", "a\xc0\xaf", "\xed\xa0\x80", "\xe2\x82", "\x01\xff", "\xf8\x88\x80\x80\x80", "&#xD800;"}
	notXML := []string{"\x00", "\x1b[2J", "\x0b", "\uFFFE", "\uFFFF", "&#0;", "&#x1F;"}
	shapes := map[string]string{
		"string":                 "<value>%</value>",
		"VM ref":                 "<value>%</value>",
		"string set":             "<value><array><data><value>%</value></data></array></value>",
		"(string -> string) map": "<value><struct><member><name>%</name><value/></member></struct></value>",
		"VM record":              "<value><struct><member><name>other_config</name><value><struct><member><name>k</name><value>%</value></member></struct></value></member></struct></value>",
	}
	for spelled, shape := range shapes {
		param := "p"
		if spelled == "VM record" {
			param = "other_config"
		}
		check := func(bad, first string) {
			_, err := Decode(typ(t, spelled), oneXML(t, strings.Replace(shape, "%", bad, 1)), "p")
			e, ok := errors.AsType[*xenapi.Error](err)
			if !ok || e.Code != "INVALID_VALUE" || e.Params[0] != first || checkText(e.Params[1]) != textGood {
				t.Errorf("%s %q: %v", spelled, bad, err)
			}
		}
		for _, bad := range notUTF8 {
			check(bad, "Invalid UTF-8 string in parameter")
		}
		for _, bad := range notXML {
			check(bad, param)
		}
		for _, good := range []string{"]]>", "\x7f", "\u0085", "\t\n\r", "\U0010FFFF", "\u202E", ""} {
			if _, err := Decode(typ(t, spelled), oneXML(t, strings.Replace(shape, "%", good, 1)), "p"); err != nil {
				t.Errorf("%s %q: %v", spelled, good, err)
			}
		}
	}
}

func TestJ1JSONRPC(t *testing.T) {
	for name, body := range map[string]string{
		"batch of 100,000":     "[" + strings.Repeat(`{"method":"m","params":[],"id":1},`, 99_999) + `{"method":"m","params":[],"id":1}]`,
		"batch of nothing":     "[]",
		"id null":              `{"method":"m","params":[],"id":null}`,
		"id object":            `{"method":"m","params":[],"id":{}}`,
		"id bool":              `{"method":"m","params":[],"id":true}`,
		"no id":                `{"method":"m","params":[]}`,
		"version 3.0":          `{"jsonrpc":"3.0","method":"m","params":[],"id":1}`,
		"version as number":    `{"jsonrpc":2.0,"method":"m","params":[],"id":1}`,
		"1.0, params object":   `{"method":"m","params":{},"id":1}`,
		"1.0, no params":       `{"method":"m","id":1}`,
		"2.0, params null":     `{"jsonrpc":"2.0","method":"m","params":null,"id":1}`,
		"2.0, params string":   `{"jsonrpc":"2.0","method":"m","params":"x","id":1}`,
		"no method":            `{"params":[],"id":1}`,
		"method as number":     `{"method":1,"params":[],"id":1}`,
		"method not UTF-8":     "{\"method\":\"\xff\",\"params\":[],\"id\":1}",
		"empty":                "",
		"a string":             `"m"`,
		"J2 duplicate member":  `{"method":"m","method":"m","params":[],"id":1}`,
		"J2 duplicate inside":  `{"method":"m","params":[{"a":1,"a":2}],"id":1}`,
		"J2 1e400":             `{"method":"m","params":[1e400],"id":1}`,
		"J2 -1e400":            `{"method":"m","params":[-1E+400],"id":1}`,
		"J2 400 digits":        `{"method":"m","params":[` + strings.Repeat("9", 400) + `],"id":1}`,
		"J2 lone surrogate":    `{"method":"m","params":["\ud800"],"id":1}`,
		"J2 low surrogate":     `{"method":"m","params":["\udc00"],"id":1}`,
		"J2 two high ones":     `{"method":"m","params":["\ud800\ud800"],"id":1}`,
		"J2 trailing garbage":  `{"method":"m","params":[],"id":1}x`,
		"J2 second document":   `{"method":"m","params":[],"id":1}{}`,
		"J2 UTF-16":            "{\x00\"\x00m\x00",
		"J2 BOM":               "\xef\xbb\xbf" + `{"method":"m","params":[],"id":1}`,
		"J2 raw newline":       "{\"method\":\"m\",\"params\":[\"a\nb\"],\"id\":1}",
		"J2 raw after escape":  "{\"method\":\"m\",\"params\":[\"\\ta\x00b\"],\"id\":1}",
		"J2 bad escape":        `{"method":"m","params":["\x41"],"id":1}`,
		"J2 bad hex":           `{"method":"m","params":["\u00g0"],"id":1}`,
		"J2 leading zero":      `{"method":"m","params":[01],"id":1}`,
		"J2 plus":              `{"method":"m","params":[+1],"id":1}`,
		"J2 bare point":        `{"method":"m","params":[1.],"id":1}`,
		"J2 NaN":               `{"method":"m","params":[NaN],"id":1}`,
		"J2 trailing comma":    `{"method":"m","params":[1,],"id":1}`,
		"J2 comment":           `{"method":"m","params":[]/**/,"id":1}`,
		"J2 single quotes":     `{'method':"m","params":[],"id":1}`,
		"J2 truncated literal": `{"method":"m","params":[tru`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeJSONCall([]byte(body))
			malformed(t, err)
		})
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
