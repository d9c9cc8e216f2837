"""Timings: a contract that every one of them keeps, and what the papers of the baselines say of them."""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from operators.corpus.cast import Casting, cast_table, plan_casts
from operators.corpus.splits import split_rows
from operators.errors import InputError
from operators.simulate.converse import Converse
from operators.simulate.priors import prior_of
from operators.simulate.realism import analyze_conversations, figures
from operators.simulate.rooms import Place
from operators.simulate.timing import TIMINGS
from operators.simulate.timing.landini import Landini
from operators.simulate.timing.librimix import LibriMix
from operators.simulate.timing.librispeechmix import LibriSpeechMix
from operators.simulate.timing.sasc import Sasc
from operators.simulate.timing.timing import TRANSITIONS, Pool, Traits
from tests.operators.simulate.test_simulation import made_up, simulate

PRIOR = prior_of("meeting")
CASTING = Casting(train_conversations=40, test_conversations=4, min_speakers=3, max_speakers=3, max_utterances=12)
CONVERSE = {"min_turns": 20, "max_turns": 20, "max_duration_s": 60.0}


def timeline_of(timing, seed=0, speakers=3, each=60, target=150, limit_s=1e6):
    """One timeline with the lengths of its pieces, straight from a timing."""
    draw = np.random.default_rng(seed)
    seconds = draw.uniform(2, 8, speakers * each)
    traits = Traits.drawn(PRIOR, speakers, np.random.default_rng(seed))
    pool = Pool(seconds, np.arange(speakers + 1) * each, target, limit_s)
    return timing(PRIOR, 0.1)(pool, traits, draw), seconds


def made_up_casts(speakers=3):
    casting = replace(CASTING, min_speakers=speakers, max_speakers=speakers)
    utterances = made_up(40, 20)
    return cast_table(utterances, plan_casts(utterances, split_rows(utterances, casting, 0), casting, 0), 0)


@pytest.fixture(scope="module")
def casts():
    return made_up_casts()


@pytest.mark.parametrize("name", sorted(TIMINGS))
class TestContract:
    """Holds for every timing in the table."""

    def test_it_has_a_name_a_source_and_is_a_choice_of_the_recipe(self, name):
        timing = TIMINGS[name]
        assert timing.name == name
        assert timing.source
        assert timing.__doc__
        assert Converse(model=name).model == name

    def test_it_follows_from_the_seed(self, name, casts):
        converse = Converse(model=name, **CONVERSE)
        assert converse(casts).equals(converse(casts))
        timelines = [timeline_of(TIMINGS[name], seed) for seed in (1, 1, 2)]
        # Ends, because LibriMix's starts are all 0.
        ends_s = [made.start_s + seconds[made.piece] for made, seconds in timelines]
        assert np.array_equal(ends_s[0], ends_s[1])
        assert not np.array_equal(ends_s[0], ends_s[2])

    def test_it_does_not_depend_on_how_casts_are_batched_or_ordered(self, name, casts):
        converse = Converse(model=name, **CONVERSE)
        parts = [converse(casts.slice(i, size)) for i, size in ((30, 14), (7, 23), (0, 7))]
        reversed_rows = converse(casts.take(list(reversed(range(casts.num_rows)))))
        expected = converse(casts).sort_by("conversation_id")
        assert pa.concat_tables(parts).sort_by("conversation_id").equals(expected)
        assert reversed_rows.sort_by("conversation_id").equals(expected)

    def test_no_speaker_overlaps_themselves_and_each_keeps_the_order_of_their_pieces(self, name, casts):
        for row in Converse(model=name, **CONVERSE)(casts).to_pylist():
            for speaker in row["speakers"]:
                own = [turn for turn in row["turns"] if turn["speaker"] == speaker]
                for turn, following in itertools.pairwise(own):
                    assert turn["start_sample"] + turn["num_samples"] <= following["start_sample"]
        for seed in range(5):
            timeline, _ = timeline_of(TIMINGS[name], seed)
            for speaker in range(3):
                assert (np.diff(timeline.piece[timeline.who == speaker]) > 0).all()

    def test_turns_lie_within_the_conversation_and_offsets_are_to_the_end_of_the_floor(self, name, casts):
        for row in Converse(model=name, **CONVERSE)(casts).to_pylist():
            turns = row["turns"]
            assert turns[0]["start_sample"] >= 0
            assert turns[0]["transition"] == "start"
            for turn in turns:
                assert turn["start_sample"] + turn["num_samples"] <= row["num_samples"]
                assert turn["start_sample"] + turn["num_samples"] <= CONVERSE["max_duration_s"] * 16_000
            for previous, turn in itertools.pairwise(turns):
                end = previous["start_sample"] + previous["num_samples"]
                assert turn["offset_samples"] == turn["start_sample"] - end
                assert -end <= turn["offset_samples"] <= row["num_samples"]
                assert turn["transition"] in TRANSITIONS

    def test_times_are_integer_samples(self, name, casts):
        made = Converse(model=name, **CONVERSE)(casts)
        turn = made.schema.field("turns").type.value_type
        for column in ("start_sample", "num_samples", "offset_samples"):
            assert pa.types.is_integer(turn.field(column).type)
        timeline, seconds = timeline_of(TIMINGS[name])
        assert np.issubdtype(timeline.piece.dtype, np.integer)
        assert np.issubdtype(timeline.who.dtype, np.integer)
        assert timeline.kind.dtype == np.int8
        assert len(timeline.piece) == len(timeline.who) == len(timeline.kind) == len(timeline.start_s) > 1
        assert timeline.piece.max() < len(seconds)

    @pytest.mark.parametrize("turns", [(1, 1), (1, 3), (2, 4), (3, 5)])
    def test_everybody_in_the_cast_is_heard_however_few_turns_are_asked_for(self, name, casts, turns):
        converse = Converse(model=name, min_turns=turns[0], max_turns=turns[1], max_duration_s=1e4)
        counted = [(len(row["speakers"]), len(row["turns"])) for row in converse(casts).to_pylist()]
        assert {speakers for speakers, _ in counted} == {3}
        assert {number for _, number in counted} <= set(range(3, max(3, turns[1]) + 1))
        for seed in range(20):
            timeline, _ = timeline_of(TIMINGS[name], seed, speakers=4, target=4)
            assert sorted(timeline.who) == [0, 1, 2, 3]

    def test_nothing_ends_after_the_limit_except_a_first_turn(self, name):
        for seed in range(5):
            timeline, seconds = timeline_of(TIMINGS[name], seed, limit_s=30.0)
            assert ((timeline.start_s + seconds[timeline.piece])[1:] <= 30.0).all()
            assert len(timeline.piece) < 20

    def test_backchannels_are_added_or_refused(self, name):
        if TIMINGS[name].has_backchannels:
            assert Converse(model=name, backchannels=True).backchannels
        else:
            with pytest.raises(InputError, match=f"{name} has no backchannels"):
                Converse(model=name, backchannels=True)


