"""Real speech, codecs and encoders, on the whole road: run by `make test-slow`."""

import json
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import write_corpus
from tests.models.support import save_small_whisper
from tests.pipelines.support import (
    ROOT,
    command,
    hubbub,
    kill_in,
    losses,
    roots,
    write_recipe,
)

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]

SHORT = [
    "--casting.train-conversations",
    "40",
    "--casting.test-conversations",
    "6",
    "--partitions.conversations-per-partition",
    "12",
    "--train.steps",
    "20",
    "--train.checkpoint-every",
    "10",
    "--evaluate.max-tokens",
    "60",
]


@pytest.mark.parametrize("name", ["speechocean762", pytest.param("fsdd", marks=pytest.mark.nightly)])
def test_the_road_runs_on_real_speech(shared, tmp_path, name):
    recipe = {"speechocean762": "speechocean", "fsdd": "fsdd"}[name]
    manifest = shared / "data" / name
    output = tmp_path / "out"
    done = hubbub("run", recipe, "--corpus.manifests", manifest, "--output", output, *SHORT)
    assert "cpWER" in done.stdout
    assert ("SHARES 6 speakers" in done.stdout) == (name == "fsdd")
    (metrics,) = output.glob("evaluation/*/metrics.json")
    assert json.loads(metrics.read_text())["trained"]["cpwer"]["base"] > 10
    assert "verified" in hubbub("verify", recipe, "--output", output).stdout


@pytest.mark.nightly  # the codec and the layout have tests of their own
def test_the_road_runs_with_a_neural_codec_and_the_delay_layout(shared, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="codec lyra's runtime (extra `lyra`) is not installed")
    output = tmp_path / "out"
    lyra = (
        "--encode.codec lyra --compose.layout delay --compose.group 1 --compose.tasks asr continue --pack.capacity 2048"
    )
    weights = ("--encode.weights", shared / "data/lyra_v2", "--corpus.manifests", shared / "data/speechocean762")
    hubbub("run", "speechocean", "--output", output, *SHORT, *lyra.split(), *weights)
    (folder,) = output.glob("checkpoints/*/step-000020")
    assert json.loads((folder / "checkpoint.json").read_text())["codec"]["name"] == "lyra"


def test_the_road_runs_with_a_continuous_front_end(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.WavLMConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    transformers.WavLMModel(config).save_pretrained(tmp_path / "encoder")
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    heard = (
        "--encode.codec",
        "pcm",
        "--compose.group",
        1,
        "--compose.tasks",
        "asr",
        "--train.steps",
        12,
        "--model.encoder",
        tmp_path / "encoder",
        "--model.encoder-rank",
        2,
        "--model.projector",
        "queries",
    )
    done = hubbub("run", recipe, "--output", tmp_path / "out", *heard)
    assert "cpWER" in done.stdout
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]
    refused = hubbub("run", recipe, "--output", tmp_path / "no", "--encode.codec", "pcm", check=False)
    assert (refused.returncode, "--model.encoder FOLDER" in refused.stderr) == (2, True)


def test_features_are_the_same_after_a_kill_and_with_any_number_of_workers(tmp_path):
    """Killed while features are made, then while training reads them; and once more with one worker, never killed."""
    pytest.importorskip("transformers")
    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus"))
    heard = ("--encode.codec", "pcm", "--compose.group", 1, "--compose.tasks", "asr", "--train.steps", 60)
    heard += ("--model.encoder", save_small_whisper(tmp_path / "encoder"), "--features.store", "int8")
    arguments = ("run", recipe, *heard, "--partitions.conversations-per-partition", 2)
    plain, cut = tmp_path / "plain", tmp_path / "cut"
    hubbub(*arguments, "--output", plain, "--workers", 1)
    made = plain / "data/features/partitions"
    assert 4 <= len(list(made.glob("*.json"))) < len(list((plain / "data/codes/partitions").glob("*.json")))

    with_features = [*command(*arguments), "--output", str(cut), "--workers", "2"]
    process = subprocess.Popen(with_features, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any(cut.glob("data/features/partitions/*.json")) and process.poll() is None:
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert not list(cut.glob("data/features/snapshots/*"))  # killed before all were there
    assert kill_in("train", (*arguments, "--output", cut, "--workers", 2), cut)
    done = hubbub(*arguments, "--output", cut, "--workers", 2)
    assert "cpWER" in done.stdout
    assert roots(cut) == roots(plain)
    assert losses(cut) == losses(plain)
    assert losses(cut)[-1] < losses(cut)[0]


def test_cpwer_while_training_decides_which_checkpoint_is_evaluated(tmp_path):
    from models.training.metrics import ValidationRecord, best_steps, read_records

    recipe = write_recipe(tmp_path / "recipe.yaml", write_corpus(tmp_path / "corpus", num_speakers=9))
    output = tmp_path / "out"
    validated = ("--casting.validation-conversations", 3, "--casting.validation-speakers", 0.3)
    judged = ("--train.validate-every", 40, "--train.validate-conversations", 2, "--train.best-by", "cpwer")
    kept = ("--train.keep-best", 1, "--train.keep-checkpoints", 1, "--evaluate.checkpoint", "best")
    done = hubbub("run", recipe, "--output", output, "--train-workers", 2, *validated, *judged, *kept)
    (folder,) = output.glob("checkpoints/*")
    found = read_records(folder / "validation.jsonl", ValidationRecord)
    assert [one.step for one in found] == [40, 80, 120]
    assert all(one.cpwer is not None and one.cpwer > 0 for one in found)
    (best,) = best_steps([(one.step, one.cpwer) for one in found], 1)
    (scored,) = output.glob("evaluation/*/metrics.json")
    assert Path(json.loads(scored.read_text())["trained"]["checkpoint"]).name == f"step-{best:06d}"
    assert f"cpWER {found[-1].cpwer:.1%}" in done.stdout + done.stderr
    curve = sqlite3.connect(output / "mlflow.db").execute("select step from metrics where key = 'validation.cpwer'")
    assert sorted(step for (step,) in curve) == [40, 80, 120]
