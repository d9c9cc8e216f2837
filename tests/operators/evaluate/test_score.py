import pytest

from operators.evaluate.score import cpwer


def segment(session, speaker, words, start=0.0):
    return {"session_id": session, "speaker": speaker, "words": words, "start_time": start, "end_time": start + 1}


SAID = [segment("a", "x", "one two"), segment("a", "y", "three"), segment("b", "x", "four five six")]


def test_names_do_not_matter_and_order_of_turns_does():
    heard = [segment("a", "s1", "one two"), segment("a", "s0", "three"), segment("b", "s0", "four five six")]
    assert cpwer(SAID, heard).errors == 0
    swapped = [segment("a", "s1", "two one"), *heard[1:]]
    assert cpwer(SAID, swapped).errors == 2


def test_what_is_left_out_counts_as_deleted():
    score = cpwer(SAID, [])
    assert (score.rate, score.errors, score.deletions, score.num_conversations) == (1.0, 6, 6, 2)


def test_the_rate_sums_over_conversations_and_the_interval_holds_it():
    score = cpwer(SAID, [segment("a", "s0", "one two"), segment("b", "s0", "four five six")])
    assert score.rate == pytest.approx(1 / 6)
    assert score.low <= score.rate <= score.high
