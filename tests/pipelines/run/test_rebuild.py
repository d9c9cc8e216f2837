"""What a change makes anew: exactly the partitions that depend on it, and in the end what a clean build makes."""

import dataclasses
import json
import os

import numpy as np
import pytest
import soundfile

from operators.corpus import cast
from operators.corpus.cast import Casting
from operators.corpus.index import index_utterances, tell_apart
from operators.corpus.manifest import Manifest
from operators.corpus.splits import split_rows
from operators.documents.compose import Compose
from operators.errors import InputError
from operators.packing.pack import Pack
from operators.schema import UTTERANCES
from operators.simulate import render
from operators.store.shards import PackShards
from operators.tokenize import encode
from pipelines.plan.output import Output
from pipelines.plan.start import newest_checkpoint
from pipelines.recipes.files import to_json
from pipelines.recipes.recipe import Corpus, Partitions, Recipe
from pipelines.stages import plan_recipe
from pipelines.stages.index import index_partition
from pipelines.upkeep.impact import impact
from tests.conftest import write_corpus
from tests.pipelines.support import make_stale

NAMES = ("conversations", "codes", "packs")


def recipe_for(manifest, **changes):
    made = Recipe(
        name="test",
        corpus=Corpus(manifests=(str(manifest),)),
        casting=Casting(
            train_conversations=24,
            test_conversations=4,
            max_speakers=2,
            max_utterances=3,
            test_speakers=0.25,
            speakers_per_cohort=4,
        ),
        compose=Compose(group=4, window_s=12.0),
        pack=Pack(capacity=256),
        partitions=Partitions(conversations_per_partition=3),
    )
    return dataclasses.replace(made, **changes)


def build(recipe, folder):
    """Make what is stale, in this process; return what each stage made, and the Merkle roots."""
    output = Output(folder)
    utterances = output.dataset("utterances")
    partition = index_partition(recipe, output)
    if utterances.committed(partition) is None:
        manifests = [Manifest.parse(text) for text in recipe.corpus.manifests]
        table, bad = index_utterances(manifests)
        table, _ = tell_apart(table, manifests, recipe.corpus.shared_speakers)
        assert not bad
        utterances.commit(partition, UTTERANCES, {}, lambda writer: writer.write(table))
    utterances.snapshot([utterances.committed(partition)], {}, {})
    made, merkle = {}, {}
    for name in NAMES:
        stage = plan_recipe(recipe, output).stage(name)
        made[name] = {p.partition_id for p in stage.stale}
        make_stale(stage, recipe, output)
        dataset = output.dataset(name)
        merkle[name] = dataset.snapshot([dataset.committed(p) for p in stage.partitions], {}, {}).merkle_root
    return made, merkle


def casts_of(recipe, folder):
    """Who is cast in which partition of conversations, and with which utterances."""
    stage = plan_recipe(recipe, Output(folder)).stage("conversations")
    table = Output(folder).dataset("utterances").read()
    ids, speakers = table["utterance_id"].to_pylist(), table["speaker"].to_pylist()
    return {
        p.partition_id: {(ids[row], speakers[row]) for one in stage.payloads[p.partition_id].casts for row in one.rows}
        for p in stage.partitions
    }


def packs_of(partitions):
    return {name.replace("train-", "train-asr-") for name in partitions if name.startswith("train-")}


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", num_speakers=12)


def check(recipe, folder, expected, clean):
    """A rebuild makes what is expected of each stage, once, and ends where a clean build does."""
    made, merkle = build(recipe, folder)
    assert made == expected
    assert build(recipe, folder)[0] == {name: set() for name in NAMES}
    assert merkle == build(recipe, clean)[1]
    return merkle


def test_one_gain_of_rendering(corpus, tmp_path):
    recipe = recipe_for(corpus)
    everything, before = build(recipe, tmp_path / "out")
    assert [len(everything[name]) for name in NAMES] == [10, 10, 8]
    louder = dataclasses.replace(recipe, render=dataclasses.replace(recipe.render, level_dbfs=-20.0))
    expected = {"conversations": set(), "codes": everything["codes"], "packs": everything["packs"]}
    after = check(louder, tmp_path / "out", expected, tmp_path / "clean")
    assert after["conversations"] == before["conversations"]
    # And back again: what was made before is still there.
    assert build(recipe, tmp_path / "out") == ({name: set() for name in NAMES}, before)


