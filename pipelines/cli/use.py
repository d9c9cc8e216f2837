"""Verbs that use a checkpoint: transcribe and speak."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from models.config.values import SEED, within
from operators.corpus.normalizers import normalize
from operators.errors import InputError
from operators.formats import FORMATS
from pipelines.cli.arguments import Arguments, read

if TYPE_CHECKING:
    from pipelines.use.transcribe import Heard


FormatName = Literal["lines", "seglst", "stm", "rttm", "ctm", "textgrid", "srt", "vtt"]


@dataclass(frozen=True, kw_only=True)
class TranscribeArguments(Arguments):
    """Transcribe audio files: who said what."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Anything that libsndfile reads; channels are mixed to one."""
    format: FormatName = "lines"
    """What is written; all but lines and seglst need a checkpoint that predicts times (task asr_timed)."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for a file of each audio file; otherwise everything is printed."""
    checkpoint: Path = Path("runs/demo")
    """A step-... folder, or a run's output folder, whose newest checkpoint is taken."""
    task: str | None = None
    """Transcription task to ask; the first that the checkpoint was trained on by default."""
    ask: str | None = None
    """What to transcribe: all, voice=FILE (a sample of the wanted voice), gender=female, order=2 (the second talker),
    keyword=budget (whoever says it) or language=de. Each window of a longer file is asked on its own."""
    hotwords: Path | None = None
    """File of words that may be said, separated by blanks or lines; needs a checkpoint of task asr_context."""
    window_s: float | None = field(default=None, metadata=within(0, 86_400, "s", open_at="low"))
    """Longest window in seconds; the longest that the checkpoint was trained on by default."""
    cut: Literal["quiet", "fixed"] = "quiet"
    """Where longer files are cut: at the quietest place of each window's last third, or after so many seconds."""
    join: tuple[Literal["voices", "overlap", "likeness"], ...] = ("voices", "overlap")
    """How speakers are followed from one window to the next: by samples of their voices in the prompt, where the model
    was trained with them; by the words of audio that windows share; by the likeness of voices."""
    overlap_s: float | None = field(default=None, metadata=within(0, 86_400, "s"))
    """Seconds of audio that two windows share; a fifth of a window, at most 4 s, by default."""
    max_tokens: int | None = field(default=None, metadata=within(1, 10**6, "tokens"))
    """Longest transcript of a window, in tokens."""
    beams: int = field(default=1, metadata=within(1, 64))
    """Beginnings of each transcript that are kept while it is decoded (beam search); 1 is greedy decoding."""


def transcribe(arguments: Sequence[str]) -> None:
    """Print or write who said what in audio files."""
    parsed = read(TranscribeArguments, "hubbub transcribe", arguments)
    targets = _targets(parsed)
    from pipelines.reporting import console
    from pipelines.use.transcribe import Transcriber, as_seglst

    mine = ("files", "format", "output", "checkpoint", "hotwords")
    options = {name: value for name, value in vars(parsed).items() if name not in mine}
    transcriber = Transcriber(parsed.checkpoint, hotwords=_hotwords(parsed), **options)
    if words := transcriber.distinct_words:
        known = f"the model was trained on {words:,} different words: for others it writes some that it knows"
        console.ERR.print(console.shown(known))
    if parsed.format not in ("lines", "seglst") and not transcriber.has_times:
        raise InputError(
            f"--format {parsed.format} needs times, which {parsed.checkpoint} does not predict; take a checkpoint "
            "of task asr_timed, or --format seglst"
        )
    for path, target in zip(parsed.files, targets, strict=True):
        started = time.monotonic()
        turns, audio_s = transcriber(path)
        took_s = time.monotonic() - started
        if transcriber.asks_each_window and audio_s > transcriber.longest_s:
            console.notice(f"{path.name} is longer than {transcriber.longest_s:g} s: each window is asked on its own")
        if parsed.format == "lines":
            text = "".join(f"{_times(turn)}[{turn.speaker}] {turn.text}\n" for turn in turns)
        else:
            write = FORMATS[parsed.format].write
            assert write is not None
            text = write(as_seglst(path.stem, turns))
        if target is None:
            print(text, end="" if text.endswith("\n") else "\n", flush=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        rate = f"{audio_s:.1f} s of audio in {took_s:.1f} s, {took_s / audio_s:.2f} of real time"
        console.ERR.print(console.shown(f"{path.name}: {rate}" + (f", to {target}" if target else "")))


def _hotwords(parsed: TranscribeArguments) -> list[str]:
    """Return the words of the file of hotwords, normalized as in training; none where there is no file.

    Raises:
        InputError: more than one thing is asked, or the file cannot be read or has no words.
    """
    given = [name for name in ("task", "ask", "hotwords") if getattr(parsed, name) is not None]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]} ask different things; give one of them")
    if parsed.hotwords is None:
        return []
    try:
        words = normalize(parsed.hotwords.read_text(encoding="utf-8")).split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--hotwords {parsed.hotwords} cannot be read: {error}") from error
    if not words:
        raise InputError(f"--hotwords {parsed.hotwords} has no words")
    return list(dict.fromkeys(words))


def _times(turn: "Heard") -> str:
    return "" if turn.end_s is None else f"{turn.start_s:8.2f} {turn.end_s:8.2f}  "


def _targets(parsed: TranscribeArguments) -> list[Path | None]:
    """Return where each file's transcript is written; None where it is printed.

    Raises:
        InputError: no file is named, one is missing, or two would be written to one place.
    """
    if not parsed.files:
        raise InputError("hubbub transcribe needs at least one audio file")
    if missing := [str(path) for path in parsed.files if not path.is_file()]:
        raise InputError(f"there is no file {', '.join(missing)}")
    if parsed.output is None:
        return [None] * len(parsed.files)
    suffix = ".txt" if parsed.format == "lines" else FORMATS[parsed.format].suffixes[0]
    targets: dict[Path, Path] = {}
    for path in parsed.files:
        target = parsed.output / (path.stem + suffix)
        if target in targets:
            raise InputError(f"{targets[target]} and {path} would both be written to {target}; transcribe them apart")
        targets[target] = path
    return list(targets)


@dataclass(frozen=True, kw_only=True)
class SpeakArguments(Arguments):
    """Speak a script with a model that was trained on task speak."""

    script: Annotated[str, tyro.conf.Positional]
    """Lines after speakers' tags: "[s0] good morning [s1] hello"."""
    checkpoint: Path = Path("runs/demo")
    """A step-... folder, or a run's output folder, whose newest checkpoint is taken."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("spoken.wav")
    """Audio file to be written."""
    voices: tuple[str, ...] = ()
    """Samples of voices: s0=FILE s1=FILE."""
    max_s: float = field(default=15.0, metadata=within(0, 86_400, "s", open_at="low"))
    """Longest output in seconds."""
    temperature: float = field(default=1.0, metadata=within(0, 10**6))
    """Below 1 sharper; 0 takes the most likely code."""
    top_p: float = field(default=0.95, metadata=within(0, 1, open_at="low"))
    """Probability mass of the most likely codes that are drawn from."""
    seed: int = field(default=0, metadata=SEED)
    """Seed of the draws."""


def speak(arguments: Sequence[str]) -> None:
    """Write a dialogue as an audio file."""
    parsed = read(SpeakArguments, "hubbub speak", arguments)
    from models.speech_lm.decode.sampling import Sampling
    from pipelines.use.speak import speak as speak_script

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
    speak_script(parsed.script, parsed.checkpoint, parsed.output, voices, parsed.max_s, sampling)
