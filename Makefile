# The life of the product, in order. `make` alone lists the targets.

MODEL   ?= baseline
VERSION ?= 1.0
PORT    ?= 8000
# Which of a release's two files is archived and served: int8 (where there is one) or fp32.
PRECISION ?= int8
# More for `make train`, such as ARGS='--set epochs=2 --set seed=1'.
ARGS    ?=

# Of `make predict`: a folder or a zip of tiles, or one tile; the CSV of the answers.
# Of `make scenes`: a folder of scenes, the folder of their maps; a Dask cluster that is there
# already, and TorchServes to ask, by their addresses.
IN        ?=
OUT       ?=
SCHEDULER ?=
SERVER    ?=

# The Python that makes .venv: 3.11 (all figures were measured with it), else 3.12 or 3.13.
PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)

# PyTorch's own index of CPU wheels, for example, leaves out the CUDA libraries on Linux.
# Empty: whatever index pip is set up with.
TORCH_INDEX_URL ?=

RUN := .venv/bin/python
PIP := $(RUN) -m pip install --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX_URL),--extra-index-url '$(TORCH_INDEX_URL)')

# One archive for each release; each is built from its release and from the handlers.
RELEASES := $(notdir $(wildcard training/releases/*-*))
ARCHIVES := $(RELEASES:%=model_store/%.mar)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup data train export evaluate archive release serve password token deploy \
	rollback stop predict scenes test bench lock image

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: MODEL=$(MODEL) VERSION=$(VERSION) PORT=$(PORT) PRECISION=$(PRECISION)"; \
	echo "  ARGS FORCE IN OUT SCHEDULER SERVER PYTHON TORCH_INDEX_URL"

setup: .venv/.installed-test ## create .venv with everything, for training and tests too

data: .venv/.installed-test ## find (EUROSAT_DIR) or download the tiles, check them, list the splits
	$(RUN) -m training.dataset

train: .venv/.installed-test ## train MODEL with training/configs/MODEL.yaml as VERSION
	$(RUN) -m training.train --config training/configs/$(MODEL).yaml --set version=$(VERSION) $(ARGS)

export: .venv/.installed-test ## turn the checkpoint of a run into TorchScript
	$(RUN) -m training.export training/runs/$(MODEL)-$(VERSION)

evaluate: .venv/.installed-test ## measure the exported model of a run: report.json
	$(RUN) -m training.evaluate training/runs/$(MODEL)-$(VERSION)

archive: $(ARCHIVES) ## build model_store/<model>-<version>.mar for every release, in PRECISION

release: .venv/.installed-test ## copy a finished run to training/releases; FORCE=1 though worse
	$(RUN) -m training.release $(if $(FORCE),--force )training/runs/$(MODEL)-$(VERSION)

serve: .venv/.installed-serve $(ARCHIVES) ## run TorchServe and the portal on http://127.0.0.1:PORT
	@$(RUN) -m deploy.serve --port $(PORT)

password: .venv/.installed-serve ## set the operator's password: turns the login on
	@$(RUN) -m portal.cli.credentials password

token: .venv/.installed-serve ## make the token with which scripts manage; the last one ends
	@$(RUN) -m portal.cli.credentials token

deploy: .venv/.installed-serve ## serve MODEL VERSION through the portal; ARGS=--default: at once for all
	@$(RUN) -m portal.cli.models deploy $(MODEL) $(VERSION) --url http://127.0.0.1:$(PORT) $(ARGS)

rollback: .venv/.installed-serve ## make the previous default of MODEL the default again
	@$(RUN) -m portal.cli.models rollback $(MODEL) --url http://127.0.0.1:$(PORT)

stop: ## end what `make serve` started
	@if [ -x $(RUN) ]; then $(RUN) -m deploy.serve --stop; else echo "Nothing is running"; fi

predict: .venv/.installed-serve $(ARCHIVES) ## answer all tiles in IN without a server: rows of OUT
	@[ -n '$(IN)' ] && [ -n '$(OUT)' ] || { echo 'IN= (a folder or a zip of tiles) and OUT= (a CSV) are' \
	    'needed: make predict IN=tiles OUT=answers.csv' >&2; exit 2; }
	@$(RUN) -m portal.cli.predict '$(IN)' --out '$(OUT)' \
	    --model $(MODEL)$(if $(filter-out file,$(origin VERSION)),-$(VERSION)) $(ARGS)

scenes: .venv/.installed-cluster $(if $(SERVER),,$(ARCHIVES)) ## map all scenes in IN into OUT; SCHEDULER=tcp://... SERVER=http://...
	@[ -n '$(IN)' ] && [ -n '$(OUT)' ] || { echo 'IN= (a folder of scenes) and OUT= (a folder for' \
	    'the maps) are needed: make scenes IN=scenes OUT=maps' >&2; exit 1; }
	@$(RUN) -m portal.cli.scenes_many '$(IN)' '$(OUT)' --model $(MODEL) \
	    $(if $(filter-out file,$(origin VERSION)),--version $(VERSION)) \
	    $(if $(SCHEDULER),--scheduler '$(SCHEDULER)') $(if $(SERVER),--server '$(SERVER)') $(ARGS)

test: .venv/.installed-test ## check style and types, run every test
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) -m pytest -q

bench: .venv/.installed-bench ## measure speed against other runtimes and servers; ARGS=--quick
	$(RUN) -m tests.bench $(ARGS)

lock: .venv/.installed-test ## write constraints.txt: the newest versions that pyproject.toml allows
	$(RUN) -m uv pip compile --upgrade --quiet --universal --python-version 3.11 --all-extras \
	    --no-annotate --no-emit-index-url --custom-compile-command 'make lock' \
	    --output-file constraints.txt pyproject.toml

image: ## build the container image eurosat-landuse
	docker build --build-arg TORCH_INDEX_URL='$(TORCH_INDEX_URL)' -t eurosat-landuse .

# --- what the targets above stand on ---------------------------------------------------------

.venv/bin/pip:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 (to 3.13) is needed, but neither python3.11 nor" \
	    "python3 is one: install it, or name one with PYTHON=/path/to/python." >&2; exit 1; }
	@echo "Creating .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv

# Installed again only when the dependencies changed. The wheels of torch and CUDA are downloaded
# (2.5 GB) and unpacked (5.5 GB).
.venv/.installed-%: pyproject.toml constraints.txt | .venv/bin/pip
	@need=$(if $(TORCH_INDEX_URL),2,8); free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }'); \
	if ! ls .venv/lib/python*/site-packages/torch >/dev/null 2>&1 && [ $$free -lt $$need ]; then \
	    echo "Installing needs about $$need GB of disk, but only $$free GB are free here:" \
	        "make room, then try again." >&2; exit 1; fi
	$(PIP) '.[$(EXTRAS_$*)]'
	@touch $@ $(ALSO_$*)

EXTRAS_serve   := serve,portal
EXTRAS_cluster := serve,portal,cluster
EXTRAS_test    := serve,portal,cluster,postgres,train,teacher,dev
EXTRAS_bench   := serve,portal,cluster,train,teacher,dev,bench
ALSO_cluster   := .venv/.installed-serve
ALSO_test      := .venv/.installed-serve .venv/.installed-cluster
ALSO_bench     := .venv/.installed-serve .venv/.installed-cluster .venv/.installed-test

.SECONDEXPANSION:
model_store/%.mar: training/archive.py training/runs.py $(wildcard handlers/*.py handlers/*/*.py) \
		model_store/.precision $$(wildcard training/releases/$$*/*) | .venv/.installed-serve
	$(RUN) -m training.archive --precision $(PRECISION) training/releases/$*

# Written anew only when PRECISION is another than that of the archives that are there.
model_store/.precision: always
	@echo $(PRECISION) | cmp -s - $@ || { mkdir -p $(@D) && echo $(PRECISION) > $@; }
always:
