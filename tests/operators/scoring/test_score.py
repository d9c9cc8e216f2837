"""Scores as a whole: what they mean, slices, the worst, comparisons, bytes."""

import json
import random

import pytest

from operators.errors import InputError
from operators.scoring.compare import compare
from operators.scoring.page import page
from operators.scoring.result import Conditions
from operators.scoring.score import score
from operators.scoring.table import as_json, compared_markdown, markdown


def entry(session, speaker, words, start=None, end=None, **more):
    times = {} if start is None else {"start_time": start, "end_time": start + 1.0 if end is None else end}
    return {"session_id": session, "speaker": speaker, "words": words, **times, **more}


def corpus(seed, *, wrong=0.2, swapped=0.1, sessions=12, timed=True):
    """Sessions of two of six people, and a hypothesis with some wrong words and some wrong speakers."""
    draw = random.Random(7)
    errs = random.Random(seed)
    words = [f"w{i}" for i in range(50)]
    reference, hypothesis = [], []
    for number in range(sessions):
        cast = draw.sample("abcdef", 2)
        for turn in range(6):
            who, text = draw.choice(cast), [draw.choice(words) for _ in range(5)]
            start = 2.0 * turn if timed else None
            room = "hall" if number % 2 else "office"
            reference.append(entry(f"s{number:02d}", who, " ".join(text), start, room=room))
            heard = [errs.choice(words) if errs.random() < wrong else word for word in text]
            as_who = errs.choice(cast) if errs.random() < swapped else who
            hypothesis.append(entry(f"s{number:02d}", f"h{as_who}", " ".join(heard), start))
    return reference, hypothesis


def test_a_figure_says_what_it_means():
    found = score(*corpus(0), Conditions(normalizer="basic", seed=3))
    assert (found.conditions.normalizer, found.conditions.collar_s, found.conditions.seed) == ("hubbub-basic-2", 5.0, 3)
    assert found.resampled == "6 speakers, in 6 groups with the same recordings"
    assert (found.num_sessions, found.left_out) == (12, {})
    one = found.figure("cpwer")
    assert one.low < one.value < one.high
    assert one.counts["errors"] == sum(one.counts[kind] for kind in ("insertions", "deletions", "substitutions"))
    assert one.base == 12 * 6 * 5


def test_wrong_speakers_are_told_apart_from_wrong_words():
    found = score(*corpus(0, wrong=0.0, swapped=0.3))
    assert found.figure("orcwer").value == found.figure("wer").value == 0
    assert found.figure("cpwer").value == found.figure("cpwer").confusion > 0.05
    assert found.figure("der").value == pytest.approx(found.figure("der").confusion)
    assert score(*corpus(0, swapped=0.0)).figure("tcpwer").confusion == 0


def test_both_sides_are_normalized_by_the_same_normalizer():
    sides = [entry("a", "x", "Mr. Smith, twenty dollars!")], [entry("a", "s", "mister smith $20")]
    rates = {name: score(*sides, Conditions(normalizer=name, measures=("wer",))) for name in ("none", "basic")}
    assert rates["none"].figure("wer").value == 1.0
    assert rates["basic"].figure("wer").value == 0.75
    pytest.importorskip("whisper_normalizer")
    found = score(*sides, Conditions(normalizer="whisper-english", measures=("wer",)))
    assert found.figure("wer").value == 0
    assert found.conditions.normalizer_version.startswith("whisper_normalizer ")


def test_without_times_what_needs_them_is_left_out_with_the_reason():
    reference, _ = corpus(0)
    _, hypothesis = corpus(0, timed=False)
    found = score(reference, hypothesis)
    assert set(found.left_out) >= {"tcpwer", "tcorcwer", "der", "jer", "word_start_median"}
    assert "hypothesis has turns without times in 12 of 12 sessions" in found.left_out["der"]
    assert found.figure("cpwer").value > 0
    assert "Left out: tcpwer" in markdown(found)


def test_without_words_what_needs_them_is_left_out_but_an_empty_answer_is_scored():
    reference, hypothesis = corpus(0)
    wordless = [{key: value for key, value in one.items() if key != "words"} for one in hypothesis]
    found = score(reference, wordless)
    assert {figure.measure for figure in found.figures} >= {"der", "jer", "speaker_count_error"}
    assert found.left_out["wer"] == "the hypothesis has no words"
    assert score(reference, [{**one, "words": ""} for one in hypothesis]).figure("wer").value == 1


def test_equal_input_gives_equal_bytes_in_any_order_of_sessions():
    reference, hypothesis = corpus(0)
    first = as_json(score(reference, hypothesis, by=("room",)))
    by_session = sorted(hypothesis, key=lambda one: one["session_id"], reverse=True)
    assert as_json(score(reference, by_session, by=("room",))) == first
    assert json.loads(first)["conditions"]["normalizer"] == "hubbub-basic-2"
    assert as_json(score(reference, hypothesis, Conditions(seed=1), by=("room",))) != first


