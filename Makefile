# gentangle: `make help` lists the targets. Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
# Installed first, by a command of its own: the registry's torch may bring CUDA, another index the CPU build.
# TORCH="--index-url <the index that PyTorch's install page names> torch==2.13.0" chooses.
TORCH ?= torch==2.13.0
LOCK ?= requirements/cpu.txt
RECIPES ?= recipes/tweets.yaml recipes/tweets_smollm2.yaml recipes/reviews.yaml recipes/objectives.yaml \
  recipes/mitigations.yaml recipes/bridge.yaml recipes/cdsprites.yaml recipes/cdsprites_dials.yaml recipes/cdsprites_controls.yaml \
  recipes/rotated_digits.yaml recipes/colored_digits.yaml recipes/text.yaml \
  recipes/text_controls.yaml
PORT ?= 8000

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.NOTPARALLEL:

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
HTML := book/_build/html
NOTEBOOKS = $(sort $(wildcard notebooks/*.ipynb))
BENCHMARKS = $(sort $(wildcard benchmarks/bench_*.py))
# $(call say,TEXT) is the one line that a failing target ends with.
say = { echo "make $@: $(1)" >&2; exit 1; }
export PYTHONUNBUFFERED := 1

.PHONY: help book test check checks fuzz mutate wilds run experiments lab serve bench gpu-check publish lock lowest clean distclean fetch

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

.venv/.installed: $(LOCK) pyproject.toml
	@failed() { echo "make: pip could not install (see above). It needs a network and 3 GB of disk; the same command goes on." >&2; exit 1; }
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	    || { echo "make: $(PYTHON) is not Python 3.11 to 3.13: give one, as in PYTHON=python3.11." >&2; exit 1; }
	  $(PYTHON) -m venv --clear .venv \
	    || { echo "make: $(PYTHON) has no venv module: install it (Debian: apt-get install python3-venv)." >&2; exit 1; }
	fi
	echo "Installing into .venv, once, 2 to 5 minutes. First $(TORCH)"
	$(PIP) $(TORCH) || failed
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
	  echo "Then the exact versions of $(LOCK)"
	  $(PIP) -r $(LOCK) | { grep --line-buffered -v 'already satisfied' || true; } || failed
	  $(PIP) --quiet --no-deps -e . || failed
	else
	  echo "Then, since the locks are for Python 3.11 and this is another, the newest within pyproject.toml's bounds"
	  $(PIP) -e '.[book,trl,test]' | { grep --line-buffered -v 'already satisfied' || true; } || failed
	fi
	touch $@

fetch: .venv/.installed
	@$(BIN)/gentangle fetch

book: fetch  ## build the book from its stored outputs into book/_build/html (under 6 minutes the first time)
	@rm -rf $(HTML)
	$(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book --all -q -W -n --keep-going \
	  || $(call say,the book has the errors above; mend the pages that they name.)
	echo "The book is in $(HTML)/index.html. To read it: make serve"

# WILDS's packages are a folder of their own: beside a CPU build of torch their torchvision breaks TRL.
.venv/wilds/.installed: .venv/.installed requirements/wilds.txt
	@rm -rf .venv/wilds
	$(PIP) --quiet --no-deps --target .venv/wilds -r requirements/wilds.txt \
	  || $(call say,pip could not install requirements/wilds.txt: it needs a network.)
	touch $@

test: fetch  ## run every check in timed stages (under 40 minutes on 2 cores)
	@$(BIN)/python tests/stages.py lint unit wilds notebooks book packaging

check: fetch  ## the edit loop: lint, types and the fast tests (under 90 seconds)
	@$(BIN)/python tests/stages.py lint fast

mutate: fetch  ## flip signs and numbers of the formulas, and count the flips that the tests catch (under 45 minutes)
	@$(BIN)/python tests/mutation/mutate.py

# WILDS's folders by themselves: beside its packages TRL cannot be imported.
fuzz: fetch .venv/wilds/.installed  ## 20,000 spoilt inputs for every command, and the properties on many (30 minutes)
	@$(BIN)/python tests/abuse/fuzz.py --cases 20000
	PYTHONPATH=.venv/wilds $(BIN)/python tests/abuse/fuzz.py --kind "WILDS folder" --cases 500
	GENTANGLE_EXAMPLES=200 $(BIN)/pytest -q tests/abuse/test_properties.py

wilds: .venv/wilds/.installed  ## Fish on WILDS's six data sets, on tiny stand-ins for them (under 6 minutes on 2 cores)
	@$(BIN)/python tests/stages.py wilds

checks: fetch  ## run the tests that the book names and keep what they said, for its badges (under 20 minutes)
	@$(BIN)/python book/run_checks.py

# glibc gives a large tensor's memory back at once and takes it anew for the next: where a model trains on a processor, a
# quarter of the time. Kept, nothing else changes; other systems do not read these.
run experiments: export MALLOC_MMAP_MAX_ = 0
run experiments: export MALLOC_TRIM_THRESHOLD_ = 8589934592
run experiments: export MALLOC_ARENA_MAX = 1

run: fetch  ## execute every notebook in the cpu profile and store the outputs
	@GENTANGLE_PROFILE=cpu GENTANGLE_FIGURES=$(CURDIR)/book/figures $(BIN)/python book/run_notebooks.py $(NOTEBOOKS)
	$(BIN)/python book/stale.py --drawn-by $(NOTEBOOKS)

experiments: fetch  ## make the long runs and their records (hours; goes on where it was stopped)
	@for recipe in $(RECIPES); do $(BIN)/gentangle train --recipe $$recipe --results results; done
	$(BIN)/gentangle claims --update results
	$(BIN)/python book/howto_remedies.py book/howto_remedies.yaml results/remedies
	$(BIN)/python book/stale.py --renew

lowest: fetch  ## the fast tests on the oldest versions that the bounds let in, in .venv-lowest (a network, 6 GB)
	@failed() { echo "make lowest: uv could not install (above): it needs a network and room; .venv is as it was." >&2; exit 1; }
	$(BIN)/python -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv || failed
	export VIRTUAL_ENV=.venv-lowest
	.venv-lowest/bin/uv pip install --quiet --resolution lowest-direct -e '.[book,trl,test]' || failed
	.venv-lowest/bin/python tests/stages.py lowest

lab: fetch  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=notebooks

serve:  ## show the built book at 127.0.0.1, port 8000 (PORT=)
	@test -f $(HTML)/index.html || $(call say,there is no $(HTML)/index.html: run make book first.)
	$(PYTHON) -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null \
	  || $(call say,port $(PORT) cannot be used; choose another with PORT=8001.)
	echo "http://127.0.0.1:$(PORT)/ (Ctrl-C ends it)"
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory $(HTML) $(PORT)

bench: fetch  ## run every measurement of benchmarks/
	@test -n "$(BENCHMARKS)" || echo "make bench: there is no benchmarks/bench_*.py yet: nothing to measure."
	for script in $(BENCHMARKS); do echo "$$script"; $(BIN)/python $$script; done

gpu-check:  ## on a machine with a GPU: the engine and the forecasts, by numpy and torch alone (PYTHON=, no .venv)
	@if test -x $(BIN)/python; then $(BIN)/python benchmarks/gpu_check.py; else $(PYTHON) benchmarks/gpu_check.py; fi

publish: fetch  ## make the copies for Colab and Binder in dist/launch (GENTANGLE_REPOSITORY=, else book/_config.yml)
	@rm -rf build dist/gentangle-*.whl
	$(PIP:install=wheel) --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python book/publish.py --wheel dist/gentangle-*.whl --out dist/launch --torch="$(TORCH)"

lock:  ## resolve requirements/*.txt and environment.yml anew, in a clean environment (Python 3.11)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	  || $(call say,$(PYTHON) is not Python 3.11: give one as in PYTHON=python3.11.)
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT
	$(PYTHON) -m venv "$$scratch"
	failed() { echo "make lock: pip could not install (above): it needs a network; nothing was changed." >&2; exit 1; }
	"$$scratch"/bin/pip install --disable-pip-version-check $(TORCH) || failed
	"$$scratch"/bin/pip install --disable-pip-version-check -e '.[book,trl,test]' || failed
	"$$scratch"/bin/python requirements/make_lock.py
	"$$scratch"/bin/python requirements/make_environment.py

clean:  ## remove what was built (not .venv: make distclean)
	@rm -rf book/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .jupyter_cache
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print0 | xargs -0 rm -rf

distclean: clean  ## remove .venv and .venv-lowest as well
	@rm -rf .venv .venv-lowest
