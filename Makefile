# `make demo` and `make test` set everything up first; they need Python and, once, a package index.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PACKAGES = guidance samplers pipelines evals commands models
export HF_HUB_OFFLINE = 1
export TRANSFORMERS_VERBOSITY = error

.PHONY: demo test lint browser support methods clean

demo: $(VENV)/ready
	$(BIN)/guiders grid "red heart, noto style" "cat face, noto style" "grinning face, fluent style" \
	  "blue heart, twemoji style" "banana, fluent style" --x "guider=none,cfg,apg,apg+adaptive(0.99)" \
	  --seed 3 --num-inference-steps 30 --out out/demo.png

test: $(VENV)/ready browser lint
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The folders as one package, as they are installed: mypy does not follow editable installs.
	@rm -rf build/types && mkdir -p build/types/guiders
	@ln -s $(CURDIR)/api/* build/types/guiders/
	@for p in $(PACKAGES); do ln -s $(CURDIR)/$$p build/types/guiders/$$p; done
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p guiders

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,training]'
	touch $@

# A test opens the report of a comparison in it.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	      apt-get -qq install --yes --no-install-recommends chromium >/dev/null; \
	  else echo "one test needs a browser: install Debian's chromium"; fi

# The table of pipelines and schedulers, from what the tests find.
support: $(VENV)/ready
	$(BIN)/python -m pytest tests/pipelines/test_every_pipeline.py tests/samplers/test_every_scheduler.py \
	  --support docs/support.md

# The table of methods, from the code.
methods: $(VENV)/ready
	$(BIN)/python docs/methods.py

clean:
	rm -rf build dist out *.egg-info
