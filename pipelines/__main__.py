"""The command line: `hubbub`, or `python -m pipelines`."""

import difflib
import errno
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
from pipelines import console
from pipelines.recipes import RECIPES, Recipe, named_or_file, to_json

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
  lineage    ID                          where a checkpoint, data set or run came from
  verify     RECIPE                      whether every committed byte is as it was
  data       fit RTTM... | score OUTPUT | align MANIFEST... | units MANIFEST... | listen OUTPUT |
             impact OUTPUT --speaker ID | export OUTPUT FOLDER | archive|restore OUTPUT FOLDER
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
    ray_address: str | None = None
    """Cluster to join instead of a local Ray."""
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
    recipe = named_or_file(name)
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
        from pipelines.road import Output
        from pipelines.run import Options, run
        from pipelines.summary import summarize

        options = Options(
            output=parsed.output or Path("runs") / parsed.recipe.name,
            workers=parsed.workers,
            train_workers=parsed.train_workers,
            ray_address=parsed.ray_address,
            update=parsed.update,
            checkpoint=parsed.checkpoint if verb == "evaluate" else None,
            truth=parsed.truth,
        )
        started = time.monotonic()
        if verb == "pack" and parsed.compare:
            from pipelines.compare import compare, show

            codes = run(parsed.recipe, options, "tokenize")["snapshots"]["codes"]
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
    from pipelines.plan import show

    show(parsed.recipe, parsed.output or Path("runs") / parsed.recipe.name)


def _verify(arguments: Sequence[str]) -> None:
    parsed = _parse("verify", arguments)
    from pipelines.plan import verify

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
    from pipelines.transcribe import transcribe

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
    from models.generate import Sampling
    from pipelines.speak import speak

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
    """Follow a checkpoint, data set, evaluation or MLflow run back to the manifests."""

    id: Annotated[str, tyro.conf.Positional]
    """A path, a data set's name, or 6 or more digits of a Merkle root, weights digest or run id."""
    output: Path | None = None
    """Output folder to look in; every folder below runs/ by default."""
    json: bool = False
    """Print JSON instead of a tree."""


