MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

# The demo, the tests and the benchmarks make namespaces and load BPF programs,
# so they run as root. Without root and sudo, privileged tests skip themselves.
ifneq ($(shell id -u),0)
SUDO := $(shell command -v sudo)
endif
ROOT = $(if $(SUDO),-exec '$(SUDO) $(if $(COVER),--preserve-env=GOCOVERDIR) env PATH=$(PATH) CI=$(CI) SINGBOX=$(SINGBOX) COVER=$(COVER)')

GO_FOLDERS := bpf cmd loader maps userspace test

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build .build/bpfacq
	@go build -o .build/bpfacq ./cmd/bpfacq

.PHONY: demo
demo: ## show acquisition in namespaces of its own (installs what is missing; root)
	@test/setup.sh demo
	@$(MAKE) build
	@$(SUDO) .build/bpfacq demo

.PHONY: test
test: ## run all checks and tests (installs what is missing; root)
	@test/setup.sh test
	@$(MAKE) lint check-generate
	go test -race -count=1 -timeout=10m $(ROOT) ./userspace/... ./cmd/...
	go test -count=1 -timeout=20m $(ROOT) ./...

.PHONY: lint
lint: ## check the form of Go and C
	@files=$$(gofmt -l $(GO_FOLDERS)); test -z "$$files" || { echo "gofmt would change these (make format): $$files" >&2; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	@test/with-clang.sh clang-format-19 --dry-run -Werror bpf/*.[ch]

.PHONY: format
format: ## give Go and C their form
	@gofmt -w $(GO_FOLDERS)
	@test/with-clang.sh clang-format-19 -i bpf/*.[ch]

.PHONY: generate
generate: ## rebuild the BPF objects and their bindings (clang-19)
	go generate ./bpf

.PHONY: check-generate
check-generate: ## check that the committed objects are those of the sources
	@test/with-clang.sh test/check-generate.sh

.PHONY: bench
bench: ## measure beside direct flows and other relays, also SINGBOX=path: .build/bench.json (root)
	@test/setup.sh test
	go test -count=1 -timeout=15m -v $(ROOT) ./test/bench -args -full -json=$(CURDIR)/.build/bench.json
	go test -count=1 -timeout=15m -v $(ROOT) -run=Latency ./test/resolver -args -full

COVERED := ./bpf,./cmd/...,./loader/...,./maps/...,./userspace/...

.PHONY: cover
cover: export COVER := $(CURDIR)/.build/cover/demo
cover: ## measure what the tests reach: .build/cover/lines.html (root)
	@test/setup.sh test
	@rm -rf .build/cover && mkdir -p $(COVER)
	go test -count=1 -timeout=30m $(ROOT) -coverpkg=$(COVERED) -coverprofile=.build/cover/tests ./...
	@go tool covdata textfmt -i=$(COVER) -o .build/cover/programs
	@cat .build/cover/tests .build/cover/programs | sed '1!{/^mode:/d}' > .build/cover/all
	@go tool cover -html=.build/cover/all -o .build/cover/lines.html
	@go run ./test/cover .build/cover/all

.PHONY: vmtest
vmtest: ## test on kernels in virtual machines, all or KERNELS="5.10 6.12 new" (installs what is missing; root)
	@test/setup.sh vm
	@go run ./test/vm kernels $(KERNELS)

.PHONY: vmtest-systemd
vmtest-systemd: ## test the installed package under systemd, in virtual machines (installs what is missing; root)
	@test/setup.sh vm
	@$(MAKE) packages
	@go run ./test/vm systemd $(KERNELS)

.PHONY: packages
packages: ## build .deb and .rpm for amd64 and arm64: .build/packages
	@test/setup.sh packages
	@rm -rf .build/packages
	@cmd/bpfacq/package/build.sh .build/packages

.PHONY: check-packages
check-packages: ## check that the packages are reproducible, and what is in them
	@test/setup.sh packages
	@cmd/bpfacq/package/check.sh

.PHONY: clean
clean: ## remove what these targets built
	@rm -rf .build
