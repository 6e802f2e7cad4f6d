# The two commands of the README: `make demo` and `make test`. Both set up .venv when it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: help demo test check tensorrt fresh golden fmt fuzz clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: .venv/installed ## install, train, compile and run the demo; then open demo/index.html
	$(BIN)/triptych demo --out demo

test: check tensorrt ## all that CI checks
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

check: .venv/installed ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/triptych fmt --check recipes/*.vlm
	$(BIN)/mypy

FRESH := build/fresh
ASK := --image scene.png --prompt "Describe the picture." --max-new 16 --json
fresh: .venv/installed ## run an artefact where only requirements-run.txt is installed
	rm -rf $(FRESH)
	$(PYTHON) -m venv $(FRESH)/venv
	$(FRESH)/venv/bin/python -m pip install -q --no-deps -c constraints.txt -r requirements-run.txt
	$(FRESH)/venv/bin/python -m pip install -q --no-deps . && rm -rf build/lib build/bdist*
	rm -r $(FRESH)/venv/lib/python*/site-packages/triptych/dsl $(FRESH)/venv/lib/python*/site-packages/triptych/compiler
	$(BIN)/triptych compile tests/backends/tiny.vlm --backend aot --random-weights 0 --out $(FRESH)/artefact
	$(BIN)/python -c "from PIL import Image; Image.radial_gradient('L').save('$(FRESH)/scene.png')"
	cd $(FRESH) && env -i PATH= HOME=. venv/bin/triptych run artefact $(ASK) | tee fresh.json
	cd $(FRESH) && ../../$(BIN)/triptych run artefact $(ASK) | cmp - fresh.json

# Not for every machine, and 0.3 GB: where these cannot be had, the tests of engines say so and are skipped.
tensorrt: .venv/installed constraints-tensorrt.txt ## what builds TensorRT engines without a GPU, for their tests
	@cmp -s constraints-tensorrt.txt .venv/tensorrt || \
	{ $(BIN)/python -m pip install -q --no-deps -r constraints-tensorrt.txt && cp constraints-tensorrt.txt .venv/tensorrt; } || \
	echo "TensorRT for RTX cannot be had here: its tests will be skipped"

golden: .venv/installed ## rewrite the golden files; read the diff before you keep it
	$(BIN)/pytest --update-golden

N ?= 20000
SEED ?= 0
fuzz: .venv/installed ## feed N=20000 generated and broken recipes in, from SEED=0 on
	$(BIN)/python -m triptych.tests.fuzzing $(N) --seed $(SEED)

fmt: .venv/installed ## format code and recipes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/triptych fmt recipes/*.vlm

clean: ## remove what the demo and the builds left
	rm -rf demo build .pytest_cache .mypy_cache .ruff_cache

# One constraints file holds the exact set that CI and these targets use.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "triptych needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	mkdir -p .types && ln -sfn .. .types/triptych
	touch $@
