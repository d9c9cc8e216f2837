"""Features of a speech encoder, made once: what training reads of them is what the encoder makes in the step."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.sequence.batch import collate
from models.speech_lm.model import SpeechLM
from operators.errors import InputError
from operators.store.shards import PackShards
from operators.tokenize.features import Hear
from pipelines.inspect.listen import _packs
from pipelines.plan.header import header_of
from pipelines.plan.output import Output
from pipelines.recipes.check import check_recipe
from pipelines.stages import plan_recipe
from tests.golden.fingerprints import Road, index_corpus, recipe_of, write_corpus
from tests.models.support import save_small_whisper
from tests.pipelines.support import hearing, make_stale

pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")
TOLERANCE = {"float32": (2e-6, 1e-4), "float16": (5e-4, 5e-3), "int8": (1 / 254, 6e-2)}
"""Of a value, relative to the largest of its channel in the stretch; and of the projector's gradient, by its norm. The
small encoder's channels are nearly constant, so that rounding takes more of what changes in them than it would."""


def make(road, *names):
    """Make data sets and their snapshots; return the newest."""
    for name in names:
        stage, dataset = plan_recipe(road.recipe, road.output).stage(name), road.output.dataset(name)
        make_stale(stage, road.recipe, road.output)
        made = dataset.snapshot([dataset.committed(p) for p in stage.partitions], {}, {})
    return made


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """A function that makes the packs of a recipe with an encoder, all below one folder; the road, and its packs."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(1)
    encoder = save_small_whisper(folder / "encoder")
    plain = recipe_of(*write_corpus(folder / "corpus"))

    def packs(store, **model):
        road = Road(hearing(encoder, store, **model)(plain), Output(folder / "out"))
        if not (folder / "out").exists():
            index_corpus(road)
            make(road, "conversations", "codes")
        newest = make(road, *(["features"] if store != "none" else []), "packs")
        return road, PackShards(road.output.dataset("packs"), newest)

    return packs


def gradients(model, batch):
    model.zero_grad()
    loss = model(batch).total
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


SUMMED = {"encoder_layers": (0, 2), "encoder_mix": "sum", "projector": "queries"}


@pytest.mark.parametrize(
    ("store", "options"), [("float32", {}), ("float16", {}), ("int8", {}), ("float16", SUMMED), ("int8", SUMMED)]
)
def test_training_on_features_is_training_with_the_encoder_in_the_step(heard, store, options):
    (road, cached), (_, computed) = heard(store, **options), heard("none", **options)
    assert len(cached) == len(computed) > 3
    header = header_of(road.recipe, {})
    model = SpeechLM(header.shape, header.vocabulary).initialize(0)
    bound, slope_bound = TOLERANCE[store]
    for index in range(0, len(cached), 2):
        mine, theirs = collate([cached[index]], cached.grid), collate([computed[index]], computed.grid)
        assert torch.equal(mine.text, theirs.text)
        assert torch.equal(mine.audio_columns, theirs.audio_columns)
        assert mine.audio.shape == (len(theirs.audio), 0)
        with torch.no_grad():
            sound = torch.from_numpy(np.ascontiguousarray(theirs.audio.numpy())).float().sub(1 << 15).div(32768.0)
            parts = torch.split(sound, list(mine.feature_columns))
            real = [states.flatten(1) for states in model.front_end.hearing([part.reshape(-1) for part in parts])]
        kept = torch.split(mine.features.float(), [4 * n for n in mine.feature_columns])
        for number, (stored, expected) in enumerate(zip(kept, real, strict=True)):
            scale = 1.0 if store != "int8" else mine.feature_scales[number]
            off = (stored * scale - expected).abs().amax(dim=0)
            assert (off <= bound * expected.abs().amax(dim=0) * 1.01 + 2e-6).all()
        (loss, slopes), (their_loss, their_slopes) = gradients(model, mine), gradients(model, theirs)
        assert loss == pytest.approx(their_loss, rel=max(1e-5, bound))
        assert slopes.keys() == their_slopes.keys()
        for name, slope in their_slopes.items():
            if name.startswith(("front_end.projector", "front_end.mix")):
                error = (slopes[name] - slope).norm() / slope.norm()
                assert error < slope_bound, name


def test_a_stretch_is_encoded_once_whatever_tasks_hold_it(heard):
    road, cached = heard("float32")
    rows = road.output.dataset("features").read().drop_columns(["values", "scales"]).to_pylist()
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    assert any(row["channel"] > 0 for row in rows)  # asr_target's voice samples are enrolments
    assert any(row["channel"] == 0 and row["start_frame"] > 0 for row in rows)  # later windows
    held = sum(int((cached[index].segments[:, 0] == 1).sum()) for index in range(len(cached)))
    assert held > len(rows)  # asr and asr_timed hold the same windows
    assert not any(bytes(cached[index].codes) for index in range(len(cached)))
    named = {one["partition_id"] for one in json.loads(cached.metadata["hubbub.features"])}
    assert named <= {p.partition_id for p in plan_recipe(road.recipe, road.output).stage("features").partitions}
    assert not any(name.startswith("test-") for name in named)


class Killed(BaseException):
    """As a process that is killed: nothing of ours catches it."""


def test_killed_and_resumed_the_bytes_are_those_of_a_run_never_stopped(heard, tmp_path, monkeypatch):
    road, _ = heard("int8")
    whole = {r.partition_id: r.content_digest for r in road.output.dataset("features").latest().receipts}
    shutil.copytree(road.output.folder, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/data/features")
    again = Road(road.recipe, Output(tmp_path / "out"))
    encoded, real = [], Hear.__call__

    def dies(self, batch):
        if len(encoded) == 1:
            raise Killed
        encoded.append(batch.num_rows)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Hear, "__call__", dies)
        with pytest.raises(Killed):
            make(again, "features")
    planned = plan_recipe(again.recipe, again.output).stage("features")
    assert 0 < len(planned.stale) < len(planned.partitions)  # what was committed is not made again
    newest = make(again, "features")
    assert {r.partition_id: r.content_digest for r in newest.receipts} == whole


def test_batches_and_shares_of_ranks_hold_the_same_features_however_they_are_cut(heard):
    _, cached = heard("int8")
    packs = [cached[index] for index in range(4)]
    together = collate(packs, cached.grid)
    apart = [collate([pack], cached.grid) for pack in packs]
    assert torch.equal(together.features, torch.cat([batch.features for batch in apart]))
    assert torch.equal(together.feature_scales, torch.cat([batch.feature_scales for batch in apart]))
    assert together.feature_columns == tuple(n for batch in apart for n in batch.feature_columns)
    assert together.features.dtype == torch.int8  # restored on the model's device, not before


def keys(road, recipe, *names):
    plan = plan_recipe(recipe, road.output)
    return {name: {p.key for p in plan.stage(name).partitions} for name in names}


def test_features_are_made_again_where_the_encoder_or_the_windows_are_others_and_nowhere_else(heard, tmp_path):
    road, _ = heard("float16")
    base, names = road.recipe, ("codes", "features", "packs")
    before = keys(road, base, *names)

    def stale(section, **values):
        changed = replace(base, **{section: replace(getattr(base, section), **values)})
        after = keys(road, changed, *names)
        return {name for name in names if after[name] != before[name]}

    torch.manual_seed(5)
    other = save_small_whisper(tmp_path / "other")
    after = {"features", "packs"}
    assert stale("model", encoder=other) == after
    assert stale("model", encoder_layers=(1,)) == after
    assert stale("model", encoder_window="full") == after
    assert stale("features", store="int8") == after
    assert stale("compose", window_s=5.0) == after
    assert stale("compose", text="raw") == {"packs"}
    assert stale("compose", tasks=("asr", "asr_target")) == {"packs"}
    assert stale("features", batch_s=7.0) == set()
    assert stale("features", device="cuda") == set()
    assert stale("model", projector="queries") == stale("train", lr=0.1) == set()
    moved = shutil.copytree(base.model.encoder, tmp_path / "moved")
    assert stale("model", encoder=str(moved)) == set()  # by its weights, not its name


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("model", {"encoder_rank": 2}, r"model\.encoder_rank trains the encoder"),
        ("train", {"hide_spans": 1}, r"train\.hide_spans hides"),
        ("compose", {"deduplicate": True}, r"compose\.deduplicate leaves out"),
    ],
)
def test_what_changes_features_in_every_step_is_refused(heard, section, values, said):
    road, _ = heard("float16")
    recipe = replace(road.recipe, **{section: replace(getattr(road.recipe, section), **values)})
    with pytest.raises(InputError, match=said):
        check_recipe(recipe)
    check_recipe(road.recipe)
    with pytest.raises(InputError, match=r"--model\.encoder FOLDER"):
        check_recipe(replace(recipe_of(Path("a"), Path("b")), features=road.recipe.features))


def test_the_sound_of_packs_of_features_is_with_the_codes(heard):
    road, _ = heard("float16")
    with pytest.raises(InputError, match="--dataset codes"):
        next(_packs(road.output, road.recipe.encode.loaded, road.recipe.compose.loaded_tokenizer, ()))
