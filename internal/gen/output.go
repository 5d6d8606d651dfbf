package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"xapid/pkg/datamodel"
)

//go:embed templates
var templateFiles embed.FS

// output maps paths below the checkout to contents.
type output map[string][]byte

// generated lists the places that gen owns, as globs below the checkout.
var generated = []string{"pkg/xenapi/*_gen.go", "pkg/xenapi/service/*_gen.go", "pkg/rpc/client/*_gen.go", "docs/api/classes/*.md"}

// render makes every generated file for a model.
func render(m *datamodel.Model) (output, error) {
	t, err := template.New("gen").Funcs(funcs).ParseFS(templateFiles, "templates/*.tmpl")
	if err != nil {
		return nil, err
	}
	out := output{}
	shared := map[string]string{"pkg/xenapi/enums_gen.go": "enums",
		"pkg/xenapi/classes_gen.go": "classes", "pkg/xenapi/service/services_gen.go": "services",
		"pkg/rpc/client/client_gen.go": "clients"}
	for path, name := range shared {
		if err := out.execute(t, path, name, m); err != nil {
			return nil, err
		}
	}
	for i, part := range errorParts(m.Errors) {
		if err := out.execute(t, fmt.Sprintf("pkg/xenapi/errors%d_gen.go", i+1), "errors", part); err != nil {
			return nil, err
		}
	}
	perClass := map[string]string{"pkg/xenapi/%s_gen.go": "record", "pkg/xenapi/service/%s_gen.go": "service", "pkg/xenapi/service/%s_handlers_gen.go": "handlers",
		"pkg/rpc/client/%s_gen.go": "client", "docs/api/classes/%s.md": "doc"}
	for _, c := range m.Classes {
		for pattern, name := range perClass {
			if err := out.execute(t, fmt.Sprintf(pattern, strings.ToLower(c.Name)), name, c); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// errorsPerFile keeps the files of error constructors to a size that tools and
// people bear.
const errorsPerFile = 330

// errorParts cuts the catalogue of errors into files.
func errorParts(all []datamodel.ErrorCode) [][]datamodel.ErrorCode {
	return slices.Collect(slices.Chunk(all, errorsPerFile))
}

func (o output) execute(t *template.Template, path, name string, data any) error {
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, name+".tmpl", data); err != nil {
		return err
	}
	src := b.Bytes()
	if strings.HasSuffix(path, ".go") {
		var err error
		if src, err = format.Source(withImports(src)); err != nil {
			return fmt.Errorf("%s: %w\n%s", path, err, b.Bytes())
		}
	}
	o[path] = src
	return nil
}

// importable lists what generated code may use, by the word that uses it.
var importable = []struct{ word, path string }{
	{"context.", "context"}, {"time.", "time"}, {"xenapi.", "xapid/pkg/xenapi"},
}

// withImports adds the import block that the code of a file calls for.
func withImports(src []byte) []byte {
	head, body, found := bytes.Cut(src, []byte("\npackage "))
	if !found {
		return src
	}
	name, body, _ := bytes.Cut(body, []byte("\n"))
	var imports bytes.Buffer
	for _, im := range importable {
		if regexp.MustCompile(`(^|[^\w"/.])` + regexp.QuoteMeta(im.word)).Match(body) {
			fmt.Fprintf(&imports, "import %q\n", im.path)
		}
	}
	return bytes.Join([][]byte{head, []byte("\npackage "), name, []byte("\n\n"), imports.Bytes(), body}, nil)
}

// write puts the files in place, leaves alone those that say the same, and
// removes generated ones that are no longer wanted.
func (o output) write(root string) error {
	for path, src := range o {
		full := filepath.Join(root, path)
		if old, err := os.ReadFile(full); err == nil && bytes.Equal(old, src) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, src, 0o644); err != nil {
			return err
		}
	}
	return o.removeStale(root)
}

func (o output) removeStale(root string) error {
	stale, err := o.stale(root)
	for _, path := range stale {
		if rmErr := os.Remove(filepath.Join(root, path)); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}

// stale lists the generated files that are there and should not be.
func (o output) stale(root string) ([]string, error) {
	var out []string
	for _, glob := range generated {
		found, err := filepath.Glob(filepath.Join(root, glob))
		if err != nil {
			return nil, err
		}
		for _, full := range found {
			rel, err := filepath.Rel(root, full)
			if err != nil {
				return nil, err
			}
			if _, wanted := o[filepath.ToSlash(rel)]; !wanted {
				out = append(out, rel)
			}
		}
	}
	return out, nil
}

// check fails if writing would change anything.
func (o output) check(root string) error {
	bad, err := o.stale(root)
	for path, src := range o {
		if old, readErr := os.ReadFile(filepath.Join(root, path)); readErr != nil || !bytes.Equal(old, src) {
			bad = append(bad, path)
		}
	}
	if err == nil && len(bad) > 0 {
		slices.Sort(bad)
		err = fmt.Errorf("stale, run make generate: %s", strings.Join(bad, ", "))
	}
	return err
}
