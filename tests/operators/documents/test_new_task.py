"""A task is added by one file and one line in the table, as the documentation shows."""

from pathlib import Path

import pytest

from models.sequence.tokenizer import ByteTokenizer
from operators.documents.compose import Compose
from operators.documents.task import Task
from operators.documents.tasks import TASKS, token_names
from tests.operators.documents import count
from tests.operators.documents.contract import CONTRACT, Case
from tests.operators.documents.support import codes_table, row_of

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(autouse=True)
def its_name(more_choices):
    more_choices("count")


@pytest.fixture
def with_count(monkeypatch):
    monkeypatch.setitem(TASKS, "count", count.Count())


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_a_task_added_to_the_table_keeps_the_contract(with_count, clause):
    clause(Case("count"))


def test_a_task_added_to_the_table_is_composed_and_shown(with_count):
    row = row_of(count.Count.example.turns, count.Count.example.num_frames)
    asr, counted = Compose(tasks=("asr", "count"))(codes_table(row)).to_pylist()
    tokenizer = ByteTokenizer()
    assert tokenizer.show(counted["text_tokens"], token_names()) == "<count><text>2<end>"
    assert counted["talker_spans"] == asr["talker_spans"]


def test_the_documentation_shows_this_task():
    shown = "".join(path.read_text() for path in DOCS.glob("extending*.md"))
    assert "".join(f"+{line}\n" for line in Path(count.__file__).read_text().splitlines()) in shown


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"token": ByteTokenizer.ASR}, "declares_itself"),
        ({"name": "counts"}, "declares_itself"),
        ({"marks_talkers": False}, "talkers_are_as_declared"),
        ({"predicts_audio": True}, "targets_are_as_declared"),
        ({"needs_stems": True}, "needs_what_it_declares"),
        ({"needs_even_group": True}, "needs_what_it_declares"),
    ],
)
def test_a_task_that_declares_something_untrue_breaks_the_contract(monkeypatch, change, clause):
    monkeypatch.setitem(TASKS, "count", type("Wrong", (count.Count,), change)())
    (broken,) = (one for one in CONTRACT if one.__name__ == clause)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        broken(Case("count"))


def test_a_task_without_an_example_breaks_the_contract(monkeypatch):
    body = {"name": "count", "token": count.Count.token, "documents": count.Count.documents}
    monkeypatch.setitem(TASKS, "count", type("Bare", (Task,), body)())
    for clause in CONTRACT[1:]:
        with pytest.raises(AttributeError, match="example"):
            clause(Case("count"))
