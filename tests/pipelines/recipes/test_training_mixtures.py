"""Kinds of training mixtures: the same voices, equal hours, and each with the timing that its name says."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from operators.corpus.cast import Casting
from operators.corpus.formats import json_lines
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.recorded import index_recorded
from operators.corpus.segments import read_rttm
from operators.corpus.sets.layouts import LAYOUTS
from operators.errors import InputError
from operators.simulate.converse import Converse
from operators.simulate.frozen import RATE_HZ, spoken_by
from operators.simulate.priors import prior_of
from operators.simulate.realism import analyze_conversations, figures, values_of
from pipelines.plan.output import Output
from pipelines.plan.sets import is_set
from pipelines.recipes.files import load_recipe
from pipelines.stages import plan_recipe
from tests.bench.real import kinds, mixtures
from tests.bench.real.kinds import (
    KINDS,
    conversations_of,
    lhotse_list,
    list_of,
    prefix_lasting,
    simulating,
    without_dyads,
)
from tests.golden.fingerprints import Road, index_corpus
from tests.operators.simulate.test_simulation import made_up, simulate
from tests.pipelines.support import make_stale

HOURS = 0.1


@pytest.fixture(scope="module")
def corpus(shared):
    return shared / "data/speechocean762"


@pytest.fixture(scope="module")
def spoken(corpus):
    """Of some train speakers: lhotse shuffles ten thousand utterances of each."""
    every = spoken_by(corpus, "train")
    return {name: every[name] for name in sorted(every)[:8]}


@pytest.fixture(scope="module")
def meetings(shared):
    """The first ones, which are enough to fit to."""
    every = read_rttm([shared / "data/ami_rttm/train.rttm"])
    return {name: every[name] for name in sorted(every)[:12]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, spoken, corpus):
    """Where voices and prior are."""
    folder = tmp_path_factory.mktemp("mixtures")
    kinds.write_voices([spoken, spoken_by(corpus)], corpus, folder / kinds.VOICES)
    (folder / kinds.PRIOR).write_text(without_dyads(prior_of("meeting")).to_json())
    return folder


@pytest.fixture(scope="module")
def made(folder, spoken, corpus, meetings):
    """Every kind's list."""
    return {kind: list_of(kind, spoken, folder, corpus, meetings, HOURS) for kind in KINDS}


def gaps_s(row):
    """From each turn's start to the latest end before it, and whether the speaker is another one."""
    end, found = 0, []
    for number, turn in enumerate(row["turns"]):
        if number:
            other = turn["speaker"] != row["turns"][number - 1]["speaker"]
            found.append(((turn["start_sample"] - end) / RATE_HZ, other))
        end = max(end, turn["start_sample"] + turn["source_num_samples"])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_two_train_speakers_a_mixture_and_its_hours(kind, made, corpus):
    split_of = {row["speaker"]: row["split"] for row in json_lines(corpus / "manifest.jsonl")}
    rows = made[kind]
    assert {split_of[turn["speaker"]] for row in rows for turn in row["turns"]} == {"train"}
    assert {row["split"] for row in rows} == {"train"}
    assert len({row["conversation_id"] for row in rows}) == len(rows)
    assert sum(row["num_samples"] for row in rows) / RATE_HZ / 3600 == pytest.approx(HOURS, abs=12 / 3600)
    for row in rows:
        talkers = {turn["speaker"] for turn in row["turns"]}
        assert len(talkers) == (1 if row["columns"]["condition"] == "single" else 2)
        assert row["turns"][0]["start_sample"] == 0
        assert row["num_samples"] <= kinds.WINDOW_S * RATE_HZ
        for talker in talkers:
            own = [turn for turn in row["turns"] if turn["speaker"] == talker]
            assert len({turn["gain_db"] for turn in own}) == 1
            ends = [turn["start_sample"] + turn["source_num_samples"] for turn in own]
            assert all(end <= turn["start_sample"] for end, turn in zip(ends, own[1:], strict=False))


def test_each_kind_has_the_timing_that_its_name_says(made):
    assert all(turn["start_sample"] == 0 for row in made["librimix"] for turn in row["turns"])
    for row in made["lhotse"]:
        if len(row["turns"]) == 2:  # of more, a long overlap reaches into the pause before
            first_s = row["turns"][0]["source_num_samples"] / RATE_HZ
            ((gap, is_other),) = gaps_s(row)
            assert is_other
            assert gap >= 0.99 or gap <= 0.01 - min(2.0, first_s)  # never a short pause, never a short overlap
    fitted = [gap for row in made["lhotse_fitted"] if len(row["turns"]) == 2 for gap, _ in gaps_s(row)]
    assert np.mean([-0.9 < gap < 0.9 for gap in fitted]) > 0.1
    general = made["general"]
    mixed = [row for row in general if row["columns"]["condition"] == "overlap"]
    assert all(0.2 <= row["columns"]["overlap_share"] <= 0.4 for row in mixed)
    alone = sum(row["num_samples"] for row in general) - sum(row["num_samples"] for row in mixed)
    assert alone / RATE_HZ / 3600 == pytest.approx(kinds.SINGLE_SHARE * HOURS, abs=6 / 3600)
    shares = {kind: mixtures.described(rows)["overlap_share"] for kind, rows in made.items()}
    assert shares["librimix"] > 0.6 > shares["lhotse"] > shares["ours"]


