# make demo        from VMware to Azure and back, both simulated in one process
# make demo-local  the same cycle with machines on this computer, which may be killed
# make demo-boot   a machine that runs is replicated, lost, and boots from its last recovery point
# make test        every test; installs what it lacks if it is root
# make bench       the benchmarks, once each

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME ?= 2s
# A package's tests may take so long on a slow machine; hanging is another thing.
TIMEOUT ?= 30m
# The whole of vet has its own line in check.
TEST = $(GO) test -vet=off -timeout $(TIMEOUT)
# What also runs, or at least builds, on Windows.
WINDOWS := ./...
MODULES_WINDOWS := dr/postgres dr/temporal examples/worker

.PHONY: demo demo-local demo-boot test tools azurite minilinux check modules race fuzz windows wine vuln bench

demo:
	$(GO) run ./examples/vmware-to-azure

demo-local: tools
	$(GO) run ./examples/quickstart

demo-boot: tools minilinux
	$(GO) run ./examples/boot

test: tools azurite minilinux check
	$(TEST) ./...
	$(MAKE) --no-print-directory modules race windows wine fuzz vuln

# Debian packages that tests and the local demo run for real.
tools:
	@.ci/tools

# What only tests run, and the demo needs no node for.
azurite:
	@.ci/azurite

# Debian's packages that a bootable machine is made of; nothing is installed.
minilinux:
	@.ci/minilinux

check:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod tidy -diff

# Examples that are modules of their own, so that what they need is not needed
# by who embeds the library.
MODULES := examples/prometheus dr/postgres dr/temporal dr/temporal/servertest examples/worker
modules:
	@for m in $(MODULES); do echo "module $$m"; (cd $$m; $(GO) mod tidy -diff; $(GO) vet ./...; $(GO) run $(STATICCHECK) ./...; $(GO) build -o /dev/null ./...; $(TEST) ./...); done

# Where many goroutines meet. What does one thing after the other is left out: it
# takes minutes under the detector.
# The vault in a bucket of Azure's is the same vault, slower.
RECOVERYPOINT = $(filter-out %/azbucket,$(shell $(GO) list ./recoverypoint/...))
# Parsers have no goroutines.
INTERNAL = ./internal/agentwire ./internal/crashfs ./internal/faultyline ./internal/fsys ./internal/keyed ./internal/minilinux/guestd ./internal/nbd ./internal/pgtest ./internal/qemu ./internal/temporalserver ./internal/vhd ./internal/vhdx
RACE = ./dr/... ./backend ./backend/backendtest ./backend/memory ./backend/physical ./backend/physical/bpftrack ./backend/remote/... $(RECOVERYPOINT) ./replication/... ./failover/... ./failback/... $(INTERNAL)
# One thing after the other: a disk that loses power at each of thousands of
# operations, flows that fail or are cancelled at each of hundreds of calls, random
# histories of one who writes.
ALONE := TestPowerCut|TestEveryDamage|TestDiskFull|TestCrashEverywhere|TestEveryCallFails|TestCancelAtEachStep|TestListRemembersThousands|TestRefused|TestQemuReads|TestLibvhdi|TestHistoriesWithPrunes|TestInstantRandomHistories|TestWrappedBackendConforms
# Azurite has one thread, and runs no race of ours; nor do machines that boot, for
# half a minute each.
ELSEWHERE := ContractOn|ContractWith|Azurite|/azurite|^TestLinux|^TestUEFIWithout
# Simulated platforms, over HTTPS: what is done to them at once.
PLATFORMS = ./backend/vmware/... ./backend/azure/... ./backend/hyperv/... ./recoverypoint/vault/azbucket
AT_ONCE := TestContract/(Concurrent|Fences)|AtOnce|Beside|Burst|Busy|Cancel|Clos|Concurr|Connection|Crowd|Fleet|Lease|Lock|Many|Meanwhile|NFCReadsAtRandom|NoChangeIsMissed|Place|Processes|Room|Session|SideBySide|Two|Wait|Window|WhileReading
race:
	$(TEST) -race -short -skip '$(ALONE)|$(ELSEWHERE)' $(RACE)
	$(TEST) -race -short -run '$(AT_ONCE)' -skip '$(ELSEWHERE)' $(PLATFORMS)

# Every fuzz target, a little while each: their corpora run in `go test` too.
fuzz:
	@.ci/fuzz $(FUZZTIME)
	@for m in $(MODULES); do (cd $$m; $(CURDIR)/.ci/fuzz $(FUZZTIME)); done

windows:
	GOOS=windows $(GO) vet $(WINDOWS)
	GOOS=windows $(GO) build -o /dev/null ./examples/vault
	GOOS=windows $(GO) build -o /dev/null ./examples/vsphere-to-directory
	GOOS=windows $(GO) build -o /dev/null ./examples/vmware-to-azure
	GOOS=windows $(GO) build -o /dev/null ./examples/plan
	GOOS=windows $(GO) build -o /dev/null ./examples/drill
	GOOS=windows $(GO) build -o /dev/null ./examples/agent
	GOOS=windows $(GO) build -o /dev/null ./examples/boot
	GOOS=windows $(GO) vet -tags live ./backend/hyperv
	@for m in $(MODULES_WINDOWS); do echo "GOOS=windows module $$m"; (cd $$m; GOOS=windows $(GO) vet ./...); done
	$(GO) vet -tags live ./backend/vmware ./backend/azure

# What calls Windows itself, run as a Windows program. Without Wine it says so.
WINE := ./backend/hyperv/winhost
wine:
	@.ci/wine
	@test ! -e .cache/wine/ready || GOOS=windows GOARCH=amd64 $(TEST) -exec $(CURDIR)/.ci/wine-exec $(WINE)

# Needs the vulnerability database; says so where it can't be had.
vuln:
	@.ci/vuln "$(GO) run $(GOVULNCHECK)"

bench:
	$(GO) test -run '^$$' -bench . -benchtime 1x ./...
