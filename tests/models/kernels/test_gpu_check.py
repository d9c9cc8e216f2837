"""The check of a GPU runs without one, and without most of what the project installs, so that it is right there."""

import contextlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench import gpu_check
from tests.bench.gpu_parts import PARTS, arithmetic, exact, runs
from tests.bench.gpu_parts.setting import Figure, Setting

ROOT = Path(__file__).parents[3]
SMALL = Setting("cpu", is_small=True)
THERE = ("torch", "triton", "transformers", "numba", "pyarrow", "safetensors", "fsspec")
"""What is installed on a machine with a GPU, besides what these need."""

ONLY_THESE = """
import importlib.machinery, json, runpy, socket, sys
allowed = {*json.loads(sys.argv.pop(1)), *sys.stdlib_module_names, "tests", "models", "operators"}
real = importlib.machinery.PathFinder

class OnlyThese:
    find_distributions = real.find_distributions
    @staticmethod
    def find_spec(name, path=None, target=None):
        may = path is not None or name in allowed or name.startswith("_sysconfigdata")
        return real.find_spec(name, path, target) if may else None

kept = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter)
sys.meta_path = [finder for finder in sys.meta_path if finder in kept]
sys.meta_path.append(OnlyThese)
def refuse(*_): raise OSError("there is no network")
socket.socket.connect = refuse
runpy.run_module("tests.bench.gpu_check", run_name="__main__", alter_sys=True)
"""


def needed_by(names):
    """Names of the modules of distributions, and of all that they require."""
    wanted, found = list(names), set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            wanted += [re.match(r"[\w.-]+", one)[0] for one in required if "extra ==" not in one]
    by_module = importlib.metadata.packages_distributions().items()
    modules = {module for module, of in by_module if found & {re.sub(r"[-_.]+", "-", one).lower() for one in of}}
    if "setuptools" in modules:  # torch.compile imports it, and it brings packages along
        place = importlib.util.find_spec("setuptools").submodule_search_locations[0]
        modules |= {path.stem for path in Path(place, "_vendor").iterdir()}
    return sorted(modules)


@pytest.mark.slow
def test_every_part_runs_where_little_is_installed(tmp_path):
    pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")
    modules = needed_by(THERE)
    assert {"torch", "numpy", "transformers"} <= set(modules)
    assert not {"ray", "mlflow", "lhotse", "scipy", "soundfile", "soxr", "pytest"} & set(modules)
    table = tmp_path / "table.md"
    command = [sys.executable, "-c", ONLY_THESE, json.dumps(modules), "--quick", "--table", str(table)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["part"] for one in lines] == list(PARTS), done.stderr[-2000:]
    for one in lines:
        assert one["status"] == "ok", one
        assert one["figures"], one
    assert done.returncode == 0
    written = table.read_text()
    assert all(f"| **{name}** |" in written for name in PARTS)
    assert "left out: it needs scipy" in written  # the import hook is at work


def outcome(part, budget_s=10.0):
    return gpu_check.run_part("one", part, SMALL, budget_s)


def test_a_part_that_fails_keeps_its_figures_and_ends_no_other(monkeypatch):
    def fails(setting):
        yield Figure("first", 1)
        raise ValueError("no such kernel")

    def works(setting):
        yield Figure("second", 2)

    monkeypatch.setattr(gpu_check, "PARTS", {"fails": (10, fails), "works": (10, works)})
    told = []
    gpu_check.check(SMALL, ["fails", "works"], told.append)
    assert [one.status for one in told] == ["FAILED", "ok"]
    line = json.loads(told[0].line())
    assert line["figures"] == {"first": 1}
    assert "no such kernel" in line["reason"]


def test_a_part_over_its_budget_is_stopped_between_figures_and_within_one():
    def slow(setting):
        for number in range(100):
            time.sleep(0.02)
            yield Figure(str(number), number)

    def stuck(setting):
        yield Figure("first", 1)
        with contextlib.suppress(Exception):  # as a kernel's trial does with whatever a compiler raises
            time.sleep(30)
        yield Figure("second", 2)

    for part, fewest, most in ((slow, 2, 20), (stuck, 1, 1)):
        started = time.monotonic()
        done = outcome(part, budget_s=0.1)
        assert time.monotonic() - started < 5
        assert done.status == "over budget"
        assert fewest <= len(done.figures) <= most


