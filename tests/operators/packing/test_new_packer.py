"""A packer is added by one file and one line in the table, as the documentation shows."""

from pathlib import Path

import pytest

from operators.packing.packers import PACKERS
from operators.packing.packers.single import Single
from tests.operators.packing import first_fit
from tests.operators.packing.contract import CONTRACT

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(autouse=True)
def its_name(more_choices):
    more_choices("first_fit")


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_a_packer_added_to_the_table_keeps_the_contract(monkeypatch, clause):
    monkeypatch.setitem(PACKERS, "first_fit", first_fit.FirstFit())
    clause("first_fit")


def test_the_documentation_shows_this_packer():
    shown = "".join(path.read_text() for path in DOCS.glob("extending*.md"))
    assert "".join(f"+{line}\n" for line in Path(first_fit.__file__).read_text().splitlines()) in shown


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"name": "other"}, "declares_itself"),
        ({"most_packs": lambda self, lengths, capacity: len(lengths) // 2}, "keeps_its_bound"),
        ({"groups_costliest": True}, "groups_and_buckets_are_as_declared"),
        ({"by_length": True, "plan": first_fit.FirstFit.plan}, "groups_and_buckets_are_as_declared"),
    ],
)
def test_a_packer_that_declares_something_untrue_breaks_the_contract(monkeypatch, change, clause):
    monkeypatch.setitem(PACKERS, "single", type("Wrong", (Single,), change)())
    (broken,) = (one for one in CONTRACT if one.__name__ == clause)
    with pytest.raises(AssertionError):
        broken("single")
