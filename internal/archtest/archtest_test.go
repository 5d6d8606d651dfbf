// Package archtest holds the tree to its rules: who may import whom, that
// packages say what they are for, and which versions of modules are used.
package archtest

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rules lists, for each package, what of ours it may import. Imports point
// down the picture in the README; a line here needs a reason to grow.
var rules = map[string][]string{
	"cmd/xapid":           {"pkg/agent", "pkg/auth", "pkg/config", "pkg/doctor"},
	"cmd/xapid-pam":       {"pkg/auth"},
	"internal/gen":        {"pkg/datamodel"},
	"internal/coverage":   {"pkg/datamodel"},
	"internal/testenv":    {"pkg/rpc/client"},
	"pkg/datamodel":       {},
	"pkg/xenapi":          {"pkg/datamodel"},
	"pkg/xenapi/service":  {"pkg/datamodel", "pkg/xenapi"},
	"pkg/db":              {"pkg/datamodel", "pkg/xenapi"},
	"pkg/pool":            {"pkg/db", "pkg/xenapi"},
	"pkg/auth":            {},
	"pkg/config":          {},
	"pkg/facts":           {},
	"pkg/doctor":          {},
	"pkg/saga":            {},
	"pkg/sm":              {},
	"pkg/sm/vhd":          {},
	"pkg/sm/file":         {"pkg/sm", "pkg/sm/vhd"},
	"pkg/sm/iso":          {"pkg/sm"},
	"pkg/sm/all":          {"pkg/sm", "pkg/sm/file", "pkg/sm/iso"},
	"pkg/xenctl":          {},
	"pkg/xenctl/sim":      {"pkg/xenctl"},
	"pkg/xenctl/libvirt":  {"pkg/xenctl", "pkg/xenctl/guests", "pkg/xenctl/loopdev", "pkg/xenctl/xenstore"},
	"pkg/xenctl/loopdev":  {},
	"pkg/xenctl/guests":   {"pkg/xenctl", "pkg/xenctl/xenstore"},
	"pkg/xenctl/xenstore": {"pkg/xenctl"},
	"pkg/xenctl/pygrub":   {"pkg/xenctl", "pkg/xenctl/loopdev"},
	"pkg/node":            {"pkg/sm", "pkg/xenctl"},
	"pkg/rpc/wire":        {"pkg/datamodel", "pkg/xenapi"},
	"pkg/rpc/wire/query":  {"pkg/xenapi", "pkg/rpc/wire"},
	"pkg/rpc/listen":      {},
	"pkg/rpc/client":      {"pkg/datamodel", "pkg/rpc/wire", "pkg/xenapi"},
	"pkg/rpc":             {"pkg/datamodel", "pkg/db", "pkg/rpc/listen", "pkg/rpc/wire", "pkg/rpc/wire/query", "pkg/xenapi", "pkg/xenapi/service"},
	"pkg/xapi/ops":        {"pkg/datamodel", "pkg/db", "pkg/saga", "pkg/xenapi", "pkg/xenapi/service"},
	"pkg/xapi":            {"pkg/db", "pkg/node", "pkg/xapi/ops", "pkg/xenapi", "pkg/xenapi/service"},
	"pkg/agent":           {"*"}, // where everything meets
}

// family is what the packages of behaviour may import.
var family = []string{"pkg/datamodel", "pkg/db", "pkg/facts", "pkg/node", "pkg/saga", "pkg/sm", "pkg/sm/iso", "pkg/xapi", "pkg/xapi/*",
	"pkg/xenapi", "pkg/xenapi/service", "pkg/xenctl"}

// testKits are packages that only tests import: they may reach further.
var testKits = []string{"pkg/sm/smtest", "pkg/xenctl/xenctltest", "pkg/xapi/xapitest", "internal/", "test/", "bench/"}

const module = "xapid/"

func TestImports(t *testing.T) {
	for _, dir := range packages(t) {
		if slices.ContainsFunc(testKits, func(kit string) bool { return strings.HasPrefix(dir, kit) }) && rules[dir] == nil {
			continue
		}
		allowed, known := rules[dir]
		if !known && strings.HasPrefix(dir, "pkg/xapi/") {
			allowed, known = family, true
		}
		if !known {
			t.Errorf("%s: no rule says what it may import", dir)
			continue
		}
		for _, im := range imports(t, dir) {
			ok := slices.ContainsFunc(allowed, func(a string) bool {
				prefix, wild := strings.CutSuffix(a, "*")
				return a == im || wild && strings.HasPrefix(im, prefix)
			})
			if !ok {
				t.Errorf("%s must not import %s", dir, im)
			}
		}
	}
}

// TestPackageComments wants exactly one comment a package, which says what it
// is for.
func TestPackageComments(t *testing.T) {
	for _, dir := range packages(t) {
		docs := 0
		for _, f := range sources(t, dir) {
			file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				docs++
			}
		}
		if docs != 1 {
			t.Errorf("%s has %d package comments", dir, docs)
		}
	}
}

// pinned modules clash in other versions: newer raft and the log stores pull
// in a go-metrics that lacks what the other needs.
var pinned = map[string]string{
	"github.com/hashicorp/raft":       "v1.7.3",
	"github.com/hashicorp/raft-wal":   "v0.4.2",
	"github.com/hashicorp/go-metrics": "v0.5.4",
}

func TestPinnedVersions(t *testing.T) {
	for path, want := range pinned {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", path).Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", path, got, want, err)
		}
	}
}

// TestNoForgottenMarks wants an issue rather than a mark in the code.
func TestNoForgottenMarks(t *testing.T) {
	mark := regexp.MustCompile(`\b(` + "TO" + `DO|FIX` + `ME|X` + `XX|HA` + `CK)\b`)
	for _, dir := range packages(t) {
		for _, f := range sources(t, dir) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if m := mark.Find(b); m != nil && !strings.HasSuffix(f, "_gen.go") {
				t.Errorf("%s: %s", f, m)
			}
		}
	}
}

// root is the checkout.
const root = "../.."

// packages lists the folders with Go code, tests aside.
func packages(t *testing.T) []string {
	t.Helper()
	seen := map[string]bool{}
	for _, top := range []string{"cmd", "pkg", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "testdata") {
				rel, _ := filepath.Rel(root, filepath.Dir(path))
				seen[rel] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var out []string
	for dir := range seen {
		out = append(out, dir)
	}
	slices.Sort(out)
	return out
}

func sources(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
}

func imports(t *testing.T, dir string) []string {
	t.Helper()
	seen := map[string]bool{}
	for _, f := range sources(t, dir) {
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, im := range file.Imports {
			if path := strings.Trim(im.Path.Value, `"`); strings.HasPrefix(path, module) {
				seen[strings.TrimPrefix(path, module)] = true
			}
		}
	}
	var out []string
	for im := range seen {
		out = append(out, im)
	}
	slices.Sort(out)
	return out
}
