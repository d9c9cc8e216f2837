"""What a user asks of a run afterwards: where from, what became of it, what it costs, what can go, how good it is."""

import json
import re
import shutil
import sqlite3

import pytest

from operators.store.dataset import Dataset
from tests.pipelines.support import hubbub, messages, roots

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


@pytest.fixture
def copy(undisturbed, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(undisturbed, output)
    return output


def kinds(node, way):
    found = {node["kind"]}
    for child in node.get(way, ()):
        found |= kinds(child, way)
    return found


def test_lineage_goes_forwards_from_a_manifest_to_what_was_judged(undisturbed, tmp_path):
    (evaluation,) = undisturbed.glob("evaluation/*")
    back = json.loads(hubbub("lineage", evaluation, "--json").stdout)
    node = back
    while node["from"]:
        node = node["from"][0] if node["kind"] != "evaluation" else next(c for c in node["from"] if c["from"])
    assert node["kind"].startswith("manifest")
    forth = json.loads(hubbub("lineage", node["id"][:16], "--forwards", "--output", undisturbed, "--json").stdout)
    assert forth["id"] == node["id"]
    assert {"utterances", "conversations", "codes", "packs", "checkpoint", "evaluation"} <= kinds(forth, "to")
    page = tmp_path / "graph.html"
    hubbub("lineage", evaluation, "--html", page)
    text = page.read_text()
    boxes = re.findall(r"<rect ", text)
    assert len(boxes) == len(set(re.findall(r"<h3>[^<]+<code>([0-9a-f]+)</code>", text))) >= 7


@pytest.mark.slow
def test_every_column_of_a_pack_is_traced_to_recordings(recipe, undisturbed):
    data = str(undisturbed / "data")
    talks = {row["conversation_id"]: row for row in Dataset(data, "conversations").read().to_pylist()}
    used = {row["utterance_id"]: row for row in Dataset(data, "utterances").read().to_pylist()}
    packs = Dataset(data, "packs").read().to_pylist()
    for pack in (packs[0], packs[-1]):
        rows = json.loads(hubbub("data", "trace", undisturbed, pack["pack_id"], "--json").stdout)
        for row in rows:
            turns = {turn["utterance_id"] for turn in talks[row["conversation"]]["turns"]}
            assert row["utterance"] in turns
            recording = used[row["utterance"]]
            assert row["speaker"] == recording["speaker"]
            assert row["recording"].endswith(recording["audio"])
            first, last = row["source_samples"]
            assert 0 <= first < last <= recording["source_num_samples"]
        # Every turn of every document is there, and where the whole window is heard, the whole of its recording.
        documents = {d["document_id"]: d for d in pack["documents"]}
        assert {row["document"] for row in rows} == set(documents)
        middle = pack["num_columns"] // 2
        halves = [
            json.loads(hubbub("data", "trace", undisturbed, pack["pack_id"], "--columns", a, b, "--json").stdout)
            for a, b in ((0, middle), (middle, pack["num_columns"]))
        ]

        def heard(some):
            found = {}
            for row in some:
                if row["kind"] == "audio":
                    key = row["document"], row["utterance"]
                    low, high = found.get(key, (10**9, 0))
                    found[key] = min(low, row["source_samples"][0]), max(high, row["source_samples"][1])
            return found

        assert heard(halves[0] + halves[1]) == heard(rows)
    done = hubbub("data", "trace", undisturbed, "nothing", check=False)
    assert (done.returncode, "there is no pack nothing" in done.stderr) == (2, True)


def test_a_plan_says_how_much_and_how_long(recipe, copy):
    plan = hubbub("plan", recipe, "--output", copy, "--pack.capacity", 300).stdout
    assert "MB" in plan
    assert re.search(r"time\s+about \d+ (s|min)", plan)
    fresh = hubbub("plan", recipe, "--output", copy).stdout
    assert "MB" not in fresh


@pytest.mark.slow
def test_gc_removes_what_no_kept_run_needs_and_only_when_told(recipe, copy):
    assert "everything here is needed" in hubbub("data", "gc", copy).stdout
    before = roots(copy)
    hubbub("train", recipe, "--output", copy, "--update", "--pack.capacity", 300, "--train.steps", 4)
    hubbub("run", recipe, "--output", copy, "--update")  # and back again
    assert roots(copy) == before
    assert "everything here is needed" in hubbub("data", "gc", copy).stdout  # the other training's, too
    files = {path for path in copy.rglob("*") if path.is_file()}
    shown = hubbub("data", "gc", copy, "--keep-trainings", 1).stdout
    assert "partition of packs" in shown
    assert "nothing was removed" in shown
    assert {path for path in copy.rglob("*") if path.is_file()} == files
    removed = hubbub("data", "gc", copy, "--keep-trainings", 1, "--yes").stdout
    assert "removed" in removed
    gone = files - {path for path in copy.rglob("*") if path.is_file()}
    assert {path.relative_to(copy).parts[0] for path in gone} == {"data", "checkpoints"}
    assert "everything here is needed" in hubbub("data", "gc", copy, "--keep-trainings", 1).stdout
    assert "verified" in hubbub("verify", recipe, "--output", copy).stdout
    assert hubbub("run", recipe, "--output", copy).stdout.count("(fresh)") == 6


@pytest.mark.slow
def test_a_sweep_shares_stages_and_nests_its_runs(recipe, copy):
    arguments = ("sweep", recipe, "--output", copy, "--grid", "train.lr=1e-3,4e-3", "--train.steps", 5)
    before = roots(copy)
    started = (copy / "journal.jsonl").read_text().count('"start"')
    done = hubbub(*arguments)
    assert "cpWER" in done.stdout
    stages = [json.loads(line) for line in (copy / "journal.jsonl").read_text().splitlines()]
    begun = [one["stage"] for one in stages if one["event"] == "start"][started:]
    assert begun == ["train", "evaluate"] * 2
    assert {name: root for name, root in roots(copy).items() if name != "hypotheses"} == {
        name: root for name, root in before.items() if name != "hypotheses"
    }
    table = json.loads((copy / "sweep.json").read_text())
    assert [one["values"]["train.lr"] for one in table] == ["1e-3", "4e-3"]
    best = min(table, key=lambda one: one["cpwer"])
    assert json.loads((copy / "recipe.json").read_text())["train"]["lr"] == float(best["values"]["train.lr"])
    database = sqlite3.connect(copy / "mlflow.db")
    parents = database.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'").fetchall()
    (sweep,) = database.execute("select run_uuid from tags where key = 'hubbub.sweep'").fetchone()
    assert len([run for run, parent in parents if parent == sweep]) == 2
    hubbub(*arguments)
    assert (copy / "journal.jsonl").read_text().count('"start"') == len(begun) + started
    refused = hubbub("sweep", recipe, "--output", copy, "--grid", "train.speed=1", check=False)
    assert (refused.returncode, "the recipe has no field train.speed" in refused.stderr) == (2, True)


def test_a_report_says_what_was_run_on_what_how_well_and_where_from(recipe, undisturbed, tmp_path):
    page = tmp_path / "report.html"
    hubbub("report", undisturbed, "--page", page, "--examples", 2)
    text = page.read_text()
    metrics = json.loads(next(undisturbed.glob("evaluation/*/metrics.json")).read_text())
    assert f"cpWER {metrics['trained']['cpwer']['row'][1]}" in text
    assert all(root[:12] in text for name, root in roots(undisturbed).items() if name != "hypotheses")
    assert text.count("<audio") == 2
    assert text.count("<polyline") == 6
    assert "<svg" in text
    assert re.search(r"From [\d.]+ min by \d+ speakers \(.*\): \d+ conversations", text)
    assert "no speaker is in both" in text
    assert "http" not in re.sub(r"data:audio/wav;base64,[^']+", "", text)  # it needs nothing from anywhere
    refused = hubbub("report", tmp_path, check=False)
    assert refused.returncode == 2


@pytest.mark.slow
def test_training_goes_on_from_the_last_checkpoint_when_the_corpus_grew(recipe, copy):
    (first,) = copy.glob("checkpoints/*/step-000120")
    grown = ("--casting.train-conversations", 16, "--update", "--train.start-from", "last", "--train.steps", 6)
    done = hubbub("train", recipe, "--output", copy, *grown)
    assert "checkpoint" in done.stdout
    (path,) = [path for path in copy.glob("checkpoints/*/step-000006") if path.parent != first.parent]
    started = json.loads((path / "checkpoint.json").read_text())["lineage"]["started_from"]
    assert started["path"] == str(first.absolute())
    assert started["step"] == 120
    assert json.loads(hubbub("lineage", path, "--json").stdout)["started_from"] == started
    curve = [json.loads(line)["loss"] for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    whole = [json.loads(line)["loss"] for line in (first.parent / "metrics.jsonl").read_text().splitlines()]
    assert curve[0] < whole[0] * 0.9
    # The same command again, with a newer checkpoint there: nothing to do.
    again = hubbub("train", recipe, "--output", copy, *grown)
    assert again.stdout.count("(fresh)") == 5
    refused = hubbub("train", recipe, "--output", copy, "--update", "--train.start-from", copy / "no", check=False)
    assert (refused.returncode, "there is no folder" in refused.stderr) == (2, True)
    refused = hubbub(
        "train",
        recipe,
        "--output",
        copy,
        "--update",
        "--train.start-from",
        first,
        "--compose.group",
        2,
        "--pack.capacity",
        512,
        check=False,
    )
    assert (refused.returncode, "was trained with a different vocabulary" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_a_checkpoint_becomes_one_version_of_a_registered_model(recipe, copy):
    database = copy / "mlflow.db"
    state = json.loads((copy / "mlflow_runs.json").read_text())
    (copy / "mlflow_runs.json").write_text(json.dumps({**state, "uri": f"sqlite:///{database}"}))
    for _ in range(2):
        hubbub("evaluate", recipe, "--output", copy, "--register", "talkers")
    rows = sqlite3.connect(database).execute("select name, version from model_versions").fetchall()
    assert rows == [("talkers", 1)]


def test_mlflow_finds_and_reads_our_data_sets(undisturbed):
    import mlflow.data
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{undisturbed}/mlflow.db")
    experiment = client.get_experiment_by_name("hubbub")
    inputs = [i for run in client.search_runs([experiment.experiment_id]) for i in run.inputs.dataset_inputs]
    assert {i.dataset.source_type for i in inputs} == {"hubbub"}
    named = {i.dataset.name: i for i in inputs}
    assert {"conversations", "codes", "packs"} <= named.keys()
    assert any(name.startswith("manifest") for name in named)
    table = mlflow.data.get_source(named["packs"]).load()
    assert table.num_rows == Dataset(str(undisturbed / "data"), "packs").read().num_rows


@pytest.mark.slow
def test_data_sets_that_are_half_gone_are_named_or_made_again(recipe, copy):
    before = roots(copy)
    for path in list((copy / "data/codes/partitions").glob("*.json"))[::2]:
        path.unlink()
    hubbub("pack", recipe, "--output", copy)
    assert roots(copy) == before
    gone = next((copy / "data/codes/partitions").glob("train*.arrow"))
    gone.unlink()
    refused = hubbub("verify", recipe, "--output", copy, check=False)
    assert (refused.returncode, f"{gone.name} is missing" in refused.stderr) == (2, True)
    refused = hubbub("pack", recipe, "--output", copy, "--update", "--pack.capacity", 300, check=False)
    assert refused.returncode == 2
    assert gone.name in refused.stderr
    assert len(messages(refused.stderr)) == 1


def test_object_storage_that_does_not_answer_is_named(recipe, tmp_path, monkeypatch):
    values = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    refused = hubbub("simulate", recipe, "--output", tmp_path / "out", "--store", "s3://nowhere/x", check=False)
    assert refused.returncode == 2
    assert "AWS_ENDPOINT_URL" in refused.stderr
    assert len(messages(refused.stderr)) == 1
