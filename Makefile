# Tools that `make setup` brings come first: they are there only where the machine's own are too old.
export PATH := /usr/local/lib/runcvm-build/go/bin:$(PATH):/usr/local/go/bin:/usr/sbin:/sbin
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
# Prerequisites run from left to right; go itself uses all processors.
.NOTPARALLEL:

PROGRAMS := runcvm runcvm-guest firecracker-qemu
IMAGE    := build/image/debian
# What tests run in guests beside the base system, in an image of its own so that the demo's stays small.
TOOLS_IMAGE    := build/image/tools
TOOLS_PACKAGES := e2fsprogs iproute2 kmod libcap2-bin nftables procps vim-tiny wireguard-tools
# The suites find everything by these.
TEST_ENV := RUNCVM_BIN=$(CURDIR)/bin RUNCVM_TEST_IMAGE=$(CURDIR)/$(IMAGE) RUNCVM_TEST_TOOLS_IMAGE=$(CURDIR)/$(TOOLS_IMAGE)
# They boot the faster kernel where it was built, unless another was asked for.
FASTER_KERNEL := build/kernel
ifneq ($(wildcard $(FASTER_KERNEL)/.complete),)
TEST_ENV += RUNCVM_KERNEL=$(or $(RUNCVM_KERNEL),$(CURDIR)/$(FASTER_KERNEL)) RUNCVM_TEST_KERNEL=$(or $(RUNCVM_TEST_KERNEL),$(CURDIR)/$(FASTER_KERNEL))
endif

# Programs run on hosts and in guests of any libc, so they are static.
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w'

# A run of the e2e suites may take this long; see also KVM_DEADLINE in test/kvm/run.
E2E_TIMEOUT ?= 45m
# Narrow a run: make test-e2e RUN=TestExitCode PKG=./test/run
RUN ?=
PKG ?= ./test/... ./internal/kernel ./internal/rootfs ./internal/emulator/vsock
# Time that each fuzz target gets: make fuzz FUZZTIME=5m
FUZZTIME ?= 30s

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what building, testing and running need (Debian 12, root)
	scripts/setup

.PHONY: build
build: ## Build the programs into bin/
	$(GOBUILD) -o bin/ $(PROGRAMS:%=./cmd/%)

.PHONY: test-programs
test-programs: ## Build the programs that e2e suites put into guests, and a registry, into bin/test/
	$(GOBUILD) -o bin/test/ ./test/programs/...
	cd tools && $(GOBUILD) -o ../bin/test/ ./registry

# The engines' parts are built once for each version: dockerd alone takes minutes.
ENGINE_TOOLS := test/engines/tools
ENGINES := bin/test/engines
$(ENGINES)/runc: $(ENGINE_TOOLS)/go.mod $(ENGINE_TOOLS)/go.sum
	cd $(ENGINE_TOOLS) && go build -trimpath -ldflags '-s -w' -tags seccomp -o $(CURDIR)/$(ENGINES)/ github.com/opencontainers/runc
	touch $@
$(ENGINES)/dockerd: $(ENGINE_TOOLS)/go.mod $(ENGINE_TOOLS)/go.sum
	cd $(ENGINE_TOOLS) && $(GOBUILD) -o $(CURDIR)/$(ENGINES)/ github.com/moby/moby/v2/cmd/dockerd \
	  github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	touch $@

.PHONY: image
image: ## Make the Debian image that demo and tests run
	scripts/debian-image $(IMAGE)

.PHONY: tools-image
tools-image: ## Make the Debian image with the programs that some tests run in guests
	scripts/debian-image $(TOOLS_IMAGE) $(TOOLS_PACKAGES)

.PHONY: deb
deb: ## Make the Debian package bin/deb/runcvm_VERSION_amd64.deb of the commit
	scripts/deb

.PHONY: kernel
kernel: build ## Build the smaller, faster guest kernel, which tests then use (10 to 20 minutes, once)
	kernel/build $(FASTER_KERNEL)
	bin/runcvm kernel check $(CURDIR)/$(FASTER_KERNEL) >/dev/null

.PHONY: demo
demo: setup build image ## Run a Debian container in a microVM and show its start
	scripts/demo $(IMAGE)

.PHONY: test
test: setup build test-unit test-sdk test-runtime-tools-quick test-e2e ## Set up, build, run unit and e2e tests on firecracker-qemu

.PHONY: test-unit
test-unit: ## Run the unit tests
	go test -race ./...

.PHONY: test-sdk
test-sdk: build ## Boot a guest on firecracker-qemu through Firecracker's official Go SDK
	cd test/firecracker-go-sdk && RUNCVM_VMM=$(CURDIR)/bin/firecracker-qemu go test -count=1 -v ./...

