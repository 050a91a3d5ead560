# The one entry point: people and CI call the same recipes. `make` alone lists them.
# Debian 12 has no `just`, and a fresh machine must need nothing but Rust to begin; hence make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
# How long each fuzzer runs, and which do: all when none is named.
FUZZ_SECONDS ?= 60
FUZZERS ?=
# Words for the behaviour tests: a part of a name, or options such as `--list`.
TESTS ?=
# Words for the bench: sections, separated by commas, and options; `make bench BENCH=--help` shows them.
BENCH ?=
# Defences that are taken away by `test-bite`: names in tests/bite. All of them if none is given.
BITES ?=
# How many starts the soak makes.
SOAK_STARTS ?= 10000

TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
# Static and on musl, where Rust's part for it is there (.cargo/config.toml).
HOST = $(shell rustc --print host-tuple)
MUSL = $(HOST:%-gnu=%-musl)
TRIPLE = $(shell test -e "$$(rustc --print target-libdir --target $(MUSL))" && echo $(MUSL) || echo $(HOST))
export CARGO_BUILD_TARGET = $(TRIPLE)
# libseccomp.a, in a folder in which the GNU libc is not.
export LIBSECCOMP_LIB_PATH = $(abspath $(TARGET_DIR)/native)
VCTX = $(TARGET_DIR)/$(TRIPLE)/release/vctx
DOCS = $(TARGET_DIR)/doc-gen
MEASURE = VCTX_BENCH_VCTX=$${VCTX_BENCH_VCTX:-$(abspath $(VCTX))} $(CARGO) test --bench bench --
COMMIT = $(or $(shell git describe --always --dirty --abbrev=12 --match= 2>/dev/null),unknown)
MULTIARCH = $(subst -unknown,,$(HOST))

# What has to be there, and the Debian package that brings it: `program=package` or `/file=package`.
BUILD_NEEDS = cc=gcc /usr/lib/$(MULTIARCH)/libc.a=libc6-dev /usr/lib/$(MULTIARCH)/libseccomp.a=libseccomp-dev musl-gcc=musl-tools
TEST_NEEDS = /usr/share/doc/busybox-static=busybox-static conmon=conmon containerd=containerd crun=crun \
	dbus-daemon=dbus-daemon dockerd=docker.io firewalld=firewalld ip=iproute2 iptables=iptables pasta=passt slirp4netns=slirp4netns \
	/usr/lib/cni/bridge=containernetworking-plugins nft=nftables nginx=nginx-light nsenter=util-linux patch=patch podman=podman \
	prlimit=util-linux ps=procps python3=python3 runc=runc tini-static=tini newuidmap=uidmap \
	docker-registry=docker-registry mmdebstrap=mmdebstrap openssl=openssl skopeo=skopeo umoci=umoci \
	mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs
FUZZ_NEEDS = c++=g++
BENCH_NEEDS = /usr/share/doc/busybox-static=busybox-static bwrap=bubblewrap crun=crun runc=runc \
	nginx=nginx-light sqlite3=sqlite3 strace=strace wrk=wrk xz=xz-utils \
	/usr/share/containers/seccomp.json=golang-github-containers-common
MACHINE_NEEDS = qemu-system-x86_64=qemu-system-x86 mmdebstrap=mmdebstrap mkfs.ext4=e2fsprogs

.PHONY: help
help: ## list the recipes
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: quickstart
quickstart: build ## build, and run a command in a context made of this machine
	@$(VCTX) run --rm host -- sh -c 'touch /etc/only-in-the-context; \
		echo "hello from $$(uname -n): process $$$$ of $$(ls -d /proc/[0-9]* | wc -l), $$(ls /etc/only-in-the-context)"'
	@test ! -e /etc/only-in-the-context && echo "and on this machine there is no such file"

.PHONY: build
build: setup-build ## build the release binaries
	VCTX_COMMIT=$(COMMIT) $(CARGO) build --release --bin vctx
	$(CARGO) build --release --package vctx-registry
	@echo "built $(VCTX) and vctx-registry beside it"

