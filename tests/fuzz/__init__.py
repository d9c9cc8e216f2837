"""Fuzzers that stay: seeded damage, one child process a case, and the counts as one JSON object."""

import argparse
import json
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable

OUTCOMES = ("clear", "quarantined", "same", "ended", "silent", "crashed", "hung")
BAD = ("ended", "silent", "crashed", "hung")


def outcome_of(case: Callable[[], str], timeout_s: float = 20.0) -> str:
    """Run a case in a forked child; return what it returns, or `crashed` (by a signal or an exception), or `hung`."""
    child = os.fork()
    if child == 0:
        code = len(OUTCOMES)
        try:
            code = OUTCOMES.index(case())
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return OUTCOMES[code] if 0 <= code < len(OUTCOMES) else "crashed"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


def arguments(about: str | None) -> argparse.Namespace:
    """Return --cases and --seed."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def tell(counts: Counter[str]) -> None:
    """Print the counts, the last line of a fuzzer; exit with 1 where anything was silent, crashed or hung."""
    print(json.dumps({"cases": counts.total(), **{name: counts[name] for name in OUTCOMES}}))
    raise SystemExit(any(counts[name] for name in BAD))
