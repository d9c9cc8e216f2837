"""Rooms, stems and recorded conversations on the whole road: any number of workers, a killed one, and exports."""

import filecmp
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time

import numpy as np
import psutil
import pytest

from tests.conftest import write_corpus
from tests.operators.corpus.test_recorded import write_call
from tests.pipelines.run.test_road import arrow_files
from tests.pipelines.support import ROOT, command, hubbub, roots, write_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
SOUND = (
    "--place.room",
    "simulated",
    "--place.num-microphones",
    2,
    "--render.keep-audio",
    "--render.stems",
    "both",
    "--encode.stems",
)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    calls = [f"{split}={write_call(folder / split, name=f'{split}-call')}" for split in ("train", "test")]
    recipe = write_recipe(folder / "recipe.yaml", write_corpus(folder / "corpus"))
    return (recipe, *SOUND, "--corpus.recorded", *calls)


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    hubbub("pack", *arguments, "--output", output, "--workers", 2)
    return output


@pytest.mark.parametrize("workers", [1, 4])
def test_conversations_audio_and_codes_are_the_same_bytes_for_any_number_of_workers(
    arguments, undisturbed, tmp_path, workers
):
    hubbub("tokenize", *arguments, "--output", tmp_path / "out", "--workers", workers)
    for name in ("recordings", "conversations", "audio", "codes"):
        one, two = arrow_files(tmp_path / "out", name), arrow_files(undisturbed, name)
        assert one.keys() == two.keys()
        assert all(filecmp.cmp(one[file], two[file], shallow=False) for file in one)


def test_a_killed_worker_changes_nothing(arguments, undisturbed, tmp_path):
    output = tmp_path / "out"
    process = subprocess.Popen(
        command("tokenize", *arguments, "--output", output, "--workers", 2),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    killed = 0
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline and not killed:
        if any((output / "data/conversations/partitions").glob("*.json")):
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    if "MakePartitions" in " ".join(child.cmdline()):  # at work; the others are Ray's own
                        os.kill(child.pid, signal.SIGKILL)
                        killed += 1
                except (psutil.NoSuchProcess, ProcessLookupError):
                    pass
        time.sleep(0.005)
    said, _ = process.communicate(timeout=200)
    assert killed, said
    assert process.returncode == 0, said
    made = roots(output)
    assert made == {name: root for name, root in roots(undisturbed).items() if name in made}


def test_recorded_conversations_are_packed_apart_to_be_mixed_by_weight(undisturbed):
    snapshot = json.loads(max((undisturbed / "data/packs/snapshots").glob("*.json")).read_text())
    names = {receipt["partition_id"] for receipt in snapshot["receipts"]}
    assert {"train-asr-00000", "train-recorded-asr-00000", "train-recorded-continue-00000"} <= names


def test_exports_load_in_lhotse_and_score_nothing_against_themselves(undisturbed, tmp_path):
    import meeteval
    from lhotse import CutSet, SupervisionSet

    hubbub("data", "export", undisturbed, tmp_path / "cuts")
    hubbub("data", "export", undisturbed, tmp_path / "shar", "--format", "shar", "--split", "test")
    cuts = CutSet.from_file(tmp_path / "cuts/cuts.jsonl.gz")
    assert len(cuts) == 18
    reference, hypothesis = [], []
    for cut in cuts:
        wav = cut.load_audio()
        assert wav.shape[1] == cut.num_samples
        assert np.abs(wav).max() > 0.01
        for segment in cut.supervisions:
            assert segment.end <= cut.duration + 1e-6
            for words in (reference, hypothesis):
                words.append(
                    {
                        "session_id": cut.id,
                        "speaker": segment.speaker,
                        "start_time": segment.start,
                        "end_time": segment.end,
                        "words": segment.text,
                    }
                )
    errors = meeteval.wer.combine_error_rates(
        meeteval.wer.cpwer(meeteval.io.SegLST(reference), meeteval.io.SegLST(hypothesis))
    )
    assert errors.error_rate == 0
    assert errors.length > 30
    supervisions = SupervisionSet.from_file(tmp_path / "cuts/supervisions.jsonl.gz")
    assert len(supervisions) == sum(len(cut.supervisions) for cut in cuts)
    shards = CutSet.from_shar(in_dir=tmp_path / "shar")
    for cut in shards:
        same = next(one for one in cuts if one.id == cut.id)
        assert np.array_equal(cut.load_audio(), same.load_audio()[:1])
        assert cut.supervisions[0].text == same.supervisions[0].text


def test_a_scorecard_goes_to_the_run_that_simulated(undisturbed):
    done = hubbub("data", "score", undisturbed)
    assert "the scorecard is with the run" in done.stdout
    database = sqlite3.connect(undisturbed / "mlflow.db")
    metrics = dict(database.execute("select key, value from metrics where key like 'scorecard.%'"))
    assert 0 < metrics["scorecard.ks_offset"] < 1
    assert "realism.ks_offset" in {key for (key,) in database.execute("select key from metrics")}
    assert list(undisturbed.glob("mlartifacts/**/scorecard.html"))


def test_another_layout_and_other_tasks_use_the_same_codes_and_lineage_says_so(arguments, undisturbed, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(undisturbed, output)
    before = roots(output)
    other = (
        "--compose.layout",
        "flat",
        "--compose.group",
        1,
        "--compose.window-s",
        3,
        "--compose.tasks",
        "continue",
        "asr_fifo",
    )
    wide = ("--pack.capacity", 65_536, "--corpus.max-bad-share", 0.5)
    done = hubbub("pack", *arguments, *other, *wide, "--output", output, "--workers", 2, "--update")
    assert "codes" in "".join(line for line in done.stdout.splitlines() if "(fresh)" in line)
    after = roots(output)
    assert after["codes"] == before["codes"]
    assert after["packs"] != before["packs"]
    assert after["codes"] in hubbub("lineage", after["packs"], "--output", output, "--json").stdout
    numbers = sorted((output / "data/packs/snapshots").glob("*.json"))
    assert len({json.loads(path.read_text())["inputs"]["codes"] for path in numbers}) == 1