def test_slices_add_up_to_the_whole():
    found = score(*corpus(0), by=("room", "num_speakers", "overlap"))
    assert list(found.slices["room"]) == ["hall", "office"]
    parts = [next(f for f in part if f.measure == "cpwer") for part in found.slices["room"].values()]
    assert sum(part.counts["errors"] for part in parts) == found.figure("cpwer").counts["errors"]
    assert {label: part[0].num_sessions for label, part in found.slices["room"].items()} == {"hall": 6, "office": 6}
    with pytest.raises(InputError, match="no session has a column rooom to slice by; there are gap_s, num_speakers"):
        score(*corpus(0), by=("rooom",))


def test_columns_are_measured_from_the_reference():
    reference = [entry("a", "x", "one", 0.0, 4.0), entry("a", "y", "two", 3.0, 5.0), entry("a", "x", "three", 6.0, 7.0)]
    (row,) = score(reference, reference).sessions
    assert row["num_speakers"] == 2
    assert row["overlap"] == pytest.approx(1 / 6, abs=1e-6)
    assert row["turn_length_s"] == pytest.approx(7 / 3, abs=1e-6)
    assert row["gap_s"] == 1.0


def test_the_worst_sessions_come_first_with_their_words_aligned():
    reference = [entry("a", "x", "one two three", 0.0), entry("b", "x", "one <two>", 0.0), entry("c", "x", "one", 0.0)]
    hypothesis = [entry("a", "s", "one too three four", 0.0), entry("b", "s", "two", 0.0), entry("c", "s", "one", 0.0)]
    found = score(reference, hypothesis)
    assert [one.session_id for one in found.worst] == ["a", "b"]
    assert [word.kind for word in found.worst[0].words] == ["equal", "sub", "equal", "ins"]
    second = found.worst[0].words[1]
    assert (second.reference, second.hypothesis, second.speaker, second.hypothesis_speaker) == ("two", "too", "x", "s")
    untimed = score([{**one, "start_time": None, "end_time": None} for one in reference], hypothesis)
    assert [word.kind for word in untimed.worst[1].words] == ["del", "equal"]
    text = page(found)
    assert '<span class="ins"' in text
    assert "<sub>two</sub>" in text


@pytest.mark.parametrize(
    ("entry_", "reason"),
    [
        ("text", "hypothesis entry 1 is str, not a SegLST object"),
        ({"session_id": "s00", "words": "a"}, "speaker is None"),
        (entry("s00", "x", 3), "words is 3"),
        (entry("s00", "x", "a", float("nan")), "start_time nan is no time"),
        (entry("s00", "x", "a", 1.0, float("inf")), "end_time inf is no time"),
        (entry("s00", "x", "a", 2.0, 1.0), "end_time 1.0 is before start_time 2.0"),
        ({**entry("s00", "x", "a"), "start_time": 1.0}, "has one of start_time and end_time"),
        (entry("elsewhere", "x", "a"), "no session is in both reference and hypothesis"),
    ],
)
def test_malformed_entries_are_named(entry_, reason):
    with pytest.raises(InputError, match=reason):
        score(corpus(0)[0], [entry_])


def test_unknown_names_and_regions_are_refused():
    with pytest.raises(InputError, match="there is no measure wre"):
        score(*corpus(0), Conditions(measures=("wre",)))
    with pytest.raises(InputError, match="the UEM has no region for session s01"):
        score(*corpus(0), regions={"s00": [(0.0, 1.0)]})
    with pytest.raises(InputError, match="nothing to score"):
        score([], [])


def test_sessions_of_one_side_count_and_are_counted():
    reference, hypothesis = corpus(0, wrong=0, swapped=0)
    extra = [entry("new", "s", "one two", 0.0)]
    found = score(reference, [*(one for one in hypothesis if one["session_id"] != "s00"), *extra])
    assert (found.only_in_reference, found.only_in_hypothesis) == (1, 1)
    assert found.figure("cpwer").counts == {"errors": 32, "insertions": 2, "deletions": 30, "substitutions": 0}


def test_a_better_system_is_found_better_and_an_equal_one_is_not():
    reference, worse = corpus(0, wrong=0.5)
    _, better = corpus(1, wrong=0.1)
    found = compare(reference, worse, better, by=("room",))
    one = {difference.measure: difference for difference in found.differences}["cpwer"]
    assert one.difference == pytest.approx(one.a - one.b)
    assert one.low > 0
    assert one.p < 0.1  # six people: no p is below 2 of 64 flips
    assert set(found.slices["room"]) == {"hall", "office"}
    same = {difference.measure: difference for difference in compare(reference, worse, worse).differences}["cpwer"]
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert "permutation" in compared_markdown(found)


def test_a_session_that_only_one_system_has_is_one_of_both():
    reference, hypothesis = corpus(0)
    found = compare(reference, hypothesis, [*hypothesis, entry("new", "s", "one two", 0.0)])
    assert found.num_sessions == 13
    one = {difference.measure: difference for difference in found.differences}["wer"]
    assert one.difference * 12 * 6 * 5 == pytest.approx(-2)
