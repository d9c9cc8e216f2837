"""Verbs that take a recipe: the stages, plan, verify and sweep."""

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from models.config.shape import SIZES, sized
from models.config.values import within
from operators.corpus.annotations import TRUTH_FORMATS
from operators.errors import InputError
from pipelines.cli.arguments import Arguments, read
from pipelines.recipes.files import load_recipe, to_json
from pipelines.recipes.named import RECIPES
from pipelines.recipes.open import settled, without_given
from pipelines.recipes.recipe import Recipe
from pipelines.recipes.whisper import from_whisper

if TYPE_CHECKING:
    TruthName = str
    SizeName = str
else:
    TruthName = Literal[tuple(TRUTH_FORMATS)]  # the choices of `--truth` follow from the table
    SizeName = Literal[tuple(SIZES)]


@dataclass(frozen=True, kw_only=True)
class CommonArguments(Arguments):
    """What every verb with a recipe takes."""

    output: Path | None = None
    """Folder for everything that is made; runs/<recipe> by default."""
    workers: int | None = field(default=None, metadata=within(1, 4096, "processes"))
    """Processes of a local Ray; one per core by default."""
    train_workers: int = field(default=1, metadata=within(1, 100_000))
    """Workers of Ray Train."""
    min_train_workers: int = field(default=0, metadata=within(0, 100_000))
    """Continue training with as few workers as this while nodes are missing; 0 waits for all."""
    ray_address: str | None = None
    """Cluster to join instead of starting a local Ray."""
    store: str = ""
    """URL of data sets and checkpoints (s3://bucket/runs/x), where not every node sees the output folder."""
    update: bool = False
    """Continue in an output folder that holds another recipe's results."""


@dataclass(frozen=True, kw_only=True)
class ModelArguments(Arguments):
    """What stands for several fields of the recipe, which is read before the single ones."""

    size: Annotated[SizeName | None, tyro.conf.arg(name="model.size")] = None
    """Widths and depth of a named size, for the fields of model that are not given."""
    from_whisper: Annotated[str | None, tyro.conf.arg(name="model.from-whisper")] = None
    """Folder of a Whisper model: train its decoder on its encoder's features. Sets codec, encoder, features, tokenizer
    and initial weights, for the fields that are not given."""


@dataclass(frozen=True, kw_only=True)
class StageArguments(CommonArguments, ModelArguments):
    """A stage verb's arguments."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """Any field of the recipe."""
    checkpoint: Path | None = None
    """For evaluate: a checkpoint to evaluate instead of the recipe's own."""
    truth: tuple[TruthName, ...] = ()
    """Truth files to write next to the output."""
    compare: bool = False
    """For pack: print what every packer would make of the documents, and stop."""
    register: str | None = None
    """Name in MLflow's model registry that the evaluated checkpoint becomes a version of."""
    grid: tuple[str, ...] = ()
    """For sweep: fields and their values, train.lr=1e-3,3e-3."""
    print_recipe: bool = False
    """Print the resolved recipe as JSON and stop."""

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.output or Path("runs") / self.recipe.name


def parse(verb: str, arguments: Sequence[str]) -> StageArguments:
    """Read a verb's recipe and options.

    Raises:
        InputError: there is no such recipe.
    """
    if not arguments:
        raise InputError(f"hubbub {verb} needs a recipe: {', '.join(RECIPES)}, or a .yaml or .json file")
    has_name = not arguments[0].startswith("-")
    name, rest = (arguments[0], list(arguments[1:])) if has_name else ("demo", list(arguments))
    recipe = load_recipe(name)

    def parsed(default: Recipe) -> StageArguments:
        return read(
            StageArguments,
            f"hubbub {verb} {name}",
            rest,
            description=f"{verb}: recipe {name}. {(RECIPES[name].__doc__ or '') if name in RECIPES else ''}",
            default=StageArguments(recipe=default),
            config=(tyro.conf.AvoidSubcommands,),
        )

    # These come before the fields that are given beside them: --model.size small --model.num-layers 8.
    model = tyro.cli(ModelArguments, args=rest, return_unknown_args=True, add_help=False)[0]
    if model.size:
        recipe = replace(recipe, model=sized(recipe.model, model.size))
    if model.from_whisper:
        recipe = from_whisper(recipe, model.from_whisper)
    found = parsed(recipe)
    if found.recipe.fit != recipe.fit:
        return replace(found, recipe=settled(found.recipe))
    given = (one[2:].partition("=")[0].replace("-", "_") for one in rest if one.startswith("--"))
    return replace(found, recipe=settled(without_given(found.recipe, given)))


