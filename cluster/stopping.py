"""Signals that end a run: SIGTERM (Slurm, Kubernetes, `timeout`) and SIGHUP stop it just as Ctrl-C does."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_S = 20.0
"""Seconds for what is open to be closed; after them the process ends where it is. All commits are atomic."""

_RECEIVED: list[int] = []


def install() -> None:
    """Let SIGTERM and SIGHUP stop this process like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, _stop)


@contextmanager
def kept() -> Iterator[None]:
    """Keep what SIGTERM does while Ray starts, whose own handler leaves with the signal's number as exit code."""
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            _stop(signal.SIGTERM, None)
        raise
    finally:
        install()


def _stop(number: int, frame: FrameType | None) -> None:
    """Hand a signal to the handler of SIGINT, for which Python and Ray Train clean up; a second one ends at once."""
    _RECEIVED.append(number)
    if len(_RECEIVED) > 1:
        os._exit(exit_code())
    end_in(GRACE_S)
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)
    raise KeyboardInterrupt  # a job in the background ignores Ctrl-C, but not SIGTERM


def exit_code() -> int:
    """Return the exit code of a process that a signal stopped: 128 and its number, as shells have it."""
    return 128 + (_RECEIVED[0] if _RECEIVED else signal.SIGINT)


def end_in(seconds: float) -> None:
    """End the process after a time, if it has not ended by itself."""
    timer = threading.Timer(seconds, lambda: os._exit(exit_code()))
    timer.daemon = True
    timer.start()
