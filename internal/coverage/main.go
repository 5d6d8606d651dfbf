// Command coverage tells which explicit messages are implemented and called
// over the wire by a test, from what daemons under test have logged.
//
//	coverage -calls DIR          prints the table and writes docs/api/coverage.md
//	coverage -calls DIR -check   fails if a call of docs/api/scope.tsv is not covered
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"xapid/pkg/datamodel"
)

func main() {
	calls := flag.String("calls", "", "directory of the files of calls")
	check := flag.Bool("check", false, "fail if a call that is in scope is not covered")
	flag.Parse()
	if err := run(*calls, *check); err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	called, err := read(dir)
	if err != nil {
		return err
	}
	text, total := table(called)
	fmt.Print(text)
	scope, err := inScope("docs/api/scope.tsv")
	if err != nil {
		return err
	}
	var missing []string
	for _, name := range scope {
		if !called[name] {
			missing = append(missing, name)
		}
	}
	fmt.Printf("\nin scope: %d, covered: %d; explicit messages covered in all: %d\n", len(scope), len(scope)-len(missing), total)
	if len(missing) > 0 {
		fmt.Println("in scope and not covered:", strings.Join(missing, " "))
	}
	if check && len(missing) > 0 {
		return fmt.Errorf("%d calls of docs/api/scope.tsv are not covered", len(missing))
	}
	return os.WriteFile("docs/api/coverage.md", []byte(text), 0o644)
}

// read gathers the names of the messages that did something.
func read(dir string) (map[string]bool, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.calls"))
	if err != nil {
		return nil, err
	}
	called := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for name := range strings.FieldsSeq(string(b)) {
			called[name] = true
		}
	}
	return called, nil
}

// table writes a row a class with explicit messages, removed ones aside.
func table(called map[string]bool) (string, int) {
	var b strings.Builder
	b.WriteString("# Coverage of the API\n\nExplicit messages that are implemented and called over the wire by a test, removed ones aside.\n" +
		"`make coverage-api` writes this page. Implicit messages are served by generic code, all of them.\n\n" +
		"| class | covered | of | which |\n| --- | --- | --- | --- |\n")
	sum, all := 0, 0
	for _, c := range datamodel.Get().Classes {
		var names []string
		n := 0
		for _, m := range c.Messages {
			if m.Kind != datamodel.Explicit || m.Lifecycle == datamodel.Removed {
				continue
			}
			n++
			if called[m.WireName()] {
				names = append(names, m.Name)
			}
		}
		if n > 0 {
			fmt.Fprintf(&b, "| %s | %d | %d | %s |\n", c.Name, len(names), n, strings.Join(names, " "))
		}
		sum, all = sum+len(names), all+n
	}
	fmt.Fprintf(&b, "| **all** | **%d** | **%d** | |\n", sum, all)
	return b.String(), sum
}

// inScope lists the calls that docs/api/scope.tsv says are in.
func inScope(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		cols := strings.Split(sc.Text(), "\t")
		if len(cols) >= 3 && cols[2] == "in" {
			out = append(out, cols[0])
		}
	}
	return out, nil
}
