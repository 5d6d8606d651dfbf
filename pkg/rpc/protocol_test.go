package rpc_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"xapid/pkg/datamodel"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// TestHTTP holds what section 1 of the protocol says of methods and paths.
func TestHTTP(t *testing.T) {
	e := open(t)
	login := string(wire.AppendXMLCall(nil, "session.login_with_password", "root", "pw"))
	cases := map[string]struct {
		method, path, body string
		status             int
		closed             bool
		header             map[string]string
	}{
		"XML-RPC on /":                        {method: "POST", path: "/", body: login, status: 200, header: map[string]string{"Content-Type": "text/xml", "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "X-Requested-With"}},
		"XML-RPC on /RPC2":                    {method: "POST", path: "/RPC2", body: login, status: 200, header: map[string]string{"Content-Type": "text/xml"}},
		"JSON-RPC has its bare type":          {method: "POST", path: "/jsonrpc", body: `{"method":"system.listMethods","params":[],"id":1}`, status: 200, header: map[string]string{"Content-Type": "application/json", "Access-Control-Allow-Origin": "*"}},
		"a small page on GET /":               {method: "GET", path: "/", status: 200, header: map[string]string{"Content-Type": "text/html; charset=utf-8"}},
		"the same by HEAD":                    {method: "HEAD", path: "/", status: 200},
		"no file":                             {method: "GET", path: "/nothing", status: 404, closed: true},
		"what is posted elsewhere is XML-RPC": {method: "POST", path: "/xmlrpc", body: login, status: 200},
		"no such path to put to":              {method: "PUT", path: "/nothing", status: 403, closed: true},
		"/json is left out":                   {method: "POST", path: "/json", body: login, status: 403, closed: true},
		"a method without any handler":        {method: "DELETE", path: "/", status: 501, closed: true},
		"another one":                         {method: "PATCH", path: "/jsonrpc", status: 501, closed: true},
		"OPTIONS echoes what is asked":        {method: "OPTIONS", path: "/jsonrpc", status: 200, header: map[string]string{"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "PUT", "Access-Control-Allow-Headers": "Content-Type, X-Requested-With", "Content-Length": "0"}},
		"OPTIONS of another path":             {method: "OPTIONS", path: "/export", status: 403, closed: true},
		"not XML-RPC":                         {method: "POST", path: "/", body: "hello", status: 500, closed: true},
		"not JSON-RPC":                        {method: "POST", path: "/jsonrpc", body: "hello", status: 500, closed: true},
		"a JSON batch":                        {method: "POST", path: "/jsonrpc", body: `[{"method":"system.listMethods","params":[],"id":1}]`, status: 500, closed: true},
		"metrics are not served here":         {method: "GET", path: "/metrics", status: 404, closed: true},
		"the audit file wants a session":      {method: "GET", path: "/audit_log", status: 401, header: map[string]string{"WWW-Authenticate": `Basic realm="get_audit_log"`}},
		"the root can't be left by ..":        {method: "GET", path: "/../../etc/passwd", status: 404, closed: true},
		"nor by its escapes":                  {method: "GET", path: "/%2e%2e%2fetc%2fpasswd", status: 404, closed: true},
		"nor by escaped escapes":              {method: "GET", path: "/%252e%252e/etc/passwd", status: 404, closed: true},
		"nor by backslashes":                  {method: "GET", path: `/%5c..%5cetc`, status: 404, closed: true},
		"nor by NUL":                          {method: "GET", path: "/%00", status: 404, closed: true},
		"nor by a second slash":               {method: "GET", path: "//etc", status: 404, closed: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			resp, _ := e.do(c.method, c.path, c.body, map[string]string{"Access-Control-Request-Headers": "Content-Type"})
			same(t, "status", resp.StatusCode, c.status)
			if c.closed && !resp.Close {
				t.Error("the connection stays open")
			}
			for k, v := range c.header {
				same(t, k, resp.Header.Get(k), v)
			}
		})
	}
}

// TestEnvelopes holds the exact bytes of section 2.
func TestEnvelopes(t *testing.T) {
	e := open(t)
	vm := e.vm("<a> & \"b\"")
	const prolog = `<?xml version="1.0"?>`
	ok := func(value string) string {
		return prolog + `<methodResponse><params><param><value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>` + value + `</member></struct></value></param></params></methodResponse>`
	}
	bad := func(values string) string {
		return prolog + `<methodResponse><params><param><value><struct><member><name>Status</name><value>Failure</value></member><member><name>ErrorDescription</name><value><array><data>` + values + `</data></array></value></member></struct></value></param></params></methodResponse>`
	}
	call := func(name string, params ...any) string { return string(wire.AppendXMLCall(nil, name, params...)) }
	cases := map[string]struct{ path, body, want string }{
		"a string is bare text":       {"/", call("VM.get_name_label", e.root, vm), ok(`<value>&lt;a&gt; &amp; &quot;b&quot;</value>`)},
		"the underscore form":         {"/", call("VM_get_name_label", e.root, vm), ok(`<value>&lt;a&gt; &amp; &quot;b&quot;</value>`)},
		"an int is a string":          {"/", call("VM.get_domid", e.root, vm), ok(`<value>0</value>`)},
		"a bool":                      {"/", call("VM.get_is_a_template", e.root, vm), ok(`<value><boolean>0</boolean></value>`)},
		"a float":                     {"/", call("VM.get_HVM_shadow_multiplier", e.root, vm), ok(`<value><double>1</double></value>`)},
		"never is 1970":               {"/", call("VM.get_snapshot_time", e.root, vm), ok(`<value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601></value>`)},
		"an empty set":                {"/", call("VM.get_VBDs", e.root, vm), ok(`<value><array><data></data></array></value>`)},
		"an empty map":                {"/", call("VM.get_other_config", e.root, vm), ok(`<value><struct></struct></value>`)},
		"void":                        {"/", call("VM.set_name_label", e.root, vm, "<a> & \"b\""), ok(`<value></value>`)},
		"isAlive echoes":              {"/", call("system.isAlive:x", "hello"), ok(`<value>hello</value>`)},
		"a failure":                   {"/", call("VM.get_name_label", e.root, "OpaqueRef:x"), bad(`<value>HANDLE_INVALID</value><value>VM</value><value>OpaqueRef:x</value>`)},
		"Async of what has none":      {"/", call("Async.VM.get_name_label", e.root, vm), bad(`<value>Fault</value><value>No async mode for this operation (rpc: Async.VM.get_name_label)</value>`)},
		"JSON 1.0":                    {"/jsonrpc", `{"method":"VM.get_domid","params":["` + e.root + `","` + vm + `"],"id":"a"}`, `{"result":0,"error":null,"id":"a"}`},
		"JSON 1.0 failure":            {"/jsonrpc", `{"method":"VM.get_domid","params":["` + e.root + `","x"],"id":7}`, `{"result":null,"error":["HANDLE_INVALID","VM","x"],"id":7}`},
		"JSON 2.0":                    {"/jsonrpc", `{"jsonrpc":"2.0","method":"VM.get_snapshot_time","params":["` + e.root + `","` + vm + `"],"id":7}`, `{"jsonrpc":"2.0","result":"19700101T00:00:00Z","id":7}`},
		"JSON 2.0 failure":            {"/jsonrpc", `{"jsonrpc":"2.0","method":"VM.get_domid","params":["` + e.root + `","x"],"id":7}`, `{"jsonrpc":"2.0","error":{"code":1,"message":"HANDLE_INVALID","data":["VM","x"]},"id":7}`},
		"JSON 2.0 without parameters": {"/jsonrpc", `{"jsonrpc":"2.0","method":"VM.get_all","id":7}`, `{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_PARAMETER_COUNT_MISMATCH","data":["VM.get_all","0","0"]},"id":7}`},
		"JSON 2.0 with an object":     {"/jsonrpc", `{"jsonrpc":"2.0","method":"nothing","params":{"a":1},"id":7}`, `{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_METHOD_UNKNOWN","data":["nothing"]},"id":7}`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			resp, body := e.post(c.path, c.body)
			same(t, "status", resp.StatusCode, 200)
			same(t, "body", string(body), c.want)
		})
	}
}

// TestListMethods: the bare array with every message, hidden ones too.
func TestListMethods(t *testing.T) {
	e := open(t)
	_, body := e.post("/", string(wire.AppendXMLCall(nil, "system.listMethods")))
	if !strings.HasPrefix(string(body), `<?xml version="1.0"?><methodResponse><params><param><value><array><data><value>session.login_with_password</value>`) {
		t.Errorf("not a bare array: %.200s", body)
	}
	v, err := wire.DecodeXMLResponse(body)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "names", len(v.Items), 2258)
	var names []string
	for _, item := range v.Items {
		names = append(names, item.Text)
	}
	for _, c := range datamodel.Get().Classes {
		for _, m := range c.Messages {
			if !slices.Contains(names, m.WireName()) {
				t.Errorf("%s is missing", m.WireName())
			}
		}
	}
	_, body = e.post("/jsonrpc", `{"jsonrpc":"2.0","method":"system.listMethods","id":1}`)
	var answer struct{ Result []string }
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Result) != 2258 {
		t.Errorf("JSON: %d names, %v", len(answer.Result), err)
	}
}

