# Everything a reader or CI does, by name. A fresh machine needs Python 3.11 to 3.14 and make.
PYTHON ?= python3
# The versions that are tested. `make CONSTRAINTS= test` takes the newest of each instead.
CONSTRAINTS ?= constraints.txt
# Where pip also looks for torch, as for its small CPU build: make demo TORCH_INDEX=<address>
TORCH_INDEX ?=
MINUTES ?= 15

EXTRAS_lab := notebooks,lab
EXTRAS_test := notebooks,dask,parquet,serve,test
EXTRAS_browser := $(EXTRAS_test),lab,book,browser

BIN := .venv/bin
DEMO := runs/demo
TWO := -n 2 --dist loadfile  # two processes, each with one thread of torch: with two each they would slow one another down

# pip compiles nothing (--no-compile): what is imported is compiled then, once.
unexport PYTHONDONTWRITEBYTECODE

test: export OMP_NUM_THREADS = 1

.PHONY: help install demo lab test lint notebooks figures book browser bench gpu study stages drill reproduce clean

help:  ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

.venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13 ...")'
	$(PYTHON) -m venv .venv || (rm -rf .venv; exit 1)

.venv/with-%: pyproject.toml $(CONSTRAINTS) | .venv
	@echo "Installing what '$*' needs into .venv: some minutes. With torch that is 1.2 GB, or 5 GB for its build with CUDA."
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile $(addprefix --constraint ,$(CONSTRAINTS)) \
		$(addprefix --extra-index-url ,$(TORCH_INDEX)) --editable '.[$(or $(EXTRAS_$*),$*)]'
	@touch $@

install: .venv/with-test  ## install what the tests and all targets below need into .venv

demo: .venv/with-notebooks  ## run the sweep notebook on real text; print its table, say where the figures are
	mkdir -p $(DEMO)
	$(BIN)/papermill --log-level ERROR notebooks/03_sweep.ipynb $(DEMO)/03_sweep.ipynb -p out $(DEMO)
	@cat $(DEMO)/table.txt
	@echo "The notebook with everything: $(DEMO)/03_sweep.ipynb"
	@echo "Its figures, as PNG and PDF:" && ls $(DEMO)/*.png

lab: .venv/with-lab  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

test: .venv/with-test lint  ## every test, and every notebook at a small size
	$(BIN)/python -m pytest -q $(TWO) --ignore=tests/test_browser.py
	$(BIN)/python -m pytest -q $(TWO) --nbmake --nbmake-timeout=300 notebooks

lint: .venv/with-test  ## ruff, on code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

notebooks: .venv/with-test  ## execute the notebooks at their full default size and keep their outputs
	$(BIN)/python docs/notebooks.py $(ONLY)

figures: .venv/with-test  ## draw every figure of figures/ again, from stored numbers
	$(BIN)/python docs/picture_of_the_model.py
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/notebooks.py 06_text 07_figures_and_claims

book: .venv/with-book  ## the notebooks, the claims and every table as a web site, in build/book/html
	$(BIN)/python docs/book.py

browser: .venv/with-browser book  ## the book and two notebooks in a real browser, with the keys; needs Chromium
	$(BIN)/python -m pytest -q tests/test_browser.py

bench: .venv/with-test  ## step times of every method, in rounds of fresh processes, as ratios to SEMANTIC on rows (45 minutes)
	$(BIN)/python studies/bench.py

gpu: .venv/with-test .venv/with-gpu  ## all of the paper's headline on an NVIDIA GPU, checks first: make gpu MINUTES=15
	$(BIN)/python studies/gpu.py --minutes $(MINUTES)

study: .venv/with-test  ## the trainings that notebook 05 shows: every method tuned, then measured (about 20 hours)
	$(BIN)/python studies/study.py

drill: .venv/with-test  ## kills, full disks, crowds and arbitrary input, many times; ends with a table (40 minutes)
	$(BIN)/python -m pytest -q -s -m drill tests/test_drill.py

reproduce: .venv/with-notebooks  ## run a stored run again, both results side by side: make reproduce RUN=semantic-50000-3f91f0bc
	$(BIN)/python studies/reproduce.py $(RUN)

stages: .venv/with-test  ## the second stages, texts and searches that notebook 06 shows, after make study (5 hours)
	$(BIN)/python studies/stages.py

clean:  ## remove what was installed and run here; the text's cache in ~/.cache/scta_lite stays
	rm -rf .venv runs
