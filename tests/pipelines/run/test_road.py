"""The whole road in processes of their own: the same bytes for any number of workers, and after any kill."""

import filecmp
import json
import re
import shutil
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest

from operators.digest import digest_file
from tests.conftest import write_corpus
from tests.pipelines.support import hubbub, kill_in, losses, messages, roots, write_recipe

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
STAGES = ("index", "simulate", "tokenize", "pack", "train", "evaluate")


def arrow_files(output, name):
    return {path.name: path for path in (Path(output) / "data" / name / "partitions").glob("*.arrow")}


def test_one_worker_and_two_give_byte_identical_shards(recipe, undisturbed, tmp_path):
    hubbub("pack", recipe, "--output", tmp_path / "one", "--workers", 1)
    for name in ("utterances", "conversations", "codes", "packs"):
        one, two = arrow_files(tmp_path / "one", name), arrow_files(undisturbed, name)
        assert one.keys() == two.keys()
        assert len(one) >= (1 if name == "utterances" else 3)
        assert all(filecmp.cmp(one[file], two[file], shallow=False) for file in one)
    two_workers = roots(undisturbed)
    assert roots(tmp_path / "one") == {name: two_workers[name] for name in roots(tmp_path / "one")}


def test_a_shard_opens_with_plain_pyarrow_and_its_manifest_checks_out(undisturbed):
    snapshot = json.loads((undisturbed / "data/packs/snapshots/000001.json").read_text())
    for receipt in snapshot["receipts"]:
        path = undisturbed / f"data/packs/partitions/{receipt['partition_id']}-{receipt['key']}.arrow"
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        assert table.num_rows == receipt["num_rows"]
        assert digest_file(path) == receipt["content_digest"]
        assert json.loads(table.schema.metadata[b"hubbub.codec"])["name"] == "dmel"
    assert "verified" in hubbub("verify", "tiny", "--output", undisturbed).stdout


def test_the_same_command_again_finds_everything_done(recipe, undisturbed):
    before = roots(undisturbed)
    journal = (undisturbed / "journal.jsonl").read_text()
    done = hubbub("run", recipe, "--output", undisturbed, "--workers", 2)
    assert done.stdout.count("(fresh)") == 6
    assert roots(undisturbed) == before
    assert (undisturbed / "journal.jsonl").read_text() == journal
    plan = hubbub("plan", recipe, "--output", undisturbed).stdout
    assert plan.count("fresh") == 6
    assert "stale" in plan


