# `make demo` and `make test` need Python 3.11 or newer, make and a C library; everything else is installed into .venv.
# Paths are relative throughout, so that a clone below a folder with a space in its name works.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo plan findings seal check test test-slurm standins lint lock-check bench clean

PYTHON ?= python3
CORES ?= all
SUMMARY := results/studies/default/summary.txt
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: .venv/run.stamp ## Run the default study and print what it found
	@echo "==> Running the default study on $(CORES) cores; nothing that is done already is done again"
	@touch .venv/demo.started
	@$(BIN)/python -m snakemake --cores $(CORES)
	@test $(SUMMARY) -nt .venv/demo.started || cat $(SUMMARY)

plan: .venv/run.stamp ## Say what a study will cost before it starts: STUDY=file PROFILE=folder, both optional
	@$(BIN)/python workflow/scripts/plan_study.py $${STUDY:+"$$STUDY"} $${PROFILE:+--profile "$$PROFILE"} $(if $(CORES:all=),--cores $(CORES))

seal: .venv/run.stamp ## Write the SHA-256 of all results to results/seal.json; reads what changed since
	@$(BIN)/python workflow/scripts/seal_results.py seal

check: .venv/run.stamp ## Compare all results with their seal: STUDY=file names the study in the command that mends them
	@$(BIN)/python workflow/scripts/seal_results.py check $${STUDY:+"$$STUDY"}

# Those that pre-train first, and with them the model that most others prune: both cores are busy then. The last needs
# the model hub.
FINDINGS := data-amount emergence lottery-ticket patterns supervision essential-sparsity what-matters llms
PRETRAINED := results/pretraining/bert-mini-reviews/index.json

findings: .venv/run.stamp ## Run the paper's findings on a desk, a study each, and print their verdicts
	@for study in $(FINDINGS); do \
	  echo "==> config/studies/desk/$$study.yaml"; \
	  $(BIN)/python -m snakemake --cores $(CORES) --configfile config/studies/desk/$$study.yaml -- all $(PRETRAINED) || exit 1; \
	done
	@$(BIN)/python workflow/scripts/gather_findings.py results/studies/desk-*/tables/findings.parquet --to results/findings.parquet

test: .venv/dev.stamp ## Run all tests
	@echo "==> Running the tests, a process a core"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --ignore tests/slurm

test-slurm: .venv/dev.stamp ## Run a small study on a Slurm cluster that the tests start on this machine
	@echo "==> Running the tests on Slurm (minutes; skipped where its packages are not installed)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slurm

standins: .venv/dev.stamp ## Run the paper-scale studies end to end on tiny stand-ins of their models and tasks
	@echo "==> Running the paper-scale studies on stand-ins (minutes)"
	@STANDINS=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/workflow/test_paper_scale.py

lint: .venv/dev.stamp ## Check style, types, formatting and that every configuration plans
	@echo "==> ruff"
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@echo "==> mypy"
	@$(BIN)/python -m mypy
	@echo "==> import-linter"
	@PYTHONPATH=workflow/scripts $(BIN)/lint-imports --no-logo --no-cache
	@echo "==> snakefmt"
	@$(BIN)/snakefmt --check Snakefile workflow/rules
	@echo "==> snakemake --lint"
	@# But for one: a stage's input functions stand in its rule file, not all of them in one file.
	@! $(BIN)/python -m snakemake --lint 2>&1 | grep '^    \*' | grep -v 'Mixed rules and functions'
	@echo "==> Dry runs of every study and profile"
	@$(BIN)/python tests/tools/dry_runs.py

lock-check: .venv/run.stamp ## Check that the installed packages are the pinned ones and fit each other
	@echo "==> Comparing .venv with the pins"
	@$(BIN)/python -m pip check
	@$(BIN)/python -m pip install --dry-run --quiet --no-deps --no-index \
		--requirement $(if $(wildcard .venv/dev.stamp),requirements-dev.txt,requirements.txt)

.venv/python.stamp:
	@echo "==> Creating .venv"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed; $(PYTHON) is {v[0]}.{v[1]}. Run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)")'
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/run.stamp: .venv/python.stamp requirements.txt
	@echo "==> Installing the pinned packages into .venv (minutes, once)"
	@$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/dev.stamp: .venv/run.stamp requirements-dev.txt
	@echo "==> Installing what tests and checks need into .venv"
	@$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

BENCH_MODEL := smollm2-135m-instruct
BENCH_INPUTS := results/checkpoints/$(BENCH_MODEL)/final/provenance.json results/matrices/$(BENCH_MODEL).json \
	results/datasets/rotten-tomatoes-plots-by-film.parquet results/inputs/all-minilm-l6-v2/plot-or-review.arrow \
	results/masks/all-minilm-l6-v2/final/magnitude-global/0/0.500.safetensors

bench: .venv/run.stamp ## Measure time and memory against other tools; one JSON line each (writes 17 GB of temporary files)
	@echo "==> Making what the benchmarks read"
	@$(BIN)/python -m snakemake --cores $(CORES) --quiet all -- $(BENCH_INPUTS)
	@$(BIN)/python benchmarks/select_global_85m.py
	@$(BIN)/python benchmarks/select_global_16gb.py
	@$(BIN)/python benchmarks/calibrated_smollm2.py
	@$(BIN)/python benchmarks/mask_compare.py
	@$(BIN)/python benchmarks/masked_step.py
	@$(BIN)/python benchmarks/job_start.py
	@$(BIN)/python benchmarks/knee_coverage.py
	@$(BIN)/python benchmarks/knee_adaptive.py
	@$(BIN)/python benchmarks/plan_10k.py
	@$(BIN)/python benchmarks/overhead_default.py

clean: ## Remove .venv and everything that was made
	rm -rf .venv results/* .snakemake
