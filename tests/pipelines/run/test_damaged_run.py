"""A finished run of which something is damaged: it is named with the way out, and made again on request."""

import os
import shutil
from pathlib import Path

import pytest

from operators.errors import InputError
from pipelines.inspect.lineage import chain
from pipelines.inspect.plan import show
from pipelines.plan.output import Output
from pipelines.plan.start import decide
from pipelines.recipes.files import recipe_of
from pipelines.reporting.run_state import read_state
from pipelines.stages import plan_recipe
from pipelines.upkeep.gc import collect
from pipelines.upkeep.verify import verify
from tests.pipelines.support import hubbub, roots


@pytest.fixture
def copy(undisturbed, tmp_path):
    return Path(shutil.copytree(undisturbed, tmp_path / "copy"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def bytes_of(folder, pattern):
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob(pattern)}


READERS = {
    "recipe.json": recipe_of,
    "data/utterances/partitions/*.json": lambda folder: show(recipe_of(folder), Output(folder), 1),
    "data/packs/snapshots/000001.json": lambda folder: collect(folder, 1000, False),
    "evaluation/*/metrics.json": lambda folder: chain("packs", [Output(folder)]),
    "checkpoints/*/step-000120/checkpoint.json": lambda folder: show(recipe_of(folder), Output(folder), 1),
    "checkpoints/*/start.json": lambda folder: decide(recipe_of(folder), next(folder.glob("checkpoints/*")), None),
}


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b'{"steps": 1'])
@pytest.mark.parametrize("pattern", READERS)
def test_a_json_file_that_was_emptied_or_cut_is_named_in_one_line(copy, pattern, data):
    path = next(copy.glob(pattern))
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        READERS[pattern](copy)
    text = str(caught.value)
    assert str(path.parent) in text
    assert "\n" not in text
    assert "damaged" in text


def test_an_emptied_tracking_state_is_said_and_begun_anew(copy, capsys):
    (copy / "mlflow_runs.json").write_bytes(b"")
    assert read_state(copy) == {}
    assert "mlflow_runs.json is damaged" in " ".join(capsys.readouterr().out.split())


def test_a_recipe_that_no_run_wrote_is_not_used(copy):
    path = copy / "recipe.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match=r"damaged or was edited: .* --update"):
        recipe_of(copy)


@pytest.mark.parametrize(
    "pattern",
    [
        "data/utterances/partitions/*.arrow",
        "data/hypotheses/partitions/*.json",
        "data/codes/snapshots/000001.json",
        "checkpoints/*/step-000120/model.safetensors",
        "checkpoints/*/step-000060/loader.json",
        "evaluation/*/metrics.json",
        "recipe.json",
    ],
)
def test_verify_finds_a_flipped_bit_in_everything_that_a_run_keeps(copy, pattern):
    verify(copy)
    path = next(copy.glob(pattern))
    flip(path)
    with pytest.raises(InputError) as caught:
        verify(copy)
    assert path.name in str(caught.value)


@pytest.mark.slow
def test_repair_brings_the_same_bytes_back(recipe, copy):
    patterns = ("data/*/partitions/*.arrow", "checkpoints/*/step-*/*.safetensors")
    before, known = {p: bytes_of(copy, p) for p in patterns}, roots(copy)
    for name in ("utterances", "conversations", "codes", "packs"):
        flip(next((copy / "data" / name / "partitions").glob("*.arrow")))
    next((copy / "data/codes/partitions").glob("test*.json")).write_bytes(b"")
    flip(next(copy.glob("checkpoints/*/step-000120/model.safetensors")))
    flip(next(copy.glob("checkpoints/*/step-000000/model.safetensors")))
    said = hubbub("data", "verify", copy, "--repair", "--workers", 2).stdout
    assert "repaired" in said
    assert {p: bytes_of(copy, p) for p in patterns} == before
    assert roots(copy) == known
    assert len(list((copy / "damaged").rglob("*.arrow"))) >= 4
    assert hubbub("run", recipe, "--output", copy).stdout.count("(fresh)") == 6


@pytest.mark.parametrize("spelling", ["absolute", "relative", "dotted", "link", "moved"])
def test_gc_offers_nothing_that_is_needed_however_the_folder_is_spelled(undisturbed, tmp_path, monkeypatch, spelling):
    folder = Path(shutil.copytree(undisturbed, tmp_path / "out"))
    made = folder / "corpus" / "stories-0123456789ab"
    made.mkdir(parents=True)
    monkeypatch.setattr("pipelines.upkeep.gc.made_corpus", lambda *_: tmp_path.absolute() / "out/corpus" / made.name)
    monkeypatch.chdir(tmp_path)
    os.symlink(folder, tmp_path / "link")
    spelled = {"absolute": folder, "relative": Path("out"), "dotted": Path("./x/../out"), "link": Path("link")}
    (tmp_path / "x").mkdir()
    if spelling == "moved":
        folder.rename(tmp_path / "moved")
    where = spelled.get(spelling, Path("moved"))
    assert collect(where, 1000, True) == []
    plan = plan_recipe(recipe_of(where), Output(where))
    assert not [stage.name for stage in plan.stages if stage.stale]
