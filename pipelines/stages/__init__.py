"""The stages of the pipeline, in order: one tuple that planning, running, lineage, clean-up and displays read.

A new stage is one file of this package with its `Stage`, and one line in `STAGES` (docs/extending.md).
"""

from pathlib import Path

from pipelines.plan.output import Output
from pipelines.plan.stage import Plan, Stage, make_plan
from pipelines.recipes.recipe import Recipe
from pipelines.stages.evaluate import HYPOTHESES_STAGE
from pipelines.stages.index import RECORDINGS_STAGE, UTTERANCES_STAGE
from pipelines.stages.pack import PACKS_STAGE
from pipelines.stages.simulate import AUDIO_STAGE, CONVERSATIONS_STAGE
from pipelines.stages.tokenize import CODES_STAGE, FEATURES_STAGE
from pipelines.stages.train import TRAINING_STAGE

STAGES: tuple[Stage, ...] = (
    UTTERANCES_STAGE,
    RECORDINGS_STAGE,
    CONVERSATIONS_STAGE,
    AUDIO_STAGE,
    CODES_STAGE,
    FEATURES_STAGE,
    PACKS_STAGE,
    TRAINING_STAGE,
    HYPOTHESES_STAGE,
)


def stage_names() -> tuple[str, ...]:
    """Return the names of the stages in order: the verbs of the command line and the child runs in MLflow."""
    return tuple(dict.fromkeys(stage.name for stage in STAGES))


def dataset_names() -> tuple[str, ...]:
    """Return the names of the Arrow data sets, in the order in which they are made."""
    return tuple(stage.dataset for stage in STAGES if stage.committed is None)


def stage_of(dataset: str) -> Stage:
    """Return the stage that makes a data set."""
    return next(stage for stage in STAGES if stage.dataset == dataset)


def check_stages(recipe: Recipe) -> None:
    """Check before anything is made what a stage would stop at.

    Raises:
        InputError: names what cannot be used.
    """
    for stage in STAGES:
        if stage.check is not None and stage.is_used(recipe):
            stage.check(recipe)


def plan_recipe(recipe: Recipe, output: Output, checkpoint: Path | None = None) -> Plan:
    """Plan every stage; a given checkpoint is evaluated instead of the recipe's own.

    Raises:
        InputError: the corpus is not indexed yet, or cannot make the conversations that the recipe needs.
    """
    return make_plan(STAGES, recipe, output, checkpoint)
