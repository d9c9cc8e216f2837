"""Documents composed of addresses tell which stretch of which channel each of their audio segments is."""

from dataclasses import replace

import numpy as np
import pytest

from models.sequence.documents import REFERENCE
from operators.documents.addresses import addressed, index_of, referring, stretches, stretches_of, windowing_key
from operators.documents.compose import Compose, codec_of
from operators.documents.hotwords import WordCounts
from operators.documents.scene import frames_of
from operators.documents.task import DIALOGUE
from operators.schema import DOCUMENTS, FEATURES, table
from tests.operators.documents.support import CODEC, codes_table, row_of

LONG = tuple((start + 160 * i, n, who, text) for i in range(3) for start, n, who, text in DIALOGUE)
TASKS = ("asr", "asr_fifo", "asr_timed", "asr_target")
COMPOSES = [
    Compose(tasks=TASKS, window_s=5.0, overlap_s=2.0, carry_voices=True, enrol_s=0.5, silence_share=0.4, seed=3),
    Compose(tasks=TASKS, window_s=60.0, text="raw", seed=1),
]


def conversations():
    """Several windows, a long silence at the end, stems that no task asks for, and voice samples in some."""
    return codes_table(
        *(row_of(LONG, 900 + i, f"c{i}", i, stems=True, enrolments=i % 2 == 0) for i in range(4)),
    )


def channels(row):
    return [row["codes"], *(one["codes"] for name in ("stems", "enrolments") for one in row[name])]


@pytest.mark.parametrize("compose", COMPOSES)
def test_the_stretches_of_a_documents_addresses_are_its_codes(compose):
    batch = conversations()
    addresses, seen = addressed(batch), set()
    assert codec_of(addresses.schema).frame_rate_hz == CODEC.frame_rate_hz
    for row, other in zip(batch.to_pylist(), addresses.to_pylist(), strict=True):
        real = list(compose.documents(row, CODEC))
        made = list(compose.documents(other, codec_of(addresses.schema)))
        assert [d["document_id"] for d in made] == [d["document_id"] for d in real]
        for mine, theirs in zip(made, real, strict=True):
            assert {**mine, "codes": b"", "loss_spans": []} == {**theirs, "codes": b"", "loss_spans": []}
            found = stretches_of(mine)
            seen |= {one.channel for one in found}
            sound = [
                frames_of(channels(row)[s.channel], s.start_frame, s.start_frame + s.num_frames, CODEC) for s in found
            ]
            assert b"".join(sound) == theirs["codes"]
    assert max(seen) > 2  # enrolments come after two stems


@pytest.mark.parametrize("compose", COMPOSES)
def test_all_that_documents_hold_is_there_once_with_its_sound(compose):
    batch = conversations()
    made = list(stretches(batch, compose))
    assert len(made) == batch.num_rows
    features = [table([{**row, "values": b"", "scales": []} for row in one.to_pylist()], FEATURES) for one in made]
    index = index_of(features)
    assert len(index) == sum(one.num_rows for one in made)  # once each
    addresses = addressed(batch)
    for task in TASKS:
        documents = replace(compose, tasks=(task,), text="normalized")(addresses)
        for before, after in zip(documents.to_pylist(), referring(documents, index).to_pylist(), strict=True):
            references = np.frombuffer(after["codes"], REFERENCE)
            held = stretches_of(before)
            assert len(references) == len(held)
            for reference, stretch in zip(references, held, strict=True):
                row = made[reference["partition"]].to_pylist()[reference["row"]]
                assert (row["channel"], row["start_frame"], row["num_frames"], reference["start_frame"]) == (
                    stretch.channel,
                    stretch.start_frame,
                    stretch.num_frames,
                    0,
                )
    for number, row in enumerate(batch.to_pylist()):
        for one in made[number].to_pylist():
            start, end = one["start_frame"], one["start_frame"] + one["num_frames"]
            assert one["samples"] == frames_of(channels(row)[one["channel"]], start, end, CODEC)


def test_only_what_cuts_windows_decides_which_stretches_there_are():
    compose = COMPOSES[0]
    same = [
        replace(compose, text="raw", hotwords=3),
        replace(compose, tasks=("asr_fifo", "asr_target")),
        replace(compose, tokenizer="elsewhere", group=4),
    ]
    other = [
        replace(compose, window_s=4.0),
        replace(compose, overlap_s=1.0),
        replace(compose, carry_voices=False),
        replace(compose, enrol_s=0.4),
        replace(compose, silence_share=0.1),
        replace(compose, seed=4),
        replace(compose, tasks=("asr",)),
    ]
    assert all(windowing_key(one) == windowing_key(compose) for one in same)
    assert all(windowing_key(one) != windowing_key(compose) for one in other)
    assert len({str(windowing_key(one)) for one in other}) == len(other)
    held = [[one.to_pylist() for one in stretches(conversations(), config)] for config in (compose, *same[:2])]
    assert held[0] == held[1] == held[2]


def test_whoever_is_asked_for_features_are_those_of_a_transcription():
    """Which windows can be asked by a word depends on other conversations, whose words features do not know."""
    compose = Compose(tasks=("asr_keyword", "asr_formatted"), window_s=5.0, empty_share=1.0, seed=3)
    assert windowing_key(compose) == windowing_key(replace(compose, tasks=("asr",)))
    turns = tuple((start, n, who, "so it is") for start, n, who, _ in LONG)  # no word that can be asked for
    batch = codes_table(row_of(turns, 900))
    made = [
        table([{**row, "values": b"", "scales": []} for row in one.to_pylist()], FEATURES)
        for one in stretches(batch, compose)
    ]
    others = WordCounts.of([[{"text_normalized": "zeppelin"}]])
    addresses = addressed(batch)
    (row,) = addresses.to_pylist()
    documents = list(replace(compose, tasks=("asr_keyword",)).documents(row, codec_of(addresses.schema), words=others))
    assert len(documents) > 2
    assert referring(table(documents, DOCUMENTS), index_of(made)).num_rows == len(documents)
