"""One GPU: whether the project runs on it, is right, and how fast it is; at most six minutes on an H100.

`make gpu-check`, or `python -m tests.bench.gpu_check [--parts parity,kernels] [--quick] [--table FILE]` under any
Python from 3.11 with torch, transformers, numba, pyarrow, safetensors and fsspec: neither Ray, lhotse, MLflow nor a
network is needed. Parts run one after the other, each by itself: one that fails or runs over its budget ends no other.
Every part prints one JSON object at once; a table follows, which is also written to a file. Without CUDA, or with
`--quick`, parts are tiny; without CUDA they have ten times as long.
"""

import argparse
import gc
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.bench.gpu_parts import PARTS
from tests.bench.gpu_parts.setting import Figure, Part, Setting

TOTAL_S = 360.0
GRACE = 1.5
"""A part that asks for no figure any more, in a compiler for example, is interrupted after so many times its budget."""


class OverBudgetError(BaseException):
    """Raised in a part that takes too long; no `except Exception` of what it runs takes it for a failure."""


@dataclass
class Outcome:
    """What became of a part."""

    part: str
    status: str = "ok"
    """ok, FAILED, skipped, or over budget."""
    reason: str = ""
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)

    def line(self) -> str:
        """Return it as JSON."""
        wrong = [one.name for one in self.figures if one.is_required and one.is_reached is False]
        missed = [one.name for one in self.figures if not one.is_required and one.is_reached is False]
        content = {
            "part": self.part,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "reason": self.reason,
            "wrong": wrong,
            "missed": missed,
            "figures": {one.name: one.value for one in self.figures},
        }
        return json.dumps({key: value for key, value in content.items() if value or key in ("seconds", "figures")})


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `OverBudgetError` when time is over, wherever Python is then."""

    def over(*_: object) -> None:
        raise OverBudgetError

    kept = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)


def _collect(part: Part, setting: Setting, budget_s: float, into: list[Figure]) -> None:
    """Append a part's figures as they come.

    Raises:
        OverBudgetError: its time was up before the last one.
    """
    started = time.monotonic()
    for figure in part(setting):
        into.append(figure)
        if time.monotonic() - started > budget_s:
            raise OverBudgetError


def run_part(name: str, part: Part, setting: Setting, budget_s: float, left_s: float = float("inf")) -> Outcome:
    """Run a part; what it has yielded is kept, however it ends.

    Args:
        name: of the part.
        part: the function.
        setting: what it is given.
        budget_s: seconds after which no further figure is asked for.
        left_s: seconds that are left for all parts.
    """
    done, started = Outcome(name), time.monotonic()
    try:
        with interrupted_after(min(GRACE * budget_s, left_s)):
            _collect(part, setting, budget_s, done.figures)
    except OverBudgetError:
        done.status, done.reason = "over budget", f"stopped after {budget_s:.0f} s; what is missing was not measured"
    except Exception as error:
        where = " < ".join(
            f"{one.name}:{one.lineno}" for one in reversed(traceback.extract_tb(error.__traceback__)[-4:])
        )
        done.status, done.reason = "FAILED", f"{type(error).__name__}: {error}"[:500] + f" ({where})"
    if any(one.is_required and one.is_reached is False for one in done.figures):
        done.status = "FAILED"
        done.reason = "; ".join(filter(None, [done.reason, "a figure is wrong"]))
    done.seconds = time.monotonic() - started
    return done


def free(device: str) -> None:
    """Give back what a part has left."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def check(
    setting: Setting,
    names: list[str],
    tell: Callable[[Outcome], None],
    *,
    total_s: float = TOTAL_S,
    budget_factor: float = 1.0,
) -> list[Outcome]:
    """Run parts in turn; one that begins when the total is used up is skipped, with the reason."""
    outcomes, started = [], time.monotonic()
    for name in names:
        budget_s, part = PARTS[name][0] * budget_factor, PARTS[name][1]
        left = total_s - (time.monotonic() - started)
        if left < min(5.0, budget_s):
            done = Outcome(name, "skipped", f"the {total_s:.0f} s of all parts are used up (--total-s)")
        else:
            done = run_part(name, part, setting, min(budget_s, left), left)
        free(setting.device)
        outcomes.append(done)
        tell(done)
    return outcomes


def as_table(outcomes: list[Outcome], setting: Setting) -> str:
    """Return the outcomes as Markdown, a row a figure."""
    name = torch.cuda.get_device_name() if setting.is_cuda else "cpu"
    sizes = "tiny sizes: its speeds mean nothing" if setting.is_small else "real sizes"
    lines = [
        f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}; {sizes}.",
        "",
        "| part | figure | measured | target | |",
        "|---|---|---|---|---|",
    ]
    for done in outcomes:
        ending = f"{done.status}, {done.seconds:.1f} s" + (f": {done.reason}" if done.reason else "")
        lines.append(f"| **{done.part}** | | {ending.replace('|', '/')} | | |")
        for one in done.figures:
            judged = {None: "", True: "reached", False: "**wrong**" if one.is_required else "missed"}[one.is_reached]
            value = f"{one.value:,}" if isinstance(one.value, (int, float)) else str(one.value)
            lines.append(f"| | {one.name} | {value.replace('|', '/')} | {one.target} | {judged} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run what is asked for; return 1 if a part failed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the default without CUDA")
    parser.add_argument("--table", type=Path, default=Path("runs/gpu-check.md"))
    factor = 1.0 if device == "cuda" else 10.0
    parser.add_argument("--total-s", type=float, default=TOTAL_S * factor, help="seconds for all parts")
    parser.add_argument("--budget-factor", type=float, default=factor, help="times the parts' own budgets")
    asked = parser.parse_args()
    names = [name for name in asked.parts.split(",") if name]
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    setting = Setting(device, is_small=asked.quick or device == "cpu")
    outcomes: list[Outcome] = []

    def tell(done: Outcome) -> None:
        print(done.line(), flush=True)
        outcomes.append(done)
        asked.table.parent.mkdir(parents=True, exist_ok=True)
        asked.table.write_text(as_table(outcomes, setting))  # after each part: what is cut off later is kept

    check(setting, names, tell, total_s=asked.total_s, budget_factor=asked.budget_factor)
    print("\n" + as_table(outcomes, setting))
    return int(any(done.status == "FAILED" for done in outcomes))


if __name__ == "__main__":
    sys.exit(main())
