"""The contract of measures, held by every member of the table."""

import warnings

import pytest

from operators.scoring.measures import MEASURES
from operators.scoring.result import Conditions
from operators.scoring.sessions import make_sessions


def value(measure, reference, hypothesis, regions=None):
    sessions = make_sessions(reference, hypothesis, str, regions)
    counts = [measure.of_session(session, Conditions()) for session in sessions]
    if measure.is_median:
        values = sorted(v for count in counts for v in count.values)
        middle = len(values) // 2
        return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    return sum(c.errors for c in counts) / sum(c.base for c in counts)


@pytest.mark.parametrize("name", MEASURES)
def test_the_example_has_its_value(name):
    measure = MEASURES[name]
    assert measure.title
    assert measure.about
    assert value(measure, *measure.example[:2]) == pytest.approx(measure.example[2])


def turn(session, speaker, words, start=0.0, end=1.0):
    return {"session_id": session, "speaker": speaker, "words": words, "start_time": start, "end_time": end}


ODD = {
    "nothing on either side": ([turn("a", "x", "")], [turn("a", "s", "")]),
    "no reference": ([], [turn("a", "s", "b c")]),
    "no hypothesis": ([turn("a", "x", "b c")], []),
    "a session on one side only": (
        [turn("a", "x", "b"), turn("b", "x", "c")],
        [turn("a", "s", "b"), turn("c", "s", "d")],
    ),
    "the same times": (
        [turn("a", f"x{i}", f"w{i} v") for i in range(4)],
        [turn("a", f"s{i}", f"w{i} v") for i in range(3)],
    ),
    "turns of no length": ([turn("a", "x", "b c", 2.0, 2.0)], [turn("a", "s", "b c", 2.0, 2.0)]),
    "turns that overlap themselves": (
        [turn("a", "x", "b c d", 0.0, 9.0), turn("a", "x", "e", 1.0, 2.0)],
        [turn("a", "s", "e", 1.0, 3.0), turn("a", "s", "b c d", 0.0, 9.0)],
    ),
    "an unknown speaker": ([turn("a", "", "b")], [turn("a", "<NA>", "b")]),
    **{
        f"{number} speakers": (
            [turn("a", f"x{i}", f"hello from number{i}", i, i + 1.0) for i in range(number)],
            [turn("a", f"s{i}", f"hello from number{i}", i, i + 1.0) for i in range(1, number)],
        )
        for number in (12, 25)
    },
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("case", ODD)
def test_odd_sessions_are_measured(name, case):
    reference, hypothesis = ODD[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for session in make_sessions(reference, hypothesis, str):
            counts = MEASURES[name].of_session(session, Conditions())
            assert counts.errors >= 0
            assert counts.base >= 0
            if counts.kinds:
                assert sum(counts.kinds.values()) == pytest.approx(counts.errors)


@pytest.mark.parametrize("name", ["wer", "cpwer", "orcwer", "tcpwer", "tcorcwer", "dicpwer"])
@pytest.mark.parametrize("number", [12, 25])
def test_a_missing_speaker_among_many_is_deleted(name, number):
    (session,) = make_sessions(*ODD[f"{number} speakers"], str)
    counts = MEASURES[name].of_session(session, Conditions())
    assert (counts.errors, counts.kinds["deletions"], counts.base) == (3, 3, 3 * number)


@pytest.mark.parametrize("name", ["wer", "cpwer", "tcpwer", "der", "jer", "word_start_mean"])
def test_a_perfect_hypothesis_has_no_errors_whatever_its_speakers_are_called(name):
    reference, _ = ODD["25 speakers"]
    hypothesis = [{**entry, "speaker": f"other {entry['speaker']}"} for entry in reversed(reference)]
    (session,) = make_sessions(reference, hypothesis, str)
    assert MEASURES[name].of_session(session, Conditions()).errors == pytest.approx(0)


def test_regions_are_honoured():
    reference, hypothesis = [turn("a", "x", "b", 0.0, 8.0)], [turn("a", "s", "b", 0.0, 4.0)]
    assert value(MEASURES["der"], reference, hypothesis) == pytest.approx(0.5)
    assert value(MEASURES["der"], reference, hypothesis, {"a": [(0.0, 4.0)]}) == pytest.approx(0)