// TestCalls holds the order of checks and the faults of section 2.1.
func TestCalls(t *testing.T) {
	e := open(t)
	vm := e.vm("a")
	reader := e.user("reader", "read-only")
	dead := xenapi.RefPrefix + xenapi.NewUUID()
	cases := map[string]struct {
		method string
		params []any
		want   []string
	}{
		"no session":   {"VM.get_all", nil, []string{"MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_all", "0", "0"}},
		"one too few":  {"VM.get_name_label", []any{e.root}, []string{"MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_name_label", "1", "0"}},
		"one too many": {"VM.get_name_label", []any{e.root, vm, "x"}, []string{"MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_name_label", "1", "2"}},
		"a surplus after optional ones is ignored": {"host.disable", []any{e.root, "x", true, "surplus"}, []string{"NOT_IMPLEMENTED", "host.disable"}},
		"the optional one left out":                {"host.disable", []any{e.root, "x"}, []string{"NOT_IMPLEMENTED", "host.disable"}},
		"too few before the optional one":          {"host.disable", []any{e.root}, []string{"MESSAGE_PARAMETER_COUNT_MISMATCH", "host.disable", "1", "0"}},
		"unknown without a session":                {"VM.nothing", nil, []string{"MESSAGE_METHOD_UNKNOWN", "VM.nothing"}},
		"unknown with a session":                   {"VM.nothing", []any{e.root}, []string{"MESSAGE_METHOD_UNKNOWN", "VM.nothing"}},
		"unknown with a bad session":               {"VM.nothing", []any{dead}, []string{"SESSION_INVALID", dead}},
		"unknown without the role for extensions":  {"VM.nothing", []any{reader}, []string{"RBAC_PERMISSION_DENIED", "host.call_extension", "*"}},
		"the underscore form has no Async":         {"Async.VM_start", []any{e.root, vm, false, false}, []string{"MESSAGE_METHOD_UNKNOWN", "Async.VM_start"}},
		"an empty name":                            {"", nil, []string{"MESSAGE_METHOD_UNKNOWN", ""}},
		"a long name is cut":                       {strings.Repeat("x", 1<<20), nil, []string{"MESSAGE_METHOD_UNKNOWN", strings.Repeat("x", 256)}},
		"system.multicall does not exist":          {"system.multicall", []any{wire.List{}}, []string{"MESSAGE_METHOD_UNKNOWN", "system.multicall"}},
		"a bad session":                            {"VM.get_all", []any{dead}, []string{"SESSION_INVALID", dead}},
		"the null session":                         {"VM.get_all", []any{xenapi.Null}, []string{"SESSION_INVALID", xenapi.Null}},
		"an object's reference as a session":       {"VM.get_all", []any{vm}, []string{"SESSION_INVALID", vm}},
		"the shape before the session":             {"VM.set_is_a_template", []any{dead, vm, "true"}, []string{"XMLRPC_UNMARSHAL_FAILURE", "*", "*"}},
		"the session before the role":              {"pool.eject", []any{dead, "x"}, []string{"SESSION_INVALID", dead}},
		"the role before the reference":            {"network.set_name_label", []any{reader, "x", "y"}, []string{"RBAC_PERMISSION_DENIED", "network.set_name_label", "*"}},
		"a session that is no string":              {"VM.get_all", []any{wire.List{}}, []string{"XMLRPC_UNMARSHAL_FAILURE", "*", "*"}},
		"a pool-internal call":                     {"host.notify", []any{e.root, "x", "y"}, []string{"INTERNAL_ERROR", `Internal API "host.notify" call attempted with non-pool (external) session`}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for enc, call := range map[string]func(string, ...any) (wire.Value, error){"XML": e.xml, "JSON": e.json} {
				t.Run(enc, func(t *testing.T) {
					_, err := call(c.method, c.params...)
					fails(t, err, c.want[0], c.want[1:]...)
				})
			}
		})
	}
}

