import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.rng import hash64_many, rendezvous, rng


def test_a_draw_depends_on_its_address_alone():
    first = rng(3, "turns", "a").random(4)
    rng(3, "turns", "b").random(100)
    assert np.array_equal(first, rng(3, "turns", "a").random(4))
    for other in (rng(4, "turns", "a"), rng(3, "gains", "a"), rng(3, "turns", "aa")):
        assert not np.array_equal(first, other.random(4))


def test_draws_are_the_same_on_every_machine():
    assert rng(0, "turns", "train-000000").integers(1 << 30, size=3).tolist() == [1072026794, 909384773, 836376145]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 1000))
def test_a_new_candidate_displaces_nobody_but_by_winning(number, count, seed):
    count = min(count, number)
    names = [f"speaker-{i}" for i in range(number)]
    before = {names[i] for i in rendezvous(f"{seed}", hash64_many(names), count)}
    grown = [*names, "newcomer"]
    after = {grown[i] for i in rendezvous(f"{seed}", hash64_many(grown), count)}
    assert after - before <= {"newcomer"}


def test_rendezvous_is_fair():
    names = [f"speaker-{i}" for i in range(10)]
    hashes = hash64_many(names)
    wins = np.bincount([rendezvous(f"talk-{i}", hashes, 1)[0] for i in range(5000)], minlength=10)
    assert wins.min() > 400
    assert wins.max() < 600
