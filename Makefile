# The main commands are `make demo` and `make test`; the plain commands behind them are in README.md.
#
#   make demo [CONFIG=experiments/own-data.yaml] [CORES=2]   install, run the experiment, write its report
#   make test                                                install, lint, test
#   make test-cluster                                        install, run the tests that bring up a Slurm: docs/cluster.md
#   make docs                                                install, build the site of docs/ into site/
#   make benchmark                                           install, measure against the usual ways: benchmarks/README.md
#   make unlock                                              after a run was killed, and only if no other run is at work
#   make clean                                               remove .venv and site/; results/ and resources/ stay

PYTHON ?= python3
CONFIG ?= config.yaml
CORES ?= all

EXPERIMENT := $(shell sed -n 's/^experiment:[^A-Za-z0-9_]*\([A-Za-z0-9_-]*\).*/\1/p' '$(CONFIG)')
RESULTS := results/$(EXPERIMENT)
REPORT := $(RESULTS)/report.html
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --configfile '$(CONFIG)'
# Of 18,000 Python files a run imports a few thousand: Python compiles those when it first does, pip all of them.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --constraint requirements.lock
LINTED := Snakefile rules

# For the tests, which start snakemake and python by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# A run starts hundreds of Pythons: where their bytecode may not be kept, each compiles all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-cluster docs benchmark unlock clean
.DELETE_ON_ERROR:

demo: .venv/installed
	@test -n '$(EXPERIMENT)' || { echo "error: $(CONFIG) names no experiment" >&2; exit 1; }
# A terminal shows bars and the time left, and what jobs say goes to their logs alone; without one there are plain lines.
	@if test -t 2; then PYTHONPATH=profiles/terminal $(SNAKEMAKE) --cores $(CORES) --logger time-left >/dev/null; \
	  else $(SNAKEMAKE) --cores $(CORES); fi || \
	  { $(explain-lock); }
	@if test ! -f $(REPORT) || test -n "$$(find $(RESULTS) Snakefile rules report -newer $(REPORT) -type f -print -quit)"; \
	  then $(SNAKEMAKE) --report $(REPORT); fi
	@echo
	@$(BIN)/python -m spunge.report.answer $(RESULTS)/evaluations.csv
	@echo
	@echo "With intervals, and more to see:"
	@echo "  $(REPORT)       everything on one page, for a browser"
	@echo "  $(RESULTS)/explore.html      every number to point at, filter and compare"
	@echo "  $(RESULTS)/summary.md        the candidates side by side"
	@echo "  $(RESULTS)/figures/          as PDF and PNG"
	@echo "  $(RESULTS)/evaluations.csv   every number, with its interval"

# Nobody can tell a killed run's lock from that of a run on another machine, so only the user may remove it.
define explain-lock
status=$$?; \
if test -n "$$(ls .snakemake/locks 2>/dev/null)"; then \
  echo >&2; \
  echo "This folder is locked: another run is at work in it, or one was killed. If no other is at work, type" >&2; \
  echo "  make unlock" >&2; \
  echo "and the same command again; it goes on where the killed run stopped." >&2; \
fi; \
exit $$status
endef

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check $(LINTED)
	$(BIN)/snakemake --lint
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-cluster: .venv/installed-slurm
	$(BIN)/python -m pytest tests/cluster

# Every link is checked. Without the variable each build tells that the theme ends in May 2027, and of its successor.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html; to search in it: $(BIN)/python -m http.server --directory site"

# The default experiment's model, whatever CONFIG says, so that results can be compared.
benchmark: .venv/installed-test
	$(BIN)/snakemake --configfile config.yaml --cores $(CORES) --until model
	$(BIN)/python benchmarks/run.py

unlock: .venv/installed
	$(SNAKEMAKE) --unlock

clean:
	rm -rf .venv site .pytest_cache .ruff_cache .import_linter_cache

# The stamps are written last, so that an installation that was killed is taken up again.
.venv/installed: requirements.txt requirements.lock
	@command -v '$(PYTHON)' >/dev/null && '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is not there or older than Python 3.11; name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || '$(PYTHON)' -m venv --clear .venv
	$(PIP) --requirement requirements.txt
	@touch $@

.venv/installed-test: .venv/installed requirements-test.txt requirements-mergekit.txt
	$(PIP) --requirement requirements-test.txt --requirement requirements-mergekit.txt
	@touch $@

.venv/installed-slurm: .venv/installed-test requirements-slurm.txt
	$(PIP) --requirement requirements-slurm.txt
	@touch $@

.venv/installed-docs: .venv/installed requirements-docs.txt
	$(PIP) --requirement requirements-docs.txt
	@touch $@
