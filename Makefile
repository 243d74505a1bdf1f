# Everything here is an ordinary go command with the right flags. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
BIN := $(CURDIR)/bin

# Pinned: a tool that changes by itself makes a red build that nobody caused.
GOLANGCI_LINT := v2.15.0
VERSITYGW     := v1.8.0
NATS_CLI      := v0.5.1
NATS_SERVER   := v2.15.2
# govulncheck is left out: it needs a vulnerability database on the net at each run,
# and a build must not fail because that is out of reach.

# A number of inputs, not a time: before Go 1.27 a fuzz run that ends by time may fail
# with "context deadline exceeded" and no failing input (golang/go#75804).
FUZZTIME  ?= 50000x
BENCHTIME ?= 1s
TESTFLAGS ?=

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-zA-Z_\/-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: ## a whole lake in one process, in ./lake-data
	$(GO) run ./cmd/lake serve

# --- tests

.PHONY: test
test: servers ## all tests, with the real servers; installs those that are missing
	LAKE_TEST_REQUIRE=1 $(GO) test $(TESTFLAGS) ./...

.PHONY: race
race: servers ## all tests under the race detector
	LAKE_TEST_REQUIRE=1 $(GO) test -race $(TESTFLAGS) ./...

.PHONY: fuzz
fuzz: ## each fuzz target with FUZZTIME inputs (default 50000x; 60s is a time)
	@grep -rn --include='*_test.go' -E '^func Fuzz[A-Za-z0-9_]*\(' . | sort | \
	while IFS=: read -r file _ line; do \
	  name=$${line#func }; name=$${name%%(*}; \
	  echo "fuzz $$name in $$(dirname $$file)"; \
	  $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname $$file)" || exit 1; \
	done

.PHONY: bench
bench: servers ## all benchmarks, BENCHTIME each (default 1s)
	LAKE_TEST_REQUIRE=1 $(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

.PHONY: vet
vet: ## go vet, and gofmt
	$(GO) vet ./...
	@out=$$(gofmt -l $$(find . -name '*.go' -not -path './bin/*' -not -path '*/node_modules/*')); \
	if [ -n "$$out" ]; then echo "run gofmt -w on:"; echo "$$out"; exit 1; fi

.PHONY: lint
lint: bin/golangci-lint ## golangci-lint with .golangci.yml
	bin/golangci-lint run ./...

# --- tools

.PHONY: tools
tools: bin/golangci-lint servers ## build every pinned tool into ./bin

.PHONY: servers
servers: redis-server bin/nats-server bin/nats bin/versitygw

.PHONY: redis-server
redis-server:
	@command -v redis-server >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "redis-server is missing: install Redis 7 with your system's package manager"; exit 1; }; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -q && $$sudo apt-get install -y -q --no-install-recommends redis-server; }

# $(call install,package,version) builds bin/$(notdir $@) unless it is there in that
# version. The tools' dependencies are their own: they never enter go.mod.
install = @$(GO) version -m $@ 2>/dev/null | grep -qE '^\s+mod\s+\S+\s+$(subst .,\.,$(2))(\s|$$)' || { \
	  echo "build $@ $(2)"; GOBIN=$(BIN) GOFLAGS= $(GO) install $(1)@$(2); }

.PHONY: bin/golangci-lint bin/versitygw bin/nats bin/nats-server
bin/golangci-lint:
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(GOLANGCI_LINT))
bin/versitygw:
	$(call install,github.com/versity/versitygw/cmd/versitygw,$(VERSITYGW))
bin/nats:
	$(call install,github.com/nats-io/natscli/nats,$(NATS_CLI))
bin/nats-server:
	$(call install,github.com/nats-io/nats-server/v2,$(NATS_SERVER))

# --- simulation

SEEDS ?= 2000

.PHONY: sim
sim: ## SEEDS simulated histories (default 2000) of the real engine under faults
	$(GO) test ./test/sim -run 'TestSim|TestKept|TestReproducible' -count=1 -timeout 60m -v -sim.seeds $(SEEDS) \
	  -sim.rare $$(( $(SEEDS) >= 20000 ? 100 : 0 )) | grep -vE '^=== '

.PHONY: ablate
ablate: ## each defence of the protocol switched off: the checker must notice
	$(GO) test ./test/sim -run TestAblations -count=1 -timeout 60m -v -sim.within 500 | grep -vE '^=== '

# --- faults

FAULT := LAKE_TEST_REQUIRE=1 $(GO) test ./test/fault -count=1 -timeout 60m -v

.PHONY: fault
fault: servers ## real processes on real servers under faults: 21 histories, a wiped index, 20 stopped writers
	$(FAULT) -fault.rounds 3 -fault.histories 7 -fault.operations 2000 -fault.faults 104 -fault.stopped 20 -fault.stop 130s | grep -vE '^=== '

.PHONY: fault-short
fault-short: servers ## the same in three minutes, for CI
	$(FAULT) -fault.rounds 1 -fault.histories 2 -fault.operations 600 -fault.faults 24 -fault.stopped 2 -fault.stop 15s | grep -vE '^=== '

# --- measuring

.PHONY: bench-rows
bench-rows: servers ## every row of `lake bench` for a second: that it works, not how fast
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && $(GO) build -o "$$dir/lake" ./cmd/lake && \
	"$$dir/lake" bench --profile all --duration 1s --rounds 1 --require --json > "$$dir/rows" && \
	grep -c '"row"' "$$dir/rows" | sed 's/$$/ rows/'
