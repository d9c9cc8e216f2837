"""Scores of hypotheses, compared with meeteval's own."""

import random

import meeteval
import pytest

from models.sequence.tokenizer import ByteTokenizer
from operators.scoring.measures import cpwer as cpwer_measure
from operators.scoring.word_errors import cpwer, tcpwer


def segment(session, speaker, words, start=0.0):
    return {"session_id": session, "speaker": speaker, "words": words, "start_time": start, "end_time": start + 1}


REFERENCE = [segment("a", "x", "one two"), segment("a", "y", "three"), segment("b", "x", "four five six")]


def test_speaker_names_do_not_matter_but_the_order_of_turns_does():
    hypothesis = [segment("a", "s1", "one two"), segment("a", "s0", "three"), segment("b", "s0", "four five six")]
    assert cpwer(REFERENCE, hypothesis).errors == 0
    swapped = [segment("a", "s1", "two one"), *hypothesis[1:]]
    assert cpwer(REFERENCE, swapped).errors == 2


def test_a_missing_hypothesis_counts_as_deleted():
    found = cpwer(REFERENCE, [])
    assert (found.rate, found.errors, found.deletions, found.num_conversations) == (1.0, 6, 6, 2)


def test_the_rate_sums_over_conversations_and_is_within_its_interval():
    found = cpwer(REFERENCE, [segment("a", "s0", "one two"), segment("b", "s0", "four five six")])
    assert found.rate == pytest.approx(1 / 6)
    assert found.low <= found.rate <= found.high


def random_sessions(seed, *, speakers, sessions):
    """Reference and hypothesis with recognition errors, other names, a speaker too many or too few."""
    draw = random.Random(seed)
    words = [f"w{i}" for i in range(30)]
    reference, hypothesis = [], []
    for session in range(sessions):
        names = list(range(draw.randint(1, speakers)))
        renamed = draw.sample(range(speakers + 2), len(names))
        for turn in range(draw.randint(1, 25)):
            who = draw.choice(names)
            text = [draw.choice(words) for _ in range(draw.randint(0, 6))]
            heard = [word if draw.random() < 0.8 else draw.choice(words) for word in text if draw.random() < 0.9]
            start = turn * 2.0
            reference.append(segment(f"{session}", f"r{who}", " ".join(text), start))
            if draw.random() < 0.9:
                other = renamed[who] if draw.random() < 0.9 else draw.randrange(speakers)
                late = start + draw.choice([0.0, 0.3, 8.0])
                hypothesis.append(segment(f"{session}", f"h{other}", " ".join(heard), late))
    present = {entry["session_id"] for entry in hypothesis}
    return [entry for entry in reference if entry["session_id"] in present], hypothesis


@pytest.mark.parametrize(("ours", "theirs"), [(cpwer, "cpwer"), (tcpwer, "tcpwer")])
def test_scores_equal_meetevals_own(ours, theirs):
    reference, hypothesis = random_sessions(1, speakers=12, sessions=250)
    options = {"collar": 5} if theirs == "tcpwer" else {}
    sides = [meeteval.io.SegLST(side) for side in (reference, hypothesis)]
    expected = meeteval.wer.combine_error_rates(getattr(meeteval.wer, theirs)(*sides, **options))
    found = ours(reference, hypothesis)
    assert found.num_sessions > 200
    assert (found.errors, found.reference_words) == (expected.errors, expected.length)
    assert (found.insertions, found.deletions, found.substitutions) == (
        expected.insertions,
        expected.deletions,
        expected.substitutions,
    )


@pytest.mark.parametrize("measure", [cpwer, tcpwer])
def test_our_assignment_of_speakers_costs_what_meetevals_does(measure, monkeypatch):
    reference, hypothesis = random_sessions(2, speakers=8, sessions=40)
    theirs = measure(reference, hypothesis).errors
    monkeypatch.setattr(cpwer_measure, "MEETEVAL_MAX_SPEAKERS", 0)
    assert measure(reference, hypothesis).errors == theirs


@pytest.mark.parametrize("measure", [cpwer, tcpwer])
def test_as_many_speakers_are_scored_as_there_are_tags(measure):
    number = ByteTokenizer.MAX_SPEAKERS
    reference = [segment("a", f"r{i}", f"hello from number {i}", float(i)) for i in range(number)]
    hypothesis = [segment("a", f"h{number - i}", f"hello from number {i}", float(i)) for i in range(number)]
    assert measure(reference, hypothesis).errors == 0
    assert measure(reference, hypothesis[1:]).errors == measure(reference, hypothesis[1:]).deletions == 4
    assert measure(reference[1:], hypothesis).insertions == 4


def test_a_recordings_windows_are_resampled_together():
    reference = [{**segment(f"a/{i}", "x", "one two"), "recording_id": "a"} for i in range(20)]
    found = cpwer(reference, [{**segment("a/0", "s0", "one two"), "recording_id": "a"}])
    assert (found.num_conversations, found.num_sessions) == (1, 20)
    assert found.low == found.rate == found.high == 0.95
