"""The frozen set: conversations of real read speech that stay the same, so that versions can be compared for years.

The list `operators/corpus/sets/frozen.jsonl.gz` was made once by this module from the test speakers of speechocean762,
and is what counts: utterances, start samples, gains, rooms and seats are in it, nothing is drawn again. `frozen.json`
beside it holds digests of every conversation's plan and of its rendered samples.

    python -m operators.simulate.frozen ../shared/data/speechocean762 FOLDER
"""

import gzip
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from operators.corpus.formats import json_lines
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.recorded import index_recorded
from operators.corpus.sets.given import read_given
from operators.corpus.sources import with_roots
from operators.digest import canonical_json, digest, digest_bytes
from operators.errors import InputError
from operators.rng import rng
from operators.simulate.render import Render
from operators.simulate.rooms import Place

SEED = 762
RATE_HZ = 16_000
NUM_TURNS = {1: 3, 2: 4, 3: 6, 4: 8}
"""Turns of a conversation, by the number of its talkers."""
OVERLAPS = (0, 10, 20, 30, 40)
"""Per cent of the time with speech during which two talk; one talker has only the first."""
ROOMS = ("dry", "room")
PER_CELL = 40
TOLERANCE = 0.002
"""How far a conversation's share of overlap may be from its cell's: a turn begins at a whole sample."""

_LEVEL_DBFS = -28.0
_SPEAKER_SD_DB = 2.0
_LARGEST_GAIN_DB = 6.0
_LARGEST_PEAK = 0.45
"""Of a turn, so that two at once cannot clip."""
_FRAME = RATE_HZ // 100
_SILENT_DB = 35.0
"""Frames this far below the loud ones are silence where an utterance begins and ends."""
_MARGIN_FRAMES = 10
_TAIL = 3 * RATE_HZ // 10
_ATTEMPTS = 400


@dataclass(frozen=True)
class Spoken:
    """An utterance of the corpus, without the silence at its ends."""

    row: Mapping[str, Any]
    start: int
    num_samples: int
    level: float
    """Root mean square."""
    peak: float


@dataclass(frozen=True)
class Cell:
    """What the conversations of a cell have in common."""

    talkers: int
    overlap: int
    room: str

    def conversation_id(self, number: int, room: str | None = None) -> str:
        """Return the id of a conversation of the cell; `room` names the same conversation elsewhere."""
        return f"frozen-{self.talkers}t-{self.overlap:02d}-{room or self.room}-{number:02d}"


def cells() -> Iterator[Cell]:
    """Yield the cells in order."""
    for talkers, overlap, room in itertools.product(NUM_TURNS, OVERLAPS, ROOMS):
        if talkers > 1 or not overlap:
            yield Cell(talkers, overlap, room)


