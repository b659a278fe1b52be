# make demo   install into .venv, make clove-mini, train and evaluate one task
# make test   install the same way, run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MMF := mmf==1.0.0rc10

export CLOVE_ROOT ?= $(CURDIR)/runs/clove-mini
export ROOT ?= $(CURDIR)/runs/demo

.PHONY: install demo test check-long lint clean

install: $(VENV)/.installed

# torch goes first: on a machine without a GPU the pinned release has a small CPU build.
$(VENV)/.installed: requirements.txt extra_requirements.txt constraints.txt setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements.txt -r extra_requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps $(MMF)
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

demo: install
	bash run_scripts/demo.sh

test: install
	$(BIN)/python -m pytest

check-long: install
	$(BIN)/python -m pytest -m "long or not long"

lint: install
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info runs
