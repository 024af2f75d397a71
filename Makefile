# The project's verbs. `make` lists them. Each makes the environment that it needs, in .venv, once.

VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8001
METRICS_PORT ?= 8002
MODELS ?= models
DEVICE ?= auto
ARGS ?=
ONLY ?=
DATA ?=
JOBS ?= 2
TESTERS ?= $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1))
DURATIONS ?=
EXTRA ?= server-cpu

PACKAGES := lockstep_server lockstep_ray lockstep_client lockstep_load lockstep_ui lockstep_export lockstep_zoo lockstep_studies deploy
SERVES := $(VENV)/.made-$(EXTRA)
DEVELOPS := $(VENV)/.made-dev
TOOLS_BIN := $(VENV)/tools/bin
TOOLS := $(VENV)/.made-tools
DOCS_BIN := $(VENV)/docs/bin
DOCS := $(VENV)/.made-docs
RAY_BIN := $(VENV)/ray/bin
RAY := $(VENV)/.made-ray
LOCK_ARGS ?= --upgrade

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
CERTS ?= certs
CALLERS ?=
HOSTS ?= localhost,127.0.0.1,::1

UI_PORT ?= 8003

.PHONY: help setup demo serve ui certs test test-device test-observability test-lowest test-package lint bench bench-peers chaos fuzz fleet soak proto models touchtones dashboards pictures docs docs-serve lock audit sbom pin ray-demo ray-test ray-bench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=python3.12 chooses the Python (3.11 or later) that .venv is made with.'

setup: $(DEVELOPS) ## Everything that the other verbs need (brings PyTorch)

demo: $(SERVES) ## Start a server, classify, fire a burst, generate, translate, follow, race, stop
	@exec $(BIN)/python -m lockstep_client.demo --port $(PORT) --metrics-port $(METRICS_PORT) --models "$(MODELS)" --device $(DEVICE)

serve: $(SERVES) ## Serve MODELS= on PORT= and METRICS_PORT=, DEVICE=auto|cpu|cuda, until Ctrl-C
	@exec $(BIN)/lockstep-serve --port $(PORT) --metrics-port $(METRICS_PORT) --models "$(MODELS)" --device $(DEVICE) $(ARGS)

ui: $(SERVES) ## Show the server at PORT= in the browser, on UI_PORT=, until Ctrl-C
	@exec $(BIN)/lockstep ui --address localhost:$(PORT) --port $(UI_PORT) $(ARGS)

certs: ## Make certificates for a trial in CERTS=, for the server at HOSTS= and CALLERS="alice bob"
	@HOSTS="$(HOSTS)" deploy/certs.sh "$(CERTS)" $(CALLERS)

# One worker more than cores, as some tests wait; each costs its imports, a server and a first export. The
# files that take longest come first, so that no worker ends alone.
# Workers share bytecode, or each would compile all tests for seconds.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(DEVELOPS) ## Run the tests; ARGS= goes to pytest, which then runs them in one process
ifeq ($(ARGS),)
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder $(addprefix --durations=,$(DURATIONS)) \
	  tests/contract tests/integration tests/unit/export tests/unit/studies tests/unit/zoo tests/examples \
	  tests/observability tests/unit/bench tests/unit/chaos tests/unit/client tests/unit/fuzz tests/unit/load tests/unit/ray \
	  tests/unit/server tests/unit/ui
else
	$(BIN)/python -m pytest $(ARGS)
endif

# The code of a GPU, all but its kernels: states and scores are values, which graphs move and sample.
test-device: export LOCKSTEP_STATE_VALUES := device
test-device: $(DEVELOPS) ## Run the tests of step-wise serving with states and sampling as on a GPU
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile tests/unit/server/engine/stepwise tests/unit/server/engine/loading \
	  $(addprefix tests/integration/test_,adopted.py batched_equals_solo.py client_driven_sequences.py client_streams.py \
	  encoder_decoders.py fair_shares.py follow.py frames.py generate.py gpu.py reload_sequences.py sequence_states.py \
	  sequences.py stock_decoder.py streams.py tritonclient.py) $(ARGS)

test-observability: $(DEVELOPS) ## Ask a real Prometheus every expression of dashboards and alerts
	@command -v prometheus >/dev/null || { echo 'make test-observability: there is no prometheus. On Debian and Ubuntu: apt install prometheus' >&2; exit 2; }
	$(BIN)/python -m pytest tests/observability $(ARGS)

# What needs the bounds of the server, the client, the load generator and the page, and neither PyTorch nor a browser.
# Old versions beside new ones of what they need warn that they will stop working together.
LOWEST := server-cpu,traces,load,ui,plot
LOWEST_TESTS := tests/contract/test_package.py tests/integration/test_cli_models.py tests/integration/test_doctor.py \
  tests/integration/test_load.py tests/integration/test_sequences.py tests/integration/test_traces.py \
  tests/unit/client/test_cli.py tests/unit/server/api tests/unit/server/engine/runtime tests/unit/server/engine/stepwise \
  tests/unit/server/text tests/unit/ui

