"""Labels against audio: right labels pass, and every planted fault is found."""

import numpy as np
import pytest

from operators.corpus import annotations
from operators.corpus.cast import Casting, cast_table, plan_casts
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.segments import Segment
from operators.corpus.sources import with_roots
from operators.corpus.splits import split_rows
from operators.errors import InputError
from operators.simulate import label_check
from operators.simulate.converse import Converse
from operators.simulate.label_check import agreement, check_labels
from operators.simulate.render import Render
from operators.simulate.rooms import Place

CASTING = Casting(train_conversations=12, test_conversations=4, max_speakers=2, test_speakers=0.34)


@pytest.fixture
def conversations(corpus):
    utterances = index_utterances([Manifest.parse(str(corpus))])[0]
    casts = plan_casts(utterances, split_rows(utterances, CASTING, 0), CASTING, 0)
    made = Place(room="simulated")(Converse()(cast_table(utterances, casts, 0)))
    return with_roots(made, corpus_roots([Manifest.parse(str(corpus))]))


def test_labels_agree_with_the_audio_of_every_conversation(conversations):
    measured = check_labels(conversations, Render())
    assert len(measured) == conversations.num_rows
    assert {(m.outside_s, m.silent_turns) for m in measured} == {(0.0, 0)}


@pytest.mark.parametrize("fault", ["whole seconds", "late", "swapped"])
def test_planted_faults_are_found(conversations, monkeypatch, fault):
    def wrong(table):
        lines = []
        for line in annotations.rttm(table).splitlines():
            fields = line.split()
            if fault == "whole seconds":  # as NeMo once shipped them
                fields[3] = str(int(float(fields[3])))
            if fault == "late":
                fields[3] = f"{float(fields[3]) + 0.3:.3f}"
            lines.append(fields)
        if fault == "swapped":
            names = {row[7] for row in lines}
            other = dict(zip(sorted(names), sorted(names, reverse=True), strict=True))
            lines = [[*row[:7], other[row[7]], *row[8:]] for row in lines]
        return "".join(" ".join(row) + "\n" for row in lines)

    monkeypatch.setattr(label_check, "rttm", wrong)
    with pytest.raises(InputError, match="labels and audio of train-000000 disagree"):
        check_labels(conversations, Render())


def test_only_the_beginning_of_a_long_conversation_is_checked(conversations, monkeypatch):
    monkeypatch.setattr(label_check, "LONGEST_S", 2.0)
    measured = check_labels(conversations, Render())
    assert {(m.outside_s, m.silent_turns) for m in measured} == {(0.0, 0)}


def test_agreement_counts_stray_speech_and_silent_turns():
    stem = np.zeros(16_000, np.int16)
    stem[4000:8000] = 3000
    right = [Segment(0.25, 0.5, "a")]
    assert agreement({"a": stem}, right, 16_000, -26).outside_s == 0
    late = agreement({"a": stem}, [Segment(0.45, 0.7, "a")], 16_000, -26)
    assert late.outside_s == pytest.approx(0.15, abs=0.011)
    assert late.late_s == pytest.approx(0.2, abs=0.011)
    assert agreement({"a": stem}, [*right, Segment(0.7, 0.9, "a")], 16_000, -26).silent_turns == 1
