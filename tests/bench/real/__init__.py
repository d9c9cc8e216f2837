"""Mixtures to train and to judge multi-talker recognition on: `python -m tests.bench.real.mixtures --help`."""
