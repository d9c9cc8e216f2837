"""The order of packs: every pack once an epoch, mixtures exact, a place found without going there."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training.loader import share
from models.training.order import GROUP_PACKS, WINDOW_PACKS, PackOrder, Span, Stream, growing, phases_of
from tests.models.support import spans


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(sum), st.integers(0, 99), st.integers(1, 5))
def test_the_order_visits_every_pack_once_an_epoch_within_its_window(sizes, seed, window):
    order = PackOrder(spans(sizes), seed, window_shards=window)
    number = order.num_packs
    epochs = [[order.at(epoch * number + i) for i in range(number)] for epoch in range(2)]
    for visited in epochs:
        assert sorted(visited) == list(range(number))
    shard_of = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    seen, closed = [], set()
    for pack in epochs[0]:
        shard = shard_of[pack]
        assert shard not in closed
        if shard not in seen:
            seen.append(shard)
            closed.update(seen[: (len(seen) - 1) // window * window])


def test_epochs_and_seeds_are_ordered_differently():
    order = PackOrder(spans((50, 50)), seed=0)
    first, second = ([order.at(e * 100 + i) for i in range(100)] for e in range(2))
    assert first != second
    assert first != [PackOrder(spans((50, 50)), seed=1).at(i) for i in range(100)]


@pytest.mark.parametrize("sizes", [(2048,), (5000, 300, 4096), (255, 256, 257), (3000, 2049, 2047, 64)])
def test_grouped_packs_come_together_at_multiples_of_the_group(sizes):
    parts = spans(sizes, grouped=True)
    order = PackOrder(parts, seed=3, window_shards=2)
    number = order.num_packs
    # The first quarter of each window of a shard, in whole groups.
    groups = [
        [first + i for i in range(GROUP_PACKS)]
        for span in parts
        for start in range(0, span.size, WINDOW_PACKS)
        for first in range(
            span.first + start,
            span.first + start + min(WINDOW_PACKS, span.size - start) // 4 // GROUP_PACKS * GROUP_PACKS,
            GROUP_PACKS,
        )
    ]
    assert len(groups) == sum(span.num_groups for span in parts)
    for epoch in range(2):
        visited = [order.at(epoch * number + i) for i in range(number)]
        assert sorted(visited) == list(range(number))
        at = {pack: epoch * number + i for i, pack in enumerate(visited)}
        for group in groups:
            assert at[group[0]] % GROUP_PACKS == 0
            assert [at[pack] for pack in group] == list(range(at[group[0]], at[group[0]] + GROUP_PACKS))
    if groups:
        together = {visited.index(group[0]) for group in groups}
        assert len(together) == len(groups)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_mixtures_are_exact_over_any_window_and_repeat_nothing_before_all_was_seen(sizes, weights):
    names = "abcd"[: len(sizes)]
    firsts = [0, *np.cumsum(sizes).tolist()]
    components = {n: (Span(f, s),) for n, f, s in zip(names, firsts, sizes, strict=False)}
    text = ",".join(f"{n}={w}" for n, w in zip(names, weights, strict=False))
    stream = Stream(components, 5, [text])
    used = weights[: len(sizes)]
    places = [stream.where(p) for p in range(200)]
    for start, length in itertools.product((0, 7, 61), (5, 40, 99)):
        counted = Counter(name for name, _ in places[start : start + length])
        for name, weight in zip(names, used, strict=True):
            assert abs(counted[name] - length * weight / sum(used)) <= len(names)
    for name in names:
        assert [own for n, own in places if n == name] == list(range(sum(n == name for n, _ in places)))
    for name, size in zip(names, sizes, strict=True):
        packs = [stream.at(p) for p in range(200) if places[p][0] == name]
        for epoch in range(len(packs) // size):
            assert len(set(packs[epoch * size : (epoch + 1) * size])) == size


@pytest.mark.parametrize("grouped", [False, True])
def test_a_phase_changes_the_mixture_and_each_component_goes_on_where_it_was(grouped):
    components = {"a": (Span(0, 512, grouped),), "b": (Span(512, 512, grouped),)}
    stream = Stream(components, 1, ["a=1", "10:a=1,b=3", "30:b=1"], packs_per_step=32)
    places = [stream.where(p) for p in range(32 * 40)]
    unit = GROUP_PACKS if grouped else 1
    assert {n for n, _ in places[: 10 * 32]} == {"a"}
    assert Counter(n for n, _ in places[10 * 32 : 30 * 32])["b"] == pytest.approx(480, abs=unit)
    assert {n for n, _ in places[30 * 32 :]} == {"b"}
    for name in "ab":
        assert [own for n, own in places if n == name] == list(range(sum(n == name for n, _ in places)))
    assert stream.epoch(0) == 0
    assert stream.epoch(32 * 60) == 2  # b has been gone through twice: 480 + 960 of 512


def test_bad_mixtures_are_named():
    sizes = {"asr": 5, "continue": 5}
    for text, message in (
        (["asrr=1"], "no component asrr; there are asr, continue"),
        (["asr=x"], "is not"),
        (["asr=-1"], "negative"),
        (["asr=0"], "no packs at all"),
        (["5:asr=1"], "starts at step 5"),
        (["asr=1", "9:asr=1", "9:asr=2"], "one after the other"),
    ):
        with pytest.raises(ValueError, match=message):
            phases_of(text, sizes)
    with pytest.raises(ValueError, match="no packs"):
        Stream({"a": ()}, 0)
    with pytest.raises(ValueError, match="asr has both; set --pack"):
        phases_of(["grow"], sizes, 8)  # it would train one task after the other


def test_weights_stand_for_shares_and_patterns_for_components():
    assert phases_of(["asr=0.5,continue=1.5"], {"asr": 1, "continue": 1})[0].weights == (("asr", 1), ("continue", 3))
    assert phases_of(["asr-*"], {"asr-064": 10, "asr-128": 30, "x": 5})[0].weights == (("asr-064", 1), ("asr-128", 3))
    steps = [p.first_step for p in growing({"a-064": 10, "b-064": 10, "a-128": 60}, 40)]
    assert steps == [0, 10]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1, 100), min_size=1, max_size=40), st.integers(1, 8))
def test_shares_hold_every_pack_once_and_as_many_each(costs, world_size):
    shares = share(costs, world_size)
    assert sorted(i for chosen in shares for i in chosen) == list(range(len(costs)))
    assert max(map(len, shares)) <= -(-len(costs) // world_size)
    if len(costs) >= world_size:
        assert min(map(len, shares)) >= 1
