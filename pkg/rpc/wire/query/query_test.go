package query

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"xapid/pkg/xenapi"
)

func lookup(fields map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := fields[name]; return v, ok }
}

var vm = map[string]string{"is_a_template": "false", "name__label": "x", "power_state": "Running", "VBDs": "('a' 'b')", "tags": "()"}

func TestEval(t *testing.T) {
	for expr, want := range map[string]bool{
		`true`:                            true,
		`false`:                           false,
		`field "is_a_template" = "false"`: true,
		`field "name__label" = "x" and not field "power_state" = "Halted"`: true,
		`"x"=field"name__label"`:           true,
		`"a" = "a"`:                        true,
		`field "tags" = field "tags"`:      true,
		`field "VBDs" = "('a' 'b')"`:       true,
		`field "tags" = "()"`:              true,
		`field "no_such" = ""`:             false,
		`field "power_state" = "running"`:  false,
		"\t(\ntrue )\n":                    true,
		`not true or true`:                 true,
		`not (true or true)`:               false,
		`not not true`:                     true,
		`true or false and false`:          false, // (true or false) and false
		`false and false or true`:          true,
		`true or (false and false)`:        true,
		`false and true or true and false`: false,
	} {
		q, err := Parse(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
		} else if got := q.Eval(lookup(vm)); got != want {
			t.Errorf("%s: got %v", expr, got)
		}
	}
}

func TestFields(t *testing.T) {
	q, err := Parse(`field "a" = "x" or field "b" = field "a"`)
	if err != nil || strings.Join(q.Fields(), " ") != "a b" {
		t.Errorf("%v, %v", q, err)
	}
}

func TestParseErrors(t *testing.T) {
	many := ""
	for i := range 300 {
		many += `field "` + strings.Repeat("f", i) + `" = "" and `
	}
	for name, expr := range map[string]string{
		"empty": "", "blank": " ", "unfinished string": `field "a`, "no equals": `field "a"`, "half": `field "a" =`,
		"field without name": `field = "a"`, "unknown word": `foo "a" = "b"`, "upper case": `TRUE`, "trailing": `true true`,
		"trailing string": `true "a"`, "dangling and": `true and`, "only not": `not`, "open": `(true`, "close": `true)`,
		"two equals": `"a" == "b"`, "single quotes": `'a' = 'b'`, "NUL": "true\x00", "CR": "true\r", "carriage": `true or 1`,
		"deep parentheses": strings.Repeat("(", 10_000) + "true" + strings.Repeat(")", 10_000),
		"deep not":         strings.Repeat("not ", 10_000) + "true",
		"too long":         `"` + strings.Repeat("a", MaxLength) + `" = ""`,
		"too many fields":  many + "true",
		"value is true":    `field "a" = true`,
	} {
		_, err := Parse(expr)
		e, ok := err.(*xenapi.Error)
		if !ok || e.Code != "INVALID_VALUE" || len(e.Params) != 2 || len(e.Params[0]) > 256 || e.Params[1] == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLongChainIsFlat(t *testing.T) {
	q, err := Parse(strings.Repeat("true and ", 7000) + "true")
	if err != nil || !q.Eval(lookup(nil)) {
		t.Error(err)
	}
}

// TestLeftAssociative compares with the rule applied by hand to random chains.
func TestLeftAssociative(t *testing.T) {
	word := map[bool]string{true: "true", false: "false"}
	rapid.Check(t, func(t *rapid.T) {
		terms := rapid.SliceOfN(rapid.Bool(), 1, 20).Draw(t, "terms")
		ors := rapid.SliceOfN(rapid.Bool(), len(terms), len(terms)).Draw(t, "ors")
		expr, want := word[terms[0]], terms[0]
		for i, term := range terms[1:] {
			if ors[i] {
				expr, want = expr+" or "+word[term], want || term
			} else {
				expr, want = expr+" and "+word[term], want && term
			}
		}
		q, err := Parse(expr)
		if err != nil || q.Eval(lookup(nil)) != want {
			t.Fatalf("%s: %v", expr, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`true`, `field "a" = "b" and not ("c" = field "d" or false)`, `(`, `field "`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		q, err := Parse(expr)
		if err == nil {
			q.Eval(lookup(vm))
		} else if xenapi.Code(err) != "INVALID_VALUE" {
			t.Fatal(err)
		}
	})
}

func BenchmarkEval(b *testing.B) {
	q, err := Parse(`field "is_a_template" = "false" and not field "power_state" = "Halted"`)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		q.Eval(lookup(vm))
	}
}
