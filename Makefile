# What the README tells people to type. `make demo` and `make test` do everything on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Many tests wait for servers and processes: one worker more than cores, four at most.
WORKERS := $(shell n=$$(nproc); echo $$((n < 4 ? n + 1 : 4)))
SIDE_BY_SIDE := -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
FUZZER := -s -m fuzz tests/data/packed/test_fuzz.py

.PHONY: demo test nightly fuzz fast lint docs site lock stack chaos bench clean

demo: $(VENV)/.installed
	$(BIN)/segadapt demo

# All tests but the nightly ones. The fuzzer runs beside the others for one minute (FUZZ_S says
# others); what it says is shown at the end. Whatever ends this ends it too.
test: $(VENV)/.installed
	@said=$$(mktemp) || exit 1; \
	FUZZ_S=$${FUZZ_S:-60} $(BIN)/python -m pytest $(FUZZER) >"$$said" 2>&1 & fuzzer=$$!; \
	trap 'kill $$fuzzer 2>/dev/null; rm -f "$$said"' EXIT; \
	trap 'exit 130' INT; trap 'exit 143' TERM HUP; \
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not fuzz and not nightly"; others=$$?; \
	echo "waiting for the fuzzer"; wait $$fuzzer; fuzzed=$$?; cat "$$said"; \
	test $$others -eq 0 && test $$fuzzed -eq 0

# What takes long: the tests that `make test` leaves out, ten minutes of fuzzing, fifty rounds of
# chaos; all processes are started cold.
nightly: export SEGADAPT_COLD_STARTS := 1
nightly: $(VENV)/.installed
	$(BIN)/python -m pytest -m "nightly and not fuzz"
	$(MAKE) fuzz
	$(MAKE) chaos

fuzz: $(VENV)/.installed
	$(BIN)/python -m pytest $(FUZZER)

fast: $(VENV)/.installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not fuzz and not nightly"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Page, schema and list of networks that are generated from the code.
docs: $(VENV)/.installed
	$(BIN)/python -m adapt.spec.reference
	$(BIN)/python -m adapt.cli.network_counts

# The pages as a site in ./site, every link checked; needs no network.
site: $(VENV)/.installed
	$(BIN)/python -m mkdocs build --strict

# The packages of the image, all of them, each with its hashes; what still fits is kept as it is.
# uv gets an environment of its own.
lock:
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet uv==0.13.9
	$(VENV)/lock/bin/uv pip compile requirements.txt --output-file requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock"

# SeaweedFS (S3) and MLflow on loopback, data in ./stack, until Ctrl-C.
stack: $(VENV)/.installed
	$(BIN)/python -m adapt.platforms.local_stack stack

# Kills, outages, full disks, damaged checkpoints; then the run must equal a calm one, bit for bit.
chaos: $(VENV)/.installed
	$(BIN)/python -m tests.chaos --rounds 50

# A training step against the papers' order, then every method on the toy town; writes the pages.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.step_speed
	$(BIN)/python -m benchmarks.methods toy_town

$(VENV)/.installed: requirements.txt requirements-submit.txt requirements-docs.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) demo stack site .pytest_cache .mypy_cache .ruff_cache
