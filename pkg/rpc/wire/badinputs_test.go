package wire

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"xapid/pkg/xenapi"
)

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
