# make demo         install into .venv, with Snakemake; on clove-mini, fine-tuning and SRM along a task order, a table and an HTML report
# make compare      the methods of the published comparison on clove-mini
# make test         install the same way and run the tests
# make check-long   all tests, also those that take minutes; as root on Debian with check-slurm
# make check-slurm  as root on Debian: install SLURM, run a grid on a SLURM cluster of this machine alone
# make bench        compare with a baseline at reduced size: fails if a speed-up fell by more than a third
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MMF := mmf==1.0.0rc10

.PHONY: install workflow demo compare test check-long check-slurm slurm bench lint clean
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadgroup

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

demo: workflow
	bash run_scripts/demo.sh

# Snakemake, beside what `install` installs. pip would list the outdated requirements of MMF as conflicts.
workflow: $(VENV)/.workflow

$(VENV)/.workflow: $(VENV)/.installed workflow_requirements.txt
	$(BIN)/python -m pip install --quiet --no-warn-conflicts -r workflow_requirements.txt
	touch $@

compare: workflow
	$(BIN)/python -m mmclvqa.experiments run --config EXP_CONFIG/mini

test: workflow
	$(TESTS)

check-long: workflow slurm
	$(BIN)/python -m pytest -rs -m "long or not long"

check-slurm: workflow slurm
	$(BIN)/python -m pytest -rs -m long tests/experiments/test_slurm.py

# Elsewhere than as root on Debian, tests/experiments/test_slurm.py is skipped and says why.
slurm:
	if [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ] && ! dpkg -s slurm-wlm munge >/dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends slurm-wlm munge; \
	fi

bench: install
	$(BIN)/python benchmarks/suite.py

lint: install
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info runs
