"""hubbub score and hubbub compare, from files to files."""

import json
import sys

import pytest

from operators.errors import InputError
from pipelines.cli import main
from pipelines.cli.score import compare, score

REFERENCE = "talk 1 ann 0.0 2.0 Good morning, Bob!\ntalk 1 bob 2.0 4.0 hello ann\nother 1 cid 0.0 1.0 yes\n"
HYPOTHESIS = [
    {"session_id": "talk", "speaker": "s0", "start_time": 0.1, "end_time": 2.0, "words": "good morning bob"},
    {"session_id": "talk", "speaker": "s1", "start_time": 2.0, "end_time": 4.0, "words": "hello an"},
    {"session_id": "other", "speaker": "s0", "start_time": 0.0, "end_time": 1.0, "words": "yes"},
]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ref.stm").write_text(REFERENCE)
    (tmp_path / "hyp.json").write_text(json.dumps(HYPOTHESIS))
    (tmp_path / "worse.json").write_text(json.dumps(HYPOTHESIS[:1] + HYPOTHESIS[2:]))
    return tmp_path


def test_any_system_is_scored_from_files(files, capsys):
    outputs = [f"--{kind}={files / 'out' / kind}" for kind in ("json", "markdown", "html")]
    score([str(files / "ref.stm"), str(files / "hyp.json"), *outputs, "--by", "num_speakers"])
    shown = capsys.readouterr().out
    assert "cpWER" in shown
    found = json.loads((files / "out/json").read_text())
    figures = {figure["measure"]: figure for figure in found["figures"]}
    assert figures["cpwer"]["value"] == pytest.approx(1 / 6)
    assert found["conditions"]["normalizer"] == "hubbub-basic-2"
    assert set(found["slices"]["num_speakers"]) == {"1", "2"}
    assert "| cpWER | 16.7% |" in (files / "out/markdown").read_text()
    assert "<sub>ann</sub>" in (files / "out/html").read_text()
    first = (files / "out/json").read_bytes()
    score([str(files / "ref.stm"), str(files / "hyp.json"), *outputs, "--by", "num_speakers"])
    assert (files / "out/json").read_bytes() == first


def test_two_systems_are_compared_from_files(files, capsys):
    arguments = [str(files / name) for name in ("ref.stm", "hyp.json", "worse.json")]
    compare([*arguments, f"--json={files / 'c.json'}", f"--markdown={files / 'c.md'}"])
    found = {one["measure"]: one for one in json.loads((files / "c.json").read_text())["differences"]}
    assert found["cpwer"]["difference"] == pytest.approx(-1 / 6)
    assert "A - B" in (files / "c.md").read_text()
    assert "permutation" not in capsys.readouterr().err


def test_regions_and_columns_come_from_files(files):
    (files / "a.uem").write_text("talk 1 0 2\nother 1 0 1\n")
    (files / "c.jsonl").write_text('{"session_id": "talk", "snr_db": 5}\n{"session_id": "other", "snr_db": 20}\n')
    common = [str(files / "ref.stm"), str(files / "hyp.json"), f"--json={files / 'o.json'}"]
    score([*common, "--uem", str(files / "a.uem"), "--columns", str(files / "c.jsonl"), "--by", "snr_db"])
    found = json.loads((files / "o.json").read_text())
    assert set(found["slices"]["snr_db"]) == {"above 0 to 5", "above 15 to 20"}
    assert {one["measure"]: one for one in found["figures"]}["der"]["base"] == pytest.approx(3.0)
    (files / "a.uem").write_text("talk 1 0 2\n")
    with pytest.raises(InputError, match="no region for session other"):
        score([*common, "--uem", str(files / "a.uem")])


def test_a_malformed_file_is_one_line_and_exit_code_2(files, monkeypatch, capsys):
    (files / "bad.stm").write_text("talk 1 ann zero 1 hello\n")
    monkeypatch.setattr(sys, "argv", ["hubbub", "score", str(files / "ref.stm"), str(files / "bad.stm")])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 2
    assert "bad.stm:1: 'zero' is no time" in capsys.readouterr().err