def _lineage(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(LineageArguments, prog="hubbub lineage", args=list(arguments))
    from pipelines.lineage import chain
    from pipelines.road import Output

    path = Path(parsed.id)
    above = [folder for folder in (path, *path.absolute().parents) if (folder / "recipe.json").exists()]
    folders = (
        [parsed.output] if parsed.output else above[:1] or sorted(p.parent for p in Path("runs").glob("*/recipe.json"))
    )
    found = chain(parsed.id.rstrip("/"), [Output(folder) for folder in folders])
    if parsed.json:
        print(json.dumps(found, indent=1, default=str))
    else:
        console.tree(found)


@dataclass(frozen=True, kw_only=True)
class ArchiveArguments:
    """Write data sets as Parquet to keep or to send, or bring them back byte for byte."""

    action: Annotated[Literal["archive", "restore"], tyro.conf.Positional]
    """archive: output folder -> Parquet; restore: Parquet -> output folder."""
    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    archive: Annotated[str, tyro.conf.Positional]
    """Folder or URL of the Parquet files."""
    names: tuple[str, ...] = ("utterances", "conversations", "codes", "packs")
    """Data sets."""


@dataclass(frozen=True, kw_only=True)
class FitArguments:
    """Estimate how people take turns from who spoke when."""

    rttms: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """RTTM files of recorded conversations."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("prior.json")
    """File that --converse.prior takes."""
    name: str = "own"
    """Name of the prior."""


@dataclass(frozen=True, kw_only=True)
class ScoreArguments:
    """Compare simulated conversations with recorded ones."""

    simulated: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """A run's output folder, or RTTM files."""
    against: tuple[str, ...] = ("meeting",)
    """A preset (meeting, telephone, broadcast), a file that `hubbub data fit` wrote, or RTTM files."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of scorecard.html and scorecard.json; the first input's folder by default."""


def _fit(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(FitArguments, prog="hubbub data fit", args=list(arguments))
    from pipelines.realism import fit_prior

    fit_prior(parsed.rttms, parsed.output, parsed.name)


def _score(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(ScoreArguments, prog="hubbub data score", args=list(arguments))
    from pipelines.realism import score

    first = parsed.simulated[0]
    score(parsed.simulated, parsed.against, parsed.output or (first if first.is_dir() else first.parent) / "scorecard")


@dataclass(frozen=True, kw_only=True)
class AlignArguments:
    """Find when each word is said; write the corpus as lhotse recordings and supervisions with alignments."""

    manifests: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Manifests of single speakers: PATH or SPLIT=PATH."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("aligned")
    """Folder of the lhotse manifest."""
    language: str = "en"
    """Language of the aligner, and of rows that name none."""
    workers: int | None = None
    """Processes; as many as there are cores by default."""


def _align(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(AlignArguments, prog="hubbub data align", args=list(arguments))
    from pipelines.align import align_corpus

    align_corpus(parsed.manifests, parsed.output, parsed.language, parsed.workers or os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write conversations with their sound and truth for other toolkits."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where the export goes."""
    format: Literal["lhotse", "shar"] = "lhotse"
    """lhotse: recordings (FLAC), supervisions and cuts; shar: lhotse's tar shards."""
    split: Literal["train", "test"] | None = None
    """Only this split."""


def _export(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(ExportArguments, prog="hubbub data export", args=list(arguments))
    from pipelines.export import export

    export(parsed.output, parsed.folder, parsed.format, parsed.split)


@dataclass(frozen=True, kw_only=True)
class UnitsArguments:
    """Find k-means units in a corpus: a codec of your own, for --encode.codec units."""

    manifests: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Manifests of single speakers: PATH or SPLIT=PATH; the train split is used where there is one."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("units")
    """Folder of the units."""
    features: Literal["mel", "mfcc", "encoder"] = "mel"
    """Log-mel spectrograms (can be made sound again), cepstra, or an encoder's hidden states."""
    encoder: str | None = None
    """Folder or hub id of the encoder (HuBERT, WavLM, ...)."""
    layer: int = 6
    """Its layer."""
    units: int = 500
    """Number of units."""
    hours: float = 10.0
    """Speech listened to at most."""
    seed: int = 0
    """Of the draw and of the search."""


def _units(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(UnitsArguments, prog="hubbub data units", args=list(arguments))
    if (parsed.encoder is not None) != (parsed.features == "encoder"):
        raise InputError("--encoder FOLDER goes with --features encoder")
    from pipelines.units import make_units

    description: dict[str, object] = {"kind": parsed.features}
    if parsed.encoder is not None:
        description |= {"weights": parsed.encoder, "layer": parsed.layer}
    make_units(parsed.manifests, parsed.output, description, parsed.units, parsed.hours, parsed.seed)


@dataclass(frozen=True, kw_only=True)
class ListenArguments:
    """Decode documents, packs or conversations to sound and text, on one page with players."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    ids: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Conversations, documents or packs; the first few where none is named."""
    page: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the page; OUTPUT/listen by default."""
    number: int = 10
    """How many are shown."""
    dataset: Literal["packs", "codes"] = "packs"
    """packs: documents as training reads them; codes: whole conversations."""


def _listen(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(ListenArguments, prog="hubbub data listen", args=list(arguments))
    from pipelines.listen import listen

    listen(parsed.output, parsed.page or parsed.output / "listen", parsed.ids, parsed.number, parsed.dataset)


@dataclass(frozen=True, kw_only=True)
class ImpactArguments:
    """Say what a voice is in: data sets, checkpoints, figures, and the first training step that heard it."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    speaker: str
    """The speaker, as the manifests call them."""
    json: bool = False
    """Print JSON instead of tables."""


def _impact(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(ImpactArguments, prog="hubbub data impact", args=list(arguments))
    from pipelines.impact import impact, show

    found = impact(parsed.output, parsed.speaker)
    if parsed.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


def _data(arguments: Sequence[str]) -> None:
    verbs = {
        "fit": _fit, "score": _score, "align": _align, "export": _export, "units": _units, "listen": _listen,
        "impact": _impact,
        "archive": _archive, "restore": _archive
    }  # fmt: skip
    if not arguments or arguments[0] not in verbs:
        raise InputError(f"hubbub data wants one of {', '.join(verbs)}")
    verb = arguments[0]
    verbs[verb](arguments if verbs[verb] is _archive else arguments[1:])


def _archive(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(ArchiveArguments, prog="hubbub data", args=list(arguments))
    from pipelines.road import Output

    for name in parsed.names:
        dataset = Output(parsed.output).dataset(name)
        if parsed.action == "restore":
            snapshot = dataset.restore(parsed.archive)
            console.line(
                name, f"{len(snapshot.receipts)} partitions, Merkle root {snapshot.merkle_root[:12]}, as committed"
            )
            continue
        latest = dataset.latest()
        if latest is None:
            raise InputError(f"there is no data set {name} in {parsed.output}")
        size, before = dataset.archive(latest, parsed.archive), sum(r.num_bytes for r in latest.receipts)
        console.line(name, f"{console.count(size)} bytes of Parquet from {console.count(before)} of Arrow")


def _doctor(arguments: Sequence[str]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class DoctorArguments:
        """Say what this machine can do, and what will be used, and why."""

        output: Path = Path("runs")
        """Where output would go."""

    parsed = tyro.cli(DoctorArguments, prog="hubbub doctor", args=list(arguments))
    from pipelines.doctor import report

    report(parsed.output)


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
    "data": _data,
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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        console.ERR.print(f"[red]error[/red]     {_escape(str(error))}; what is made stays, run again to go on")
        sys.exit(2)
    except KeyboardInterrupt:
        console.ERR.print("stopped; the same command goes on from here")
        sys.exit(130)
    except BrokenPipeError:
        os._exit(0)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
