# make demo    install, write the demo recordings, open the app on localhost:8501
# make test    install with the development tools, run every fast check
# make help    the other targets

PYTHON ?= python3
PORT ?= 8501

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev

.PHONY: help demo test lint install lock image-requirements sbom image clean

help:
	@sed -n 's/^# //p' Makefile

demo: $(INSTALLED)
	$(BIN)/phenokit demo --out demo
	$(BIN)/streamlit run app.py --server.port=$(PORT)

test: lint
	$(BIN)/pytest -m "not slow and not network and not gpu"

# make lint    formatting, lint, import order, types
lint: $(INSTALLED_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# make install the virtual environment with the development tools
install: $(INSTALLED_DEV)

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("PhenoKit needs Python 3.11 or newer; name one: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@echo "installing into .venv: a few minutes, once"
	@$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint requirements.lock --editable ".[fast]"
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) install --quiet --constraint requirements.lock --editable ".[dev]"
	@touch $@

# make lock    write requirements.lock anew: the newest versions that fit pyproject.toml
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet "torch==2.13.0" ".[dev]"
	{ sed -n '/^#/p' requirements.lock; build/lock/bin/python -m pip freeze --exclude phenokit | sed -n 's/^\([A-Za-z0-9._-]*\)==\([^+ ]*\).*/\1==\2/p'; } > build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -rf build/lock

build/tools/.installed:
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip --disable-pip-version-check install --quiet uv cyclonedx-bom
	@touch $@

# make image-requirements  write the hashed requirements of the image anew
image-requirements: build/tools/.installed
	build/tools/bin/python scripts/image_requirements.py build/tools/bin/uv

# make sbom    list what the image is made of: deploy/sbom.cdx.json (CycloneDX)
sbom: build/tools/.installed
	{ cat deploy/requirements.txt; sed -n "$(if $(TORCH_INDEX_URL),s/^\(torch==[^ ]*\).*/\1/p,p)" deploy/requirements-torch.txt; } > build/image-requirements.txt
	build/tools/bin/cyclonedx-py requirements build/image-requirements.txt --pyproject pyproject.toml --output-reproducible --output-file deploy/sbom.cdx.json

# make image   build the image; TORCH_INDEX_URL names an index of CPU wheels, else it has CUDA
image: sbom
	docker build --build-arg TORCH_INDEX_URL="$(TORCH_INDEX_URL)" --build-arg TORCH_SHA256="$(TORCH_SHA256)" --build-arg REVISION="$$(git rev-parse HEAD)" --tag phenokit:0.1.0 .

# make clean   remove what can be made again
clean:
	rm -rf .venv build dist demo phenokit.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
