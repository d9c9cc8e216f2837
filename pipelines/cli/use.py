"""Verbs that use a checkpoint: transcribe and speak."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from models.config.values import SEED, within
from operators.errors import InputError
from pipelines.cli.arguments import Arguments, read


@dataclass(frozen=True, kw_only=True)
class TranscribeArguments(Arguments):
    """Transcribe an audio file: who said what."""

    file: Annotated[Path, tyro.conf.Positional]
    """Anything that libsndfile reads; channels are mixed to one."""
    checkpoint: Path = Path("runs/demo")
    """A step-... folder, or a run's output folder, whose newest checkpoint is taken."""
    task: str | None = None
    """Transcription task to ask; the first that the checkpoint was trained on by default."""
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
    json: bool = False
    """Print SegLST, as JSON, instead of lines."""


def transcribe(arguments: Sequence[str]) -> None:
    """Print who said what in an audio file."""
    parsed = read(TranscribeArguments, "hubbub transcribe", arguments)
    from pipelines.use.transcribe import as_seglst
    from pipelines.use.transcribe import transcribe as transcribe_file

    options = {name: value for name, value in vars(parsed).items() if name not in ("file", "checkpoint", "json")}
    turns = transcribe_file(parsed.file, parsed.checkpoint, **options)
    if parsed.json:
        print(json.dumps(as_seglst(parsed.file.stem, turns), indent=1, ensure_ascii=False))
        return
    for turn in turns:
        times = "" if turn.end_s is None else f"{turn.start_s:8.2f} {turn.end_s:8.2f}  "
        print(f"{times}[{turn.speaker}] {turn.text}", flush=True)


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