def without_silence(samples: NDArray[np.float32]) -> tuple[int, int]:
    """Return first sample and number of samples of an utterance (N,) without the silence at its ends, but a margin."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    level_db = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    loud = np.flatnonzero(level_db > np.percentile(level_db, 95) - _SILENT_DB)
    first = max(0, int(loud[0]) - _MARGIN_FRAMES)
    end = min(len(frames), int(loud[-1]) + 1 + _MARGIN_FRAMES)
    return first * _FRAME, (end - first) * _FRAME


def share_of_overlap(spans: Sequence[tuple[int, int]]) -> float:
    """Return the share of the time covered by spans (start, end) that at least two of them cover.

    >>> share_of_overlap([(0, 60), (40, 100)])
    0.2
    """
    steps = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    talking, last, spoken, overlapped = 0, 0, 0, 0
    for at, step in steps:
        spoken += (at - last) * (talking > 0)
        overlapped += (at - last) * (talking > 1)
        talking, last = talking + step, at
    return overlapped / spoken if spoken else 0.0


def place_turns(lengths: Sequence[int], share: float, num_overlaps: int, draw: np.random.Generator) -> list[int] | None:
    """Return start samples at which turns overlap their neighbors for a share of the time with speech, exactly.

    Overlapped samples O and the sum S of all lengths give the share O / (S - O) where no three talk at once; O is
    divided over some of the transitions, in proportion to the shorter turn and a drawn weight, and the others get
    pauses of .1 to .8 s.

    Args:
        lengths: of the turns, in samples; neighbors are of different speakers.
        share: of the time with speech.
        num_overlaps: transitions that overlap, drawn from all.
        draw: source of randomness.

    Returns:
        The starts, or None where these turns cannot overlap so much: three would talk at once, or one be covered.
    """
    number = len(lengths) - 1
    offsets = np.rint(draw.uniform(0.1, 0.8, number) * RATE_HZ).astype(np.int64)
    if share:
        total = round(share / (1 + share) * sum(lengths))
        shorter = np.minimum(lengths[:-1], lengths[1:]) * draw.uniform(0.6, 1.4, number)
        chosen = np.sort(draw.permutation(number)[:num_overlaps])
        overlaps = np.zeros(number, np.int64)
        overlaps[chosen] = np.floor(total * shorter[chosen] / shorter[chosen].sum())
        overlaps[chosen[0]] += total - overlaps.sum()
        before, after = np.concatenate([[0], overlaps]), np.concatenate([overlaps, [0]])
        if np.any(before + after > 0.95 * np.array(lengths)):
            return None
        offsets = np.where(overlaps > 0, -overlaps, offsets)
    return [0, *np.cumsum(np.array(lengths[:-1]) + offsets).tolist()]


def _order(talkers: int, draw: np.random.Generator) -> list[int]:
    """Return whose turn it is: everyone's equally often, and nobody's twice in a row."""
    number = NUM_TURNS[talkers]
    while True:
        order = draw.permutation(np.arange(number) % talkers).tolist()
        if talkers == 1 or all(a != b for a, b in itertools.pairwise(order)):
            return [int(who) for who in order]


def plan(cell: Cell, number: int, corpus: Mapping[str, Sequence[Spoken]]) -> dict[str, Any]:
    """Return one conversation as a row of a list of given conversations, without its room.

    A conversation is the same dry and in a room: only its id and the room differ.

    Args:
        cell: what it is to be.
        number: of the conversation in its cell.
        corpus: utterances by speaker.

    Raises:
        ValueError: no draw of utterances can overlap as much.
    """
    address = cell.conversation_id(number, "plan")
    draw = rng(SEED, "frozen", address)
    names = sorted(corpus)
    speakers = [names[i] for i in draw.permutation(len(names))[: cell.talkers]]
    gains_db = np.clip(draw.normal(0, _SPEAKER_SD_DB, cell.talkers), -_LARGEST_GAIN_DB, _LARGEST_GAIN_DB)
    share, transitions = cell.overlap / 100, NUM_TURNS[cell.talkers] - 1
    for attempt in range(_ATTEMPTS):
        order = _order(cell.talkers, draw)
        shuffled = [iter(draw.permutation(len(corpus[speaker])).tolist()) for speaker in speakers]
        said = [corpus[speakers[who]][next(shuffled[who])] for who in order]
        wanted = min(transitions, -(-round(transitions * cell.overlap) // 30) + attempt // 20)
        starts = place_turns([one.num_samples for one in said], share, wanted, draw)
        if starts is not None:
            break
    else:
        raise ValueError(f"{address}: no turns found that overlap for {share:.0%} of the time")
    turns = [
        {
            "utterance_id": one.row["id"],
            "audio": one.row["audio"],
            "speaker": one.row["speaker"],
            "gender": one.row["gender"],
            "text": one.row["text"],
            "start_sample": start,
            "source_start_sample": one.start,
            "source_num_samples": one.num_samples,
            "gain": round(
                min(float(10 ** ((_LEVEL_DBFS + gains_db[who]) / 20)) / one.level, _LARGEST_PEAK / one.peak), 6
            ),
        }
        for who, one, start in zip(order, said, starts, strict=True)
    ]
    spans = [(turn["start_sample"], turn["start_sample"] + turn["source_num_samples"]) for turn in turns]
    real = share_of_overlap(spans)
    assert abs(real - share) <= TOLERANCE, (address, real)
    return {
        "conversation_id": cell.conversation_id(number),
        "split": "test",
        "sample_rate_hz": RATE_HZ,
        "mixing": "float64",
        "language": "en",
        "num_samples": max(end for _, end in spans) + _TAIL,
        "columns": {
            "talkers": cell.talkers,
            "overlap": cell.overlap,
            "room": cell.room,
            "overlap_share": round(real, 4),
        },
        "turns": turns,
    }


def spoken_by(corpus: Path, split: str = "test") -> dict[str, list[Spoken]]:
    """Return the utterances of a split of speechocean762, by speaker, each in the order of their ids."""
    found: dict[str, list[Spoken]] = {}
    for row in sorted(json_lines(corpus / "manifest.jsonl"), key=lambda row: str(row["id"])):
        if row["split"] == split:
            samples = soundfile.read(corpus / row["audio"], dtype="float32")[0]
            start, length = without_silence(samples)
            kept = samples[start : start + length].astype(np.float64)
            level, peak = float(np.sqrt(np.mean(kept**2))), float(np.abs(kept).max())
            found.setdefault(row["speaker"], []).append(Spoken(row, start, length, level, peak))
    return found


def planned(corpus: Path, per_cell: int = PER_CELL) -> list[dict[str, Any]]:
    """Return all conversations as rows of a list, those with rooms with room and seats."""
    by_speaker = spoken_by(corpus)
    rows = [plan(cell, number, by_speaker) for cell in cells() for number in range(per_cell)]
    # A conversation's dry and reverberant forms are neighbors: the list compresses to half.
    rows.sort(key=lambda row: (row["columns"]["talkers"], row["columns"]["overlap"], row["conversation_id"][-2:]))
    place = Place(room="simulated", noise="none")
    for row in rows:
        if row["columns"]["room"] == "room":
            speakers = list(dict.fromkeys(turn["speaker"] for turn in row["turns"]))
            row["room"] = place.room_of(SEED, row["conversation_id"], speakers, RATE_HZ)
    return rows


def digest_of_plan(row: Mapping[str, Any]) -> str:
    """Return the digest of a row of the list."""
    return digest(row)[:16]


def digest_of_samples(samples: NDArray[np.int16]) -> str:
    """Return the digest of a mixture (N,), as 16-bit little-endian integers."""
    return digest_bytes(samples.astype("<i2").tobytes())[:16]


def rendered(path: Path, corpus: Path, ids: Sequence[str] | None = None) -> Iterator[tuple[str, NDArray[np.int16]]]:
    """Yield id and samples (N,) of the conversations of a list, or of some of them.

    Args:
        path: the list.
        corpus: folder of its audio.
        ids: of the conversations wanted; all by default.

    Raises:
        InputError: a recording is missing.
    """
    manifests = [Manifest(path=path), Manifest(path=corpus)]
    roots = corpus_roots(manifests)
    wanted = None if ids is None else set(ids)

    def some(manifest: Manifest) -> list[Any]:
        return [one for one in read_given(manifest) if wanted is None or one.recording_id in wanted]

    names = {folder: name for name, folder in roots.items()}
    table, bad = index_recorded(manifests[:1], names, RATE_HZ, seed=SEED, test_share=0.0, read=some)
    if bad:
        raise InputError(f"{bad[0].row_id}: {bad[0].reason}")
    render = Render()
    for row in with_roots(table, roots).to_pylist():
        yield row["conversation_id"], render.render_conversation(row, roots).channels[0]


def main(corpus: Path, folder: Path) -> None:
    """Write the list and its digests into a folder; an existing list is kept, for it is frozen."""
    path = folder / "frozen.jsonl.gz"
    if not path.exists():
        text = "".join(canonical_json(row) + "\n" for row in planned(corpus))
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    plans = {row["conversation_id"]: digest_of_plan(row) for row in json_lines(path)}
    samples: dict[str, str] = {}
    for name, mixture in rendered(path, corpus):
        if np.abs(mixture.astype(np.int32)).max() >= 32_700:
            raise InputError(f"{name} clips")
        samples[name] = digest_of_samples(mixture)
    lines = (f"{json.dumps(name)}: {json.dumps([plans[name], samples[name]])}" for name in plans)
    (folder / "frozen.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(plans)} conversations in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
