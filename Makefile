# make          bin/hornetd and bin/hornetctl, static and reproducible; VERSION=1.2.3 for a release
# make run      the demonstration: sets everything up, shows it, leaves nothing behind
# make test     every test; PKG=./loader/... for some
# make vm       tests in a guest: KERNEL=7.3 PKG=./loader RUN=TestX; vm-shell gives a shell there
# make vm-systemd the unit and its daemon in a Debian with systemd: RUN=TestSystemd/kill
# make vm-uefi    what takes a key in the kernel's platform keyring, under UEFI
# make vm-matrix  the tests that need a kernel, on every kernel
# make vm-arm64  the examples on an arm64 kernel; KERNEL=6.1,6.12 PKG= RUN= as above
# make guard-upgrades  the guard is replaced while hornetd is killed 200 times and root tries all the time; KILLS= KERNEL=6.12
# make bench-guard  what the guard costs a call, in instructions of an emulated processor; KERNEL=6.12
# make faults   a kill and every error at every system call of seven verbs, and 2,000 power cuts; ONLY="load KILL" for some
# make faults-proof  the bugs that it must notice, one at a time; ONLY= for some
# make bench    the figures of docs/, side by side
# make soak     a million changed objects, signatures and manifests: none may be accepted; HORNET_SEED=2 for others.
#               Then 100,000 that are signed, through the daemon: it may neither die nor use more than 64 MB.
#               Then 100,000 peers that end or change while they are asked about: none may be taken for another
# make mutate   how many small changes of the verifier's own code its tests notice
# make mutate-guard  how many of the guard's C, in guests: N=60 of them, N=0 for all; SEED=2 for others, FUNCTIONS='^class$$' EACH=6 of each, CHANGES='left out' KERNEL=6.1
# make generate compiles the BPF objects again (clang-19)
# make lint     gofmt, vet, staticcheck, shellcheck
# make examples the examples, signed with a new development key, in bin/examples
# make install  what make has built; DESTDIR= PREFIX=/usr

PREFIX ?= /usr
BIN ?= bin
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The same source gives the same bytes, whoever builds it and where.
GOBUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w -buildid=$(if $(VERSION), -X main.version=$(VERSION))$(if $(SOURCE_DATE_EPOCH), -X main.sourceDate=$(SOURCE_DATE_EPOCH))'

.PHONY: build run test vm vm-shell vm-systemd vm-uefi vm-matrix vm-arm64 guard-upgrades bench-guard faults faults-proof bench soak mutate mutate-guard generate lint examples install clean

build:
	@$(GOBUILD) -o $(BIN)/ ./cmd/hornetd ./cmd/hornetctl

run:
	@scripts/run

test:
	@scripts/test $(PKG)

VM = scripts/vm-setup && go run ./internal/vmtest/cmd/vm

vm:
	@$(VM) -v $(if $(KERNEL),-kernel $(KERNEL)) $(if $(RUN),-run '$(RUN)') $(PKG)

vm-shell:
	@$(VM) -shell $(if $(KERNEL),-kernel $(KERNEL)) $(PKG)

vm-systemd:
	@scripts/vm-setup && go test -count=1 -v -timeout 1h -exec "$(CURDIR)/scripts/as-root" $(if $(RUN),-run '$(RUN)') ./internal/systemdtest

vm-uefi:
	@$(VM) -uefi -v $(if $(KERNEL),-kernel $(KERNEL)) -run 'TestVerified$$' ./lsm-module

vm-matrix:
	@$(VM) -matrix $(if $(KERNEL),-kernel $(KERNEL)) $(PKG)

# Asked for by name: what cannot run has failed.
vm-arm64:
	@scripts/vm-setup arm64 && CI=true go run ./internal/vmtest/cmd/vm -arch arm64 -matrix $(if $(KERNEL),-kernel $(KERNEL)) $(if $(RUN),-run '$(RUN)') $(PKG)

