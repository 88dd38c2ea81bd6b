# `make demo` and `make test` set up what they need in .venv, the first time and whenever
# pyproject.toml changes. All paths here are relative: make cannot work with the spaces of others.

# The system's own Python if it will do: distributions compile theirs with profile-guided optimisation,
# version managers by default do not, and then most of what Paxon does takes a fifth longer.
SUITABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
FIRST_SUITABLE = $(shell for python in /usr/bin/python3 python3; do \
  if $$python -c '$(SUITABLE)' 2>/dev/null; then echo $$python; break; fi; done)
PYTHON ?= $(or $(FIRST_SUITABLE),python3)
VENV := .venv
RUN := $(VENV)/bin/python
PACKAGES := paxon paxon.transport paxon.actors paxon.kvstore paxon.bench
FOLDERS := paxon transport actors kvstore bench
PYTEST_ARGS ?=
BENCH_ARGS ?= --quick
SEEDS ?= 120
SOAK_SEEDS ?= 100000
PROCESS_TESTS ?= 3
ALL_CORES := -n auto --dist worksteal
# Tests are compiled once and not by each of the processes that run them, in containers too.
export PYTHONDONTWRITEBYTECODE :=
COVERAGE_FLOOR ?= 85

.DEFAULT_GOAL := help
.PHONY: help demo test check coverage lint format bench soak wheel clean compiled FORCE

help:
	@echo 'make demo    three durable servers lose their leader and go on, in under a minute'
	@echo 'make test    the whole test suite, and make lint'
	@echo 'make check   lint, types, and the quick tests that need no server processes, on all cores'
	@echo 'make coverage  how much of the code the tests without server processes run through'
	@echo 'make lint    mypy --strict, ruff and vulture alone'
	@echo 'make bench   the benchmarks, quick form (BENCH_ARGS= for the long one)'
	@echo 'make soak    the long runs of tests that `make test` runs in a short form'
	@echo 'make wheel   build a wheel and a source distribution in dist/'
	@echo 'make clean   remove all that was made here, .venv too'

demo: compiled
	$(RUN) -m paxon.kvstore.cli demo

# Tests of server processes wait for elections and disks, three at a time. What waits for nothing but the
# processor runs beside them at a lower priority and takes what they leave: lint, and all other tests,
# whose words follow. (Exit 5: PYTEST_ARGS names only tests of another part.)
test: compiled
	@echo 'Lint and the tests without server processes run beside these; what they say follows.'; \
	nice -n 10 $(MAKE) --no-print-directory lint >$(VENV)/lint.log 2>&1 & lint=$$!; \
	PAXON_SEEDS=$(SEEDS) nice -n 10 $(RUN) -m pytest -m 'not process' $(ALL_CORES) $(PYTEST_ARGS) \
	  >$(VENV)/others.log 2>&1 & others=$$!; \
	$(RUN) -m pytest -m process -n $(PROCESS_TESTS) --dist worksteal $(PYTEST_ARGS); served=$$?; \
	wait $$others; others=$$?; echo; cat $(VENV)/others.log; \
	wait $$lint; linted=$$?; echo; cat $(VENV)/lint.log; \
	for code in $$served $$others; do case $$code in 0 | 5) ;; *) exit 1 ;; esac; done; [ $$linted = 0 ]

# The loop of a working day: what needs no server processes, on all cores. One test more than there are
# cores runs at a time: nearly half of what these tests take is waiting for sockets and leases.
check: compiled
	@$(call beside_lint,$(RUN) -m pytest -m 'not slow and not process' \
	  -n $(shell expr $$(nproc) + 1) --dist worksteal $(PYTEST_ARGS))

# Run a command while `make lint` runs; fails if either does, and shows lint's words in one piece.
define beside_lint
$(MAKE) --no-print-directory lint >$(VENV)/lint.log 2>&1 & lint=$$!; \
  echo "make lint runs beside these tests; what it says follows them."; $(1); tests=$$?; [ $$tests != 5 ] || tests=0; \
  wait $$lint; linted=$$?; echo; cat $(VENV)/lint.log; [ $$tests = 0 ] && [ $$linted = 0 ]
endef

# Measured without server processes and without hundreds of seeds; beneath the floor it fails.
coverage: compiled
	$(RUN) -m pytest -m 'not process' -k 'not test_many_seeds' $(ALL_CORES) --cov \
	  --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE_FLOOR) $(PYTEST_ARGS)

lint: $(VENV)/linked
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m vulture | { ! grep -v '^tests/'; }
	$(RUN) -m mypy $(addprefix -p ,$(PACKAGES) tests examples)

format: $(VENV)/linked
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: compiled
	$(RUN) -m paxon.kvstore.cli bench stable $(BENCH_ARGS)
	$(RUN) -m paxon.kvstore.cli bench contention $(BENCH_ARGS)
	$(RUN) -m paxon.kvstore.cli bench failover $(BENCH_ARGS)

soak: compiled
	PAXON_SOAK=1 PAXON_SEEDS=$(SOAK_SEEDS) $(RUN) -m pytest --timeout 7200 $(PYTEST_ARGS)

wheel: $(VENV)/linked
	rm -rf build/lib build/bdist.* dist
	$(RUN) -m build --no-isolation

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment -----------------------------------------------------------------------------

# All that is not Paxon, which is linked anew whenever its files come and go.
WANTED := import tomllib; all = tomllib.load(open("pyproject.toml", "rb")); project = all["project"]; \
  print(*all["build-system"]["requires"], "wheel", *project["dependencies"], \
        *project["optional-dependencies"]["dev"], sep="\n")

# A .venv whose Python is gone (an upgraded system, another machine's copy) is made anew.
ifneq ($(shell $(RUN) -c 'print("works")' 2>/dev/null),works)
$(VENV)/installed: FORCE
endif

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Paxon needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo 'This Python makes no virtual environments: apt install python3-venv' >&2; exit 1; }
	@echo Setting up .venv with $(PYTHON) '(once; for another: make clean, make PYTHON=… …) …'
	$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -c '$(WANTED)' >$(VENV)/wanted
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --requirement $(VENV)/wanted
	@$(RUN) -m compileall -q -j 0 $(VENV)/lib || true # (some packages hold files that are wrong on purpose)
	@touch $@

# The editable installation has a link for each source file and knows the folder's place: a new file
# or a moved checkout means to link again.
$(VENV)/sources: $(VENV)/installed FORCE
	@{ pwd; find $(FOLDERS) -name '*.py' -o -name 'py.typed' | LC_ALL=C sort; } >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

ifeq ($(wildcard build/__editable__*),)
$(VENV)/linked: FORCE
endif

$(VENV)/linked: $(VENV)/sources
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --config-settings editable_mode=strict --editable .
	@touch $@

# Every server and every command is a process of its own. With PYTHONDONTWRITEBYTECODE set, as in many
# containers, each would compile all of Paxon again, which takes a third of its start.
compiled: $(VENV)/linked
	@$(RUN) -m compileall -q build/__editable__*