@pytest.mark.parametrize("name", sorted(set(TIMINGS) - {"copula"}))
def test_baselines_differ_from_the_default(name, casts):
    assert Converse(model=name, **CONVERSE)(casts).to_pylist() != Converse(**CONVERSE)(casts).to_pylist()
    placed = simulate(made_up(40, 20), CASTING, Converse(model=name, **CONVERSE), place=Place())
    assert all(row["turns"] for row in placed.to_pylist())


def test_librispeechmix_starts_each_utterance_within_the_one_before():
    for seed in range(50):
        timeline, seconds = timeline_of(LibriSpeechMix, seed, each=1, target=3)
        assert len(timeline.piece) == 3
        delays = np.diff(timeline.start_s)
        assert (delays >= 0.5).all()
        assert (delays <= seconds[timeline.piece[:-1]]).all()


def test_librimix_starts_all_utterances_together_and_keeps_them_whole():
    for row in Converse(model="librimix", **CONVERSE)(made_up_casts(2)).to_pylist():
        assert [turn["start_sample"] for turn in row["turns"]] == [0, 0]
        assert (
            row["num_samples"] == max(turn["num_samples"] for turn in row["turns"]) + 3200
        )  # 0.2 s, as in all timings
    orders = {tuple(timeline_of(LibriMix, seed)[0].who) for seed in range(50)}
    assert len(orders) == 6  # who is named first is drawn


def test_landini_shuffles_speakers_and_draws_pauses_and_overlaps_independently():
    timeline, _ = timeline_of(Landini, target=180)
    assert np.bincount(timeline.who).tolist() == [60, 60, 60]
    holds = np.mean(timeline.who[1:] == timeline.who[:-1])
    assert holds == pytest.approx(1 / 3, abs=0.1)  # no turn-taking: the next speaker is drawn at random


def test_sasc_speakers_differ_in_their_mean_gap():
    means = []
    for seed in range(30):
        timeline, seconds = timeline_of(Sasc, seed, speakers=2, each=90)
        gaps = timeline.start_s[1:] - (timeline.start_s + seconds[timeline.piece])[:-1]
        switch = timeline.who[1:] != timeline.who[:-1]
        means.append([gaps[switch & (timeline.who[1:] == s)].mean() for s in range(2)])
    within = 1.2 / np.sqrt(90 / 2)  # standard error of a mean of that many offsets
    assert np.std(np.array(means)) > within


def test_partners_are_correlated_with_the_copula_and_not_with_landini():
    """The dyad effect: partners' mean offsets are correlated in real calls (.6), and not if all is independent."""
    casting = Casting(train_conversations=150, test_conversations=2, min_speakers=2, max_speakers=2, max_utterances=40)
    found = {}
    for name in ("copula", "landini"):
        converse = Converse(model=name, prior="telephone", min_turns=60, max_turns=60, max_duration_s=1e5)
        made = simulate(made_up(40, 60, seconds=3.0), casting, converse)
        found[name] = figures(analyze_conversations(made)).partner_correlation
    assert found["copula"] > 0.35
    assert abs(found["landini"]) < 0.2
