# make demo         install into .venv; on clove-mini, fine-tuning and SRM along a task order, a table and a page
# make compare      the same with every method
# make test         install the same way, run the tests
# make check-long   all tests, also those that take minutes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MMF := mmf==1.0.0rc10

.PHONY: install demo compare test check-long lint clean

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

compare: install
	CONFIG=EXP_CONFIG/mini bash run_scripts/compare.sh

test: install
	$(BIN)/python -m pytest

check-long: install
	$(BIN)/python -m pytest -m "long or not long"

lint: install
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info runs