def test_parts_that_begin_too_late_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(gpu_check, "PARTS", {name: (10, lambda _: iter([])) for name in "ab"})
    skipped = gpu_check.check(SMALL, ["a", "b"], lambda _: None, total_s=1.0)
    assert [one.status for one in skipped] == ["skipped", "skipped"]
    assert "used up" in skipped[0].reason


def test_what_is_wrong_fails_and_what_is_slow_is_missed():
    real = Setting("cuda")
    wrong = outcome(lambda _: iter([real.right("error", 0.5, 0.1)]))
    slow = outcome(lambda _: iter([real.speed("rate", 1.0, least=2.0), real.right("error", 0.05, 0.1)]))
    assert (wrong.status, slow.status) == ("FAILED", "ok")
    assert json.loads(slow.line())["missed"] == ["rate"]
    table = gpu_check.as_table([wrong, slow], SMALL)
    assert "| | error | 0.5 | at most 0.1 | **wrong** |" in table
    assert "| | rate | 1.0 | at least 2 | missed |" in table
    # An error that is not a number is wrong, too.
    assert outcome(lambda _: iter([real.right("error", float("nan"), 0.1)])).status == "FAILED"


def test_a_wrong_kernel_is_found(monkeypatch):
    def names(part):
        return {one.name for one in part(SMALL) if one.is_required and not one.is_reached}

    assert names(arithmetic.kernels) == set()
    right = arithmetic.fused.swiglu
    monkeypatch.setattr(arithmetic.fused, "swiglu", lambda x: right(x) * 1.001)
    assert names(arithmetic.kernels) == {"swiglu float32: distance to float64"}


def test_a_wrong_attention_is_found(monkeypatch):
    right = arithmetic.packed_attention

    def wrong(q, k, v, *rest):
        return right(q, k, v * 1.1 if rest[3] == "mask" else v, *rest)

    monkeypatch.setattr(arithmetic, "packed_attention", wrong)
    found = {one.name for one in arithmetic.attention(SMALL) if one.is_required and not one.is_reached}
    assert len(found) == 4
    assert all(name.startswith("mask ") for name in found)


@pytest.mark.slow
def test_a_resume_without_the_optimizers_moments_is_found(monkeypatch):
    monkeypatch.setattr("models.training.checkpoint.load_moments", lambda *_: None)
    found = {one.name: one for one in exact.resume(SMALL)}
    assert found["float32: two whole trainings are equal to the bit"].value is True
    assert found["float32: resumed equals uninterrupted to the bit"].value is False
    assert found["float32: worst relative difference of a loss"].value > 0


def test_losses_of_other_steps_are_infinitely_far():
    def record(step, loss):
        return runs.StepRecord(step, loss, loss, 0.0, 1.0, 0.1, 10, 1, 0.1)

    assert runs.worst([record(1, 2.0)], [record(1, 2.1)]) == pytest.approx(0.05)
    assert runs.worst([record(1, 2.0)], [record(2, 2.0)]) == float("inf")


def test_synthetic_packs_are_full_and_their_text_follows_from_itself():
    for pack in runs.conversations(3, 128):
        assert pack.num_columns == pack.cu_seqlens[-1] == 128
        words = pack.text_tokens - runs.ByteTokenizer.FIRST_TEXT
        first = set((pack.segments[pack.segments[:, 1] == 0, 2]).tolist())
        assert first == {1}
        follows = (7 * words[:-1] + 3) % runs.WORDS == words[1:]
        assert follows.mean() > 0.8  # all but where a document begins


def test_parts_together_stay_within_six_minutes():
    assert sum(budget for budget, _ in PARTS.values()) <= gpu_check.TOTAL_S == 360


def test_the_page_has_a_row_for_every_part():
    page = (ROOT / "docs/training.md").read_text()
    assert [name for name in PARTS if f"\n| `{name}` |" not in page] == []
