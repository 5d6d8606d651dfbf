package wire

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// typ finds a type of the datamodel by how it is spelled.
func typ(tb testing.TB, spelled string) *datamodel.Type {
	tb.Helper()
	for _, t := range allTypes() {
		if t.String() == spelled {
			return t
		}
	}
	tb.Fatalf("the datamodel has no type %q", spelled)
	return nil
}

// allTypes lists every type of a field, parameter or result.
func allTypes() []*datamodel.Type {
	var out []*datamodel.Type
	for _, c := range datamodel.Get().Classes {
		for _, f := range c.Fields {
			out = append(out, f.Type)
		}
		for _, m := range c.Messages {
			for i := range m.Params {
				out = append(out, m.Params[i].Type)
			}
			out = append(out, m.Result)
		}
	}
	return out
}

func TestEmitted(t *testing.T) {
	some := "x"
	when := time.Date(2026, 8, 23, 10, 11, 12, 999, time.FixedZone("", 3600))
	for name, c := range map[string]struct {
		v         any
		xml, json string
	}{
		"string escapes":   {"a<b>&\"c'\té\x01\x7f", "<value>a&lt;b&gt;&amp;&quot;c'\té\x7f</value>", `"a<b>&\"c'\té\u0001` + "\x7f" + `"`},
		"string not UTF-8": {"a\xffb", "<value>a\xffb</value>", `"a` + "\uFFFD" + `b"`},
		"int":              {int64(-42), "<value>-42</value>", "-42"},
		"int of 64 bits":   {int64(math.MaxInt64), "<value>9223372036854775807</value>", "9223372036854775807"},
		"i4":               {Int32(7), "<value><i4>7</i4></value>", "7"},
		"float":            {0.5, "<value><double>0.5</double></value>", "0.5"},
		"float whole":      {100000.0, "<value><double>100000</double></value>", "100000"},
		"float large":      {1e20, "<value><double>1e+20</double></value>", "1e+20"},
		"float third":      {1.0 / 3, "<value><double>0.3333333333333333</double></value>", "0.3333333333333333"},
		"float tiny":       {1e-7, "<value><double>1e-07</double></value>", "1e-07"},
		"float nan":        {math.NaN(), "<value><double>nan</double></value>", "null"},
		"float -inf":       {math.Inf(-1), "<value><double>-inf</double></value>", "null"},
		"bool":             {true, "<value><boolean>1</boolean></value>", "true"},
		"bool false":       {false, "<value><boolean>0</boolean></value>", "false"},
		"datetime":         {when, "<value><dateTime.iso8601>20260823T09:11:12Z</dateTime.iso8601></value>", `"20260823T09:11:12Z"`},
		"datetime unset":   {time.Time{}, "<value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601></value>", `"19700101T00:00:00Z"`},
		"set":              {[]string{"a", "b"}, "<value><array><data><value>a</value><value>b</value></data></array></value>", `["a","b"]`},
		"set empty":        {[]string(nil), "<value><array><data></data></array></value>", "[]"},
		"set of int":       {[]int64{1, 2}, "<value><array><data><value>1</value><value>2</value></data></array></value>", "[1,2]"},
		"map sorted": {map[string]string{"k2": "b", "k1": "a"}, "<value><struct><member><name>k1</name><value>a</value></member>" +
			"<member><name>k2</name><value>b</value></member></struct></value>", `{"k1":"a","k2":"b"}`},
		"map empty":     {map[string]string(nil), "<value><struct></struct></value>", "{}"},
		"map key":       {map[string]string{"<": "v"}, "<value><struct><member><name>&lt;</name><value>v</value></member></struct></value>", `{"<":"v"}`},
		"map of ints":   {map[int64]int64{10: 1, 9: 2}, "<value><struct><member><name>9</name><value>2</value></member><member><name>10</name><value>1</value></member></struct></value>", `{"9":2,"10":1}`},
		"void":          {nil, "<value></value>", `""`},
		"null inside":   {List{nil}, "<value><array><data><value><nil/></value></data></array></value>", "[null]"},
		"option given":  {Object{{"o", new(&some)}}, "<value><struct><member><name>o</name><value>x</value></member></struct></value>", `{"o":"x"}`},
		"raw":           {List{Raw("R"), Raw("S")}, "<value><array><data>RS</data></array></value>", "[R,S]"},
		"raw map":       {RawMap{{"r", Raw("R")}}, "<value><struct><member><name>r</name>R</member></struct></value>", `{"r":R}`},
		"chunks":        {Chunks{[]byte("a"), []byte("b")}, "ab", "ab"},
		"map of maps":   {map[string]map[string]string{"a": {"b": "c"}}, "<value><struct><member><name>a</name><value><struct><member><name>b</name><value>c</value></member></struct></value></member></struct></value>", `{"a":{"b":"c"}}`},
		"set of sets":   {[][]string{{"a"}, nil}, "<value><array><data><value><array><data><value>a</value></data></array></value><value><array><data></data></array></value></data></array></value>", `[["a"],[]]`},
		"int to floats": {map[int64]float64{0: 0.25}, "<value><struct><member><name>0</name><value><double>0.25</double></value></member></struct></value>", `{"0":0.25}`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := string(AppendXML(nil, nil, c.v)); got != c.xml {
				t.Errorf("XML:\n got %s\nwant %s", got, c.xml)
			}
			if got := string(AppendJSON(nil, nil, c.v)); got != c.json {
				t.Errorf("JSON:\n got %s\nwant %s", got, c.json)
			}
		})
	}
}

