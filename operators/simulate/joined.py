"""A corpus of short utterances as one of longer ones: a speaker's recordings joined, one behind the other.

Single digits or commands make no turns that people would take; three of them in a row do. Each joined recording
says of which it was made, and a withdrawn recording takes those that hold it with it.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from operators.corpus.manifest import Manifest, corpus_roots, index
from operators.errors import InputError
from operators.rng import rng
from operators.simulate.render import read_source

VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class Join:
    """How utterances are joined."""

    most: int = 3
    """Utterances in one recording at most; every number from 1 is as likely."""
    copies: int = 4
    """Joined recordings that begin with each utterance."""
    min_pause_s: float = 0.05
    """Shortest pause between two."""
    max_pause_s: float = 0.25
    """Longest."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.most, self.copies) < 1 or not 0 <= self.min_pause_s <= self.max_pause_s:
            raise InputError("corpus.join: most and copies count from 1, and 0 <= min_pause_s <= max_pause_s must hold")

    def write(self, manifests: Sequence[Manifest], folder: Path, seed: int, num_threads: int = 2) -> int:
        """Write the joined corpus into a folder that appears whole or not at all; return the number of recordings.

        Raises:
            InputError: a manifest or a recording cannot be read.
        """
        table, bad = index(manifests)
        if bad:
            raise InputError(f"{bad[0].row_id}: {bad[0].reason}; filter or mend it before joining")
        rows = table.to_pylist()
        roots = corpus_roots(manifests)
        staged = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(staged, ignore_errors=True)
        (staged / "flac").mkdir(parents=True)
        try:
            with ThreadPoolExecutor(num_threads) as pool:
                made = list(pool.map(lambda one: _write(one, roots, staged), self.plan(rows, seed)))
            text = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in made)
            (staged / "joined.jsonl").write_text(text, encoding="utf-8")
            try:
                os.rename(staged, folder)
            except OSError:
                if not folder.exists():
                    raise
        except ValueError as error:
            raise InputError(str(error)) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return len(made)

    def plan(self, rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
        """Decide which utterances are joined: of one speaker, split and rate; by the first one's id, whatever else."""
        alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            alike[row["speaker"], row["split"], row["source_rate_hz"], row["licence"]].append(row)
        made = []
        for group in alike.values():
            for row in group:
                for copy in range(self.copies):
                    name = f"{row['utterance_id']}+{copy}"
                    draw = rng(seed, "join", name)
                    more = draw.integers(0, len(group), int(draw.integers(0, self.most)))
                    pauses_s = draw.uniform(self.min_pause_s, self.max_pause_s, len(more))
                    made.append({"id": name, "parts": [row, *(group[i] for i in more)], "pauses_s": pauses_s.tolist()})
        return sorted(made, key=lambda one: str(one["id"]))


def _write(one: dict[str, Any], roots: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write one joined recording; return its row of the manifest."""
    parts, first = one["parts"], one["parts"][0]
    rate_hz = first["source_rate_hz"]
    pieces = [read_source(first, roots)]
    for part, pause_s in zip(parts[1:], one["pauses_s"], strict=True):
        pieces += [np.zeros(round(pause_s * rate_hz), np.float32), read_source(part, roots)]
    samples = np.concatenate(pieces)
    path = f"flac/{one['id'].replace('/', '_')}.flac"
    soundfile.write(folder / path, samples, rate_hz, subtype="PCM_16")
    row = {
        "id": one["id"],
        "split": first["split"],
        "speaker": first["speaker"],
        "text": " ".join(part["text"] for part in parts),
        "duration": len(samples) / rate_hz,
        "audio": path,
        "language": first["language"],
        "licence": first["licence"],
        "joined_from": [part["utterance_id"] for part in parts],
    }
    return {name: value for name, value in row.items() if value is not None}
