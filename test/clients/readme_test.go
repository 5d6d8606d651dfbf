package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"xapid/internal/testenv"
)

// block finds a code block of README.md by its language.
func block(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)\n```" + language + "\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatalf("README.md has no block of %s", language)
	}
	return string(m[1])
}

// replace puts this daemon's figures where the text has the demo's; each must
// be there.
func replace(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("README.md says %q no more", pairs[i])
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// TestReadmePython takes the tour as it stands in README.md.
func TestReadmePython(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is missing")
	}
	d := testenv.Start(t)
	script := replace(t, block(t, "python"), "https://127.0.0.1:8443", d.URL, "PASSWORD", d.Password)
	cmd := exec.CommandContext(t.Context(), python, "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "Running\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestReadmeCurl runs the lines for the shell.
func TestReadmeCurl(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"curl", "sqlite3", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is missing")
		}
	}
	d := testenv.Start(t)
	c := d.Client(t)
	script := replace(t, block(t, "sh"), "https://127.0.0.1:8443", d.URL, "PASSWORD", d.Password,
		"OpaqueRef:…", string(c.SessionRef()), "var/state/", filepath.Join(d.Dir, "state")+"/")
	cmd := exec.CommandContext(t.Context(), "sh", "-eu")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{`"result":"OpaqueRef:`, `"name_label":"Control domain`, `"valid_ref_counts"`, "xapid_", "Control domain on host"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the tour does not show %s:\n%s", want, out)
		}
	}
	if strings.Contains(string(out), `"error":{`) {
		t.Errorf("an error:\n%.4000s", out)
	}
}
