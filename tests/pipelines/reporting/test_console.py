"""Progress without a terminal: a line now and then, with what is done, the rate and what is left."""

import re
import time

from pipelines.reporting import console
from tests.pipelines.support import messages


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(console, "FIRST_LOG_S", 0.05)
    monkeypatch.setattr(console, "LOG_EVERY_S", 0.2)
    with console.bar("train", 600) as bar:
        for step in (100, 200, 300):
            bar.to(step, f"{step} tokens/s")
            time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 8
    # Other tests leave them out by it.
    assert messages("\n".join([*lines, "error     a cause"])) == ["error     a cause"]
    for line in lines:
        assert re.fullmatch(r"train +[123]00 of 600, [123]00 tokens/s, \d s(, about \d+ s left)?", line), line
    time.sleep(0.3)
    assert capsys.readouterr().err == ""  # it ends with the stage


def test_a_short_stage_prints_none(capsys):
    with console.bar("pack", 2) as bar:
        bar.to(2)
    assert capsys.readouterr().err == ""
