"""The diffs of docs/extending.md are applied to a copy of the repository, and what they add keeps its contract."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text()
CHECKS = {
    "A codec": ["tests/models/codecs/test_contract.py", "-k", "mulaw"],
    "A layout": ["tests/models/layouts", "tests/models/speech_lm/test_generate.py", "-k", "acoustic_delay"],
    "A task": ["tests/operators/documents/test_task_contract.py", "-k", "count"],
    "A packer": ["tests/operators/packing/test_packer_contract.py", "-k", "first_fit"],
    "A stage": ["tests/pipelines/stages/test_contract.py", "-k", "(rates or order) and not documentation"],
}
"""Heading of the page, and the tests that its addition must pass."""


def diffs_of(heading):
    """The section's diffs: a new file, and the line of the table."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```diff\n(.*?)```", section, re.DOTALL)


def test_every_section_of_the_page_is_tried():
    assert set(re.findall(r"^## (.*)$", PAGE, re.MULTILINE)) == set(CHECKS)


@pytest.mark.parametrize("heading", CHECKS)
def test_an_addition_is_one_file_and_one_line(heading):
    """One new file; elsewhere the line of the table, and the import that it needs."""
    new, changed = diffs_of(heading)
    assert new.startswith("--- /dev/null")
    lines = [line for line in changed.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert len([line for line in lines if "import" not in line]) == 1
    assert not [line for line in changed.splitlines()[2:] if line.startswith("-")]


@pytest.mark.parametrize("heading", CHECKS)
def test_an_addition_works_as_the_page_shows_it(heading, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", ".*", "runs")
    for name in ("pipelines", "operators", "models", "cluster", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for number, diff in enumerate(diffs_of(heading)):
        (tmp_path / f"{number}.diff").write_text(diff)
        apply = ["git", "apply", "--verbose", "--recount", f"{number}.diff"]
        applied = subprocess.run(apply, cwd=tmp_path, capture_output=True, text=True)
        assert applied.returncode == 0, applied.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CHECKS[heading]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout
