package wire

import (
	"encoding/json"
	"testing"

	"xapid/pkg/datamodel"
)

// seeds are bodies that reach every branch of the parsers.
var xmlSeeds = []string{
	xmlCall("VM.get_record", "<value>OpaqueRef:x</value>"),
	xmlCall("m", "<value/>", "<value><i4>5</i4></value>", "<value><double>1</double></value>", "<value><boolean>1</boolean></value>"),
	xmlCall("m", "<value><dateTime.iso8601>20260823T10:11:12Z</dateTime.iso8601></value>", "<value><base64>eA==</base64></value>", "<value><nil/></value>"),
	xmlCall("m", "<value><array><data><value>a&lt;&#65;<![CDATA[x]]><!-- c --></value></data></array></value>"),
	xmlCall("m", "<value><struct><member><name>k</name><value>v</value></member></struct></value>"),
	`<!DOCTYPE a [<!ENTITY b "c">]><methodCall/>`,
}

var jsonSeeds = []string{
	`{"method":"m","params":["a\u00e9\ud83d\ude00",1,-0.5e3,true,false,null,[],{}],"id":1}`,
	`{"jsonrpc":"2.0","method":"m","id":"x","params":{"a":{"b":[1]}}}`,
	`[]`, `{"method":"m","params":[1e400],"id":1}`,
}

func FuzzXMLCall(f *testing.F) {
	for _, s := range xmlSeeds {
		f.Add([]byte(s))
	}
	types := allTypes()
	f.Fuzz(func(t *testing.T, body []byte) {
		DecodeXMLResponse(body)
		_, params, err := DecodeXMLCall(body)
		if err != nil {
			malformed(t, err)
			return
		}
		useParams(t, types, params)
	})
}

func FuzzJSONCall(f *testing.F) {
	for _, s := range jsonSeeds {
		f.Add([]byte(s))
	}
	types := allTypes()
	f.Fuzz(func(t *testing.T, body []byte) {
		DecodeJSONResponse(body)
		c, err := DecodeJSONCall(body)
		if err != nil {
			malformed(t, err)
			return
		}
		if !json.Valid(c.ID) || !json.Valid(body) {
			t.Fatalf("took %q, which is no JSON", body)
		}
		useParams(t, types, c.Params)
	})
}

// useParams converts each value to a type and back, and echoes it.
func useParams(t *testing.T, types []*datamodel.Type, params []Value) {
	for i, v := range params {
		if echo := AppendJSON(nil, nil, v); !json.Valid(echo) {
			t.Fatalf("echo is no JSON: %q", echo)
		}
		typ := types[(i*7919+len(v.Text)+len(v.Items))%len(types)]
		got, err := Decode(typ, v, "p")
		if err != nil {
			continue
		}
		again, err := DecodeXMLResponse(XMLSuccess(typ, got).Bytes())
		if err != nil {
			t.Fatalf("%#v of %s: %v", got, typ, err)
		}
		if _, err := Decode(typ, again, "p"); err != nil && got != nil {
			t.Fatalf("%#v of %s does not come back: %v", got, typ, err)
		}
	}
}
