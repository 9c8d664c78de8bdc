# make alone lists the targets. make check is what CI runs, in the same order.

GO ?= go
# Packages to work on: make test PKG=./gate/...
PKG ?= ./...
LINT_VERSION := v2.15.0
LINT := bin/golangci-lint-$(LINT_VERSION)

.DEFAULT_GOAL := help
.PHONY: help demo build test race bench lint fmt vet tidy arch golden kube check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## take three releases of a real service through the pipeline (about a minute)
	bin/headgate demo

build: ## build bin/headgate
	$(GO) build -trimpath -o bin/headgate ./cmd/headgate

test: ## run the tests
	$(GO) test -timeout 30m $(PKG)

race: ## run the tests under the race detector
	$(GO) test -race -timeout 30m $(PKG)

bench: ## run the benchmarks, and those beside rivals in the module bench
	$(GO) test -run '^$$' -bench . -benchmem $(PKG)
	cd bench && $(GO) test -run '^$$' -bench . -benchmem ./...

lint: $(LINT) ## run golangci-lint
	$(LINT) run $(PKG)
	cd bench && $(CURDIR)/$(LINT) run ./...

fmt: ## fail if a file is not formatted
	@files=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$files" ]; then echo "gofmt these files:"; echo "$$files"; exit 1; fi

vet: ## run go vet
	$(GO) vet $(PKG)
	cd bench && $(GO) vet ./...

tidy: ## fail if a go.mod or go.sum is not current
	$(GO) mod tidy -diff
	$(GO) mod verify
	cd bench && $(GO) mod tidy -diff

arch: ## check who imports whom
	$(GO) test -count=1 ./internal/archtest

# etcd and kube-apiserver as envtest names them; built here when no folder of
# them is named, which takes about ten minutes and 3 GB of module cache.
KUBEBUILDER_ASSETS ?= $(CURDIR)/bin/kube
kube: ## run the Gateway API's tests against a real kube-apiserver
	internal/kube/build $(KUBEBUILDER_ASSETS)
	KUBEBUILDER_ASSETS=$(KUBEBUILDER_ASSETS) $(GO) test -count=1 -parallel 4 ./traffic/gatewayapi

golden: ## rewrite the golden files of the packages in PKG that have any
	@for dir in $$($(GO) list -f '{{.Dir}}' $(PKG)); do \
		if grep -qs 'flag.Bool("update"' $$dir/*_test.go; then $(GO) test -count=1 $$dir -update || exit 1; fi; \
	done

# Golden and generated files are compared by the tests of their packages.
check: fmt vet lint tidy arch race ## everything CI checks, in the same order

clean: ## remove what make made
	rm -rf bin

# Each version has its own file, so that an upgrade installs anew.
$(LINT):
	@mkdir -p bin
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $@
