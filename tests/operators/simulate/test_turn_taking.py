"""Turn-taking statistics, the prior fitted to them, and simulated conversations that reproduce them."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from operators.corpus.segments import Segment
from operators.errors import InputError
from operators.simulate.priors import PRESETS, prior_of
from operators.simulate.priors.fit import fit
from operators.simulate.priors.prior import Prior
from operators.simulate.realism import (
    analyze_conversations,
    distance,
    figures,
    scorecard,
    transition_tv,
    values_of,
)
from operators.simulate.timing import copula_kernels as kernels
from operators.simulate.turn_taking import (
    KINDS,
    analyze_turns,
    intraclass,
    merge_segments,
    shares,
    transition_matrix,
)
from tests.bench.realism import simulate

CONVERSATION = (
    Segment(0, 2, "a"),
    Segment(2.1, 4, "a"),
    Segment(3, 3.4, "b"),
    Segment(5, 7, "b"),
    Segment(6.5, 9, "a"),
    Segment(9.5, 10, "a"),
    Segment(9.6, 9.9, "c"),
)


def test_events_of_a_short_conversation():
    analysis = analyze_turns("x", CONVERSATION)
    assert [(e.kind, e.speaker) for e in analysis.events] == [
        ("backchannel", "b"),
        ("switch_gap", "b"),
        ("switch_overlap", "a"),
        ("hold", "a"),
        ("backchannel", "c"),
    ]
    assert [round(e.offset_s, 3) for e in analysis.events] == [0.75, 1.0, -0.5, 0.5, 0.2]
    assert analysis.floors_s.tolist() == [4.0, 2.0, 2.5, 0.5]
    assert analysis.hosts == (1, 0, 0, 1)
    found = shares(analysis)
    assert found["silence"] == pytest.approx(1.5 / 10)
    assert found["overlap"] == pytest.approx((0.4 + 0.5 + 0.3) / 8.5)
    assert found["three"] == 0
    assert values_of("turn", analysis) == pytest.approx([4.0, 2.0, 3.5])
    assert values_of("overlap", analysis) == pytest.approx([0.5])


def test_segments_that_touch_are_one_and_order_makes_no_difference():
    for order in itertools.permutations(CONVERSATION[:5]):
        assert merge_segments(order) == merge_segments(CONVERSATION[:5])
    assert len(merge_segments(CONVERSATION)) == 6


def test_intraclass_correlation_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    groups = [(rng.normal() + rng.normal(0, 2, 30)).tolist() for _ in range(400)]
    assert intraclass(groups) == pytest.approx(1 / 5, abs=0.03)
    assert intraclass([[1.0], [2.0]]) == 0.0


def test_too_few_events_are_refused():
    with pytest.raises(InputError, match="too few to fit"):
        fit("x", "one speaker", [analyze_turns("x", [Segment(i, i + 0.5, "a") for i in range(100)])])


def test_presets_are_named_by_their_files():
    assert PRESETS == ("broadcast", "meeting", "telephone")
    assert [prior_of(name).name for name in PRESETS] == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_read_back_from_their_file(name, tmp_path):
    prior = prior_of(name)
    assert list(prior.offset_s) == sorted(prior.offset_s)
    assert prior.offset_s[0] < 0 < prior.offset_s[-1]
    assert min(prior.pause_s) > 0
    assert 0 <= prior.conversation_share + prior.speaker_share < 1
    (tmp_path / "p.json").write_text(prior.to_json())
    assert prior_of(str(tmp_path / "p.json")) == prior
    with pytest.raises(InputError, match=r"neither a preset \(broadcast, meeting, telephone\) nor a file"):
        prior_of(str(tmp_path / "none.json"))


@pytest.mark.parametrize("speakers", [2, 4])
def test_offsets_follow_the_prior_though_every_overlap_fits(speakers):
    """Marginals survive the constraint that an overlap is shorter than both segments it joins."""
    prior = prior_of("meeting")
    made = simulate(prior, [np.array(prior.segment_s)], 60, speakers, 150)
    analyses = analyze_conversations(made)
    levels = (np.arange(4000) + 0.5) / 4000
    wanted = np.interp(levels, np.linspace(0, 1, len(prior.offset_s)), prior.offset_s)
    assert distance("offset", analyses, wanted, draws=2).ks < 0.025  # 60 conversations, which differ from each other
    assert sum(made["num_clipped_offsets"].to_pylist()) < 0.005 * 60 * 150
    lengths = np.interp(levels, np.linspace(0, 1, len(prior.segment_s)), prior.segment_s)
    assert distance("segment", analyses, lengths, draws=2).ks < 0.02


def test_overlaps_are_assigned_exactly_where_segments_are_independent():
    """The coupling on its own: for any lengths and offsets, the mixture over pairs is the wanted distribution."""
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.lognormal(0.5, 1.0, 4000))
    offsets = np.quantile(rng.normal(0.1, 0.8, 100_000), np.linspace(0, 1, 201))
    overlap, hazard = kernels.coupling(offsets, lengths, 0.0, 1.0, 0.1, 128)
    levels, *pairs = rng.random(40_000), rng.choice(lengths, 40_000), rng.choice(lengths, 40_000)
    drawn = [
        kernels.coupled_offset(u, min(a, b), offsets, overlap, hazard) for u, a, b in zip(levels, *pairs, strict=True)
    ]
    wanted = np.interp(rng.random(100_000), np.linspace(0, 1, 201), offsets)
    from scipy.stats import ks_2samp

    assert ks_2samp(drawn, wanted).statistic < 0.012


def test_a_prior_fitted_to_simulated_conversations_is_the_prior_it_was_simulated_from():
    prior = prior_of("telephone")
    analyses = analyze_conversations(simulate(prior, [np.array(prior.segment_s)], 150, 2, 120, backchannels=True))
    again = fit("again", "simulated", analyses)
    middle = len(prior.offset_s) // 2
    assert again.offset_s[middle] == pytest.approx(prior.offset_s[middle], abs=0.05)
    assert again.pause_s[middle] == pytest.approx(prior.pause_s[middle], abs=0.05)
    assert again.hold_after == pytest.approx(prior.hold_after, abs=0.03)
    assert again.backchannels_per_host == pytest.approx(prior.backchannels_per_host, rel=0.25, abs=0.06)
    assert figures(analyses).partner_correlation == pytest.approx(0.605, abs=0.15)


def test_conversations_differ_as_much_as_those_the_prior_was_fitted_to():
    prior = prior_of("meeting")
    assert min(prior.liveliness) > 0.2  # AMI's meetings differ
    analyses = analyze_conversations(simulate(prior, [np.array(prior.segment_s)], 100, 4, 200, backchannels=True))
    again = fit("again", "simulated", analyses)
    assert again.liveliness == pytest.approx(prior.liveliness, abs=0.12)
    assert again.hold_after == pytest.approx(prior.hold_after, abs=0.05)
    assert np.sign(again.liveliness_correlation).tolist() == np.sign(prior.liveliness_correlation).tolist()
    even = replace(prior, liveliness=(0.0, 0.0))
    same = analyze_conversations(simulate(even, [np.array(prior.segment_s)], 100, 4, 200, backchannels=True))
    assert figures(same).overlap_share_sd < 0.7 * figures(analyses).overlap_share_sd


def test_a_scorecard_of_conversations_against_themselves_finds_no_difference():
    analyses = analyze_conversations(
        simulate(prior_of("meeting"), [np.array(prior_of("meeting").segment_s)], 8, 3, 80, backchannels=True)
    )
    card = scorecard(analyses, analyses, draws=3)
    assert {card["distances"][name]["ks"] for name in ("offset", "pause", "overlap", "backchannel", "turn")} == {0.0}
    assert card["transition_tv"] == 0
    assert card["simulated"] == card["real"]
    one, other = np.eye(4), np.roll(np.eye(4), 1, axis=1)
    assert transition_tv(one, other) == 1
    assert transition_matrix(analyses).shape == (len(KINDS), len(KINDS))
    assert isinstance(prior_of("meeting"), Prior)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("offset_s", [0.0, float("nan")], "offset_s holds nan"),
        ("dominance", float("inf"), "dominance holds inf"),
        ("serial", "high", "serial holds 'high'"),
        ("pause_s", [0.5, 0.2], "pause_s must be two or more quantiles that do not fall"),
        ("segment_s", [], "segment_s must be two or more quantiles"),
    ],
)
def test_a_prior_with_values_that_mean_nothing_is_refused_by_field_and_file(field, value, said, tmp_path):
    data = json.loads(prior_of("meeting").to_json())
    whole, path = tmp_path / "whole.json", tmp_path / "prior.json"
    whole.write_text(json.dumps(data))
    assert prior_of(str(whole)) == prior_of("meeting")
    path.write_text(json.dumps({**data, field: value}))
    with pytest.raises(InputError, match=said) as refused:
        prior_of(str(path))
    assert str(path) in str(refused.value)
