"""Every packer of the table keeps the contract."""

import typing

import pytest

from operators.packing.pack import Pack
from operators.packing.packers import PACKERS
from tests.operators.packing.contract import CONTRACT


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", PACKERS)
def test_every_packer_keeps_the_contract(name, clause):
    clause(name)


def test_the_choices_of_a_recipe_are_the_table():
    assert typing.get_args(typing.get_type_hints(Pack)["packer"]) == tuple(PACKERS)
