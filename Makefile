# make demo    install, then open the tour notebook in JupyterLab
# make test    install, then run every test          (make test PYTEST_ARGS="-k replay")
# make lint    install, then check format, lint and types
# make help    the rest

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
PIP := $(PY) -m pip --disable-pip-version-check --no-input
PYTEST_ARGS ?=
WORKERS ?= 2
JUPYTER_ARGS ?=
NBVAL_TIMEOUT ?= 300
LIBRARY := engine/native/build.py $(wildcard engine/native/src/*.[ch] engine/kernels/src/*.[ch])
TOUR := notebooks/00_tour.ipynb
NOTEBOOKS = $(wildcard notebooks)
NBVAL = --nbval-lax --nbval-current-env --nbval-cell-timeout=$(NBVAL_TIMEOUT) \
	--nbval-sanitize-with=tests/nbval_sanitize.cfg
# Files in their order: browsers and models first, so that no long one is left for the end.
SHARED = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo test lint sanitize format lock install peers browser clean distclean
.DEFAULT_GOAL := help

help:
	@echo 'make demo       install, then open the tour notebook in JupyterLab'
	@echo '                (JUPYTER_ARGS="--port 9999"; without a display it prints the address)'
	@echo 'make test       install, then run every test (PYTEST_ARGS="-k replay"; NO_BROWSER=1;'
	@echo '                WORKERS=0 in one process, as for a debugger)'
	@echo 'make lint       ruff format --check, ruff check, pyright'
	@echo 'make sanitize   the kernels'"'"' tests with address and undefined-behaviour checks'
	@echo 'make format     let ruff rewrite what it can'
	@echo 'make lock       write requirements.lock from what is installed'
	@echo 'make peers      install llama.cpp beside it, for benchmarks/decode_cpu.py (minutes)'
	@echo 'make clean      remove caches and test artefacts; make distclean: and .venv'

# ------------------------------------------------------------------------------------- running

demo: $(STAMPS)/notebook
	@set --; \
	if [ "$$(id -u)" = 0 ]; then set -- "$$@" --allow-root; fi; \
	if [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ] && [ "$$(uname)" != Darwin ]; then \
		set -- "$$@" --no-browser; \
		echo 'No display: open the http://localhost address below in a browser.'; \
	fi; \
	exec $(VENV)/bin/jupyter lab --LabApp.default_url=/lab/tree/$(TOUR) "$$@" $(JUPYTER_ARGS)

test: $(STAMPS)/test $(if $(NO_BROWSER),,browser)
	@FIDDLER_VIZ_BROWSER=$(if $(NO_BROWSER),none,required) \
		$(PY) -m pytest $(SHARED) $(if $(NOTEBOOKS),$(NBVAL)) tests $(NOTEBOOKS) $(PYTEST_ARGS)

lint: $(STAMPS)/lint
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/pyright

sanitize: $(STAMPS)/test
	@$(PY) -m tools.sanitize

format: $(STAMPS)/lint
	@$(VENV)/bin/ruff check --fix-only .
	@$(VENV)/bin/ruff format .

lock: $(STAMPS)/test $(STAMPS)/lint $(STAMPS)/notebook
	@$(PY) tools/lock.py

browser: $(STAMPS)/test
	@$(PY) tools/browser.py

# Its build asks for packages that nothing else does, so pip fetches them for the time of it.
peers: $(STAMPS)/test
	@$(PIP) install --constraint requirements.lock $$($(PY) tools/torch_index.py) \
		--editable '.[peers]'

install: $(STAMPS)/notebook $(STAMPS)/test $(STAMPS)/lint

# ---------------------------------------------------------------------------------- installing
# requirements.lock pins every version. An extra installs only what it needs of them.

# Installing compiles the helper library too, so a change of its sources installs again.

$(STAMPS)/%: $(STAMPS)/venv pyproject.toml requirements.lock setup.py $(LIBRARY)
	@echo 'Installing for "$*" into $(VENV) (the first time takes some minutes) ...'
	@$(PIP) install --quiet --constraint requirements.lock --no-build-isolation \
		$$($(PY) tools/torch_index.py) --editable '.[$*]'
	@touch $@

$(STAMPS)/venv: requirements.lock
	@[ -n "$(PYTHON)" ] || { echo 'error: Python 3.11 or newer is needed and none was found;' \
		'install one, or: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'error: $(PYTHON) does not run or is older than Python 3.11;' \
		'try another: make PYTHON=/path/to/python3' >&2; exit 1; }
	@[ -x $(PY) ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'error: $(PYTHON) has no venv module; on Debian or Ubuntu:' \
		'sudo apt-get install python3-venv' >&2; exit 1; }
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --constraint requirements.lock setuptools
	@mkdir -p $(STAMPS) && touch $@

clean:
	rm -rf artifacts build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
