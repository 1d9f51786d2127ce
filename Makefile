# `make help` says what there is. Everything that is built or installed for the
# tests lies in .cache under its version, so that a new version in
# testdata/*/go.mod is a new path and is built, and nothing else is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

GO ?= go
# The tag is the GCS client's own switch: without it 13 MB of gRPC come along.
TAGS := disable_grpc_modules
# Arguments of the test run: make test TESTFLAGS='-run TestRotation -v' PACKAGES=./cmd/...
TESTFLAGS ?=
PACKAGES ?= ./...
FUZZTIME ?= 10s

# -- what is pinned, and where it is built -----------------------------------

# $(call pinned,go.mod,module): the version that the module file names.
pinned = $(or $(shell awk '$$1 == "$(2)" { print $$2 }' $(1)),$(error $(1) does not name $(2)))
server = .cache/$(1)@$(call pinned,testdata/servers/go.mod,$(2))/$(1)
tool = .cache/$(1)@$(call pinned,testdata/tools/go.mod,$(2))/$(1)

ETCD := $(call server,etcd,go.etcd.io/etcd/server/v3)
FAKE_GCS := $(call server,fake-gcs-server,github.com/fsouza/fake-gcs-server)
KUBE_APISERVER := $(call server,kube-apiserver,k8s.io/kubernetes)
KUBECTL := $(call server,kubectl,k8s.io/kubernetes)
KUBELET := $(call server,kubelet,k8s.io/kubernetes)
KUSTOMIZE := $(call server,kustomize,sigs.k8s.io/kustomize/kustomize/v5)
PEBBLE := $(call server,pebble,github.com/letsencrypt/pebble/v2)
TOXIPROXY := $(call server,toxiproxy-server,github.com/Shopify/toxiproxy/v2)
VERSITYGW := $(call server,versitygw,github.com/versity/versitygw)
GO_SERVERS := $(ETCD) $(FAKE_GCS) $(VERSITYGW) $(PEBBLE) $(TOXIPROXY) $(KUSTOMIZE) $(KUBE_APISERVER) $(KUBELET) $(KUBECTL)

S3RVER_VERSION := $(or $(shell sed -n 's/.*"s3rver": "\([0-9.]*\)".*/\1/p' testdata/servers/package.json),$(error testdata/servers/package.json does not pin s3rver))
S3RVER := .cache/s3rver@$(S3RVER_VERSION)/node_modules/.bin/s3rver

PROMTOOL := .cache/promtool/promtool

DEBIAN := .cache/debian/complete

GOLANGCI_LINT := $(call tool,golangci-lint,github.com/golangci/golangci-lint/v2)
GOVULNCHECK := $(call tool,govulncheck,golang.org/x/vuln)

empty :=
space := $(empty) $(empty)
SERVER_PATH := $(subst $(space),:,$(patsubst %/,$(CURDIR)/%,$(dir $(GO_SERVERS) $(S3RVER) $(PROMTOOL)) .cache/debian/bin/))

.PHONY: help build demo deps servers lint test-unit test soak bench bench-rotation fuzz vuln clean

help: ## say what the targets do (this text)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# -- the product -------------------------------------------------------------

# The version comes from the commit, so -buildvcs overrides what GOFLAGS may say.
build: ## build the static, stripped programs bin/oidc-publisher and bin/oidc-publisher-credential-provider
	CGO_ENABLED=0 $(GO) build -buildvcs=auto -trimpath -tags $(TAGS) -ldflags '-s -w' -o bin/ ./cmd/...

# Only `make demo KUBECONFIG=...` leaves the embedded cluster: the variable of
# that name that most people export must not.
demo: build ## show the main job on an embedded cluster; KUBECONFIG=path reads yours instead
ifeq ($(origin KUBECONFIG),command line)
	@$(GO) run -tags $(TAGS) ./examples/demo -kubeconfig '$(KUBECONFIG)'
else
	@unset KUBECONFIG; $(GO) run -tags $(TAGS) ./examples/demo
endif

# -- what the tests need -----------------------------------------------------

# command:Debian package
PROGRAMS := git:git gcc:gcc curl:curl openssl:openssl node:nodejs npm:npm

# Nothing here starts a service. What can't be installed is only reported: the
# tests that need it say so themselves.
deps: ## install the few Debian packages that tests use (root and apt-get only)
	@packages=() missing=(); \
	for program in $(PROGRAMS); do \
	  if ! command -v "$${program%:*}" >/dev/null; then missing+=("$${program%:*}"); packages+=("$${program#*:}"); fi; \
	done; \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "deps: missing: $${missing[*]}; install them (Debian: apt-get install $${packages[*]}). Going on without." >&2; exit 0; \
	fi; \
	if [[ " $${packages[*]} " == *" gcc "* ]]; then packages+=(libc6-dev); fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get -o DPkg::Lock::Timeout=300 -q update; \
	apt-get -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends install "$${packages[@]}"

