package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xapid/pkg/xapi/host"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi/service"
)

// plugins are scripts that answer as XenAPI plugins do; the test's own shell
// runs them, the agent never does.
var plugins = map[string]string{
	"echo": `#!/bin/sh
printf '<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value><string>Success</string></value></member><member><name>Value</name><value><string>'
printf '%s' "$1" | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g'
printf '</string></value></member></struct></value></param></params></methodResponse>'
`,
	"refuse": `#!/bin/sh
printf '<methodResponse><params><param><value><struct><member><name>Status</name><value>Failure</value></member><member><name>ErrorDescription</name><value><array><data><value>MY_ERROR</value><value><string>why</string></value></data></array></value></member></struct></value></param></params></methodResponse>'
`,
	"fault": `#!/bin/sh
printf '<methodResponse><fault><value><struct><member><name>faultString</name><value><string>boom</string></value></member></struct></value></fault></methodResponse>'
`,
	"fail": `#!/bin/sh
echo out
echo err >&2
exit 3
`,
	"garbage": `#!/bin/sh
echo hello
`,
	"mute": `#!/bin/sh
printf '<methodResponse><params/></methodResponse>'
`,
	"hang": `#!/bin/sh
sleep 100 &
sleep 100
`,
	"flood": `#!/bin/sh
yes
`,
}

func TestCallPlugin(t *testing.T) {
	dir := t.TempDir()
	for name, text := range plugins {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "notes"), []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/true", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	w := open(t, func(o *host.Options) { o.PluginDir, o.PluginTimeout = dir, 20*time.Second })
	call := func(name string, args map[string]string) (string, error) {
		c := xapitest.Call()
		c.Session.Ref = "OpaqueRef:s"
		return w.s.CallPlugin(t.Context(), c, service.HostCallPluginParams{Host: w.ref, Plugin: name, Fn: "do", Args: args})
	}
	out, err := call("echo", map[string]string{"a<b": "c&d", "e": "$(id)"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<methodName>do</methodName>", "OpaqueRef:s", "<name>a&lt;b</name>", "c&amp;d", "$(id)"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plugin was not given %q: %s", want, out)
		}
	}
	for _, name := range []string{"", ".", "..", "../" + filepath.Base(dir) + "/echo", "./echo", "echo;id", "echo\x00", "nosuch", "notes", "link", "Echo"} {
		_, err := call(name, nil)
		xapitest.Fails(t, err, "XENAPI_MISSING_PLUGIN", name)
	}
	for name, row := range map[string][]string{
		"refuse":  {"MY_ERROR", "why"},
		"fault":   {"XENAPI_PLUGIN_FAILURE", "boom", "*", ""},
		"fail":    {"XENAPI_PLUGIN_FAILURE", "3", "out\n", "err\n"},
		"garbage": {"XENAPI_PLUGIN_FAILURE", "*", "hello\n", ""},
		"mute":    {"XENAPI_PLUGIN_FAILURE", "*", "*", ""},
		"flood":   {"XENAPI_PLUGIN_FAILURE", "*", "*", "*"},
	} {
		_, err := call(name, nil)
		xapitest.Fails(t, err, row[0], row[1:]...)
	}
	w.s.PluginTimeout = 100 * time.Millisecond
	began := time.Now()
	_, err = call("hang", nil)
	xapitest.Fails(t, err, "XENAPI_PLUGIN_FAILURE", "*", "", "")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a plugin that hangs held its caller for %v", took)
	}
	none := open(t, nil)
	_, err = none.s.CallPlugin(t.Context(), xapitest.Call(), service.HostCallPluginParams{Host: none.ref, Plugin: "echo"})
	xapitest.Fails(t, err, "XENAPI_MISSING_PLUGIN", "echo")
}
