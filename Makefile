# What people and CI call. `make help` lists it.
#
# Commands that need more than a compiler run .ci/setup.sh first, which installs what is missing on Debian and
# Ubuntu.

SHELL := /bin/bash
# A rustup that .ci/setup.sh has just installed is not in the PATH of this make yet.
export PATH := $(HOME)/.cargo/bin:$(PATH)
FUZZ_SECONDS ?= 60
AUDIT ?= advisories licenses bans sources
DEMO_ARGS ?=
BOX_ARGS ?=
BENCH_PUBLISH := --report bench/results --readme README.md
BENCH_ARGS ?= transfer $(BENCH_PUBLISH)
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup-demo ## Make, share, download and compare 1 GiB on this machine (DEMO_ARGS="--size-mib 64")
	cargo run --release --package ccbt-fast --bin ccbt-fast -- demo $(DEMO_ARGS)

.PHONY: build
build: setup-demo ## Build the optimised program: target/release/ccbt-fast
	cargo build --release --package ccbt-fast

.PHONY: deb
deb: build ## Make a Debian package in target/debian (needs cargo-deb)
	@cargo deb --version >/dev/null 2>&1 || { echo "deb: install it with: cargo install cargo-deb" >&2; exit 1; }
	rm -rf target/package && mkdir -p target/package/completions
	target/release/ccbt-fast man target/package/man
	target/release/ccbt-fast completions bash > target/package/completions/ccbt-fast
	target/release/ccbt-fast completions zsh > target/package/completions/_ccbt-fast
	target/release/ccbt-fast completions fish > target/package/completions/ccbt-fast.fish
	cargo deb --package ccbt-fast --no-build --output target/debian/ccbt-fast.deb

.PHONY: try-deb
try-deb: deb ## Install the package where systemd runs in a Debian root of its own, and try it (root, debootstrap)
	engine/packaging/try-deb.sh target/debian/ccbt-fast.deb

.PHONY: test
test: setup ## Run all tests
	cargo test --workspace --no-fail-fast
	CCBT_TEST_SHARDS=3 cargo test --workspace --no-fail-fast --test disk --test changed_files --test resume \
		--test hostile_peers

.PHONY: lint
lint: setup-demo ## Check formatting, lints and documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

.PHONY: format
format: setup-demo ## Format all code
	cargo fmt --all

.PHONY: box
box: setup-demo ## Test this machine for half a minute: what line rate it holds (BOX_ARGS="--dir /data")
	cargo build --release --package ccbt-fast
	cargo run --release --package ccbt-bench -- box $(BOX_ARGS)

.PHONY: bench
bench: setup-bench ## Compare with other clients, 6 minutes: bench/results (BENCH_ARGS="transfer --help")
	cargo run --release --package ccbt-bench -- $(BENCH_ARGS)

.PHONY: bench-full
bench-full: setup-bench ## The same with more runs and a real disk, 20 minutes
	mkdir -p .cache/bench-disk
	cargo run --release --package ccbt-bench -- transfer --full --disk .cache/bench-disk $(BENCH_PUBLISH)

.PHONY: fuzz
fuzz: setup-demo ## Fuzz every target for FUZZ_SECONDS (needs cargo-fuzz and a nightly toolchain)
	@cargo fuzz --version >/dev/null 2>&1 || { \
		echo "fuzz: install it with: cargo install cargo-fuzz && rustup toolchain install nightly" >&2; exit 1; }
	for folder in engine/protocol engine storage-uring; do (cd $$folder && for target in $$(cargo +nightly fuzz list); do \
		cargo +nightly fuzz run "$$target" -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done) || exit 1; done

.PHONY: sanitize
sanitize: setup ## Run the storage crate's tests with SANITIZER=address or thread (needs a nightly toolchain with rust-src)
	# No look for leaks: a ring that goes while the kernel may still write to a buffer keeps it for ever, and a test shows that.
	# One test at a time: memory is mapped by system calls that the sanitizer does not see, and so it takes what two tests have
	# had at one address for a race.
	ASAN_OPTIONS=detect_leaks=0 PROPTEST_CASES=16 CARGO_TARGET_DIR=target/sanitize RUSTFLAGS="-Zsanitizer=$(or $(SANITIZER),address) \
		--cfg crossbeam_sanitize_thread" cargo +nightly test -Zbuild-std -p ccbt-storage --target $$(rustc -vV | sed -n 's/^host: //p') \
		--lib --tests --no-fail-fast -- --test-threads 1 --skip no_interleaving

.PHONY: soak
soak: setup-demo ## Simulate swarms with fresh seeds for SECONDS (600); a seed that fails is printed
	CCBT_SOAK_SECONDS=$(or $(SECONDS),600) cargo test --release -p ccbt-protocol --test swarm -- --ignored --nocapture soak

.PHONY: crash
crash: setup ## Kill downloads 200 times, and fail each system call that needs a descriptor or memory: 10 minutes
	cargo test --workspace --test checkpoints --test machine -- --ignored --nocapture --test-threads 1 crash_

.PHONY: audit
audit: setup-demo ## Check licences, sources and known faults of dependencies (needs cargo-deny; AUDIT="licenses bans sources")
	@cargo deny --version >/dev/null 2>&1 || { \
		echo "audit: install it with: cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny check $(AUDIT)

.PHONY: test-cov
test-cov: setup ## Run all tests and show which lines they reach (needs cargo-llvm-cov)
	@cargo llvm-cov --version >/dev/null 2>&1 || { \
		echo "test-cov: install it with: cargo install cargo-llvm-cov" >&2; exit 1; }
	cargo llvm-cov --workspace --summary-only

.PHONY: pre-commit
pre-commit: lint test ## What must pass before a commit

.PHONY: clean
clean: ## Remove everything that was built
	cargo clean
	rm -rf .cache

.PHONY: setup
setup:
	@.ci/setup.sh

.PHONY: setup-demo
setup-demo:
	@.ci/setup.sh demo

.PHONY: setup-bench
setup-bench: setup-demo
	@bench/setup.sh
	cargo build --release --package ccbt-fast
