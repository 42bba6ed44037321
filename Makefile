# Every target sets itself up: a virtual environment in .venv, installed once and again only when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
OLDEST := .venv-oldest
NOTICES := tests/execution/test_compile.py tests/execution/test_functorch.py tests/execution/test_plans.py \
	tests/optim/test_optim_classes.py tests/optim/test_optim_compile.py tests/transforms
NOTICED := adamw or nadam or lamb or AdamW or NAdam or plans or classes or partition or chain or many or guard

.PHONY: demo test test-thorough test-clients test-oldest matrix lint docs notebooks bench audit gpu clean

demo: $(VENV)/.demo
	$(BIN)/python examples/digits.py

test: $(VENV)/.installed
	@echo "All tests: about 20 minutes on two cores."
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

# The cases too that others nearly cover: mostly compiling every option of every algorithm. Before a release.
test-thorough: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -q --thorough

# Libraries that drive optimizers; without them, make test leaves these tests out.
test-clients: $(VENV)/.clients
	$(BIN)/python -m pytest -n 2 --dist loadfile -q tests/clients

# What could notice an older torch, of a few algorithms, with the oldest optree; then what its compiler makes of the newest. torch's wheels
# of that time bring the libraries of CUDA: 5 GB.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pip install -q optree==0.14.0
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -q $(NOTICES) -k "$(NOTICED)"
	$(OLDEST)/bin/python -m pip install -q --upgrade optree
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -q tests/execution/test_compile.py -k "one_graph or partition"

matrix: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m column --matrix

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing/program.py
	$(BIN)/pylint -j 2 --score n optimfx

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: $(VENV)/.installed
	$(BIN)/python notebooks/execute.py

# TorchOpt is only measured beside; without it, its column stays empty.
bench: $(VENV)/.installed
	-$(BIN)/python -m pip install -q torchopt
	$(BIN)/python benchmarks/blocks.py
	$(BIN)/python benchmarks/executors.py
	$(BIN)/python benchmarks/classes.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/host_path.py
	$(BIN)/python benchmarks/first_steps.py
	$(BIN)/python benchmarks/matrices.py
	$(BIN)/python benchmarks/compile_time.py
	$(BIN)/python benchmarks/functional.py
	$(BIN)/python benchmarks/imports.py
	$(BIN)/python benchmarks/readme.py

# What a compiler makes of the kernels, ahead of time and without a GPU: docs/kernels.md.
audit: $(VENV)/.installed
	$(BIN)/python benchmarks/kernel_audit.py $(CHECK)

# With another environment that has all it needs, which may be without a network: make gpu BIN=/path/to/its/bin
gpu: export PYTHONPATH = .
gpu: $(if $(filter $(VENV)/bin,$(BIN)),$(VENV)/.installed)
	@$(BIN)/python -c "import torch; exit(not torch.cuda.is_available())" || { echo "$(NO_GPU)"; exit 1; }
	$(BIN)/python -m pytest -q -n 4 -m cuda tests/gpu
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/gpu_host.py
	$(BIN)/python benchmarks/gpu_training.py
	$(BIN)/python benchmarks/readme.py gpu

NO_GPU = $(BIN)/python has no torch that finds a CUDA GPU. On a machine with one, install a CUDA build of torch (make \
clean; make gpu TORCH=torch==2.13.0), or name an environment that has it (make gpu BIN=/path/to/its/bin).

clean:
	rm -rf $(VENV) $(OLDEST)

# torch comes first and pinned, so that no dependency pulls in another build of it.
$(VENV)/.torch: pyproject.toml
	@echo "Installing $(TORCH) into $(VENV), once: from PyPI for Linux about 3 GB, with CUDA; elsewhere less than 1 GB."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q $(TORCH)
	touch $@

$(VENV)/.demo: $(VENV)/.torch
	@echo "Installing what the examples need: about 0.3 GB."
	$(BIN)/python -m pip install -q -e ".[examples]"
	touch $@

$(VENV)/.installed: $(VENV)/.torch
	@echo "Installing what tests, docs and linters need: about 2 GB, a minute or two."
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@ $(VENV)/.demo

$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q torch==2.11.0
	$(OLDEST)/bin/python -m pip install -q -e ".[test]"
	touch $@

$(VENV)/.clients: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e ".[clients]"
	touch $@
