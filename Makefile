# Every target sets up what it needs first: Python and, once, a package index.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PACKAGES = guidance samplers pipelines evals commands models
# As many workers as there are cores, up to eight, each on one thread. WORKERS=0 is this process.
WORKERS ?= auto
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal
export HF_HUB_OFFLINE = 1
export TRANSFORMERS_VERBOSITY = error

.PHONY: demo quick test test-slow test-all test-everywhere lint types browser support methods gpu clean

demo: $(VENV)/ready
	$(BIN)/guiders grid "red heart, noto style" "cat face, noto style" "grinning face, fluent style" \
	  "blue heart, twemoji style" "rocket, fluent flat style" --x "guider=none,cfg,apg,apg+adaptive(0.99)" \
	  --seed 3 --num-inference-steps 30 --out out/demo.png

# Under a minute on two cores: the mathematics, and one pipeline of each pattern.
quick: $(VENV)/ready
	$(PYTEST) -m "quick and not slow" --exitfirst

# All that a change must pass; of large products every pair.
test: $(VENV)/ready lint
	$(PYTEST) -m "not slow" --durations 30 -rs

# The rest of those products.
test-slow: $(VENV)/ready
	$(PYTEST) -m slow --durations 30

test-all: test test-slow

# With the kernels of other processors, on one thread and on two: what fails here only asks for
# equal bits where none are promised (docs/evaluation.md).
test-everywhere: $(VENV)/ready
	@failed=; for isa in "default SSE4_2 SSE41" "avx2 AVX2 AVX2"; do for threads in 1 2; do \
	  set -- $$isa; echo "$$1, $$threads threads"; \
	  ATEN_CPU_CAPABILITY=$$1 MKL_ENABLE_INSTRUCTIONS=$$2 ONEDNN_MAX_CPU_ISA=$$3 \
	  OMP_NUM_THREADS=$$threads $(PYTEST) -m "not slow" || failed="$$failed; $$1, $$threads"; \
	done; done; test -z "$$failed" || { echo "failed with$$failed" >&2; exit 1; }

# What .pre-commit-config.yaml runs as well.
lint: $(VENV)/ready types
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select DOC102,DOC202 .
	$(BIN)/ruff format --check .

# The folders as one package, as they are installed: mypy does not follow editable installs.
types: $(VENV)/ready
	@rm -rf build/types && mkdir -p build/types/guiders
	@ln -s $(CURDIR)/api/* build/types/guiders/
	@for p in $(PACKAGES); do ln -s $(CURDIR)/$$p build/types/guiders/$$p; done
	cd build/types && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml -p guiders

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,training]'
	touch $@

# Some tests open a page in it, and are skipped where there is none.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	      apt-get -qq install --yes --no-install-recommends chromium >/dev/null; \
	  else echo "no browser is found: install Debian's chromium as root" >&2; exit 1; fi

# The table of pipelines and schedulers, from what the tests find.
support: $(VENV)/ready
	$(PYTEST) tests/pipelines/attach/test_every_pipeline.py tests/samplers/test_every_scheduler.py \
	  --support docs/support.md

# The table of methods, and what checkers and editors read of the two faces, from the code.
methods: $(VENV)/ready
	$(BIN)/python docs/stubs.py
	$(BIN)/python docs/methods.py

# What has to be seen on a GPU, most valuable first; benchmarks/results/gpu-NAME.md says what it
# left out.
SECONDS ?= 200
gpu: $(VENV)/ready
	$(BIN)/python benchmarks/gpu.py --seconds $(SECONDS)

clean:
	rm -rf build dist out *.egg-info