// TestExplicit calls every explicit message that no service implements here.
func TestExplicit(t *testing.T) {
	e := open(t)
	own := []string{"session", "task", "event"}
	for _, class := range datamodel.Get().Classes {
		for _, m := range class.Messages {
			if m.Kind != datamodel.Explicit || slices.Contains(own, class.Name) {
				continue
			}
			params := []any{e.root}
			for i := range m.Params {
				params = append(params, sample(m.Params[i].Type))
			}
			_, err := e.json(m.WireName(), params...)
			switch {
			case m.Lifecycle == datamodel.Removed:
				fails(t, err, "MESSAGE_REMOVED")
				params[0] = "x"
				_, err = e.json(m.WireName(), params...)
				fails(t, err, "SESSION_INVALID", "x")
			case m.PoolInternal:
				fails(t, err, "INTERNAL_ERROR", `Internal API "`+m.WireName()+`" call attempted with non-pool (external) session`)
			default:
				fails(t, err, "NOT_IMPLEMENTED", m.WireName())
			}
		}
	}
}

// sample makes a value of a type, for calls whose arguments don't matter.
func sample(typ *datamodel.Type) any {
	switch typ.Kind {
	case datamodel.Int:
		return int64(1)
	case datamodel.Float:
		return 0.5
	case datamodel.Bool:
		return true
	case datamodel.DateTime:
		return "20260823T10:11:12Z"
	case datamodel.EnumType:
		return typ.Enum.Members[0]
	case datamodel.Set:
		return wire.List{sample(typ.Elem)}
	case datamodel.Map:
		key := sample(typ.Key)
		if n, ok := key.(int64); ok {
			key = strconv.FormatInt(n, 10)
		}
		return wire.Object{{Name: key.(string), Value: sample(typ.Elem)}}
	case datamodel.Record:
		return wire.Object{}
	case datamodel.Option:
		return sample(typ.Elem)
	case datamodel.Ref:
		return xenapi.Null
	}
	return "x"
}

