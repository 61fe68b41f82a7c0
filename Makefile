# Needs only Python >= 3.11 and make. Everything is installed into .venv, once.
#
#   make demo         fine-tune a BERT on 13,000 tweets, 256 samples per update, and beat a baseline
#   make check        all that continuous integration runs, fastest first; what to wait for is marked
#   make test         the test suite, a process a core (WORKERS=0: in one process)
#   make stress       every fault at every place, of which the suite takes a sample (half an hour)
#   make test-cluster  SSH hosts and Slurm on this machine, and faults on them (root; a quarter of an hour)
#   make test-tensorflow  files between TensorFlow and us, in an environment of its own (2.4 GB)
#   make test-trackers  runs sent to TensorBoard, W&B, MLflow and Trackio, killed, and read back (an environment of its own)
#   make test-onnx    models as ONNX, torch programs and GGUF, run by others
#   make notebooks    run examples/notebook whole
#   make lint         ruff, pyright, the house's import rules
#   make docs         the documentation, into docs/_build/html
#   make mutants      plant faults and check that the tests find them
#   make kills        kill a training run some hundred times and compare what it computed, bit for bit
#   make soak         serve for ten minutes: memory stays where it is
#   make benchmarks   the tables of the README: half an hour, on a machine that does nothing else
#
# Linux without an NVIDIA GPU, to download 200 MB of torch instead of several GB:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
TORCH_INDEX ?=
BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
ARGS ?=

.PHONY: help demo test stress test-cluster test-tensorflow test-onnx notebooks lint format docs mutants kills soak benchmarks clean

help:
	@sed -n 's/^#   make /make /p' Makefile

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "bigbatch needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Python could not create $(VENV). On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

# One stamp for each set of extras: .venv/.installed-demo, .venv/.installed-test, ...
$(VENV)/.installed-%: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing bigbatch[$*] into $(VENV) (once; torch is large, this can take some minutes)"
	$(if $(TORCH_INDEX),$(PIP_INSTALL) --index-url $(TORCH_INDEX) torch)
	$(PIP_INSTALL) -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/airline-tweets/demo.py $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist loadfile $(ARGS)

stress: $(VENV)/.installed-test
	DAMAGE_EVERY=1 $(BIN)/python -m pytest -m stress $(ARGS)
	DAMAGE_EVERY=1 $(BIN)/python -m pytest tests/test_damaged_runs.py $(ARGS)

# The house's figures, then types, then the tests that start no process: what to wait for before a commit. Then the rest.
check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m pytest -q tests/test_house.py tests/test_house_figures.py
	$(BIN)/pyright -p pyproject.toml
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --maxprocesses 8 --dist loadfile --part quick
	@echo "Good enough for a commit. The rest is what takes its time: processes, kills, training; then the documentation."
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --maxprocesses 8 --dist loadfile --part rest
	$(MAKE) docs

test-cluster: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/cluster -m cluster $(ARGS)

test-onnx: $(VENV)/.installed-test $(VENV)/.installed-onnx $(VENV)/.installed-gguf
	$(BIN)/python -m pytest tests/infer -m onnx $(ARGS)

$(VENV)-tensorflow/.installed:
	$(PYTHON) -m venv $(VENV)-tensorflow
	$(VENV)-tensorflow/bin/python -m pip install --disable-pip-version-check -q tensorflow-cpu keras-hub safetensors
	@touch $@

test-tensorflow: $(VENV)/.installed-test $(VENV)-tensorflow/.installed
	TENSORFLOW_PYTHON=$(VENV)-tensorflow/bin/python $(BIN)/python -m pytest tests/tensorflow -m tensorflow $(ARGS)

test-trackers: $(VENV)/.installed-test
	$(PYTHON) -m venv $(VENV)-trackers
	$(CURDIR)/$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(VENV)-trackers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zzz_bigbatch.pth"
	$(VENV)-trackers/bin/python -m pip install --disable-pip-version-check -q tensorboardX==2.6.5 tensorboard==2.21.0 \
	  wandb==0.31.0 mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1 trackio==0.43.0
	PYTHONPATH=src $(VENV)-trackers/bin/python -m pytest -m trackers tests/track $(ARGS)

notebooks: $(VENV)/.installed-notebook
	rm -rf build/notebook && mkdir -p build/notebook && cp examples/notebook/*.ipynb build/notebook
	$(BIN)/python -m ipykernel install --prefix $(VENV) --name python3
	$(BIN)/jupyter execute build/notebook/*.ipynb $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright -p pyproject.toml
	$(BIN)/lint-imports --no-logo --no-cache

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

mutants: $(VENV)/.installed-test
	$(BIN)/python tools/mutants.py $(ARGS)

kills: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/run/test_kill.py tests/run/test_resume.py $(ARGS)

soak: $(VENV)/.installed-bench $(VENV)/.installed-test
	$(BIN)/python benchmarks/serve.py --soak 600

benchmarks: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/split.py --write --save
	$(BIN)/python benchmarks/speed.py --write $(ARGS)

clean:
	rm -rf $(VENV) docs/_build docs/generated .pytest_cache .ruff_cache .hypothesis
