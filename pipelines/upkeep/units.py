"""data units: a corpus -> k-means units, a codec of the user's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.units import features_of, fit_units, save_units
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.sources import read_source, resample, resampled_length
from operators.corpus.splits import split_named
from operators.errors import InputError, UnusableRowError
from operators.rng import rendezvous_order
from pipelines.reporting import console


def make_units(
    listed: Sequence[str], folder: Path, description: dict[str, Any], num_units: int, hours: float, seed: int
) -> None:
    """Find centers in a seeded draw of a corpus's utterances, of its train split where it names one.

    Raises:
        InputError: a manifest or an encoder cannot be used, or there is too little sound.
    """
    manifests = [Manifest.parse(text) for text in listed]
    utterances, _ = index_utterances(manifests)
    rows = [row for row in utterances.to_pylist() if row["split"] is None or split_named(row["split"]) == "train"]
    if not rows:
        raise InputError("there is no utterance in the train split")
    roots = corpus_roots(manifests)
    try:
        features = features_of(description)
    except ValueError as error:
        raise InputError(str(error)) from error
    order = rendezvous_order(f"{seed}:units", [row["utterance_id"] for row in rows])
    used_s = 0.0

    def drawn() -> Iterator[NDArray[np.float32]]:
        nonlocal used_s
        with console.bar("features", round(hours * 3600)) as bar:
            for i in order:
                if used_s >= hours * 3600:
                    return
                row = rows[i]
                try:
                    wav = read_source(row, roots)
                except UnusableRowError as error:
                    console.notice(f"{row['utterance_id']} is left out: {error}")
                    continue
                length = resampled_length(len(wav), row["source_rate_hz"], features.sample_rate_hz)
                wav = resample(wav, row["source_rate_hz"], features.sample_rate_hz, length)
                power = float(np.mean(wav**2))
                used_s += len(wav) / features.sample_rate_hz
                bar.to(used_s)
                # The level that conversations are rendered at.
                yield features(wav * np.float32(10 ** (-26 / 20) / np.sqrt(max(power, 1e-12))))

    try:
        centers = fit_units(drawn(), num_units, seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    licences = sorted({str(row["licence"]) for row in rows if row["licence"]})
    save_units(folder, centers, {**description, "licence": ", ".join(licences) or "unknown", "seed": seed})
    console.line("units", f"{num_units} fitted to {console.hours(used_s)} of {description['kind']} features")
    console.line("written", f"{folder}; use it with --encode.codec units --encode.weights {folder}")