test-lowest: $(TOOLS) ## Run a part of the tests with the lowest versions that pyproject.toml allows; LOWEST_TESTS=
	$(TOOLS_BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/lowest
	$(TOOLS_BIN)/uv pip install --quiet --python $(VENV)/lowest --resolution lowest-direct --editable '.[$(LOWEST)]'
	$(TOOLS_BIN)/uv pip install --quiet --python $(VENV)/lowest build setuptools pytest pytest-asyncio pytest-timeout hypothesis psutil onnx
	$(VENV)/lowest/bin/python -m pytest -W default::DeprecationWarning $(LOWEST_TESTS) $(ARGS)

test-package: $(DEVELOPS) $(TOOLS) ## Install the wheel in an empty environment, as users do, and serve its models; USER_PYTHON=python3.13
	rm -rf build/package && mkdir -p build/package
	$(TOOLS_BIN)/uv build --quiet --out-dir build/package .
	$(TOOLS_BIN)/uv venv --quiet --clear --python $(or $(USER_PYTHON),$(BIN)/python) build/package/venv
	$(TOOLS_BIN)/uv pip install --quiet --python build/package/venv "$$(ls build/package/*.whl)[server-cpu]"
	LOCKSTEP_PYTHON=$(CURDIR)/build/package/venv/bin/python $(BIN)/python -m pytest tests/contract/test_package.py $(ARGS)

lint: $(DEVELOPS) ## Check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))
	$(BIN)/mypy tests bench
	$(BIN)/lint-imports

bench: $(DEVELOPS) ## Measure speed against bare loops; ONLY=name runs one
	$(BIN)/python -m bench $(ONLY)

bench-peers: $(DEVELOPS) ## Lockstep beside other servers, each in its own environment; ARGS='--quick', ARGS='--servers all'
	$(BIN)/python -m bench.peers $(ARGS)

chaos: $(DEVELOPS) ## Random calls and faults, every end checked; ARGS='--requests 200000 --seed 1'
	PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

fuzz: $(DEVELOPS) ## Mutated bytes to every RPC, port and file; ARGS='--seconds 300 --only Follow'
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

fleet: $(DEVELOPS) ## Servers behind HAProxy, restarted, stalled and killed under load; ARGS='--rounds 10'
	PYTHONPATH=tests $(BIN)/python -m fleet $(ARGS)

soak: $(DEVELOPS) ## 30 minutes at 70% of the capacity: memory, descriptors, latency; ARGS='--minutes 8'
	$(BIN)/python -m bench.soak $(ARGS)

ray-demo: $(RAY) ## Lockstep on a local Ray cluster: answers, a killed node, scaling, multiplexing; ARGS='--only answers'
	@exec $(RAY_BIN)/python -m deploy.ray --models "$(MODELS)" $(ARGS)

ray-test: $(DEVELOPS) $(RAY) ## Test the parts of ray-demo
	LOCKSTEP_RAY_PYTHON="$(CURDIR)/$(RAY_BIN)/python" $(BIN)/python -m pytest tests/integration/test_ray.py $(ARGS)

ray-bench: $(RAY) ## Measure what Ray Serve adds to a lone server
	$(RAY_BIN)/python -m deploy.ray --models "$(MODELS)" --only measured --report bench/results/ray.json $(ARGS)

proto: $(DEVELOPS) ## Write the Python stubs again
	PYTHON="$(CURDIR)/$(BIN)/python" proto/generate.sh

models: $(DEVELOPS) ## Train and export the shipped models again from DATA=folder, JOBS=2 at a time
	@test -n "$(DATA)" || { echo 'make models: name the folder of the data: make models DATA=folder (models/README.md says which)' >&2; exit 2; }
	$(BIN)/lockstep-export all --jobs $(JOBS) --data "$(DATA)" --out models

touchtones: $(DEVELOPS) ## Train the example of CTC again, on tones that it renders itself; three minutes
	$(BIN)/python -m lockstep_zoo.touchtones --out examples/models

dashboards: $(DEVELOPS) ## Write dashboards and alerting rules again, from deploy/
	$(BIN)/python -m deploy

pictures: $(DEVELOPS) ## Draw the pictures of docs/ again: the page, and the dashboards from a run of five minutes
	$(BIN)/python -m deploy.rehearsal $(ARGS)

docs docs-serve: export PYTHON := $(CURDIR)/$(BIN)/python
docs docs-serve: export SCRIPTS = $(wildcard $(CURDIR)/$(VENV)/docs/scripts/*.js)
docs docs-serve: export NO_MKDOCS_2_WARNING := 1

docs: $(DEVELOPS) $(DOCS) ## Build the documents as a site in build/site; a warning or a broken link is an error
	@mkdir -p build/docs
	$(DOCS_BIN)/mkdocs build $(ARGS)

docs-serve: $(DEVELOPS) $(DOCS) ## Show that site at http://localhost:8000, built again when a page changes
	@mkdir -p build/docs
	$(DOCS_BIN)/mkdocs serve $(ARGS)

# The extras of each image, by the name of its lock.
LOCKS := server-cpu server-gpu load ui
EXTRAS_server-cpu := server-cpu traces
EXTRAS_server-gpu := server-gpu traces
EXTRAS_load := load
EXTRAS_ui := ui
IMAGE_PYTHON := $(shell sed -nE 's/^FROM python:([0-9]+\.[0-9]+).*/\1/p' Dockerfile)

lock: $(TOOLS) ## Lock the versions and hashes of what the images install; LOCK_ARGS='--upgrade-package grpcio' renews one
	@for lock in $(LOCKS); do $(MAKE) --no-print-directory deploy/locks/$$lock.txt; done

.PHONY: $(LOCKS:%=deploy/locks/%.txt)
$(LOCKS:%=deploy/locks/%.txt): deploy/locks/%.txt:
	@echo 'setuptools>=77' | $(TOOLS_BIN)/uv pip compile --quiet - pyproject.toml $(addprefix --extra ,$(EXTRAS_$*)) \
	  --override deploy/locks/override.txt \
	  --python-version $(IMAGE_PYTHON) --python-platform linux --generate-hashes --no-header --no-annotate \
	  $(LOCK_ARGS) --output-file $@

audit: $(TOOLS) ## Look the locked versions up in the advisories of PyPI; without a connection to them it fails
	@for lock in $(LOCKS); do echo "$$lock:"; \
	  $(TOOLS_BIN)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r deploy/locks/$$lock.txt || { \
	  echo "make audit: deploy/locks/$$lock.txt has known vulnerabilities, or the advisories could not be read; see above" >&2; \
	  exit 1; }; done

sbom: $(TOOLS) ## Write the software bill of materials of each image (CycloneDX) into build/sbom
	@mkdir -p build/sbom
	@for lock in $(LOCKS); do $(TOOLS_BIN)/cyclonedx-py requirements deploy/locks/$$lock.txt --pyproject pyproject.toml \
	  --mc-type application --output-reproducible --of JSON -o build/sbom/$$lock.cdx.json && echo "build/sbom/$$lock.cdx.json"; done

pin: ## Pin the images of Dockerfile and compose to the digests that their tags have now
	@deploy/pin.sh

# --- the environment ------------------------------------------------------------------------------
# A stamp is written last, so what failed half-way is done again by the next call.

$(VENV)/.made:
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	python=; \
	for one in $(or $(PYTHON),python3.11 python3.12 python3); do \
	  if "$$one" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$one; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'make: no Python 3.11 or later among: $(or $(PYTHON),python3.11 python3.12 python3).' \
	    'Install one (on Debian and Ubuntu: apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3.12 ...' >&2; \
	  exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "make: $$python has no venv. On Debian and Ubuntu: apt install python$$version-venv" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$python"; \
	"$$python" -m venv $(VENV)
	@touch $@

$(TOOLS): | $(VENV)/.made
	@echo 'installing uv, pip-audit and cyclonedx-bom (once)'
	@$(BIN)/python -m venv $(VENV)/tools
	@$(TOOLS_BIN)/python -m pip install --quiet uv pip-audit cyclonedx-bom
	@touch $@

$(DOCS): pyproject.toml deploy/site/scripts.sh | $(VENV)/.made
	@echo 'installing MkDocs (once)'
	@$(BIN)/python -m venv $(VENV)/docs
	@$(DOCS_BIN)/python -m pip install --quiet --editable '.[docs]'
	@deploy/site/scripts.sh $(VENV)/docs/scripts || \
	  echo 'make docs: without npm and its registry, diagrams are shown as text' >&2
	@touch $@

$(RAY): pyproject.toml | $(VENV)/.made
	@echo 'installing Ray in $(VENV)/ray (once; this takes minutes)'
	@$(BIN)/python -m venv $(VENV)/ray
	@$(RAY_BIN)/python -m pip install --quiet --editable '.[ray,$(EXTRA)]' tritonclient
	@touch $@

$(SERVES): pyproject.toml | $(VENV)/.made
	@echo 'installing the server, the client and the page (once)'
	@$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA),ui]'
	@touch $@

$(DEVELOPS): pyproject.toml | $(VENV)/.made
	@echo 'installing what development needs, PyTorch among it (once; this takes minutes)'
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.made-server-cpu
