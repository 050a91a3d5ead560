# The one entry point: people and CI call the same recipes. `make` alone lists them.
# Debian 12 has no `just`, and a fresh machine must need nothing but Rust to begin; hence make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
# Words for the behaviour tests: a part of a name, or options such as `--list`.
TESTS ?=

TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
TRIPLE = $(shell rustc --print host-tuple)
VCTX = $(TARGET_DIR)/$(TRIPLE)/release/vctx
DOCS = $(TARGET_DIR)/doc-gen
COMMIT = $(or $(shell git describe --always --dirty --abbrev=12 --match= 2>/dev/null),unknown)
MULTIARCH = $(shell rustc --print host-tuple | sed 's/-unknown//')

# What has to be there, and the Debian package that brings it: `program=package` or `/file=package`.
BUILD_NEEDS = cc=gcc /usr/lib/$(MULTIARCH)/libc.a=libc6-dev /usr/lib/$(MULTIARCH)/libseccomp.a=libseccomp-dev
TEST_NEEDS = /usr/share/doc/busybox-static=busybox-static conmon=conmon containerd=containerd crun=crun \
	dockerd=docker.io ip=iproute2 podman=podman ps=procps python3=python3 runc=runc tini-static=tini newuidmap=uidmap skopeo=skopeo umoci=umoci docker-registry=docker-registry openssl=openssl
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

.PHONY: test-v2 test-systemd
test-v2: setup-machine ## the behaviour tests on pure cgroup v2, in a QEMU machine (as root)
	tests/vm/run v2 $(TESTS)
test-systemd: setup-machine ## the behaviour tests under systemd and its control-group driver, in a QEMU machine
	tests/vm/run systemd $(TESTS)

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

.PHONY: setup-build setup-test setup-machine
setup-build:
	@$(call provide,$(BUILD_NEEDS))
setup-test:
	@$(call provide,$(BUILD_NEEDS) $(TEST_NEEDS))
setup-machine:
	@$(call provide,$(BUILD_NEEDS) $(MACHINE_NEEDS))

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
