PORT ?= 8080
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup serve test test-slow test-bounds check protos bench

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

serve: setup
	MODEL=$$($(BIN)/corral pull smollm2 | tail -n 1) && exec $(BIN)/corral serve -m "$$MODEL" --alias "smollm2=$$MODEL" --port $(PORT)

test: setup
	$(BIN)/corral pull smollm2 > /dev/null
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Kernels that check every index, in a cache of their own.
test-bounds: setup
	NUMBA_BOUNDSCHECK=1 CORRAL_CACHE=$(CURDIR)/.venv/bounds $(BIN)/python -m pytest -m "not slow" \
		tests/worker/sampling tests/worker/test_sampler.py tests/worker/rpc/test_limits.py tests/parity/test_sampling.py \
		tests/worker/kernels tests/worker/model tests/worker/engine tests/worker/test_determinism.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

protos: setup
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/inference.proto

bench: setup
	MODEL=$$($(BIN)/corral pull smollm2 | tail -n 1) && $(BIN)/python -m bench.peers -m "$$MODEL" $(BENCH)
