// Command gen writes everything that follows from the datamodel: records,
// references, enums and error constructors (pkg/xenapi), service interfaces
// and the dispatch table (pkg/xenapi/service), the Go client
// (pkg/rpc/client) and the reference documents (docs/api).
//
// It owns every *_gen.go file and docs/api/*.md but coverage.md: a file that
// it would no longer write is removed. Start at model.go, which turns names of
// the API into names of Go, then at the templates.
package main

import (
	"flag"
	"fmt"
	"os"

	"xapid/pkg/datamodel"
)

func main() {
	root := flag.String("root", ".", "the checkout to write into")
	check := flag.Bool("check", false, "write nothing; fail if a file is stale")
	flag.Parse()
	out, err := render(datamodel.Get())
	switch {
	case err != nil:
	case *check:
		err = out.check(*root)
	default:
		err = out.write(*root)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}
