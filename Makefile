# SPDX-License-Identifier: MIT
# The front door: each target does all the set-up it needs. Meson and Ninja do the building.
# `make test TESTS="cli guest"` runs some groups, `make bench BENCH_FLAGS="--runs 5"` passes options.

BUILD ?= build
SANITIZED_BUILD ?= build-sanitize
MESON_FLAGS ?=
TESTS ?=
BENCH_FLAGS ?=
PREFIX ?= /usr/local
export LODGE_BUILD := $(abspath $(BUILD))
export LODGE_SANITIZED_BUILD := $(abspath $(SANITIZED_BUILD))

.PHONY: all deps build sanitize run test bench install clean

all: build

deps:
	@scripts/deps.sh build

build: deps
	@test -f $(BUILD)/build.ninja || meson setup --prefix $(PREFIX) $(MESON_FLAGS) $(BUILD)
	@ninja -C $(BUILD)

# ASan and UBSan: for the tests of devices, parsers and disk formats. The bt engine runs guest code on
# stacks of its own, which the sanitizers cannot follow, so whole guests run in the ordinary build.
sanitize: deps
	@test -f $(SANITIZED_BUILD)/build.ninja || \
		meson setup $(MESON_FLAGS) -Db_sanitize=address,undefined -Db_lundef=false $(SANITIZED_BUILD)
	@ninja -C $(SANITIZED_BUILD)

run: build
	@scripts/deps.sh run
	@scripts/run.sh

test: build sanitize
	@scripts/deps.sh test
	@tests/run $(TESTS)

bench: build
	@scripts/deps.sh bench
	@bench/run $(BENCH_FLAGS)

install: build
	@ninja -C $(BUILD) install

clean:
	rm -rf $(BUILD) $(SANITIZED_BUILD)
