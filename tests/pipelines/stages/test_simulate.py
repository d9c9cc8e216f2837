"""The stage that simulates says how many speakers and turns its conversations have, and who is not heard."""

import pytest

from operators.corpus.cast import Casting
from operators.simulate.converse import Converse
from pipelines.plan.output import Output
from pipelines.recipes.recipe import Corpus, Recipe
from pipelines.stages import plan_recipe
from pipelines.stages.notices import short_casts, turn_taking
from tests.conftest import write_corpus
from tests.golden.fingerprints import Road, index_corpus
from tests.pipelines.support import make_stale


@pytest.mark.parametrize(("max_duration_s", "short"), [(30.0, False), (1.0, True)])
def test_it_says_of_how_many_conversations_not_everybody_is_heard(tmp_path, max_duration_s, short):
    casting = Casting(
        train_conversations=12,
        test_conversations=2,
        min_speakers=3,
        max_speakers=3,
        test_speakers=0.5,
        max_utterances=4,
    )
    recipe = Recipe(
        corpus=Corpus(manifests=(str(write_corpus(tmp_path / "corpus")),)),
        casting=casting,
        converse=Converse(min_turns=1, max_turns=3, max_duration_s=max_duration_s),
    )
    road = Road(recipe, Output(tmp_path / "out"))
    index_corpus(road)
    dataset = road.output.dataset("conversations")
    snapshot = dataset.snapshot(
        make_stale(plan_recipe(recipe, road.output).stage("conversations"), recipe, road.output), {}, {}
    )
    notice = short_casts(recipe, snapshot)
    text, _ = turn_taking(recipe, dataset, snapshot)
    if short:
        number = sum(len(row["speakers"]) < 3 for row in dataset.read().to_pylist())
        assert number > 0
        assert notice.startswith(f"{number} of 14 conversations have fewer speakers than their cast")
        assert "converse.max-duration-s" in notice
    else:
        assert notice == ""
        assert "each conversation has 3 speakers and 3 turns" in text