def test_one_gain_of_speakers(corpus, tmp_path):
    recipe = recipe_for(corpus)
    everything, _ = build(recipe, tmp_path / "out")
    other = dataclasses.replace(recipe, converse=dataclasses.replace(recipe.converse, speaker_gain_sd_db=4.0))
    check(other, tmp_path / "out", everything, tmp_path / "clean")


def test_one_utterance_recorded_again(corpus, tmp_path):
    recipe = recipe_for(corpus)
    everything, _ = build(recipe, tmp_path / "out")
    casts = casts_of(recipe, tmp_path / "out")
    used = {one for pairs in casts.values() for one in pairs}
    # One that some partitions use, and most do not.
    name, _ = min(used, key=lambda pair: (sum(pair in pairs for pairs in casts.values()), pair))
    touched = {part for part, pairs in casts.items() if any(one == name for one, _ in pairs)}
    assert 0 < len(touched) < len(everything["conversations"]) / 2
    path = corpus.parent / f"wav/{name}.wav"
    path.touch()  # written again as it was: nothing that follows from it is stale
    assert build(recipe, tmp_path / "out")[0] == {name: set() for name in NAMES}
    wav, rate_hz = soundfile.read(path)
    soundfile.write(path, np.roll(wav, 50), rate_hz, subtype="PCM_16")
    expected = {"conversations": touched, "codes": touched, "packs": packs_of(touched)}
    check(recipe, tmp_path / "out", expected, tmp_path / "clean")


def test_one_version_of_an_operator(corpus, tmp_path, monkeypatch):
    recipe = recipe_for(corpus)
    everything, before = build(recipe, tmp_path / "out")
    monkeypatch.setattr(encode.Encode, "version", "next")
    expected = {"conversations": set(), "codes": everything["codes"], "packs": everything["packs"]}
    after = check(recipe, tmp_path / "out", expected, tmp_path / "clean")
    assert after["codes"] == before["codes"]  # the same bytes; that it had to be tried is what a version says
    monkeypatch.setattr(render.Render, "version", "next")
    check(recipe, tmp_path / "out", expected, tmp_path / "clean-2")


def test_another_codec(corpus, tmp_path):
    pytest.importorskip("sklearn", reason="k-means (extra `codecs`) is not installed")
    from pipelines.upkeep.units import make_units

    recipe = recipe_for(corpus)
    everything, before = build(recipe, tmp_path / "out")
    make_units([str(corpus)], tmp_path / "units", {"kind": "mel"}, 12, 1.0, 0)
    units = dataclasses.replace(recipe.encode, codec="units", weights=str(tmp_path / "units"))
    other = dataclasses.replace(recipe, encode=units, compose=dataclasses.replace(recipe.compose, group=1))
    other = dataclasses.replace(other, pack=dataclasses.replace(recipe.pack, capacity=1400))
    expected = {"conversations": set(), "codes": everything["codes"], "packs": everything["packs"]}
    after = check(other, tmp_path / "out", expected, tmp_path / "clean")
    assert after["codes"] != before["codes"]


def rewritten(manifest, keep):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows if keep(row["speaker"])))


def assigned(recipe, folder):
    """Each partition's conversations: who speaks in them, and with which rows."""
    table = Output(folder).dataset("utterances").read()
    splits = split_rows(table, recipe.casting, recipe.seed)
    ids = table["utterance_id"].to_pylist()
    casts = cast.plan_casts(table, splits, recipe.casting, recipe.seed)
    size, found, seen = recipe.partitions.conversations_per_partition, {}, {}
    for one in casts:
        number = seen[one.split] = seen.get(one.split, -1) + 1
        name = f"{one.split}-{number // size:05d}"
        found.setdefault(name, []).append((one.speakers, [ids[row] for row in one.rows]))
    return found


