# boxwright: each target installs what it needs first.
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH):$(CURDIR)/.build/bin

.PHONY: setup demo test test-vm test-examples fuzz faults defences lint bench soak requirements clean

setup:
	@scripts/setup --dev

demo:
	@scripts/setup
	@scripts/demo

# One number behind all that is chosen by chance: the order of the tests, what hypothesis, the fuzzer and the faults try.
# A run with another: make test SEED=$$RANDOM
SEED ?= 1
CHANCE = BOXWRIGHT_FUZZ_SEED=$(SEED) BOXWRIGHT_FAULT_SEED=$(SEED)

test: setup
	$(CHANCE) $(PY) -m pytest --randomly-seed=$(SEED) --hypothesis-seed=$(SEED) --leak-check -m "not vm and not examples" $(ARGS)

# The Dockerfiles of examples/: built, run, spoken to by real clients. Fetches Debian's packages; a few minutes.
test-examples: setup
	$(PY) -m pytest -m examples tests/examples $(ARGS)

test-vm: setup
	@scripts/vm-kernel
	$(PY) -m pytest -m vm $(ARGS)

# Made-up requests from Docker's API definition, ours and schemathesis': 5,000 of each; changed archives for two minutes.
# BOXWRIGHT_FUZZ_SEED repeats a run.
fuzz: setup
	BOXWRIGHT_FUZZ=$${BOXWRIGHT_FUZZ:-5000} BOXWRIGHT_FUZZ_SECONDS=$${BOXWRIGHT_FUZZ_SECONDS:-120} \
	  $(PY) -m pytest tests/fuzz $(ARGS)

# Every step of start, stop, remove and commit with one failure in it, of build, load and pull with a full disk; 500 kills.
# A failure prints the seed that repeats it.
faults: setup
	BOXWRIGHT_FAULT_ALL=1 BOXWRIGHT_FAULT_KILLS=500 $(PY) -m pytest tests/faults $(ARGS)

# Each defence of docs/security.md taken out of a copy of the source: its tests must fail.  About 10 minutes.
defences: setup
	$(PY) tests/defences $(ARGS)

lint: setup
	ruff check . && ruff format --check . && mypy

bench: setup
	$(PY) -m benchmarks

# 10,000 containers, 1,000 execs, 1,000 log rotations; fails when anything that should be flat grows. About 10 minutes.
soak: setup
	$(PY) -m benchmarks.soak $(ARGS)

requirements: setup
	$(PY) -m pip install -q pip-tools
	for f in base build dev; do $(PY) -m piptools compile -q --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --allow-unsafe --strip-extras --no-header -o requirements/$$f.txt requirements/$$f.in; done

clean:
	rm -rf .venv .build .pytest_cache .mypy_cache .ruff_cache .hypothesis
