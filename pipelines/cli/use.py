"""Verbs that use a checkpoint: transcribe and speak."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from operators.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TranscribeArguments:
    """Transcribe an audio file: who said what."""

    file: Annotated[Path, tyro.conf.Positional]
    """Anything that libsndfile reads; channels are mixed to one."""
    checkpoint: Path = Path("runs/demo")
    """A step-... folder, or a run's output folder, whose newest checkpoint is taken."""
    window_s: float = 15.0
    """Longest window in seconds; longer files are cut where it is quiet."""
    max_tokens: int | None = None
    """Longest transcript of a window, in tokens."""
    json: bool = False
    """Print JSON instead of lines."""


def transcribe(arguments: Sequence[str]) -> None:
    """Print who said what in an audio file."""
    parsed = tyro.cli(TranscribeArguments, prog="hubbub transcribe", args=list(arguments))
    from pipelines.use.transcribe import transcribe as transcribe_file

    turns = transcribe_file(parsed.file, parsed.checkpoint, window_s=parsed.window_s, max_tokens=parsed.max_tokens)
    if parsed.json:
        print(json.dumps([{"window_start_s": s, "speaker": tag, "words": text} for s, tag, text in turns], indent=1))
        return
    for _, tag, text in turns:
        print(f"[{tag}] {text}", flush=True)


@dataclass(frozen=True, kw_only=True)
class SpeakArguments:
    """Speak a script with a model that was trained on task speak."""

    script: Annotated[str, tyro.conf.Positional]
    """Lines after speakers' tags: "[s0] good morning [s1] hello"."""
    checkpoint: Path = Path("runs/demo")
    """A step-... folder, or a run's output folder, whose newest checkpoint is taken."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("spoken.wav")
    """Audio file to be written."""
    voices: tuple[str, ...] = ()
    """Samples of voices: s0=FILE s1=FILE."""
    max_s: float = 15.0
    """Longest output in seconds."""
    temperature: float = 1.0
    """Below 1 sharper; 0 takes the most likely code."""
    top_p: float = 0.95
    """Probability mass of the most likely codes that are drawn from."""
    seed: int = 0
    """Seed of the draws."""


def speak(arguments: Sequence[str]) -> None:
    """Write a dialogue as an audio file."""
    parsed = tyro.cli(SpeakArguments, prog="hubbub speak", args=list(arguments))
    from models.speech_lm.generate import Sampling
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
