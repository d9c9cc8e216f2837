"""One run of the whole road that many tests look at; what they change, they change in a copy."""

import pytest

from tests.conftest import write_corpus
from tests.pipelines.support import hubbub, write_recipe


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("road")
    return write_recipe(folder / "recipe.yaml", write_corpus(folder / "corpus"))


@pytest.fixture(scope="session")
def undisturbed(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = hubbub("run", recipe, "--output", output, "--workers", 2)
    assert "cpWER" in done.stdout
    return output