.PHONY: check
check: setup-build ## formatting, lints, documentation, licences
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --lib --no-deps --document-private-items
	@echo "unsafe blocks, by module (tests/invariants.rs keeps the list):"; \
	grep -rc --include='*.rs' --exclude-dir=tests 'unsafe {' cli runtime isolation netns storage | \
		awk -F: '$$2 { print "  " $$2 "\t" $$1; all += $$2 } END { print "  " all "\tin all" }' | sort -k2
	@if $(CARGO) deny --version >/dev/null 2>&1; then set -x; $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources are not checked"; fi

.PHONY: test
test: setup-test ## all tests: of the crates, then of the behaviour with real processes and engines
	$(CARGO) test --workspace --lib --bins
	$(CARGO) build --package vctx-registry
	$(CARGO) test --workspace --test tests -- $(TESTS)

.PHONY: test-peers
test-peers: setup-test ## the behaviour tests against runc and crun
	VCTX_UNDER_TEST=runc $(CARGO) test --workspace --test tests -- $(TESTS)
	VCTX_UNDER_TEST=crun $(CARGO) test --workspace --test tests -- $(TESTS)

.PHONY: bench
bench: setup-bench build ## measure against crun, runc, youki, bubblewrap and the kernel's floor (as root; BENCH=run,exec)
	$(CARGO) build --example floor --example work
	$(MEASURE) $(BENCH)

# Ratios of short measures: what is kept in the tree, and what may not get worse by more than a fifth.
comma = ,
KEPT_SECTIONS = run$(comma)exec$(comma)verbs
BASELINE = tests/bench/baseline.json
KEPT = $(or $(BENCH),$(KEPT_SECTIONS)) --check $(BASELINE) --output $(TARGET_DIR)/bench-check.json
.PHONY: bench-check bench-keep
bench-check: setup-bench build ## measure again, and fail when a ratio is worse than the kept one by more than a fifth
	$(CARGO) build --example floor --example work
	$(MEASURE) $(KEPT)
bench-keep: setup-bench build ## measure, and keep the ratios for bench-check
	$(CARGO) build --example floor --example work
	$(MEASURE) $(KEPT) --keep

.PHONY: test-bite
test-bite: setup-test ## take each defence away, and see the attacks on it succeed (as root; half an hour)
	tests/bite/run $(BITES)

.PHONY: test-faults soak
test-faults: setup-test ## a kill and every error at every system call of every verb (as root)
	VCTX_FAULTS=all $(CARGO) test --workspace --test tests -- faults::
soak: setup-test ## SOAK_STARTS [10000] starts, four at once, some killed: nothing may grow (as root)
	VCTX_SOAK=$(SOAK_STARTS) $(CARGO) test --workspace --test tests

.PHONY: test-crowd
test-crowd: setup-test ## 1000 contexts on one network, four at once: nothing may be left, and the time of a start (as root)
	VCTX_CROWD=1000 $(CARGO) test --workspace --test tests -- many_contexts

.PHONY: test-beside
test-beside: setup-test ## Docker, Podman and vctx on one host, in all orders of coming and going (as root; three minutes)
	VCTX_BESIDE=1 $(CARGO) test --workspace --test tests -- network_beside

.PHONY: test-v2 test-systemd
test-v2: setup-machine ## the behaviour tests on pure cgroup v2, in two QEMU machines (as root)
	VCTX_COMMIT=$(COMMIT) tests/vm/run v2 -- $(TESTS)
test-systemd: setup-machine ## those of control groups under systemd, on cgroup v2, hybrid and v1, in QEMU machines
	VCTX_COMMIT=$(COMMIT) tests/vm/run systemd systemd-hybrid systemd-v1 -- $(TESTS)

# What of them CI takes: minutes, where the whole is an hour. Without a machine it says so and goes on.
.PHONY: test-machines
test-machines: setup-machine ## control groups and systemd in three of these machines, as CI does (as root; ten minutes)
	VCTX_COMMIT=$(COMMIT) VCTX_VM_OPTIONAL=1 VCTX_TEST_SUITES=cgroups,lifecycle,systemd tests/vm/run v2 systemd

