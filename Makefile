# xapid: every target with one line of help; `make help` lists them.
SHELL := /bin/bash
GO    ?= go
VAR   ?= var
ARGS  ?=
PULLS ?= 1
VERSION ?= 0.1.0
LDFLAGS := -s -w -X xapid/pkg/xapi/host.Version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
DEB  := dist/xapid_$(VERSION)_amd64.deb

.PHONY: help run setup-build build setup generate generate-check lint test race fuzz e2e coverage-api bench lab-bench package lab lab-pulls lab-uefi lab-shell clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -ts $$'\t'

setup: ## install what building and testing need (apt, as root; else names it)
	@scripts/setup

setup-build:
	@XAPID_SETUP=build scripts/setup

run: setup-build build ## build and start on the simulated hypervisor, data under ./var
	@mkdir -p $(VAR)
	@bin/xapid --hypervisor sim --auth file --state-dir $(CURDIR)/$(VAR)/state --log-dir $(CURDIR)/$(VAR)/log \
	  --https 127.0.0.1:8443 --socket $(CURDIR)/$(VAR)/xapi.sock $(ARGS)

build: ## build bin/xapid and bin/xapid-pam
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/xapid ./cmd/xapid
	$(GO) build -trimpath -ldflags '-s -w' -o bin/xapid-pam ./cmd/xapid-pam

generate: ## write all that follows from the datamodel
	$(GO) run ./internal/gen

generate-check: ## fail if generated files are stale
	$(GO) run ./internal/gen -check

lint: generate-check ## gofmt, vet, staticcheck, import rules, pinned versions
	@files=$$(git ls-files '*.go' | xargs gofmt -l) && test -z "$$files" || { echo "not gofmt-ed: $$files"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test ./internal/archtest

test: setup ## everything that can run on this machine
	XAPID_LONG=1 $(GO) test $(TESTFLAGS) -timeout 30m ./...

race: setup ## the packages with concurrency under the race detector
	$(GO) test -race -short -timeout 30m ./pkg/db ./pkg/pool ./pkg/rpc/... ./pkg/saga ./pkg/sm ./pkg/xenctl/... ./pkg/xapi/...

fuzz: ## each fuzz target for a few seconds
	@scripts/fuzz 10s

e2e: setup ## the real daemon and real clients
	$(GO) test -count=1 -timeout 20m ./test/...

coverage-api: ## which explicit messages are implemented and called by a test
	@scripts/coverage-api

bench: ## the benchmark table with its ratios
	@scripts/bench

lab-bench: package ## what of VM.start on real Xen is ours, beside virsh
	@scripts/bench-lab $(DEB)

package: setup-build build ## the Debian package, in dist/
	@mkdir -p dist
	VERSION=$(VERSION) $(GO) run $(NFPM) package --config packaging/nfpm.yaml --packager deb --target $(DEB)

lab: package ## the package on real Xen in a virtual machine, driven from outside
	@test/lab/lab.sh suite $(DEB) $(PULLS)

lab-pulls: PULLS = 100
lab-pulls: package ## the plug of that machine is pulled, PULLS times (100)
	@test/lab/lab.sh pulls $(DEB) $(PULLS)

lab-uefi: package ## a guest that boots by UEFI there (minutes)
	@test/lab/lab.sh uefi $(DEB)

lab-shell: package ## the same virtual machine with a prompt
	@test/lab/lab.sh shell $(DEB)

clean: ## remove what was built and the demo's data
	rm -rf bin dist $(VAR)
