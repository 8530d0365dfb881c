# Two commands do all the set-up on a fresh Debian machine: `make demo` and `make test`.
#
#   make demo    replays recorded Linux captures and explains every packet
#   make test    everything CI runs: lint, types, layers, tests (three ways)
#   make bench   all benchmarks, results in bench/results
#   make clean   removes what the others made

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

# What the demo needs, and what the tests need besides.
PACKAGES := libipsec-mb1 libnettle8 libssl3 iputils-ping nftables util-linux
TEST_PACKAGES := systemd iproute2 iputils-ping iperf3 curl iptables nftables tshark wireshark-common tcpdump kmod util-linux gcc libc6-dev binutils procps \
    make flex bison bc xz-utils \
    strongswan-charon strongswan-swanctl libstrongswan-standard-plugins \
    libldns3 libevent-core-2.1-7 libevent-pthreads-2.1-7 libunbound8 libcurl3-nss libnss3-tools \
    libldap-2.5-0 libcap-ng0 libaudit1 libpam0g libselinux1 libsystemd0

.PHONY: help demo test bench clean lint packages test-packages test-kernel

help:
	@sed -n 's/^#   //p' Makefile

packages:
	@PYTHON=$(PYTHON) scripts/packages $(PACKAGES)

test-packages:
	@PYTHON=$(PYTHON) scripts/packages $(PACKAGES) $(TEST_PACKAGES)

$(STAMP): pyproject.toml constraints.txt
	@echo "==> Python packages into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: packages $(STAMP)
	@$(BIN)/python demo/demo.py

lint: $(STAMP)
	@echo "==> lint, types, layers"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# Linux 6.12 as a program, built once and kept in the user's cache: 5 minutes.
test-kernel: test-packages $(STAMP)
	@echo "==> Linux 6.12 for the tests"
	@PYTHONPATH=tests $(BIN)/python -m linux.build

# Side by side, since most of what asks a kernel is waiting:
#   linux        what asks a real kernel, or starts programs in networks of its own
#   plain        all else: compiled with every engine, without libipsec-mb, and interpreted (without what takes minutes)
test: test-packages $(STAMP) lint
	@echo "==> compiling"
	@$(BIN)/python scripts/compile
	@echo "==> tests"
	@$(BIN)/python scripts/lanes \
	    linux='$(MAKE) --no-print-directory test-kernel; $(BIN)/pytest -m "linux or tshark"' \
	    plain='$(BIN)/pytest -m "not linux and not tshark"; \
	        echo "==> without libipsec-mb"; \
	        UXFRM_ENGINES=libcrypto,libnettle $(BIN)/pytest -m "not linux and not tshark"; \
	        echo "==> interpreted"; \
	        NUMBA_DISABLE_JIT=1 $(BIN)/pytest -m "not linux and not tshark and not compiled"'

bench: test-packages $(STAMP)
	@mkdir -p bench/results
	@for name in crypto esp iptfs policies states replay intercept netlink attach live soak; do \
	    echo "==> bench/$$name.py"; $(BIN)/python bench/$$name.py --json bench/results/$$name.json; \
	done

clean:
	rm -rf $(VENV) bench/results demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
