"""Other simulators' turn-taking: what their papers say of them holds here."""

import itertools

import numpy as np
import pytest

from operators.corpus.cast import Casting
from operators.errors import InputError
from operators.simulate.baselines import MODELS, landini, librispeechmix, sasc
from operators.simulate.converse import Converse
from operators.simulate.realism import talks_of
from operators.simulate.rooms import Place
from operators.simulate.turn_taking import prior_of
from tests.operators.simulate.test_simulation import made_up, simulate

PRIOR = prior_of("meeting")
CASTING = Casting(train_conversations=40, test_conversations=4, min_speakers=3, max_speakers=3, max_utterances=12)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_they_take_the_place_of_ours_and_nobody_overlaps_themselves(model):
    made = simulate(made_up(40, 20), CASTING, Converse(model=model, min_turns=20, max_turns=20, max_duration_s=300.0),
                    place=Place())  # fmt: skip
    again = simulate(made_up(40, 20), CASTING, Converse(model=model, min_turns=20, max_turns=20, max_duration_s=300.0))
    assert made.equals(again)
    for row in made.to_pylist():
        assert row["turns"]
        for speaker in row["speakers"]:
            own = sorted(
                (t["start_sample"], t["start_sample"] + t["num_samples"])
                for t in row["turns"]
                if t["speaker"] == speaker
            )
            assert all(a[1] <= b[0] + 1 for a, b in itertools.pairwise(own))
    assert made.to_pylist() != simulate(made_up(40, 20), CASTING, Converse(min_turns=20, max_turns=20)).to_pylist()


def planned(model, seed=0, speakers=3, each=60, target=150):
    draw = np.random.default_rng(seed)
    seconds = draw.uniform(2, 8, speakers * each)
    return model(seconds, np.arange(speakers + 1) * each, target, 1e6, PRIOR, draw), seconds


def test_librispeechmix_begins_each_utterance_within_the_one_before():
    for seed in range(50):
        made, seconds = planned(librispeechmix, seed, each=1, target=3)
        assert len(made.piece) == 3
        delays = np.diff(made.start_s)
        assert (delays >= 0.5).all()
        assert (delays <= seconds[made.piece[:-1]]).all()


def test_landini_draws_pauses_and_overlaps_alike_and_shuffles_speakers():
    made, _ = planned(landini, target=180)
    assert np.bincount(made.who).tolist() == [60, 60, 60]
    for speaker in range(3):
        assert (np.diff(made.piece[made.who == speaker]) > 0).all()  # each one's order is kept
    holds = np.mean(made.who[1:] == made.who[:-1])
    assert holds == pytest.approx(1 / 3, abs=0.1)  # no turn-taking: whoever is next is chance


def test_sasc_has_speakers_who_differ_and_shifts_the_marginal():
    means = []
    for seed in range(30):
        made, seconds = planned(sasc, seed, speakers=2, each=90)
        gaps = made.start_s[1:] - (made.start_s + seconds[made.piece])[:-1]
        switch = made.who[1:] != made.who[:-1]
        means.append([gaps[switch & (made.who[1:] == s)].mean() for s in range(2)])
    within = 1.2 / np.sqrt(90 / 2)  # of a mean of so many offsets
    assert np.std(np.array(means)) > within


def test_a_baseline_knows_no_backchannels():
    with pytest.raises(InputError, match="sasc knows no backchannels"):
        Converse(model="sasc", backchannels=True)


def test_partners_take_after_each_other_with_ours_and_not_with_theirs():
    """The dyad effect: partners' mean offsets are correlated in real calls (.6), and not where all is independent."""
    from operators.simulate.realism import figures

    casting = Casting(train_conversations=150, test_conversations=2, min_speakers=2, max_speakers=2, max_utterances=40)
    found = {}
    for model in ("copula", "landini"):
        converse = Converse(model=model, prior="telephone", min_turns=60, max_turns=60, max_duration_s=1e5)
        made = simulate(made_up(40, 60, seconds=3.0), casting, converse)
        found[model] = figures(talks_of(made)).partner_correlation
    assert found["copula"] > 0.35
    assert abs(found["landini"]) < 0.2
