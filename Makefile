# Makefile: the front door. The build itself is CMake's (CMakePresets.json); this file only names the usual errands.
# Each of them installs what it misses (tools/setup.sh) on Debian 12.

JOBS ?= $(shell nproc)
PREFIX ?= /usr/local

.PHONY: all setup demo test test-long bench check format tidy coverage fuzz install clean help

all: setup ## build the library and the command: build/release/narrow
	@tools/build.sh release

setup:
	@tools/setup.sh build

demo: all ## the main job on the example in the repository: quantize, compare
	@tools/demo.sh

test: ## every test (under 15 minutes on two cores)
	@tools/setup.sh test
	@tools/venv.sh
	@tests/run.sh

test-long: ## the same with all samples, all models and a few minutes of fuzzing
	@tools/setup.sh test
	@tools/venv.sh
	@tests/run.sh --long

bench: all ## speed against other runtimes, as ratios
	@bench/run.sh

check: ## the quick part of the tests: layers, unit tests, kernels
	@tools/setup.sh test
	@tests/run.sh --only layers,build,unit,kernels

format: ## formats the C sources in place
	@tools/setup.sh test
	@tools/format.sh

tidy: ## clang-tidy over the sources
	@tools/setup.sh test
	@tools/tidy.sh

coverage: ## line coverage of the tests: build/coverage/report
	@tools/setup.sh test
	@tools/coverage.sh

fuzz: ## libFuzzer on the importer and the planner, a minute each (FUZZ_SECONDS=60)
	@tools/setup.sh test
	@tools/fuzz.sh

install: all ## installs below PREFIX (default /usr/local; DESTDIR is honoured)
	@cmake --install build/release --prefix $(PREFIX)

clean: ## removes build/
	@rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