def test_a_person_is_found_by_the_manifests_id_or_by_the_corpus_too(tmp_path):
    manifests = []
    for name in ("one", "two"):
        manifests.append(write_corpus(tmp_path / name, num_speakers=8))
        manifests[-1].write_text(manifests[-1].read_text().replace('"id": "', f'"id": "{name}-'))
    manifests[1].write_text(manifests[1].read_text().replace('"s7"', '"t7"'))
    recipe = recipe_for(manifests[0])
    recipe = dataclasses.replace(recipe, corpus=Corpus(manifests=tuple(str(m.parent) for m in manifests)))
    build(recipe, tmp_path / "out")
    (tmp_path / "out/recipe.json").write_text(to_json(recipe))
    for asked, name in (("s7", "s7"), ("t7", "t7"), ("s1@two", "s1@two")):
        found = impact(tmp_path / "out", asked)
        assert found["speaker"] == name
        assert found["datasets"][0]["rows"] == 5
    with pytest.raises(InputError, match=r"s1 is several people in .*: name one of s1@one, s1@two"):
        impact(tmp_path / "out", "s1")


def test_the_validation_split_is_packed_like_training_and_apart_from_it(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", num_speakers=12)
    recipe = recipe_for(corpus)
    casting = dataclasses.replace(recipe.casting, validation_conversations=4, validation_speakers=0.2)
    made, _ = build(dataclasses.replace(recipe, casting=casting), tmp_path / "out")
    assert {"validation-00000", "validation-00001"} <= made["conversations"] & made["codes"]
    assert {"validation-asr-00000", "validation-asr-00001"} <= made["packs"]
    packs = Output(tmp_path / "out").dataset("packs")
    held_out = PackShards(packs, packs.latest(), split="validation")
    trained = PackShards(packs, packs.latest())
    assert len(held_out) + len(trained) == packs.latest().num_rows
    rows = {row["pack_id"]: row["documents"] for row in packs.read().to_pylist()}
    for shards, split in ((held_out, "validation"), (trained, "train")):
        ids = [d["conversation_id"] for i in range(len(shards)) for d in rows[shards[i].pack_id]]
        assert ids
        assert {name.split("-")[0] for name in ids} == {split}
    plan = plan_recipe(dataclasses.replace(recipe, casting=casting), Output(tmp_path / "out"))
    (training,) = plan.stage("training").partitions
    assert not [name for name in training.depends["packs"] if name.startswith("validation")]
    hypotheses = plan.stage("hypotheses").partitions
    assert {p.partition_id.split("-", 1)[1] for p in hypotheses} == {"asr-test-00000", "asr-test-00001"}


@pytest.mark.parametrize("first", ["without", "with"])
def test_a_speaker_added_or_withdrawn(tmp_path, first):
    corpus = write_corpus(tmp_path / "corpus", num_speakers=12)
    whole = corpus.read_text()
    rows = [
        {**json.loads(line), "split": "test" if json.loads(line)["speaker"] in ("s1", "s2") else "train"}
        for line in whole.splitlines()
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = corpus.read_text()
    recipe = recipe_for(corpus)
    if first == "without":
        rewritten(corpus, lambda speaker: speaker != "s7")
    build(recipe, tmp_path / "out")
    before = assigned(recipe, tmp_path / "out")
    if first == "without":
        corpus.write_text(whole)
    else:
        rewritten(corpus, lambda speaker: speaker != "s7")
    build(recipe, tmp_path / "clean")
    after = assigned(recipe, tmp_path / "clean")
    touched = {name for name in after if after[name] != before[name]}
    holds = after if first == "without" else before
    assert touched == {name for name in holds if any("s7" in speakers for speakers, _ in holds[name])}
    assert 0 < len(touched) < len(after)
    expected = {"conversations": touched, "codes": touched, "packs": packs_of(touched)}
    check(recipe, tmp_path / "out", expected, tmp_path / "clean-2")


def test_the_last_step_of_a_training_is_known_by_its_number_though_the_clock_goes_back(tmp_path):
    for time_s, name in ((3000, "a/step-000100"), (1000, "a/step-000200"), (2000, "b/step-000050")):
        header = tmp_path / "checkpoints" / name / "checkpoint.json"
        header.parent.mkdir(parents=True)
        header.touch()
        os.utime(header, (time_s, time_s))
    assert newest_checkpoint(tmp_path / "checkpoints/a").name == "step-000200"
    assert newest_checkpoint(tmp_path).parts[-2:] == ("b", "step-000050")  # of two trainings, the newer one
    assert newest_checkpoint(tmp_path / "checkpoints/b/step-000050").name == "step-000050"