.PHONY: fuzz fuzz-hour
fuzz: setup-fuzz ## each fuzzer for FUZZ_SECONDS [60], two at once; FUZZERS="config users" chooses
	tests/fuzz/run $(FUZZ_SECONDS) $(FUZZERS)
fuzz-hour: setup-fuzz ## each fuzzer for an hour, two at once
	tests/fuzz/run 3600 $(FUZZERS)

.PHONY: order
order: setup-bench ## write cli/order.ld anew: which functions a start executes, for the linker
	CARGO_TARGET_DIR=$(TARGET_DIR)/order $(CARGO) rustc --release --bin vctx -- -C strip=none
	VCTX_BENCH_VCTX=$(abspath $(TARGET_DIR))/order/$(TRIPLE)/release/vctx $(CARGO) test --bench bench -- --order cli/order.ld

.PHONY: bench-v2
bench-v2: setup-machine ## instructions and system calls on pure cgroup v2, in a QEMU machine (as root)
	VCTX_COMMIT=$(COMMIT) tests/vm/run bench -- $(or $(BENCH),run$(comma)exec$(comma)verbs$(comma)calls --rounds 10)

.PHONY: man
man: setup-build ## write man pages and shell completions
	$(CARGO) run --release --example generate-docs -- $(DOCS)
	@echo "written to $(DOCS)"

.PHONY: install
install: ## install what `make build man` has made below PREFIX [/usr/local]
	@test -x $(VCTX) -a -e $(DOCS)/vctx.1 || { echo "run 'make build man' first" >&2; exit 1; }
	install -D -m 755 $(VCTX) $(DESTDIR)$(PREFIX)/bin/vctx
	install -m 755 $(VCTX)-registry $(DESTDIR)$(PREFIX)/bin/vctx-registry
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 $(DOCS)/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 644 $(DOCS)/vctx.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vctx
	install -D -m 644 $(DOCS)/_vctx $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vctx
	install -D -m 644 $(DOCS)/vctx.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vctx.fish

.PHONY: setup
setup: setup-test ## install what the build and the tests need

.PHONY: setup-build setup-test setup-bench setup-machine setup-fuzz
setup-build:
	@$(call provide,$(BUILD_NEEDS))
	@$(provide_musl)
setup-test: setup-build
	@$(call provide,$(TEST_NEEDS))
	@$(provide_criu)
setup-bench: setup-build
	@$(call provide,$(BENCH_NEEDS))
setup-machine: setup-build
	@$(call provide,$(MACHINE_NEEDS))
	@$(provide_criu)
setup-fuzz: setup-build
	@$(call provide,$(FUZZ_NEEDS))
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --version ^0.13 --locked

provide_criu = timeout --kill-after=10 300 tests/criu/provide $(TARGET_DIR)/criu || echo "no criu was provided: its tests are skipped"

# Rust's part for musl, and libseccomp for it.
define provide_musl
mkdir -p $(LIBSECCOMP_LIB_PATH); \
ln -sf /usr/lib/$(MULTIARCH)/libseccomp.a $(LIBSECCOMP_LIB_PATH); \
test -e "$$(rustc --print target-libdir --target $(MUSL))" || rustup target add $(MUSL) || \
	echo "Rust's part for $(MUSL) cannot be had: vctx is built on the host's own libc, and starts 0.3 ms later"
endef

# Installs the packages of what is missing. With nothing missing it touches neither network nor apt.
define provide
command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it from https://rustup.rs" >&2; exit 1; }; \
packages=(); \
for need in $(1); do \
	PATH=$$PATH:/usr/sbin:/sbin command -v "$${need%%=*}" >/dev/null || test -e "$${need%%=*}" || packages+=("$${need#*=}"); \
done; \
if (( $${#packages[@]} )); then \
	as_root=; (( EUID == 0 )) || as_root=sudo; \
	echo "installing $${packages[*]}"; \
	$$as_root apt-get update -q; \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$${packages[@]}"; \
fi
endef
