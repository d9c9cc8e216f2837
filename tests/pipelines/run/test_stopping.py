"""SIGTERM and SIGINT end a run within seconds, with their exit codes; the same command goes on to the same results."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.pipelines.support import ROOT, command, hubbub, in_the_middle, losses, roots

MOST_S = 15.0


def processes_of(session):
    """Processes of a session that are not dead."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8") as file:
                state = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[3]) == session and state[0] != "Z":
            found.append(int(name))
    return found


def stop_in(stage, number, arguments, output):
    """Run the program and send it a signal in a stage; return its exit code, the seconds to its end, and its output."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of what ignores it would ignore it too
    journal = output / "journal.jsonl"
    seen = len(journal.read_text().splitlines()) if journal.exists() else 0
    process = subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and time.monotonic() < deadline:
            lines = journal.read_text().splitlines()[seen:] if journal.exists() else []
            events = [json.loads(line) for line in lines]
            begun = any((event["stage"], event["event"]) == (stage, "start") for event in events)
            if begun and (stage != "train" or in_the_middle("train", output)):
                break
            time.sleep(0.05)
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.5)
        sent = time.monotonic()
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        took_s = time.monotonic() - sent
        while processes_of(process.pid) and time.monotonic() < sent + MOST_S:
            time.sleep(0.2)
        assert processes_of(process.pid) == []
        return process.returncode, took_s, said
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.ray
def test_sigterm_and_sigint_end_a_run_cleanly_and_the_same_command_goes_on(recipe, undisturbed, tmp_path):
    output = tmp_path / "out"
    run = ("run", recipe, "--output", output, "--workers", 2)
    # More steps than are waited for: the signal comes in the midst of them.
    for stage, number, more in (
        ("simulate", signal.SIGTERM, ()),
        ("train", signal.SIGINT, ("--update", "--train.steps", 5000)),
        ("train", signal.SIGTERM, ("--update", "--train.steps", 6000)),
    ):
        code, took_s, said = stop_in(stage, number, (*run, *more), output)
        assert code == 128 + number, said
        assert took_s < MOST_S
        assert "stopped; run the same command again to continue" in said
        assert "Traceback" not in said
        assert "received at" not in said  # Ray's dump of stacks
        last = json.loads((output / "journal.jsonl").read_text().splitlines()[-1])
        assert (last["stage"], last["event"]) == (stage, "stopped")
    hubbub(*run, "--update")
    assert roots(output)["packs"] == roots(undisturbed)["packs"]
    (folder,) = {path.parent for path in undisturbed.glob("checkpoints/*/metrics.jsonl")}
    kept = [json.loads(line)["loss"] for line in (output / "checkpoints" / folder.name / "metrics.jsonl").open()]
    assert kept == losses(undisturbed)
