import pytest

from operators.evaluate.score import cpwer


def segment(session, speaker, words, start=0.0):
    return {"session_id": session, "speaker": speaker, "words": words, "start_time": start, "end_time": start + 1}


REFERENCE = [segment("a", "x", "one two"), segment("a", "y", "three"), segment("b", "x", "four five six")]


def test_speaker_names_do_not_matter_but_the_order_of_turns_does():
    hypothesis = [segment("a", "s1", "one two"), segment("a", "s0", "three"), segment("b", "s0", "four five six")]
    assert cpwer(REFERENCE, hypothesis).errors == 0
    swapped = [segment("a", "s1", "two one"), *hypothesis[1:]]
    assert cpwer(REFERENCE, swapped).errors == 2


def test_a_missing_hypothesis_counts_as_deleted():
    score = cpwer(REFERENCE, [])
    assert (score.rate, score.errors, score.deletions, score.num_conversations) == (1.0, 6, 6, 2)


def test_the_rate_sums_over_conversations_and_is_within_its_interval():
    score = cpwer(REFERENCE, [segment("a", "s0", "one two"), segment("b", "s0", "four five six")])
    assert score.rate == pytest.approx(1 / 6)
    assert score.low <= score.rate <= score.high