def _printed(parsed: StageArguments) -> bool:
    """Print the recipe where that is all that is asked for."""
    if parsed.print_recipe:
        print(to_json(parsed.recipe), end="")
    return parsed.print_recipe


def stage_verb(verb: str, until: str) -> Callable[[Sequence[str]], None]:
    """Return a verb that runs every stage up to one."""

    def run_verb(arguments: Sequence[str]) -> None:
        parsed = parse(verb, arguments)
        if _printed(parsed):
            return
        from pipelines.inspect.summary import summarize
        from pipelines.plan.context import RunOptions
        from pipelines.run import run

        options = RunOptions(
            output=parsed.folder,
            workers=parsed.workers,
            train_workers=parsed.train_workers,
            min_train_workers=parsed.min_train_workers,
            ray_address=parsed.ray_address,
            update=parsed.update,
            store=parsed.store,
            checkpoint=parsed.checkpoint if verb == "evaluate" else None,
            truth=parsed.truth,
            register=parsed.register,
        )
        if verb == "pack" and parsed.compare:
            from pipelines.plan.output import Output
            from pipelines.upkeep.compare import compare, show

            codes = run(parsed.recipe, options, "tokenize").snapshots["codes"]
            dataset = Output(options.output).dataset("codes")
            show(compare(parsed.recipe, dataset, codes), options.output / "packers.json")
            return
        started = time.monotonic()
        result = run(parsed.recipe, options, until)
        summarize(result, options, time.monotonic() - started)

    return run_verb


run_all = stage_verb("run", "evaluate")
simulate = stage_verb("simulate", "simulate")
tokenize = stage_verb("tokenize", "tokenize")
pack = stage_verb("pack", "pack")
train = stage_verb("train", "train")
evaluate = stage_verb("evaluate", "evaluate")


def plan(arguments: Sequence[str]) -> None:
    """Print what would run, what is fresh, and why."""
    parsed = parse("plan", arguments)
    if _printed(parsed):
        return
    from pipelines.inspect.plan import show
    from pipelines.plan.output import Output

    gc.disable()  # everything in a plan lives until it is printed: looking for garbage took a quarter of the time
    try:
        show(parsed.recipe, Output(parsed.folder, parsed.store), parsed.workers or os.cpu_count() or 1)
    finally:
        gc.enable()


def verify(arguments: Sequence[str]) -> None:
    """Check every file that a run keeps in an output folder."""
    parsed = parse("verify", arguments)
    from pipelines.upkeep.verify import verify as verify_folder

    verify_folder(parsed.folder)


def sweep(arguments: Sequence[str]) -> None:
    """Run a small grid of recipes in one output folder."""
    parsed = parse("sweep", arguments)
    from pipelines.plan.context import RunOptions
    from pipelines.upkeep.sweep import sweep as run_sweep

    options = RunOptions(
        output=parsed.output or Path("runs") / f"{parsed.recipe.name}-sweep",
        workers=parsed.workers,
        train_workers=parsed.train_workers,
        min_train_workers=parsed.min_train_workers,
        ray_address=parsed.ray_address,
        store=parsed.store,
    )
    run_sweep(parsed.recipe, parsed.grid, options)
