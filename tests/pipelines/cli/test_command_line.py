"""What a user can mend is one line that names it, exit code 2, and no traceback."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from cluster.session import ROOT
from tests.pipelines.support import hubbub, messages, write_recipe


@pytest.fixture
def recipe(corpus, tmp_path):
    return write_recipe(tmp_path / "recipe.yaml", corpus)


def refuses(*arguments):
    done = hubbub(*arguments, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def one_line(text):
    assert len(messages(text)) == 1, text
    return text


def test_help_needs_no_work():
    assert "hubbub run demo" in hubbub("--help").stdout
    out = hubbub("run", "demo", "--help").stdout
    assert "--train.steps" in out
    assert "--corpus.manifests" in out


def test_what_only_asks_does_without_torch():
    """It costs a second to import; recipes, plans, lineage and help have no use for it."""
    modules = "pipelines.__main__, pipelines.inspect.plan, pipelines.inspect.lineage"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_unknown_verbs_recipes_and_keys_name_the_nearest(tmp_path):
    assert "did you mean run" in one_line(refuses("runn", "demo"))
    assert "did you mean demo" in one_line(refuses("run", "demos"))
    assert "--train.steps" in refuses("run", "demo", "--train.stepps", "3")
    path = tmp_path / "r.yaml"
    path.write_text("train: {stepps: 3}")
    assert "did you mean steps" in one_line(refuses("run", path))


def test_numbers_of_training_workers_are_checked_before_anything_is_made(recipe, tmp_path, monkeypatch):
    run = ("run", recipe, "--output", tmp_path / "out")
    error = one_line(refuses(*run, "--train-workers", 2, "--min-train-workers", 3))
    assert "--min-train-workers 3 must be between 0 and --train-workers 2" in error
    monkeypatch.setenv("HUBBUB_RESIZE_EVERY_S", "soon")
    assert "HUBBUB_RESIZE_EVERY_S is 'soon'" in one_line(refuses(*run))
    assert not (tmp_path / "out").exists()


def test_a_missing_or_empty_manifest_is_named(tmp_path):
    path = write_recipe(tmp_path / "r.yaml", tmp_path / "nowhere.jsonl")
    assert "nowhere.jsonl does not exist" in one_line(refuses("run", path, "--output", tmp_path / "out"))
    (tmp_path / "nowhere.jsonl").write_text("")
    assert "nowhere.jsonl is empty" in one_line(refuses("run", path, "--output", tmp_path / "out"))


def test_a_missing_recording_stops_the_run_before_it_starts_and_says_the_way_on(recipe, corpus, tmp_path):
    (corpus.parent / "wav/s1-2.wav").unlink()
    error = one_line(refuses("run", recipe, "--output", tmp_path / "out"))
    assert "s1-2.wav" in error
    assert "--corpus.max-bad-share 0.03" in error
    assert json.loads((tmp_path / "out/quarantine.jsonl").read_text())["row_id"] == "s1-2"
    assert not (tmp_path / "out/data/utterances").exists()


def test_a_truncated_flac_stops_the_run_before_it_starts(recipe, corpus, tmp_path):
    path = corpus.parent / "wav/s1-2.wav"
    soundfile.write(path.with_suffix(".flac"), np.random.default_rng(0).normal(0, 0.1, 60_000), 16_000)
    whole = path.with_suffix(".flac").read_bytes()
    path.with_suffix(".flac").write_bytes(whole[: len(whole) // 2])
    text = corpus.read_text().replace("wav/s1-2.wav", "wav/s1-2.flac").replace('"duration"', '"seconds"')
    corpus.write_text(text)
    assert "truncated" in one_line(refuses("run", recipe, "--output", tmp_path / "out"))


def test_a_speaker_with_one_utterance_is_named(recipe, corpus, tmp_path):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows[4:]))
    error = one_line(refuses("run", recipe, "--output", tmp_path / "out"))
    assert "speaker s0 has 1 utterance(s), fewer than 2" in error
    assert "--corpus.min-utterances-per-speaker" in error


def test_plan_starts_nothing_and_says_what_would_run(recipe, tmp_path):
    out = hubbub("plan", recipe, "--output", tmp_path / "out").stdout
    assert "1 manifest files would be read" in out
    assert "30 rows: 30 are used" in out
    assert not (tmp_path / "out").exists()


def test_the_resolved_recipe_can_be_printed(recipe):
    printed = json.loads(hubbub("run", recipe, "--train.steps", "9", "--print-recipe").stdout)
    assert printed["train"]["steps"] == 9
    assert printed["casting"]["train_conversations"] == 12


def test_transcribe_names_what_is_missing(tmp_path, corpus):
    assert "no checkpoint at" in one_line(
        refuses("transcribe", corpus.parent / "wav/s0-0.wav", "--checkpoint", tmp_path)
    )


def test_servers_that_do_not_answer_are_named_at_once(recipe, tmp_path, monkeypatch):
    error = one_line(refuses("run", recipe, "--output", tmp_path / "out", "--ray-address", "127.0.0.1:1"))
    assert "no Ray cluster answers at 127.0.0.1:1" in error
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    error = one_line(refuses("run", recipe, "--output", tmp_path / "other"))
    assert "no MLflow server answers at http://127.0.0.1:1" in error


def test_lineage_of_nothing_is_named(tmp_path):
    assert "nothing in" in one_line(refuses("lineage", "abcdef", "--output", tmp_path))


def test_verify_of_nothing_is_named(tmp_path):
    assert "holds no data sets" in one_line(refuses("verify", "tiny", "--output", tmp_path))


def test_doctor_says_what_will_be_used_and_why():
    out = hubbub("doctor").stdout
    assert "attention loop" in out
    assert "used: " in out
    assert "sqlite" in out


def test_what_can_be_known_before_work_starts_is_said_then(recipe, tmp_path):
    output = tmp_path / "o"
    for arguments, said in (
        (("--encode.stems",), "encode.stems encodes what --render.stems makes"),
        (("--place.room", "recorded", "--place.rirs", "/nowhere"), "/nowhere does not exist"),
    ):
        assert said in refuses("run", recipe, *arguments, "--output", output)
    assert not output.exists()
    assert "is not sK=FILE" in refuses("speak", "[s0] hi", "--voices", "ann.wav")


def test_licences_that_may_not_be_used_stop_a_run_before_work(recipe, tmp_path):
    output = tmp_path / "o"
    common = ("run", recipe, "--output", output, "--corpus.licence", "CC-BY-NC-4.0")
    said = one_line(refuses(*common, "--corpus.allow-licences", "CC0-1.0", "CC-BY-4.0"))
    assert "of 30 utterances 30 have CC-BY-NC-4.0; corpus.allow_licences allows CC0-1.0, CC-BY-4.0" in said
    assert not (output / "data/conversations").exists()


def test_a_task_about_what_the_corpus_does_not_tell_stops_a_run_before_work(recipe, tmp_path):
    output = tmp_path / "o"
    said = one_line(refuses("run", recipe, "--output", output, "--compose.tasks", "asr", "asr_language"))
    assert "compose.tasks: asr_language needs the language of utterances, which no row of the corpus tells" in said
    assert "--corpus.language" in said
    assert not (output / "data/conversations").exists()
