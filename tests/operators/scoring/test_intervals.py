"""Intervals hold the population's rate as often as they say, also where few speakers are shared by many recordings."""

import numpy as np
import pytest

from operators.scoring.bootstrap import interval, per_recording, ratio_draws, sign_flip_p, units_of
from operators.scoring.sessions import Session, Turn

WORDS = 14
RATE = 0.25  # of Beta(2, 6)


def sessions_of(casts):
    return [
        Session(f"c{i:02d}", f"c{i:02d}", tuple(Turn(f"voice {who}", "a") for who in cast), ())
        for i, cast in enumerate(casts)
    ]


def coverage(wanted, trials, voices=8, conversations=40):
    """How often the interval holds the rate of all people, where each voice has its own: cases of review item 9."""
    draw = np.random.default_rng(0)
    held = 0
    for trial in range(trials):
        rates = draw.beta(2, 6, voices)
        casts = [draw.choice(voices, 2, replace=False) for _ in range(conversations)]
        errors = [float(sum(draw.binomial(WORDS, rates[who]) for who in cast)) for cast in casts]
        sessions = sessions_of(casts)
        units = units_of(sessions, wanted)
        sums = [per_recording(units, sessions, values) for values in (errors, [2.0 * WORDS] * conversations)]
        low, high = interval(ratio_draws(units, units.draws(trial, 500), *sums), units)
        held += low <= RATE <= high
    return held / trials


def test_speakers_shared_by_many_recordings_widen_the_interval_to_what_it_says():
    assert coverage("auto", 200) >= 0.9
    assert coverage("recordings", 50) <= 0.6


def test_recordings_of_their_own_speakers_are_drawn_as_they_were():
    assert 0.88 <= coverage("auto", 80, voices=400) <= 0.99


def test_speakers_of_the_same_recordings_are_one_unit():
    units = units_of(sessions_of([(0, 1), (0, 1), (2, 3), (4, 5)]))
    assert units.num_units == 3
    assert sorted(units.members.sum(axis=1)) == [1, 1, 2]
    assert units_of(sessions_of([(0, 1), (2, 3)])).about == "2 recordings, which share no speaker"


def test_names_that_every_recording_numbers_anew_are_different_people():
    units = units_of(sessions_of([(0, 1), (0, 1), (0, 1)]))
    assert units.num_units == 3
    assert "taken for different people" in units.about
    assert units_of(sessions_of([(0, 1), (0, 1), (0, 1)]), "speakers").num_units == 1


def test_one_unit_has_no_interval():
    units = units_of(sessions_of([(0, 1)]))
    assert interval(np.zeros(10), units) is None
    assert sign_flip_p(units, np.ones(1), 0) is None


def test_the_permutation_test_lists_all_flips_of_few_units():
    units = units_of(sessions_of([(2 * i, 2 * i + 1) for i in range(5)]))
    assert sign_flip_p(units, np.array([1.0, 1, 1, 1, 1]), 0) == pytest.approx(2 / 32)
    assert sign_flip_p(units, np.array([1.0, -1, 1, -1, 0]), 0) == 1.0


def test_the_permutation_test_holds_its_level():
    """Systems that do not differ are called different in 5 % of cases, also where recordings share speakers."""
    draw = np.random.default_rng(1)
    found = []
    for trial in range(200):
        voices = draw.normal(0, 1, 12)
        casts = [draw.choice(12, 2, replace=False) for _ in range(40)]
        sessions = sessions_of(casts)
        differences = np.array([voices[cast].sum() + draw.normal(0, 0.5) for cast in casts])
        found.append(sign_flip_p(units_of(sessions), differences, trial))
    assert np.mean(np.array(found) <= 0.05) <= 0.08
    by_recording = units_of(sessions, "recordings")
    assert by_recording.num_units == 40
