# Two commands on a fresh machine with Python 3.11, make and PyPI: make demo, make test.
# make demo TASK=segmentation or TASK=classification shows another task.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint clean

setup: $(READY)

$(READY): requirements.txt setup.py mic_det/env.py
	@echo "Setting up $(VENV): about 5 GB from the package index, a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -W ignore -m mic_det.env --install
	touch $(READY)

demo: $(READY)
	$(BIN)/python -W ignore tools/demo$(if $(TASK),_$(TASK)).py $(if $(FRESH),--fresh)

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) output
