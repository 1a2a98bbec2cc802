PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed  ## train image, text and both on generated data, compare with the known ceilings
	$(BIN)/python scripts/demo.py --overwrite_output_dir

test: .venv/installed  ## the test suite, in parallel
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

test-slow: .venv/installed  ## the tests that take minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

kill-test: .venv/installed  ## runs killed at random instants and resumed, twenty a family
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/training/test_kill.py

fuzz: .venv/installed  ## mutated tables, images and run folders, two minutes each
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py tables --seconds 120
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py images --seconds 120
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py runs --seconds 120

mutants: .venv/installed  ## faults put into a copy of the package, and the tests that catch each
	$(BIN)/python tests/mutants.py

reliability: .venv/installed  ## the table of faults, by running its tests, into docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/reliability.py

peer-tests: .venv/installed  ## transformers' own tests of models and processors, fetched, over ours
	$(BIN)/python peer_tests/fetch.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:warnings -m '' peer_tests

test-lowest: .venv-lowest/installed  ## the test suite with the lowest versions that pyproject.toml admits
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n 2

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --compile-bytecode --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	touch $@

docs: .venv/docs  ## the documentation into site/, strictly, and nothing that is loaded from the network
	cp model_cards/tweets-robust/missing_curve.png docs/images/
	$(BIN)/python docs/scripts/write_flags.py
	$(BIN)/zensical build --strict --clean
	$(BIN)/python docs/scripts/check_site.py

.venv/docs: .venv/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[docs]'
	touch $@

style: .venv/installed  ## format and mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: .venv/installed  ## style, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports silent tests/typed_use.py

ceilings: .venv/installed  ## the seven controlled tasks beside their ceilings, into docs/benchmarks.md
	$(BIN)/python benchmarks/ceilings.py

fusions: .venv/installed  ## all fusions on three controlled tasks, into docs/benchmarks.md
	$(BIN)/python benchmarks/fusions.py

ecnu: .venv/installed  ## the tweets of HF_MULTIMODAL_DATA: image, text and both, five seeds, into docs/benchmarks.md
	$(BIN)/python benchmarks/ecnu.py
	$(BIN)/python benchmarks/ecnu.py --split grouped

bench: .venv/installed  ## the training recipe against the naive one, side by side
	$(BIN)/python benchmarks/bench_train.py --rows 256

guarantees: .venv/installed  ## what the robust classifier guarantees, on all tasks and the tweets, into docs/
	$(BIN)/python benchmarks/guarantees.py

guarantees-quick: .venv/installed  ## the same with one seed and two levels on two tasks, printed
	$(BIN)/python benchmarks/guarantees.py --quick

flickr8k: .venv/installed  ## retrieval on the captions of HF_MULTIMODAL_DATA, three seeds, into docs/benchmarks.md
	$(BIN)/python benchmarks/flickr8k.py

alignment: .venv/installed  ## the five losses and zero-shot on generated images, into docs/benchmarks.md
	$(BIN)/python benchmarks/alignment_losses.py
	$(BIN)/python benchmarks/zero_shot.py

gradient-cache: .venv/installed  ## memory of a step with and without gradient caching, into docs/benchmarks.md
	$(BIN)/python benchmarks/bench_gradient_cache.py

.PHONY: help demo test test-slow peer-tests style check ceilings fusions ecnu bench guarantees guarantees-quick
.PHONY: docs test-lowest flickr8k alignment gradient-cache kill-test fuzz mutants reliability
