# Two commands on a fresh machine with Python 3.11, make and PyPI: make demo, make test.
# make demo TASK=segmentation or TASK=classification shows another task.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests that compare numbers, for processors other than this one.
NUMERIC := $(addprefix tests/test_,$(addsuffix .py,augment class_shares classification_losses \
	classification_step distributed domain_consistency domain_heads doubt fast_paths fork \
	gradient health label_free masked_loss masking meta_arch norm properties \
	pseudo_labels quality seg_centres seg_crdomix seg_diga seg_distributed seg_hosts seg_hrda \
	seg_losses seg_networks seg_spcl seg_thresholds sparse_pooling statistics teacher training))

.PHONY: setup demo test test-other-processor lint clean

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

# With kernels for the oldest processor that torch knows: other sums in another order.
test-other-processor: $(READY)
	DNNL_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n 2 --dist loadfile $(NUMERIC)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) output