func TestRecordHasEveryFieldOnce(t *testing.T) {
	for _, class := range datamodel.Get().Classes {
		r := xenapi.New(class.ID)
		var got map[string]any
		if err := json.Unmarshal(AppendJSON(nil, nil, r), &got); err != nil {
			t.Fatalf("%s: %v", class.Name, err)
		}
		text := string(AppendXML(nil, nil, r))
		for _, f := range class.Fields {
			_, there := got[f.Name]
			want := !f.InternalOnly && f.Type.Kind != datamodel.Option
			if there != want || strings.Contains(text, "<name>"+f.Name+"</name>") != want {
				t.Errorf("%s.%s: given %v, want %v", class.Name, f.Name, there, want)
			}
		}
	}
}

func TestRecordOptions(t *testing.T) {
	uuid := "u"
	r := &xenapi.ProbeResult{SR: &xenapi.SRStat{UUID: &uuid}}
	want := `{"configuration":{},"complete":false,"sr":{"uuid":"u","name_label":"","name_description":"","free_space":0,"total_space":0,"clustered":false,"health":""},"extra_info":{}}`
	if got := string(AppendJSON(nil, nil, r)); got != want {
		t.Errorf("got %s", got)
	}
	if got := string(AppendJSON(nil, nil, &xenapi.ProbeResult{})); got != `{"configuration":{},"complete":false,"extra_info":{}}` {
		t.Errorf("absent option: got %s", got)
	}
}

func TestDBText(t *testing.T) {
	some := "x"
	for name, c := range map[string]struct {
		v    any
		want string
	}{
		"string": {"it's", "it's"}, "int": {int64(-1), "-1"}, "bool": {true, "true"}, "float": {0.5, "0.5"},
		"time":      {time.Date(2026, 8, 23, 10, 11, 12, 0, time.UTC), "20260823T10:11:12Z"},
		"set":       {[]string{"a", "b"}, "('a' 'b')"},
		"set empty": {[]string{}, "()"},
		"ints":      {[]int64{1, 2}, "('1' '2')"},
		"map":       {map[string]string{"k2": "v2", "k": "v"}, "(('k' 'v') ('k2' 'v2'))"},
		"map empty": {map[string]string{}, "()"},
		"nested":    {map[string][]string{"k": {"a"}}, "(('k' ('a')))"},
		"quotes":    {[]string{`it's`}, `('it\'s')`},
		"option":    {new(&some), "x"},
		"absent":    {new((*string)(nil)), ""},
	} {
		if got := DBText(nil, c.v); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestReplyRefersToFragments(t *testing.T) {
	big := Raw(strings.Repeat("x", 10_000))
	for name, v := range map[string]any{
		"raw": big, "set": RawSet{big, Raw("s"), big}, "map": RawMap{{"a", big}, {"b", big}},
		"chunks": Chunks{big, big}, "object": Object{{"events", RawSet{big}}, {"token", "t"}},
	} {
		for enc, s := range map[string]*syntax{"xml": &xmlSyntax, "json": &jsonSyntax} {
			r := XMLSuccess(nil, v)
			want := xmlSuccess + string(s.top(nil, nil, v)) + xmlEnd
			if enc == "json" {
				r = JSONSuccess(&Call{ID: []byte("7")}, nil, v)
				want = `{"result":` + string(s.top(nil, nil, v)) + `,"error":null,"id":7}`
			}
			var out strings.Builder
			n, err := r.WriteTo(&out)
			if err != nil || n != r.Len() || out.String() != want || string(r.Bytes()) != want {
				t.Errorf("%s, %s: wrote %d of %d, %v", name, enc, n, r.Len(), err)
			}
			shared := false
			for _, c := range r.Chunks() {
				shared = shared || len(c) == len(big) && &c[0] == &big[0]
			}
			if !shared {
				t.Errorf("%s, %s: the fragment was copied", name, enc)
			}
		}
	}
}

func TestEnvelopes(t *testing.T) {
	fault := &xenapi.Error{Code: "CODE", Params: []string{"p<"}}
	v1, v2 := &Call{ID: []byte(`"i"`)}, &Call{ID: []byte("3"), V2: true}
	for name, c := range map[string]struct {
		got  *Reply
		want string
	}{
		"XML success": {XMLSuccess(nil, "v"), `<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name><value>v</value></member></struct></value></param></params></methodResponse>`},
		"XML failure": {XMLFailure(fault), `<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>Failure</value></member><member><name>ErrorDescription</name><value><array><data><value>CODE</value><value>p&lt;</value></data></array></value></member></struct></value></param></params></methodResponse>`},
		"XML bare":    {XMLBare(nil, []string{"m"}), `<?xml version="1.0"?><methodResponse><params><param><value><array><data><value>m</value></data></array></value></param></params></methodResponse>`},
		"1.0 success": {JSONSuccess(v1, nil, int64(1)), `{"result":1,"error":null,"id":"i"}`},
		"1.0 failure": {JSONFailure(v1, fault), `{"result":null,"error":["CODE","p<"],"id":"i"}`},
		"2.0 success": {JSONSuccess(v2, nil, nil), `{"jsonrpc":"2.0","result":"","id":3}`},
		"2.0 failure": {JSONFailure(v2, fault), `{"jsonrpc":"2.0","error":{"code":1,"message":"CODE","data":["p<"]},"id":3}`},
	} {
		if got := string(c.got.Bytes()); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}
