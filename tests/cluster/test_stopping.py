"""Signals end the program with the exit codes of shells, by way of what cleans up after Ctrl-C."""

import signal
import subprocess
import sys

import pytest

from cluster.session import ROOT

PROGRAM = """
import contextlib, signal, sys, time
from pipelines.cli import main as command_line

def verb(arguments):
    if "ignored" in arguments:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job in the background
    with contextlib.ExitStack() as stack:
        if arguments[-1:] in (["starting"], ["started"]):  # Ray installs a handler of its own
            stack.enter_context(command_line.stopping.kept())
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        if "started" in arguments:
            stack.close()
        wait(arguments)

def wait(arguments):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        if "stuck" in arguments:
            print("cleaning", flush=True)
            time.sleep(60)
        print("closed", flush=True)

command_line.function_of = lambda _: verb
command_line.stopping.GRACE_S = 1.0
command_line.main()
"""


def started(*arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of what ignores it would ignore it too
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGINT, ()),
        (signal.SIGHUP, ()),
        (signal.SIGTERM, ("starting",)),
        (signal.SIGTERM, ("started",)),
        (signal.SIGTERM, ("ignored",)),
    ],
)
def test_a_signal_ends_the_program_cleanly_with_its_exit_code(number, arguments):
    process = started(*arguments)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert out == "closed\n"
    assert err.strip() == "stopped; run the same command again to continue"


def test_what_cannot_be_closed_ends_after_the_grace():
    process = started("stuck")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "cleaning\n")


def test_a_second_signal_ends_at_once():
    process = started("stuck")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    process.communicate()