# The validation programs of runtime-tools; programs.md says which pass, and which of them every run has.
RUNTIME_TOOLS     := github.com/opencontainers/runtime-tools
QUICK_VALIDATIONS := $(shell awk -F '|' '$$4 ~ /`make test`/ { gsub(/ /, "", $$2); print $$2 }' test/runtime-tools/programs.md)
# Their test, which finds everything by these.
VALIDATE := cd test/runtime-tools && $(TEST_ENV) RUNCVM_TEST_RUNTIME_TOOLS=$(CURDIR)/bin/test/runtime-tools \
	RUNCVM_TEST_RUNTIME_TOOLS_SOURCE="$$(go list -m -f '{{.Dir}}' $(RUNTIME_TOOLS))" \
	RUNCVM_TEST_SCHEMA="$$(cd $(CURDIR) && go list -m -f '{{.Dir}}' github.com/opencontainers/runtime-spec)/schema"

.PHONY: quick-validations
quick-validations:
	cd test/runtime-tools && $(GOBUILD) -o ../../bin/test/runtime-tools/ $(RUNTIME_TOOLS)/cmd/runtimetest $(QUICK_VALIDATIONS:%=$(RUNTIME_TOOLS)/validation/%)

.PHONY: test-runtime-tools-quick
test-runtime-tools-quick: build $(ENGINES)/runc quick-validations ## Run some validation programs of runtime-tools, and compare with the OCI schemas
	$(VALIDATE) go test -count=1 -v -timeout $(E2E_TIMEOUT) ./...

.PHONY: test-runtime-tools
test-runtime-tools: build $(ENGINES)/runc ## Run all validation programs of runtime-tools that apply (minutes)
	cd test/runtime-tools && $(GOBUILD) -o ../../bin/test/runtime-tools/ tool
	$(VALIDATE) RUNCVM_TEST_RUNTIME_TOOLS_ALL=1 go test -count=1 -v -timeout $(E2E_TIMEOUT) ./...

.PHONY: test-e2e
test-e2e: build test-programs $(ENGINES)/runc image tools-image deb ## Run the e2e suites on firecracker-qemu
	$(TEST_ENV) RUNCVM_TEST_DEB=$$(ls $(CURDIR)/bin/deb/*.deb) go test -tags e2e -count=1 -p 1 -v -timeout $(E2E_TIMEOUT) $(if $(RUN),-run '$(RUN)') $(PKG)

.PHONY: test-kvm
test-kvm: build test-programs $(ENGINES)/runc quick-validations image tools-image ## Run the e2e suites in a machine with KVM: FIRECRACKER=path [JAILER=path], or ACCEL=qemu
	test/kvm/run

.PHONY: test-engines
test-engines: build test-programs $(ENGINES)/runc $(ENGINES)/dockerd ## Run the engines' suite with all engines, a current Docker included
	$(TEST_ENV) RUNCVM_TEST_ENGINES=all go test -tags e2e -count=1 -v -timeout $(E2E_TIMEOUT) $(if $(RUN),-run '$(RUN)') ./test/engines

.PHONY: soak
soak: build test-programs $(ENGINES)/runc $(ENGINES)/dockerd ## Start and stop a container 1,000 times with each engine and runtime
	$(TEST_ENV) RUNCVM_TEST_ENGINES=all RUNCVM_TEST_CYCLES=1000 go test -tags e2e -count=1 -v -timeout 24h -run 'TestEngines/.*/.*/cycles' ./test/engines

.PHONY: bench
bench: build test-programs image ## Run the benchmarks, write bench/results.json
	$(TEST_ENV) go run ./bench -o bench/results.json

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: ## Run golangci-lint and shellcheck
	shellcheck -S warning .ci/run kernel/build packaging/prerm packaging/postrm $$(find scripts test/kvm -maxdepth 1 -type f)
	go tool -modfile=tools/go.mod golangci-lint run ./...

.PHONY: generate
generate: ## Generate the ttrpc code (needs protobuf-compiler)
	scripts/generate-proto internal/guestapi/*.proto internal/monitor/api/*.proto

.PHONY: docs
docs: ## Generate docs/command.md, docs/oci-runtime.md, docs/differences.md, man pages and completions from the program
	go run ./scripts/docs -markdown docs/command.md -runtime docs/oci-runtime.md -differences docs/differences.md -man build/man -completion build/completion

# Where install puts things; DESTDIR is honoured.
PREFIX ?= /usr/local
.PHONY: install
install: build docs ## Install programs, man pages and completions into PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/runcvm $(DESTDIR)$(PREFIX)/share/man/man1
	install bin/runcvm bin/firecracker-qemu $(DESTDIR)$(PREFIX)/bin/
	install bin/runcvm-guest $(DESTDIR)$(PREFIX)/lib/runcvm/
	install -m 644 build/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -D -m 644 build/completion/runcvm $(DESTDIR)$(PREFIX)/share/bash-completion/completions/runcvm
	install -D -m 644 build/completion/_runcvm $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_runcvm
	install -D -m 644 build/completion/runcvm.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/runcvm.fish

.PHONY: clean
clean: ## Remove what was built, the test machine's cache included
	rm -rf bin build