// TestMalformedAnswersClose: what is no call at all leaves nothing behind.
func TestMalformedAnswersClose(t *testing.T) {
	e := open(t)
	before := e.DB.View().Gen()
	deep := strings.Repeat("[", 10_000)
	for name, c := range map[string][2]string{
		"billion laughs": {"/", `<!DOCTYPE x [<!ENTITY a "b">]><methodCall><methodName>&a;</methodName></methodCall>`},
		"file entity":    {"/", `<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/shadow">]><methodCall><methodName>&a;</methodName></methodCall>`},
		"nesting":        {"/", "<methodCall><methodName>a</methodName><params><param>" + strings.Repeat("<value><array><data>", 10_000)},
		"brackets":       {"/jsonrpc", deep},
		"trailing":       {"/jsonrpc", `{"method":"VM.get_all","params":[],"id":1} x`},
		"no id":          {"/jsonrpc", `{"method":"VM.get_all","params":[]}`},
		"id null":        {"/jsonrpc", `{"method":"VM.get_all","params":[],"id":null}`},
		"version 3":      {"/jsonrpc", `{"jsonrpc":"3.0","method":"VM.get_all","params":[],"id":1}`},
		"BOM":            {"/jsonrpc", "\xef\xbb\xbf" + `{"method":"VM.get_all","params":[],"id":1}`},
		"surrogate":      {"/jsonrpc", `{"method":"VM.get_all","params":["\ud800"],"id":1}`},
		"big number":     {"/jsonrpc", `{"method":"VM.get_all","params":[1e400],"id":1}`},
		"twice a key":    {"/jsonrpc", `{"method":"VM.get_all","method":"VM.get_all","params":[],"id":1}`},
		"empty batch":    {"/jsonrpc", `[]`},
		"empty":          {"/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			resp, _ := e.post(c[0], c[1])
			if name == "big number" && resp.StatusCode == http.StatusOK {
				return // a number is only judged where a type asks for it
			}
			same(t, "status", resp.StatusCode, http.StatusInternalServerError)
			same(t, "closed", resp.Close, true)
		})
	}
	same(t, "generation", e.DB.View().Gen(), before)
}
