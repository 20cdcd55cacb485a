# Everything here works on a fresh machine that has Python 3.11 (or later) and make: programs and libraries go into .venv,
# each pinned by hash. `uv` is used where it is on PATH, because it installs faster; pip does the same work.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
PYTEST_ARGS ?=
MUTATION_ARGS ?=
MUTATION_SEED ?= $(shell git rev-parse HEAD:akpolicy/trust HEAD:sidecar 2>/dev/null | tr -d '\n')

# How many tests run at once; `auto` is one a core.
WORKERS ?= auto

INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
# Built in place with the pinned build backend: nothing is fetched that is not in a requirements file.
INSTALL_SELF := $(INSTALL) --no-deps --no-build-isolation --editable .
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	--custom-compile-command "make lock"

RELEASED_PROTOS := tests/testdata/proto/released.binpb

.DEFAULT_GOAL := help
.PHONY: help demo test bench bench-engine bench-fleet bench-replicas bench-trust bench-scopes mutation mutation-sample check lint types imports protos-check package-check proto lock clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Set up and watch a policy travel from an operator to a decision
	$(BIN)/akpolicy demo

test: $(VENV)/.test ## Set up and run every test (PYTEST_ARGS="-k name" for some)
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

check: lint types imports protos-check package-check ## Check style, types, import rules, messages and the package

bench: $(VENV)/.test ## Measure the whole path on this machine, with targets
	$(BIN)/python -m bench.spine

bench-engine: $(VENV)/.test ## Measure decisions with up to 40,000 policies against Cedar alone, with targets
	$(BIN)/python -m bench.engine

bench-fleet: $(VENV)/.test ## Measure one server under 3,000 streams over TLS, with targets
	$(BIN)/python -m bench.fleet

bench-replicas: $(VENV)/.test ## Measure two servers on one PostgreSQL, with targets
	$(BIN)/python -m bench.replicas

bench-trust: $(VENV)/.test ## Measure what trust costs on this machine, with targets
	$(BIN)/python -m bench.trust

bench-scopes: $(VENV)/.test ## Measure a first contact and a change among thousands of scopes, with targets
	$(BIN)/python -m bench.scopes

mutation: $(VENV)/.dev ## Change trust and cache code in every small way and see the tests notice (MUTATION_ARGS)
	$(BIN)/python -m tools.mutation run $(MUTATION_ARGS)

# Another state of the code draws another sample; a test that was missing, or an entry in the list, does not: so what a
# sample shows can be mended.
mutation-sample: $(VENV)/.dev ## The same with 200 of the changes
	$(BIN)/python -m tools.mutation run --sample 200 --seed "$(MUTATION_SEED)" $(MUTATION_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

protos-check: $(VENV)/.dev
	$(BIN)/buf lint
	@if [ -f $(RELEASED_PROTOS) ]; then echo "$(BIN)/buf breaking --against $(RELEASED_PROTOS)"; \
		$(BIN)/buf breaking --against $(RELEASED_PROTOS); \
	else echo "buf breaking: skipped, because $(RELEASED_PROTOS) is not there before the first release"; fi
	$(BIN)/python tools/generate_protos.py --check

package-check: $(VENV)/.dev
	$(BIN)/python tools/check_wheel.py

proto: $(VENV)/.dev ## Generate akpolicy/v1 from proto/
	$(BIN)/python tools/generate_protos.py

lock: ## Pin the newest versions that pyproject.toml allows (needs uv on PATH)
	$(LOCK) --upgrade pyproject.toml --extra dev --group build --output-file requirements-dev.txt
	$(LOCK) --constraint requirements-dev.txt --group build --output-file requirements-build.txt
	$(LOCK) pyproject.toml --constraint requirements-dev.txt --extra server --extra sidecar --output-file requirements.txt
	$(LOCK) pyproject.toml --constraint requirements-dev.txt --extra server --output-file requirements-server.txt
	$(LOCK) pyproject.toml --constraint requirements-dev.txt --extra sidecar --output-file requirements-sidecar.txt
	$(LOCK) pyproject.toml --constraint requirements-dev.txt --extra test --output-file requirements-test.txt

clean: ## Remove what was built and installed here
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# A stamp says which requirements are installed; a later set includes the earlier ones.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit("akpolicy needs Python 3.11 or later, e.g. make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(if $(UV),--without-pip) $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created requirements.txt requirements-build.txt pyproject.toml
	$(INSTALL) --require-hashes -r requirements-build.txt -r requirements.txt
	$(INSTALL_SELF)
	@touch $@

$(VENV)/.test: $(VENV)/.created requirements-test.txt requirements-build.txt pyproject.toml
	$(INSTALL) --require-hashes -r requirements-build.txt -r requirements-test.txt
	$(INSTALL_SELF)
	@touch $@

$(VENV)/.dev: $(VENV)/.created requirements-dev.txt pyproject.toml
	$(INSTALL) --require-hashes -r requirements-dev.txt
	$(INSTALL_SELF)
	@touch $@
