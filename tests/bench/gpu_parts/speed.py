"""How fast training and generation are, by the project's own loop, and beside transformers' own model."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from models.config.options import Compile, Training
from models.config.shape import SIZES
from models.speech_lm.flops import peak_flops
from models.speech_lm.generate import greedy_text
from models.speech_lm.model import SpeechLM
from models.training.metrics import StepRecord
from tests.bench import gpu
from tests.bench.clocks import Busy, Watch, wait
from tests.bench.gpu_parts.runs import StoppedError, trained
from tests.bench.gpu_parts.setting import Figure, Setting
from tests.models.support import joined


class Watched:
    """A training's steps: some that warm up, some by the clock, some by the profiler, and then an end."""

    def __init__(self, device: str, warm: int, counted: int, profiled: int) -> None:
        self.device, self.warm, self.counted, self.profiled = device, warm, counted, profiled
        self.records: list[StepRecord] = []
        self.peak_bytes, self.busy = 0, Busy(0.0, 1.0, 0.0)

    def __call__(self, record: StepRecord) -> None:
        if self.warm < record.step <= self.warm + self.counted:
            self.records.append(record)
        if record.step == self.warm:
            wait(self.device)
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            self._started = time.perf_counter()
        elif record.step == self.warm + self.counted:
            wait(self.device)
            self.seconds = (time.perf_counter() - self._started) / self.counted
            self.peak_bytes = torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
            self._profile = Watch(self.device)
            self._profile.start()
        elif record.step == self.warm + self.counted + self.profiled:
            self.busy = self._profile.stop(self.profiled)
            raise StoppedError


_LEAST_MFU = {("0.6b", 8192): 0.45, ("0.6b", 32_768): 0.5, ("1b", 8192): 0.55, ("base", 8192): 0.25}


def training(setting: Setting) -> Iterator[Figure]:
    """Yield the throughput of trainings, first without torch.compile, then with it, then captured in graphs."""
    todo = [("0.6b", 8192), ("0.6b", 32_768), ("1b", 8192), ("base", 8192)]
    ways: tuple[Compile, ...] = ("none", "blocks", "graphs")
    for how in ways:
        if how != "none" and not (shutil.which("g++") or shutil.which("clang++") or setting.is_cuda):
            yield Figure(f"compile {how}", "left out: there is no C++ compiler")
            continue
        for size, capacity in [("tiny", 256)] if setting.is_small else todo:
            yield from throughput(setting, size, capacity, compile_by=how)


def throughput(setting: Setting, size: str, capacity: int, *, compile_by: Compile) -> Iterator[Figure]:
    """Yield what a step of a size costs on packs of a capacity; all columns but a document's first are predicted."""
    name = f"{size}, packs of {capacity:,}{'' if compile_by == 'none' else f', compile {compile_by}'}"
    watched = Watched(setting.device, *((1, 2, 1) if setting.is_small else (4, 8, 3)))
    packs = [joined(pack, f"p{number}") for number, pack in enumerate(gpu.packs_of(4, capacity))]
    config = Training(steps=10**6, packs_per_step=1, checkpoint_every=10**6, lr=1e-5, compile=compile_by)
    model = gpu.made_on(setting.device, lambda: SpeechLM(SIZES[size], gpu.vocabulary()))
    # The first checkpoint, of untrained weights, is written before the first step: in memory, where there is a place.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 16e9 else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        try:
            trained(model, packs, config, Path(folder), setting.device, grid=gpu.GRID, on_step=watched)
        except torch.OutOfMemoryError:
            yield Figure(f"{name}: MFU", "out of memory", "", False)
            return
    columns = sum(record.num_columns for record in watched.records) / len(watched.records)
    flops = sum(record.flops for record in watched.records) / len(watched.records)
    yield Figure(f"{name}: parameters", model.num_parameters())
    yield setting.speed(f"{name}: tokens/s", columns / watched.seconds)
    if top := peak_flops(torch.device(setting.device)):
        yield setting.speed(f"{name}: MFU", flops / watched.seconds / top, least=_LEAST_MFU.get((size, capacity)))
    yield setting.speed(f"{name}: share of the matrix product", flops / watched.seconds / setting.matmul_flop_per_s)
    busy = min(1.0, watched.busy.kernel_s / watched.seconds)
    yield setting.speed(f"{name}: share of a step in which the device is busy", busy, least=0.95)
    yield Figure(f"{name}: kernels a step", round(watched.busy.num_kernels))
    yield setting.speed(f"{name}: peak memory, GB", watched.peak_bytes / 1e9)


def transformers(setting: Setting) -> Iterator[Figure]:
    """Yield tokens a second beside Qwen3 of transformers, padded and packed, on the same documents."""
    if find_spec("transformers") is None:
        yield Figure("transformers", "not installed")
        return
    size, capacity, steps = ("tiny", 128, 1) if setting.is_small else ("0.6b", 8192, 4)
    found = gpu.compare(size, capacity, steps, setting.device, recompute=False, rounds=3, number=4)
    yield Figure("text vocabulary", gpu.TEXT_SIZE)
    for name in ("tokens_per_s", "transformers_tokens_per_s", "transformers_packed_tokens_per_s"):
        value = found[name]
        yield Figure(f"{size}: {name}", "out of memory" if value is None else round(value))
    for name, least in (("over_transformers", 2.5), ("over_transformers_packed", 1.5), ("triton_over_plain", 1.0)):
        if found.get(name) is not None:
            yield setting.speed(f"{size}: {name}", found[name], least=least)
    for name in ("peak_gb", "transformers_peak_gb", "transformers_packed_peak_gb"):
        if found.get(name) is not None:
            yield setting.speed(f"{size}: {name}", found[name])


def generation(setting: Setting) -> Iterator[Figure]:
    """Yield steps a second of greedy decoding alone, and tokens a second of 32 prompts together."""
    size, length, tokens = ("tiny", 40, 8) if setting.is_small else ("0.6b", 400, 128)
    model = gpu.made_on(setting.device, lambda: SpeechLM(SIZES[size], gpu.vocabulary())).eval()
    rng = np.random.default_rng(0)
    nothing = {"loss_spans": np.zeros((0, 3), np.int32), "loss_weights": np.zeros(0, np.float32)}
    for number, least in ((1, 1000), (32, 20_000)):
        prompts = [replace(gpu.document(rng, length), **nothing) for _ in range(number)]

        def seconds(most: int, given=prompts) -> float:  # type: ignore[no-untyped-def]
            wait(setting.device)
            started = time.perf_counter()
            made = greedy_text(model, given, gpu.GRID, end=-1, max_tokens=most)
            wait(setting.device)
            assert [len(one) for one in made] == [most] * len(given)
            return time.perf_counter() - started

        seconds(tokens)  # what is compiled or captured for these sizes is made once
        short, long = ([seconds(most) for _ in range(3)] for most in (2, tokens))
        rate = number * (tokens - 2) / max(min(long) - min(short), 1e-9)  # without reading the prompts
        what = "steps/s alone" if number == 1 else f"tokens/s of {number} together"
        yield setting.speed(f"{size}: {what}", rate, least=least)
        yield setting.speed(f"{size}: seconds to read {number} x {length} columns", min(short))