servers: $(GO_SERVERS) $(S3RVER) $(PROMTOOL) $(DEBIAN) ## build the real servers that tests run (once per version; minutes)

$(ETCD): package := go.etcd.io/etcd/server/v3
$(FAKE_GCS): package := github.com/fsouza/fake-gcs-server
$(PEBBLE): package := github.com/letsencrypt/pebble/v2/cmd/pebble
$(TOXIPROXY): package := github.com/Shopify/toxiproxy/v2/cmd/server
$(VERSITYGW): package := github.com/versity/versitygw/cmd/versitygw
$(KUSTOMIZE): package := sigs.k8s.io/kustomize/kustomize/v5
$(KUBE_APISERVER): package := k8s.io/kubernetes/cmd/kube-apiserver
$(KUBECTL): package := k8s.io/kubernetes/cmd/kubectl
$(KUBELET): package := k8s.io/kubernetes/cmd/kubelet
# Without this they call themselves v0.0.0-master.
$(KUBE_APISERVER) $(KUBELET) $(KUBECTL): version = -X k8s.io/component-base/version.gitVersion=$(call pinned,testdata/servers/go.mod,k8s.io/kubernetes)
$(GO_SERVERS): module := testdata/servers

$(GOLANGCI_LINT): package := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(GOVULNCHECK): package := golang.org/x/vuln/cmd/govulncheck
$(GOLANGCI_LINT) $(GOVULNCHECK): module := testdata/tools

# Built beside its place and moved into it: an interrupted build, or two at the
# same time, leave no half of a binary.
$(GO_SERVERS) $(GOLANGCI_LINT) $(GOVULNCHECK):
	@echo "building $(@D)"; \
	mkdir -p $(@D); \
	part=$(CURDIR)/$@.$$$$; trap 'rm -f "$$part"' EXIT; \
	CGO_ENABLED=0 $(GO) -C $(module) build -buildvcs=false -trimpath -ldflags '-s -w $(version)' -o "$$part" $(package); \
	mv "$$part" $@

$(S3RVER): | deps
	@if ! command -v npm >/dev/null; then echo "servers: no npm, so no s3rver: the tests that need it will say so" >&2; exit 0; fi; \
	echo "installing .cache/s3rver@$(S3RVER_VERSION)"; \
	mkdir -p .cache; \
	part=$$(mktemp -d .cache/s3rver.XXXXXX); trap 'rm -rf "$$part"' EXIT; \
	cp testdata/servers/package.json testdata/servers/package-lock.json "$$part"; \
	chmod 755 "$$part"; \
	npm --prefix "$$part" ci --ignore-scripts --no-audit --no-fund --loglevel=error; \
	rm -rf .cache/s3rver@$(S3RVER_VERSION); \
	mv -T "$$part" .cache/s3rver@$(S3RVER_VERSION)

# Taken out of Debian's package, which is not installed: its installation would
# bring a Prometheus that starts with the machine.
$(PROMTOOL): | deps
	@mkdir -p $(@D); \
	if found=$$(command -v promtool); then ln -sf "$$found" $@; exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "servers: no promtool and no apt-get, so the tests that need promtool will say so" >&2; exit 0; fi; \
	echo "unpacking $@"; \
	part=$$(mktemp -d $(CURDIR)/$(@D).XXXXXX); trap 'rm -rf "$$part"' EXIT; \
	chmod 755 "$$part"; \
	cd "$$part"; \
	apt-get -q download prometheus || { [ "$$(id -u)" -eq 0 ] && apt-get -q update && apt-get -q download prometheus; } || \
	  { echo "servers: apt-get can't download the package prometheus, so the tests that need promtool will say so" >&2; exit 0; }; \
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool; \
	mv usr/bin/promtool $(CURDIR)/$@

