"""How fast audio becomes codes on the device, and whether they are those of a CPU."""

from collections.abc import Iterator
from importlib.util import find_spec
from statistics import median

import numpy as np

from models.codecs.dmel import DMel, DMelOnDevice
from tests.bench.clocks import timed
from tests.bench.gpu_parts.setting import Figure, Setting

RATE_HZ = DMel.SAMPLE_RATE_HZ


def encoders(setting: Setting) -> Iterator[Figure]:
    """Yield hours of audio a second of dMel on the device, and the share of codes that differ from a CPU's."""
    minutes, number = (0.05, 4) if setting.is_small else (5.0, 60)
    rng = np.random.default_rng(0)
    one = rng.standard_normal(round(60 * minutes * RATE_HZ)).astype(np.float32) * 0.1
    one *= 0.6 + 0.4 * np.sin(np.arange(len(one)) / 3000).astype(np.float32)
    wavs = [one[: len(one) - 777 * i] for i in range(number)]
    hours = sum(map(len, wavs)) / RATE_HZ / 3600
    bare = DMelOnDevice(setting.device, decides_borders=False)
    cost = timed(lambda: bare.encode_many(wavs), setting.device, rounds=3, warm=1)
    yield setting.speed("dMel, all on the device: hours of audio a second", hours / median(cost.wall_s), least=50)
    twin = DMelOnDevice("cpu", decides_borders=False).encode_many(wavs[-2:])
    found = bare.encode_many(wavs[-2:])
    differing = np.concatenate([(a != b).ravel() for a, b in zip(found, twin, strict=True)])
    yield setting.right(
        "dMel, all on the device: share of codes that differ from torch's on a CPU", float(differing.mean()), 1e-6
    )
    if find_spec("scipy") is None:
        yield Figure("dMel with borders decided on the CPU", "left out: it needs scipy")
        return
    codec = DMelOnDevice(setting.device)
    cost = timed(lambda: codec.encode_many(wavs), setting.device, rounds=3, warm=1)
    yield setting.speed("dMel, borders on the CPU: hours of audio a second", hours / median(cost.wall_s), least=5)
    pairs = zip(wavs[-2:], codec.encode_many(wavs[-2:]), strict=True)
    exact = all(np.array_equal(DMel().encode(wav), codes) for wav, codes in pairs)
    yield setting.holds("dMel, borders on the CPU: every code is numpy's", exact)