@pytest.mark.slow
def test_killed_in_every_stage_the_result_is_that_of_a_run_never_stopped(recipe, undisturbed, tmp_path):
    output = tmp_path / "out"
    arguments = ("run", recipe, "--output", output, "--workers", 2)
    killed = {stage: kill_in(stage, arguments, output) for stage in STAGES}
    assert killed == dict.fromkeys(STAGES, True)
    assert 30 < len(losses(output)) <= 120
    hubbub(*arguments)
    assert roots(output) == roots(undisturbed)
    assert losses(output) == losses(undisturbed)
    assert "verified" in hubbub("verify", "tiny", "--output", output).stdout

    # One parent run and one child a stage, the same ids after six kills, all finished.
    database = sqlite3.connect(output / "mlflow.db")
    runs = dict(database.execute("select run_uuid, status from runs"))
    parents = dict(database.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
    assert len(runs) == 1 + len(STAGES)
    assert set(runs.values()) == {"FINISHED"}
    assert len(set(parents.values())) == 1
    curve = database.execute("select step from metrics where key = 'loss' order by step").fetchall()
    assert [step for (step,) in curve] == list(range(1, 121))


def test_impact_finds_a_voice_in_data_sets_checkpoints_and_the_first_step_that_heard_it(recipe, undisturbed):
    from models.training.order import Stream
    from operators.store.dataset import Dataset
    from operators.store.shards import PackShards
    from pipelines.recipes.files import load_recipe

    data = str(undisturbed / "data")
    rows = Dataset(data, "conversations").read().to_pylist()
    trained_on = sorted({s for row in rows if row["split"] == "train" for s in row["speakers"]})
    shards = PackShards(Dataset(data, "packs"), Dataset(data, "packs").latest())
    documents = Dataset(data, "packs").read()["documents"].to_pylist()  # in the order of the shards
    config = load_recipe(str(recipe)).train
    stream = Stream(shards.components, 0, config.mixture, config.packs_per_step, config.steps)
    for speaker in trained_on[:2]:
        found = json.loads(hubbub("data", "impact", undisturbed, "--speaker", speaker, "--json").stdout)
        talks = {row["conversation_id"] for row in rows if speaker in row["speakers"]}
        counted = {one["dataset"]: one["rows"] for one in found["datasets"]}
        assert counted["utterances"] == 5
        assert counted["conversations"] == counted["codes"] == len(talks)
        (training,) = found["trainings"]
        heard = [
            step
            for step in range(1, 121)
            for p in range((step - 1) * 2, step * 2)
            if any(one["conversation_id"] in talks for one in documents[stream.at(p)])
        ]
        assert training["first_step"] == heard[0]
        assert all(int(name[-6:]) >= heard[0] for name in training["checkpoints"])
        assert any(name.endswith("step-000120") for name in training["checkpoints"])
        assert found["figures"][0]["checkpoint"].endswith("step-000120")
    done = hubbub("data", "impact", undisturbed, "--speaker", "nobody", check=False)
    assert (done.returncode, "has no speaker nobody" in done.stderr) == (2, True)


def test_packers_are_compared_without_packing_anything(recipe, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy")
    before = roots(tmp_path / "copy")
    done = hubbub("pack", recipe, "--output", tmp_path / "copy", "--compare")
    rows = {row["packer"]: row for row in json.loads((tmp_path / "copy/packers.json").read_text())}
    assert "over bound" in done.stdout
    assert rows["best_fit"]["cut_documents"] == 0 < rows["end to end, cut at borders"]["cut_documents"]
    assert rows["best_fit"]["fill"] > rows["buckets"]["fill"] > rows["single"]["fill"]
    assert rows["histogram, counts only"]["packs"] == rows["best_fit, all at once"]["packs"]
    assert roots(tmp_path / "copy") == before


@pytest.mark.slow
def test_the_mixture_is_the_trainers_and_packs_are_not_made_again(recipe, undisturbed, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(undisturbed, output)
    short = ("--output", output, "--workers", 2, "--update", "--train.steps", 6)
    done = hubbub("train", recipe, *short, "--train.mixture", "asr=3,continue=1", "4:asr=1")
    assert done.stdout.count("(fresh)") == 4
    assert roots(output) == roots(undisturbed)
    refused = hubbub("train", recipe, *short, "--train.mixture", "asrr=1", check=False)
    assert refused.returncode == 2
    assert "train.mixture names 'asrr', which is no task of compose.tasks (asr, continue)" in refused.stderr


def test_another_recipe_does_not_write_into_the_same_folder_unless_told(recipe, undisturbed, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(undisturbed, output)
    changed = ("pack", recipe, "--output", output, "--workers", 2, "--pack.capacity", 300)
    refused = hubbub(*changed, check=False)
    assert refused.returncode == 2
    assert "belongs to another recipe (pack.capacity: 256 -> 300)" in refused.stderr
    plan = hubbub("plan", recipe, "--output", output, "--pack.capacity", 300).stdout
    assert "pack.capacity 256 -> 300 (6)" in plan
    done = hubbub(*changed, "--update")
    assert done.stdout.count("(fresh)") == 3
    before, after = roots(undisturbed), roots(output)
    assert {name for name in after if after[name] != before[name]} == {"packs"}


def test_lineage_leads_from_the_checkpoint_to_the_manifests(recipe, undisturbed):
    (folder,) = undisturbed.glob("checkpoints/*/step-000120")
    chain = json.loads(hubbub("lineage", folder, "--json").stdout)
    assert chain["kind"] == "checkpoint"
    assert chain["id"] == digest_file(folder / "model.safetensors")
    assert chain["seed"] == 0
    assert chain["recipe_digest"]
    assert chain["code"].keys() & {"commit", "tree"}
    names, node = [], chain
    while node["from"]:
        node = node["from"][0]
        names.append(node["kind"])
    assert names == ["packs", "codes", "conversations", "utterances", "manifest manifest.jsonl"]
    assert node["id"] == digest_file(Path(recipe).parent / "corpus/manifest.jsonl")
    by_run = json.loads(hubbub("lineage", chain["mlflow_run"], "--output", undisturbed, "--json").stdout)
    assert by_run["id"] == chain["id"]
    by_root = json.loads(hubbub("lineage", roots(undisturbed)["codes"][:12], "--output", undisturbed, "--json").stdout)
    assert by_root["kind"] == "codes"
    assert "packs" in hubbub("lineage", "packs", "--output", undisturbed).stdout
    (evaluation,) = undisturbed.glob("evaluation/*")
    judged = json.loads(hubbub("lineage", evaluation, "--json").stdout)
    assert chain["id"] in [source["id"] for source in judged["from"]]


def test_mlflow_holds_the_same_edges(undisturbed):
    database = sqlite3.connect(undisturbed / "mlflow.db")
    digests = dict(database.execute("select name, digest from datasets"))
    expected = roots(undisturbed)
    assert {name: digests[name] for name in ("codes", "packs")} == {n: expected[n][:32] for n in ("codes", "packs")}
    tags = dict(database.execute("select key, value from tags where key like 'hubbub.%'"))
    recipe_digest = json.loads(Path(next(undisturbed.glob("checkpoints/*/step-000120/checkpoint.json"))).read_text())
    assert tags["hubbub.recipe_digest"] == recipe_digest["lineage"]["recipe_digest"]
    speeds = "select name, value from metrics join runs using (run_uuid) where key = 'audio_hours_per_s'"
    assert dict(database.execute(speeds))["tokenize"] > 0
    assert tags["hubbub.output.packs"] == expected["packs"]
    assert "hubbub.code.commit" in tags or "hubbub.code.tree" in tags
    models = database.execute("select name from logged_models").fetchall()
    assert ("test-step-120",) in models
    places = {place for (place,) in database.execute("select artifact_uri from runs")}
    assert all(place.startswith((undisturbed / "mlartifacts").as_uri()) for place in places)
    assert list((undisturbed / "mlartifacts").rglob("recipe.json"))
    inputs = database.execute("select source_type, destination_type from inputs").fetchall()
    assert ("DATASET", "RUN") in inputs
    assert any("MODEL" in kind for pair in inputs for kind in pair)
    params = dict(database.execute("select key, value from params"))
    assert params["train.steps"] == "120"
    metrics = dict(database.execute("select key, value from latest_metrics"))
    (scored,) = undisturbed.glob("evaluation/*/metrics.json")
    baselines = json.loads(scored.read_text())["baselines"]
    assert metrics["no-speakers.cpwer"] == baselines["no-speakers"]["measures"]["cpwer"]["rate"]


def test_a_kill_between_the_work_and_its_record_is_made_good(recipe, undisturbed, tmp_path):
    from models.config.intact import read_json, sealed

    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    path = output / "mlflow_runs.json"
    state = read_json(path, "")
    state |= {"finished": False, "uri": f"sqlite:///{output}/mlflow.db"}
    state["stages"]["pack"]["finished"] = state["stages"]["train"]["finished"] = False
    path.write_bytes(sealed(state))
    database = sqlite3.connect(output / "mlflow.db")
    opened = [state["parent"], state["stages"]["pack"]["run_id"], state["stages"]["train"]["run_id"]]
    with database:
        database.executemany("update runs set status = 'RUNNING' where run_uuid = ?", [(run,) for run in opened])
    hubbub("run", recipe, "--output", output)
    assert set(database.execute("select status from runs").fetchall()) == {("FINISHED",)}
    assert len(database.execute("select run_uuid from runs").fetchall()) == 7
    assert json.loads(path.read_text())["finished"]
    assert roots(output) == roots(undisturbed)


@pytest.mark.slow
def test_a_node_without_memory_is_named_and_not_tried_for_ever(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    refused = hubbub("simulate", recipe, "--output", tmp_path / "out", check=False)
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    assert re.search(r"the memory of node [\d.]+ ran out, each time .*--workers 1", messages(refused.stderr)[-1])
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.99")
    hubbub("simulate", recipe, "--output", tmp_path / "out")


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_one_line(recipe, undisturbed, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    # The largest values that are allowed: each step multiplies the weights by -9,999.
    grows = ("--train.lr", 100, "--train.weight-decay", 100, "--train.warmup-steps", 0)
    refused = hubbub("train", recipe, "--output", output, "--update", *grows, check=False)
    assert refused.returncode == 2, refused.stderr
    assert re.search(r"the (loss|norm of the gradient) is (nan|inf) at step \d+, in packs train-", refused.stderr)
    assert len(messages(refused.stderr)) == 1


def test_a_checkpoint_is_judged_by_recipes_that_fit_it(recipe, undisturbed, tmp_path):
    import shutil

    (folder,) = undisturbed.glob("checkpoints/*/step-000120")
    refused = hubbub(
        "evaluate",
        recipe,
        "--output",
        tmp_path / "a",
        "--checkpoint",
        folder,
        "--compose.group",
        2,
        "--pack.capacity",
        512,
        check=False,
    )
    assert refused.returncode == 2
    assert "was trained with layout parallel 4, but the recipe has parallel 2" in refused.stderr
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    done = hubbub("evaluate", recipe, "--output", output, "--checkpoint", folder)
    (own,) = undisturbed.glob("evaluation/*/metrics.json")
    judged = [
        json.loads(path.read_text())
        for path in output.glob("evaluation/*/metrics.json")
        if path.parent.name != own.parent.name
    ]
    assert "cpWER" in done.stdout
    assert judged[0]["trained"]["cpwer"] == json.loads(own.read_text())["trained"]["cpwer"]


def test_transcribe_says_who_said_what(undisturbed, recipe, tmp_path):
    wav = Path(recipe).parent / "corpus/wav/s0-4.wav"
    asked = ("--checkpoint", undisturbed, "--max-tokens", 20)
    done = hubbub("transcribe", wav, *asked)
    assert all(line.startswith("[s") for line in done.stdout.splitlines())
    assert re.search(r"s0-4.wav: [\d.]+ s of audio in [\d.]+ s, [\d.]+ of real time", done.stderr)
    assert re.search(r"was trained on \d+ different words", done.stderr)
    other = wav.with_name("s0-3.wav")
    hubbub("transcribe", wav, other, *asked, "--format", "seglst", "--output", tmp_path / "said")
    assert sorted(path.name for path in (tmp_path / "said").iterdir()) == ["s0-3.seglst.json", "s0-4.seglst.json"]
    turns = json.loads((tmp_path / "said/s0-4.seglst.json").read_text())
    assert [f"[{turn['speaker']}] {turn['words']}" for turn in turns] == done.stdout.splitlines()
    refused = hubbub("transcribe", wav, *asked, "--format", "srt", check=False)
    assert (refused.returncode, "--format srt needs times" in refused.stderr) == (2, True)
    refused = hubbub("transcribe", wav, tmp_path / "none.wav", *asked, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"there is no file {tmp_path / 'none.wav'}" in refused.stderr
    refused = hubbub("transcribe", wav, wav, *asked, "--output", tmp_path, check=False)
    assert (refused.returncode, "would both be written to" in refused.stderr) == (2, True)


def test_two_runs_in_one_folder_do_not_meet(recipe, undisturbed):
    import fcntl

    with open(undisturbed / ".lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = hubbub("run", recipe, "--output", undisturbed, check=False)
    assert refused.returncode == 2
    assert "another run (process" in refused.stderr


def test_truth_files_are_written_on_request(recipe, undisturbed):
    hubbub("simulate", recipe, "--output", undisturbed, "--truth", "rttm", "stm", "seglst")
    names = {path.name for path in (undisturbed / "truth").iterdir()}
    assert names == {f"{split}.{kind}" for split in ("train", "test") for kind in ("rttm", "stm", "seglst.json")}


@pytest.mark.slow
def test_audio_that_turns_out_unusable_is_quarantined_and_nothing_made_is_lost(tmp_path):
    """NaN cannot be seen in a header: it is met when the conversation is mixed."""
    import numpy as np
    import soundfile

    manifest = write_corpus(tmp_path / "corpus")
    for path in sorted((tmp_path / "corpus/wav").glob("s3-*.wav")):
        wav, rate_hz = soundfile.read(path)
        wav[10] = np.nan
        soundfile.write(path, wav, rate_hz, subtype="FLOAT")
    recipe, output = write_recipe(tmp_path / "recipe.yaml", manifest), tmp_path / "out"
    refused = hubbub("tokenize", recipe, "--output", output, "--workers", 2, check=False)
    assert refused.returncode == 2
    assert "contains NaN or infinity" in refused.stderr
    assert "--corpus.max-bad-share" in refused.stderr
    made = set(arrow_files(output, "codes"))
    bad = [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()]
    assert bad
    assert all("NaN" in row["reason"] for row in bad)

    done = hubbub("tokenize", recipe, "--output", output, "--workers", 2, "--update", "--corpus.max-bad-share", 1.0)
    assert f"{len(bad)} quarantined" in done.stdout
    assert set(arrow_files(output, "codes")) == made
    snapshot = json.loads((output / "data/codes/snapshots/000001.json").read_text())
    assert sum(len(receipt["quarantined"]) for receipt in snapshot["receipts"]) == len(bad)
