"""Joins a corpus of short utterances into one of longer ones: recordings of one speaker, one after the other.

Single digits or commands do not make realistic turns; three of them in a row do. Each joined recording lists the
recordings it was made from; withdrawing one of these withdraws the joined recording too.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from models.config.values import Checked, within
from operators.corpus.index import index_utterances, tell_apart
from operators.corpus.manifest import Manifest, SharedSpeakers, corpus_roots
from operators.corpus.sources import read_source
from operators.errors import InputError
from operators.rng import rng

VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class Join(Checked, section="corpus.join", error=InputError):
    """How utterances are joined."""

    most: int = field(default=3, metadata=within(1, 1000))
    """Most utterances in a joined recording; every number from 1 to this is equally likely."""
    copies: int = field(default=4, metadata=within(1, 1000))
    """Number of joined recordings that begin with each utterance."""
    min_pause_s: float = field(default=0.05, metadata=within(0, 60, "s"))
    """Shortest pause between two utterances, in seconds."""
    max_pause_s: float = field(default=0.25, metadata=within(0, 60, "s"))
    """Longest pause between two utterances, in seconds."""

    def rules(self) -> Iterator[str]:
        """Check the values together."""
        if self.min_pause_s > self.max_pause_s:
            yield "corpus.join: min_pause_s <= max_pause_s must hold"

    def write(
        self,
        manifests: Sequence[Manifest],
        folder: Path,
        seed: int,
        num_threads: int = 2,
        shared: SharedSpeakers = "auto",
    ) -> int:
        """Write the joined corpus into a folder, atomically; return the number of recordings.

        Raises:
            InputError: a manifest or a recording cannot be read.
        """
        table, bad = index_utterances(manifests)
        if bad:
            raise InputError(f"{bad[0].row_id}: {bad[0].reason}; filter it out or fix it before joining")
        rows = tell_apart(table, manifests, shared)[0].to_pylist()
        roots = corpus_roots(manifests)
        staged = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(staged, ignore_errors=True)
        (staged / "flac").mkdir(parents=True)
        try:
            with ThreadPoolExecutor(num_threads) as pool:
                written = list(pool.map(lambda plan: _write(plan, roots, staged), self.plan(rows, seed)))
            text = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in written)
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
        return len(written)

    def plan(self, rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
        """Return id, parts and pauses of each joined recording.

        Joined utterances share speaker, split, rate and licence, and are drawn by the id of the first one alone.
        """
        alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            alike[row["speaker"], row["split"], row["source_rate_hz"], row["licence"]].append(row)
        plans = []
        for group in alike.values():
            for row in group:
                for copy in range(self.copies):
                    name = f"{row['utterance_id']}+{copy}"
                    draw = rng(seed, "join", name)
                    more = draw.integers(0, len(group), int(draw.integers(0, self.most)))
                    pauses_s = draw.uniform(self.min_pause_s, self.max_pause_s, len(more))
                    plans.append({"id": name, "parts": [row, *(group[i] for i in more)], "pauses_s": pauses_s.tolist()})
        return sorted(plans, key=lambda plan: str(plan["id"]))


def _write(plan: dict[str, Any], roots: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write one joined recording; return its manifest row."""
    parts, first = plan["parts"], plan["parts"][0]
    rate_hz = first["source_rate_hz"]
    pieces = [read_source(first, roots)]
    for part, pause_s in zip(parts[1:], plan["pauses_s"], strict=True):
        pieces += [np.zeros(round(pause_s * rate_hz), np.float32), read_source(part, roots)]
    samples = np.concatenate(pieces)
    path = f"flac/{plan['id'].replace('/', '_')}.flac"
    soundfile.write(folder / path, samples, rate_hz, subtype="PCM_16")
    row = {
        "id": plan["id"],
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