@pytest.mark.parametrize("kind", ["librimix", "ours", "general"])
def test_a_list_is_the_same_when_it_is_made_again(kind, made, folder, spoken, corpus, meetings):
    reversed_order = dict(reversed(spoken.items()))
    assert list_of(kind, reversed_order, folder, corpus, meetings, HOURS) == made[kind]


def test_lhotses_draws_follow_from_its_seed_and_leave_the_global_generators_as_they_were(made, spoken, corpus):
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    again = lhotse_list(dict(reversed(spoken.items())), corpus, 8)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert again == made["lhotse"][: len(again)]
    assert len(again) > 2


def test_hours_that_cannot_be_made_are_refused():
    rows = [{"num_samples": 3600 * RATE_HZ}] * 3
    assert len(prefix_lasting(rows, 1.9)) == 2
    with pytest.raises(InputError, match="3 mixtures last less than 4 hours"):
        prefix_lasting(rows, 4)


def test_our_mixtures_are_those_of_the_stage(folder, tmp_path):
    """What is planned in this process is what `hubbub simulate` commits."""
    recipe = simulating("ours", folder, 30)
    road = Road(replace(recipe, fit=()), Output(tmp_path))
    index_corpus(road)
    receipts = make_stale(plan_recipe(road.recipe, road.output).stage("conversations"), road.recipe, road.output)
    road.output.dataset("conversations").snapshot(receipts, {}, {})
    committed = {row["conversation_id"]: row["turns"] for row in road.rows("conversations")}
    planned = {row["conversation_id"]: row["turns"] for row in conversations_of(recipe).to_pylist()}
    assert planned == committed
    assert sum(name.startswith("train") for name in planned) == 30


@pytest.mark.parametrize("kind", ["lhotse", "general"])
def test_a_kinds_recipe_reads_every_mixture_of_its_list(kind, made, folder, corpus):
    (folder / kind).mkdir(exist_ok=True)
    (folder / "judge").mkdir(exist_ok=True)
    kinds.write_list(made[kind], folder / kind / kinds.LIST)
    recipe = load_recipe(str(kinds.write_recipe(kind, folder, corpus)))
    assert is_set(recipe)
    assert (recipe.name, recipe.compose.window_s, "window" in recipe.fit) == (kind, kinds.WINDOW_S, False)
    manifest = Manifest.parse(recipe.corpus.recorded[0])
    roots = corpus_roots([manifest, Manifest(path=corpus)])
    names = {path: name for name, path in roots.items()}
    read = LAYOUTS[recipe.corpus.layout].read
    table, bad = index_recorded([manifest], names, RATE_HZ, seed=0, test_share=0, read=lambda one: read(one, [corpus]))
    assert not bad
    assert table.num_rows == len(made[kind])
    assert set(table["split"].to_pylist()) == {"train"}
    lengths = {row["conversation_id"]: row["num_samples"] for row in made[kind]}
    assert dict(zip(table["conversation_id"].to_pylist(), table["num_samples"].to_pylist(), strict=True)) == lengths


def test_without_dyads_offsets_keep_their_distribution_and_partners_lose_their_correlation(tmp_path):
    casting = Casting(train_conversations=150, test_conversations=2, min_speakers=2, max_speakers=2, max_utterances=40)
    (tmp_path / "prior.json").write_text(without_dyads(prior_of("telephone")).to_json())
    found = {}
    for prior in ("telephone", str(tmp_path / "prior.json")):
        converse = Converse(prior=prior, min_turns=60, max_turns=60, max_duration_s=1e5)
        found[prior] = analyze_conversations(simulate(made_up(40, 60, seconds=3.0), casting, converse))
    ours, independent = found.values()
    assert figures(ours).partner_correlation > 0.35
    assert abs(figures(independent).partner_correlation) < 0.2
    levels = np.linspace(0.05, 0.95, 19)
    offsets = [np.quantile([v for one in side for v in values_of("offset", one)], levels) for side in found.values()]
    assert np.abs(offsets[0] - offsets[1]).max() < 0.12


def test_without_dyads_holds_are_as_frequent_as_over_all_conversations(tmp_path):
    """In the average conversation they are rarer: those with many holds have more of them."""
    casting = Casting(train_conversations=400, test_conversations=2, min_speakers=2, max_speakers=2, max_utterances=60)
    prior, shares = prior_of("meeting"), {}
    independent = without_dyads(prior)
    naive = replace(independent, hold_after=prior.hold_after)
    for name, values in {"ours": prior, "independent": independent, "naive": naive}.items():
        path = tmp_path / f"{name}.json"
        path.write_text(values.to_json())
        converse = Converse(prior=str(path), min_turns=60, max_turns=60, max_duration_s=1e6)
        made = simulate(made_up(40, 60, seconds=3.0), casting, converse)
        kinds_of = [turn["transition"] for turns in made["turns"].to_pylist() for turn in turns[1:]]
        shares[name] = kinds_of.count("hold") / len(kinds_of)
    assert shares["independent"] == pytest.approx(shares["ours"], abs=0.008)
    assert shares["naive"] < shares["ours"] - 0.015


def test_the_command_says_what_it_made(folder, made):
    said = mixtures.described(made["librimix"])
    assert said["turns_per_mixture"] == 2
    assert said["speech_hours"] > said["hours"]
    assert json.dumps(said)