# Debian's packages and the libraries that the machine lacks for them, unpacked
# and not installed: some would start a server with the machine. A program is
# run by its name in .cache/debian/bin, which tells it where its libraries are.
$(DEBIAN): testdata/servers/debian.txt | deps
	@if ! command -v apt-get >/dev/null; then echo "servers: no apt-get, so the tests that need a program of $< will say so" >&2; exit 0; fi; \
	echo "unpacking $$(tr '\n' ' ' <$<)into $(@D)"; \
	mkdir -p .cache; \
	part=$$(mktemp -d $(CURDIR)/.cache/debian.XXXXXX); trap 'rm -rf "$$part"' EXIT; \
	mkdir -p "$$part/archives/partial"; \
	chmod 755 "$$part"; \
	fetch() { apt-get -q -y --no-install-recommends --download-only --reinstall -o Debug::NoLocking=1 -o Dir::Cache::archives="$$part/archives" install $$(cat $<) >/dev/null; }; \
	fetch || { [ "$$(id -u)" -eq 0 ] && apt-get -q update && fetch; } || \
	  { echo "servers: apt-get can't download the packages of $<, so the tests that need one will say so" >&2; exit 0; }; \
	for package in "$$part"/archives/*.deb; do dpkg-deb -x "$$package" "$$part"; done; \
	rm -r "$$part/archives"; \
	if [ -d "$$part/bin" ]; then mv "$$part"/bin/* "$$part/usr/bin"; fi; \
	mkdir -p "$$part/bin"; \
	lib=$$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch); \
	for program in "$$part"/usr/sbin/* "$$part"/usr/bin/*; do \
	  place=$(CURDIR)/$(@D)$${program#"$$part"}; \
	  wrapper="$$part/bin/$${program##*/}"; \
	  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$$@"\n' "$(CURDIR)/$(@D)/usr/lib/$$lib:$(CURDIR)/$(@D)/lib/$$lib" "$$place" >"$$wrapper"; \
	  chmod 755 "$$wrapper"; \
	done; \
	rm -rf $(@D); \
	mv -T "$$part" $(@D); \
	touch $@

# -- tests -------------------------------------------------------------------

lint: .cache/lint-passed ## run the linters, the formatter, `go vet` for macOS and Windows, and `go mod tidy`, changing nothing

# The programs and the demo are checked for the systems that no test runs on.
# Tests need Linux.
VETTED := darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

# A tree that passed is linted again only after a file changed.
LINTED := $(wildcard $(shell git ls-files --cached --others --exclude-standard '*.go' go.mod go.sum .golangci.yml 2>/dev/null))

.cache/lint-passed: $(GOLANGCI_LINT) $(LINTED)
	@touch $@.begun
	$(GOLANGCI_LINT) run ./...
	@for system in $(VETTED); do \
	  echo "go vet for $$system"; \
	  CGO_ENABLED=0 GOOS=$${system%/*} GOARCH=$${system#*/} $(GO) vet -tags $(TAGS) ./cmd/... ./examples/demo; \
	done
	$(GO) mod tidy -diff
	@mv $@.begun $@

# Many packages wait for timeouts more than they compute, hence -p.
test-unit: ## run the tests that need no server (seconds)
	$(GO) test -short -p 4 -tags $(TAGS) $(TESTFLAGS) $(PACKAGES)

# A server that is missing is a failure here, never a skip.
test: deps lint servers ## set everything up, then run every test with -race
	@command -v "$${CC:-gcc}" >/dev/null || { echo "test: no C compiler: go test -race needs gcc (Debian: apt-get install gcc libc6-dev)" >&2; exit 1; }
	PATH="$(SERVER_PATH):$$PATH" OIDC_PUBLISHER_REQUIRE_SERVERS=1 CGO_ENABLED=1 \
	  $(GO) test -race -count=1 -timeout 30m -tags $(TAGS) $(TESTFLAGS) $(PACKAGES)

# Without -race, which costs memory and time of its own.
figures = PATH="$(SERVER_PATH):$$PATH" OIDC_PUBLISHER_REQUIRE_SERVERS=1 $(GO) test -count=1 -timeout 30m -v -tags $(TAGS),figures ./internal/e2e

soak: servers ## let watch look every second for ten minutes, and see that its memory stays flat
	OIDC_PUBLISHER_SOAK=10m $(figures) -run '^TestWatchSoak$$'

bench: servers ## measure everything, side by side with what one would use instead (minutes; on a quiet machine)
	$(figures) -run 'Figures$$'

bench-rotation: servers ## measure how soon a replaced key is public, and what watch takes at rest
	$(figures) -run '^TestWatchFigures$$'

fuzz: ## run every fuzz target for FUZZTIME each (10s)
	@targets=$$(git grep --untracked -HoE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sed 's/:func /:/' || true); \
	if [ -z "$$targets" ]; then echo "fuzz: there is no fuzz target" >&2; exit 1; fi; \
	while IFS=: read -r file target; do \
	  echo "$$target in $$(dirname "$$file")"; \
	  $(GO) test -tags $(TAGS) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$file")" </dev/null; \
	done <<<"$$targets"

vuln: $(GOVULNCHECK) ## look for known vulnerabilities (asks a database on the internet)
	$(GOVULNCHECK) -tags $(TAGS) ./...

clean: ## remove bin and .cache
	rm -rf bin .cache
