"""Groups of ranks that the training workers cannot be cut into are refused before anything is made."""

from dataclasses import replace

import pytest

from operators.errors import InputError
from pipelines.plan.context import RunOptions
from pipelines.recipes.named import tiny
from pipelines.run import run


@pytest.mark.parametrize("options", [{"context_size": 2}, {"shard": "full", "shard_size": 2}])
@pytest.mark.parametrize(("fewest", "most", "refused"), [(0, 3, 3), (4, 8, 5)])
def test_workers_that_groups_do_not_divide_are_refused(tmp_path, options, fewest, most, refused):
    """An elastic training may have any number of workers between the fewest and the most."""
    recipe = replace(tiny(), train=replace(tiny().train, ctc_weight=0.0, activity_weight=0.0, **options))
    given = RunOptions(output=tmp_path / "out", train_workers=most, min_train_workers=fewest)
    with pytest.raises(InputError, match=f"is 2, which does not divide the {refused} training workers"):
        run(recipe, given)
    assert not (tmp_path / "out").exists()