guard-upgrades:
	@$(VM) -v -cpus 1 -timeout 4h $(if $(KERNEL),-kernel $(KERNEL)) -run 'TestKilledDuringUpgrades$$' ./lsm-module -args -guard.kills=$(or $(KILLS),200)

bench-guard:
	@$(VM) -v -icount -timeout 30m $(if $(KERNEL),-kernel $(KERNEL)) -run '^$$' ./lsm-module -args -test.bench=Cost -test.benchtime=1x

FAULTS = go test -count=1 -v -timeout 12h -exec "$(CURDIR)/scripts/as-root"

faults:
	@$(FAULTS) -skip TestProof ./internal/faults -faults.all -faults.only='$(ONLY)' $(if $(SEED),-faults.seed=$(SEED))

faults-proof:
	@$(FAULTS) -run TestProof ./internal/faults -faults.proof -faults.only='$(ONLY)'

bench: build
	@scripts/bench

soak:
	HORNET_SOAK=1 go test -count=1 -v -timeout 2h -run Soak ./signing
	HORNET_SOAK=1 go test -count=1 -v -timeout 2h -exec "$(CURDIR)/scripts/as-root" -run TestHostileObjects ./loader ./cmd/hornetd
	HORNET_SOAK=1 go test -count=1 -v -timeout 2h -exec "$(CURDIR)/scripts/as-root" -run TestPeerRaces ./internal/daemon
	HORNET_REQUESTS=30000 HORNET_OPERATIONS=10000 go test -count=1 -v -timeout 2h -exec "$(CURDIR)/scripts/as-root" -run "TestDocument$$|TestMixed$$" ./cmd/hornetd

# Those that take long are asked last.
mutate:
	go run ./scripts/mutate -dir internal/cms -late 'BitFlips|ByteValues|ContentFlips|Truncated|Mixed|Structure|TestSize|OpenSSL|PKCS7'

mutate-guard:
	@scripts/vm-setup && go run ./scripts/mutate-guard -v $(if $(N),-n $(N)) $(if $(SEED),-seed $(SEED)) $(if $(KERNEL),-kernel $(KERNEL)) $(if $(EACH),-each $(EACH)) -functions '$(FUNCTIONS)' -changes '$(CHANGES)'

generate:
	@scripts/setup
	go generate ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	@! command -v shellcheck >/dev/null || shellcheck .ci/run $$(grep -Il "^#!" scripts/*)

examples: build
	@scripts/stage-examples bin/examples

# sudo often finds no go, so this installs what `make` has built.
install:
	@test -x $(BIN)/hornetd -a -x $(BIN)/hornetctl || { echo "make install: run make first" >&2; exit 1; }
	install -D -m 0755 $(BIN)/hornetd $(DESTDIR)$(PREFIX)/sbin/hornetd
	install -D -m 0755 $(BIN)/hornetctl $(DESTDIR)$(PREFIX)/bin/hornetctl
	install -D -m 0644 hornetd.toml.example $(DESTDIR)$(PREFIX)/share/doc/hornetd/hornetd.toml.example
	install -d -m 0755 $(DESTDIR)/etc/hornet/trust.d $(DESTDIR)/etc/hornet.d
	install -d -m 0755 $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's,/usr/sbin/hornetd,$(PREFIX)/sbin/hornetd,; s,/usr/bin/hornetctl,$(PREFIX)/bin/hornetctl,' systemd/units/hornetd.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/hornetd.service
	install -D -m 0644 systemd/units/hornetd.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/hornetd.socket
	install -D -m 0644 systemd/units/hornetd.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/hornetd.conf
	install -D -m 0644 systemd/units/hornetd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/hornetd.conf
	install -D -m 0644 systemd/units/hornetd.preset $(DESTDIR)$(PREFIX)/lib/systemd/system-preset/80-hornetd.preset
	install -d -m 0755 $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions zsh/vendor-completions fish/vendor_completions.d)
	$(BIN)/hornetctl completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/hornetctl
	$(BIN)/hornetctl completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_hornetctl
	$(BIN)/hornetctl completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/hornetctl.fish

clean:
	rm -rf bin .cache
