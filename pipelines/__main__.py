"""The command line: `hubbub`, or `python -m pipelines`."""

import difflib
import errno
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from operators.errors import InputError
from pipelines.cli.cluster_commands import cluster
from pipelines.cli.data_commands import data
from pipelines.recipes.files import load_recipe, to_json
from pipelines.recipes.named import RECIPES
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console

USAGE = """[bold]hubbub[/bold]: from corpora of single speakers to a trained speech-LLM that follows several talkers

  hubbub run demo                        the whole road, in eight minutes on two cores
  hubbub run demo --train.steps 2000     the same with one thing changed
  hubbub run my.yaml                     a recipe of your own
  hubbub run custom --corpus.manifests train=DIR test=DIR

  run        all stages; what is done stays done
  simulate   recordings -> conversations (who speaks when)      [--truth rttm stm seglst ctm sot activity]
  tokenize   ... -> codes (what the room hears, by a codec)
  pack       ... -> packs (training sequences in Arrow shards)  [--compare]
  train      ... -> checkpoints
  evaluate   ... -> cpWER
  plan       what would run, what is fresh, and why; starts nothing
  transcribe FILE --checkpoint DIR       who said what
  speak      SCRIPT --checkpoint DIR     a dialogue as sound, by a model trained on task speak
  lineage    ID                          where a checkpoint, data set or run came from; what became of it
  verify     RECIPE                      whether every committed byte is as it was
  data       fit RTTM... | score OUTPUT | align MANIFEST... | units MANIFEST... | listen OUTPUT |
             impact OUTPUT --speaker ID | trace OUTPUT PACK | export OUTPUT FOLDER | hf CHECKPOINT FOLDER |
             gc OUTPUT | archive|restore OUTPUT FOLDER
  sweep      RECIPE --grid train.lr=1e-3,3e-3 ...   a small grid, sharing every stage it can
  report     OUTPUT                      one page: what was run, on what, how well, and where it came from
  cluster    submit -- run RECIPE ... | status | preflight   (Ray Jobs on a cluster)
  doctor     what this machine can do

Recipes: {recipes}, or a .yaml or .json file.  Options of a verb: hubbub run demo --help
"""


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every stage verb takes beside the recipe."""

    output: Path | None = None
    """Folder for everything that is made; runs/<recipe> by default."""
    workers: int | None = None
    """Processes of a local Ray; as many as there are cores by default."""
    train_workers: int = 1
    """Workers of Ray Train."""
    min_train_workers: int = 0
    """Go on with as few as this while nodes are missing, and with more when they come; 0 waits for all."""
    ray_address: str | None = None
    """Cluster to join instead of a local Ray."""
    store: str = ""
    """URL of data sets and checkpoints (s3://bucket/runs/x), where not every node sees the output folder."""
    update: bool = False
    """Go on in an output folder that holds another recipe's results."""


@dataclass(frozen=True, kw_only=True)
class StageArguments(Common):
    """A stage verb's arguments."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """Any field of the recipe."""
    checkpoint: Path | None = None
    """For evaluate: a checkpoint to judge instead of the recipe's own."""
    truth: tuple[Literal["rttm", "stm", "seglst", "ctm", "sot", "activity"], ...] = ()
    """Truth files to write beside the output."""
    compare: bool = False
    """For pack: print what every packer would make of the documents, and stop."""
    register: str | None = None
    """Name in MLflow's model registry that the judged checkpoint becomes a version of."""
    grid: tuple[str, ...] = ()
    """For sweep: fields and their values, train.lr=1e-3,3e-3."""
    print_recipe: bool = False
    """Print the resolved recipe as JSON and stop."""


def _parse(verb: str, arguments: Sequence[str]) -> StageArguments:
    """Read a verb's recipe and options.

    Raises:
        InputError: there is no such recipe.
    """
    name, rest = (
        ("demo", list(arguments))
        if not arguments or arguments[0].startswith("-")
        else (arguments[0], list(arguments[1:]))
    )
    if not arguments:
        raise InputError(f"hubbub {verb} wants a recipe: {', '.join(RECIPES)}, or a .yaml or .json file")
    recipe = load_recipe(name)
    return tyro.cli(
        StageArguments,
        prog=f"hubbub {verb} {name}",
        description=f"{verb}: recipe {name}. {(RECIPES[name].__doc__ or '') if name in RECIPES else ''}",
        default=StageArguments(recipe=recipe),
        args=rest,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _stage(verb: str, until: str) -> Callable[[Sequence[str]], None]:
    def go(arguments: Sequence[str]) -> None:
        parsed = _parse(verb, arguments)
        if parsed.print_recipe:
            print(to_json(parsed.recipe), end="")
            return
        from pipelines.inspect.summary import summarize
        from pipelines.plan.context import RunOptions
        from pipelines.plan.output import Output
        from pipelines.run import run

        options = RunOptions(
            output=parsed.output or Path("runs") / parsed.recipe.name,
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
        started = time.monotonic()
        if verb == "pack" and parsed.compare:
            from pipelines.upkeep.compare import compare, show

            codes = run(parsed.recipe, options, "tokenize").snapshots["codes"]
            dataset = Output(options.output).dataset("codes")
            show(compare(parsed.recipe, dataset, codes), options.output / "packers.json")
            return
        result = run(parsed.recipe, options, until)
        summarize(result, options, time.monotonic() - started)

    return go


def _plan(arguments: Sequence[str]) -> None:
    parsed = _parse("plan", arguments)
    if parsed.print_recipe:
        print(to_json(parsed.recipe), end="")
        return
    from pipelines.inspect.plan import show
    from pipelines.plan.output import Output

    output = Output(parsed.output or Path("runs") / parsed.recipe.name, parsed.store)
    gc.disable()  # what a plan is made of stays until it is shown: looking for garbage took a quarter of the time
    try:
        show(parsed.recipe, output, parsed.workers or os.cpu_count() or 1)
    finally:
        gc.enable()


def _verify(arguments: Sequence[str]) -> None:
    parsed = _parse("verify", arguments)
    from pipelines.inspect.plan import verify

    verify(parsed.output or Path("runs") / parsed.recipe.name)


@dataclass(frozen=True, kw_only=True)
class TranscribeArguments:
    """Write down who said what in a sound file."""

    file: Annotated[Path, tyro.conf.Positional]
    """Anything that libsndfile reads; channels are mixed to one."""
    checkpoint: Path = Path("runs/demo")
    """A step-... folder, or a run's output folder, whose newest is taken."""
    window_s: float = 15.0
    """Longest stretch heard at once; longer files are cut where it is quiet."""
    max_tokens: int = 256
    """Longest answer per window."""
    json: bool = False
    """Print JSON instead of lines."""


def _transcribe(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(TranscribeArguments, prog="hubbub transcribe", args=list(arguments))
    from pipelines.use.transcribe import transcribe

    turns = transcribe(parsed.file, parsed.checkpoint, window_s=parsed.window_s, max_tokens=parsed.max_tokens)
    if parsed.json:
        print(json.dumps([{"window_start_s": s, "speaker": tag, "words": text} for s, tag, text in turns], indent=1))
        return
    for _, tag, text in turns:
        print(f"[{tag}] {text}", flush=True)


@dataclass(frozen=True, kw_only=True)
class SpeakArguments:
    """Speak a script, by a model that was trained on task speak."""

    script: Annotated[str, tyro.conf.Positional]
    """Lines behind speakers' tags: "[s0] good morning [s1] hello"."""
    checkpoint: Path = Path("runs/demo")
    """A step-... folder, or a run's output folder, whose newest is taken."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("spoken.wav")
    """Sound file to be written."""
    voices: tuple[str, ...] = ()
    """Samples of voices: s0=FILE s1=FILE."""
    max_s: float = 15.0
    """Longest answer in seconds."""
    temperature: float = 1.0
    """Below 1 sharper; 0 takes the likeliest code."""
    top_p: float = 0.95
    """Share of the likeliest codes that are drawn from."""
    seed: int = 0
    """Another seed says it in another way."""


def _speak(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(SpeakArguments, prog="hubbub speak", args=list(arguments))
    from models.speech_lm.generate import Sampling
    from pipelines.use.speak import speak

    voices: dict[int, Path] = {}
    for text in parsed.voices:
        tag, _, path = text.partition("=")
        if not path or not tag.startswith("s") or not tag[1:].isdigit():
            raise InputError(f"--voices {text} is not sK=FILE, as in s0=ann.wav")
        voices[int(tag[1:])] = Path(path)
    try:
        sampling = Sampling(temperature=parsed.temperature, top_p=parsed.top_p, seed=parsed.seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    speak(parsed.script, parsed.checkpoint, parsed.output, voices, parsed.max_s, sampling)


@dataclass(frozen=True, kw_only=True)
class LineageArguments:
    """Follow a checkpoint, data set, evaluation or MLflow run back to the manifests, or forwards to what it became."""

    id: Annotated[str, tyro.conf.Positional]
    """A path, a data set's name, or 6 or more digits of a Merkle root, weights digest or run id."""
    output: Path | None = None
    """Output folder to look in; every folder below runs/ by default."""
    forwards: bool = False
    """What became of it, instead of what it came from; a manifest is named by its digest."""
    json: bool = False
    """Print JSON instead of a tree."""
    html: Path | None = None
    """Write one static page with the graph."""


def _lineage(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(LineageArguments, prog="hubbub lineage", args=list(arguments))
    from pipelines.inspect.graph import page
    from pipelines.inspect.lineage import chain, descendants
    from pipelines.plan.output import Output

    path = Path(parsed.id)
    above = [folder for folder in (path, *path.absolute().parents) if (folder / "recipe.json").exists()]
    folders = (
        [parsed.output] if parsed.output else above[:1] or sorted(p.parent for p in Path("runs").glob("*/recipe.json"))
    )
    follow = descendants if parsed.forwards else chain
    found = follow(parsed.id.rstrip("/"), [Output(folder) for folder in folders])
    if parsed.html is not None:
        parsed.html.write_text(page(found), encoding="utf-8")
        console.line("written", str(parsed.html))
        return
    if parsed.json:
        print(json.dumps(found, indent=1, default=str))
    else:
        console.tree(found)


def _doctor(arguments: Sequence[str]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class DoctorArguments:
        """Say what this machine can do, and what will be used, and why."""

        output: Path = Path("runs")
        """Where output would go."""

    parsed = tyro.cli(DoctorArguments, prog="hubbub doctor", args=list(arguments))
    from pipelines.inspect.doctor import report

    report(parsed.output)


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write one static page: what was run, on what, how well, and where it came from."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    page: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File of the page; OUTPUT/report.html by default."""
    examples: int = 6
    """Test conversations to hear, with what was said and what was understood."""


def _report(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(ReportArguments, prog="hubbub report", args=list(arguments))
    from pipelines.inspect.report import report

    report(parsed.output, parsed.page or parsed.output / "report.html", parsed.examples)


def _sweep(arguments: Sequence[str]) -> None:
    parsed = _parse("sweep", arguments)
    from pipelines.plan.context import RunOptions
    from pipelines.upkeep.sweep import sweep

    options = RunOptions(
        output=parsed.output or Path("runs") / f"{parsed.recipe.name}-sweep",
        workers=parsed.workers,
        train_workers=parsed.train_workers,
        min_train_workers=parsed.min_train_workers,
        ray_address=parsed.ray_address,
        store=parsed.store,
    )
    sweep(parsed.recipe, parsed.grid, options)


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "run": _stage("run", "evaluate"),
    "simulate": _stage("simulate", "simulate"),
    "tokenize": _stage("tokenize", "tokenize"),
    "pack": _stage("pack", "pack"),
    "train": _stage("train", "train"),
    "evaluate": _stage("evaluate", "evaluate"),
    "plan": _plan,
    "transcribe": _transcribe,
    "speak": _speak,
    "lineage": _lineage,
    "verify": _verify,
    "sweep": _sweep,
    "report": _report,
    "data": data,
    "cluster": cluster,
    "doctor": _doctor,
}


def _unknown(verb: str) -> Callable[[Sequence[str]], None]:
    def refuse(_: Sequence[str]) -> None:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        raise InputError(f"there is no verb {verb}; {hint}")

    return refuse


def main() -> None:
    """Run one verb; what a user can mend is one line and exit code 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        console.OUT.print(USAGE.format(recipes=", ".join(RECIPES)))
        return
    verb, rest = arguments[0], arguments[1:]
    try:
        VERBS.get(verb, _unknown(verb))(rest)
    except InputError as error:
        console.ERR.print(f"[red]error[/red]     {_escape(str(error))}")
        sys.exit(2)
    except BrokenPipeError:
        os._exit(0)
    except OSError as error:
        mendable = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
        if not mendable and not isinstance(error, PermissionError) and not _of_storage(error):
            raise
        console.ERR.print(f"[red]error[/red]     {_escape(str(error))}; what is made stays, run again to go on")
        sys.exit(2)
    except KeyboardInterrupt:
        console.ERR.print("stopped; the same command goes on from here")
        sys.exit(130)
    except Exception as error:
        if not _of_storage(error):
            raise
        reason = _escape(str(error).splitlines()[0])
        console.ERR.print(
            f"[red]error[/red]     object storage: {reason}; look at AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY; what is made stays, run again to go on"
        )
        sys.exit(2)


def _of_storage(error: BaseException | None) -> bool:
    """Tell whether an error, or what it came from, is that of an object store's client."""
    while error is not None:
        if type(error).__module__.partition(".")[0] in ("botocore", "aiobotocore", "s3fs", "gcsfs", "adlfs"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
