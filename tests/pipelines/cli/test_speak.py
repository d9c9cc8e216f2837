"""hubbub data speak, from texts to a corpus that a recipe takes, through a death in the middle."""

import importlib.util
import json
import os
import signal
import subprocess
import time

import pytest

from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest
from operators.corpus.voices.drawing import Part
from operators.errors import InputError
from pipelines.cli.data import data
from pipelines.upkeep.speak import _speak_all
from tests.pipelines.support import ROOT, command

HAS_ESPEAK = importlib.util.find_spec("espeakng_loader") is not None
needs_espeak = pytest.mark.skipif(not HAS_ESPEAK, reason="espeak-ng (extra `demo`) is not installed")
WORDS = ("river", "garden", "market", "forest", "kitchen", "school", "window", "bridge", "station", "mountain")


@pytest.fixture
def texts(tmp_path):
    lines = [f"we walked from the {one} to the {other}" for one in WORDS for other in WORDS if one != other]
    (tmp_path / "texts.txt").write_text("\n".join(["...", *lines]) + "\n")
    return tmp_path / "texts.txt"


def speak(texts, output, *options):
    return ["data", "speak", texts, "--voices", "espeak", "--hours", 0.02, "--output", output, *options]


def run(arguments):
    data([str(word) for word in arguments[1:]])


def rows(folder, name="manifest.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill_in_the_middle(arguments, output):
    """Start the program, and kill it with SIGKILL when a few files are there; return their number."""
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 100
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if (number := len(list(output.glob("audio/*/*.flac")))) > 10:
                os.kill(process.pid, signal.SIGKILL)  # the driver alone: its workers are left to notice
                return number
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    return 0


@needs_espeak
def test_a_run_that_was_killed_goes_on_to_the_bytes_of_one_that_was_not(texts, tmp_path, capsys):
    arguments = speak(texts, tmp_path / "killed", "--workers", 2)
    assert kill_in_the_middle(arguments, tmp_path / "killed")
    assert not (tmp_path / "killed" / "manifest.jsonl").exists()
    run(arguments)
    run(speak(texts, tmp_path / "whole", "--workers", 1))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert "real-time factor" in capsys.readouterr().out
    found = rows(tmp_path / "whole")
    assert rows(tmp_path / "whole", "quarantine.jsonl") == [{"row_id": "texts.txt:1", "reason": "it holds no word"}]
    spoken_s = {row["speaker"]: 0.0 for row in found}
    for row in found:
        spoken_s[row["speaker"]] += row["duration"]
    assert len(spoken_s) == 40
    assert all(1.8 <= one < 1.8 + 5.0 for one in spoken_s.values())
    utterances, bad = index_utterances([Manifest.parse(str(tmp_path / "whole"))])
    assert bad == []
    assert utterances.num_rows == len(found)
    sides = {split: {row["speaker"] for row in found if row["split"] == split} for split in ("train", "test")}
    assert sides["train"]
    assert sides["test"]
    assert not sides["train"] & sides["test"]

    before = files(tmp_path / "whole")
    run([*speak(texts, tmp_path / "whole", "--workers", 1), "--hours", 0.06])  # of two values the last counts
    assert all(files(tmp_path / "whole")[name] == content for name, content in before.items() if name.endswith(".flac"))
    assert len(rows(tmp_path / "whole")) > len(found)
    with pytest.raises(InputError, match="name a new folder"):
        run(speak(texts, tmp_path / "whole", "--seed", 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--voices", "sam"], "there is no synthesizer 'sam'"),
        (["--voices", "espeak,espeak"], "names espeak twice"),
        (["--voices", "kokoro"], "kokoro needs its folder"),
        (["--weights", "flite=2"], "--weights names flite"),
        (["--weights", "espeak"], "no NAME=NUMBER"),
        (["--hours", "0"], "--hours is 0"),
        (["--test-share", "1"], "--test-share is 1"),
        (["--mixtures", "3"], "there are 0 pairs"),
    ],
)
@needs_espeak
def test_what_cannot_be_used_is_refused_before_anything_is_written(texts, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(speak(texts, tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


@needs_espeak
def test_a_folder_with_another_corpus_is_left_alone(texts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="holds another corpus"):
        run(speak(texts, tmp_path / "out"))
    assert (tmp_path / "out" / "manifest.jsonl").read_text() == "{}\n"


def test_a_worker_that_fails_ends_the_run_with_its_reason(tmp_path):
    parts = [Part("sam", f"voice{number}", "train", ("hello",), 1.0) for number in range(3)]
    with pytest.raises(RuntimeError, match=r"the worker that spoke sam-voice\d ended: .*there is no synthesizer 'sam'"):
        _speak_all(parts, tmp_path, 2, lambda spoken_s: None)
