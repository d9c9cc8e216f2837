"""The frozen set: its list, and every sample made of it, are what they were."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import operators.corpus.sets
from operators.corpus.formats import json_lines
from operators.simulate.frozen import (
    NUM_TURNS,
    PER_CELL,
    RATE_HZ,
    TOLERANCE,
    Spoken,
    cells,
    digest_of_plan,
    digest_of_samples,
    place_turns,
    plan,
    planned,
    rendered,
    share_of_overlap,
    without_silence,
)

FOLDER = Path(operators.corpus.sets.__file__).parent
LIST = FOLDER / "frozen.jsonl.gz"


@pytest.fixture(scope="module")
def rows():
    return list(json_lines(LIST))


@pytest.fixture(scope="module")
def digests():
    """Digests of plan and samples by conversation."""
    return json.loads((FOLDER / "frozen.json").read_text())


def spans(row):
    return [(t["start_sample"], t["start_sample"] + t["source_num_samples"]) for t in row["turns"]]


def test_the_list_is_what_it_was(rows, digests):
    assert {row["conversation_id"]: digest_of_plan(row) for row in rows} == {i: d[0] for i, d in digests.items()}


def test_every_cell_holds_its_share_of_overlap(rows):
    counted = Counter()
    for row in rows:
        columns = row["columns"]
        counted[columns["talkers"], columns["overlap"], columns["room"]] += 1
        assert abs(share_of_overlap(spans(row)) - columns["overlap"] / 100) <= TOLERANCE
        assert len({turn["speaker"] for turn in row["turns"]}) == columns["talkers"]
        assert len(row["turns"]) == NUM_TURNS[columns["talkers"]]
        assert ("room" in row) == (columns["room"] == "room")
        for speaker in {turn["speaker"] for turn in row["turns"]}:
            own = sorted(s for s, t in zip(spans(row), row["turns"], strict=True) if t["speaker"] == speaker)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(own))
    assert counted == {(cell.talkers, cell.overlap, cell.room): PER_CELL for cell in cells()}
    assert len(counted) == 32


def test_a_conversation_is_the_same_dry_and_in_a_room(rows):
    by_id = {row["conversation_id"]: row for row in rows}
    for name, row in by_id.items():
        assert row["turns"] == by_id[name.replace("-dry-", "-room-")]["turns"]


def test_samples_are_what_they_were(shared, digests):
    """One conversation of every cell; `test_all_samples_are_what_they_were` renders all."""
    chosen = [cell.conversation_id(7) for cell in cells()]
    made = {i: digest_of_samples(wav) for i, wav in rendered(LIST, shared / "data/speechocean762", chosen)}
    assert made == {name: digests[name][1] for name in chosen}


@pytest.mark.slow
def test_all_samples_are_what_they_were(shared, digests):
    made = {i: digest_of_samples(wav) for i, wav in rendered(LIST, shared / "data/speechocean762")}
    assert made == {name: digest for name, (_, digest) in digests.items()}


@pytest.mark.slow
def test_the_list_can_be_made_again(shared, rows):
    again = {row["conversation_id"]: digest_of_plan(row) for row in planned(shared / "data/speechocean762")}
    assert again == {row["conversation_id"]: digest_of_plan(row) for row in rows}


def test_one_changed_sample_changes_the_digest():
    samples = np.arange(1000, dtype=np.int16)
    before = digest_of_samples(samples)
    samples[500] += 1
    assert digest_of_samples(samples) != before


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4])
def test_turns_overlap_exactly_as_much_as_asked(share):
    draw = np.random.default_rng(1)
    for _ in range(50):
        lengths = draw.integers(40_000, 60_000, 6).tolist()
        starts = place_turns(lengths, share, 5, draw)
        if starts is None:
            continue
        placed = [(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        assert share_of_overlap(placed) == pytest.approx(share, abs=1e-4)
        assert all(a[1] <= c[0] for a, c in zip(placed, placed[2:], strict=False))  # never three at once


def test_turns_that_cannot_overlap_so_much_are_refused():
    assert place_turns([60_000, 2000, 60_000], 0.4, 2, np.random.default_rng(0)) is None


def test_silence_at_the_ends_is_left_out():
    samples = 1e-4 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    samples[16_000:32_000] += 0.1
    start, length = without_silence(samples)
    assert (start, length) == (16_000 - 1600, 16_000 + 3200)


def test_a_plan_depends_on_nothing_but_the_corpus_and_its_address():
    row = {"id": "u", "audio": "u.flac", "gender": "f", "text": "A"}
    corpus = {
        name: [Spoken({**row, "speaker": name, "id": f"{name}{i}"}, 0, 40_000 + 999 * i, 0.1, 0.5) for i in range(9)]
        for name in "abcdef"
    }
    for cell in cells():
        made = plan(cell, 3, corpus)
        assert made == plan(cell, 3, dict(reversed(corpus.items())))
        assert made["num_samples"] > max(end for _, end in spans(made))
        assert made["sample_rate_hz"] == RATE_HZ
