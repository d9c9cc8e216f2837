"""speak: a script and a checkpoint -> a dialogue as sound."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from models.codecs import reload_codec
from models.codecs.codec import pack_codes
from models.speech_lm.decode.sampling import Sampling
from models.speech_lm.generate import generate_audio
from operators.corpus.normalizers import normalize
from operators.documents.document import Document
from operators.errors import InputError
from operators.evaluate.transcribe import Transcribe
from pipelines.plan.start import newest_checkpoint
from pipelines.reporting import console
from pipelines.use.transcribe import read_mono

_TAG = re.compile(r"\[s(\d+)\]")


@dataclass(frozen=True)
class Line:
    """What one speaker says."""

    speaker: int
    text: str


def script_of(text: str) -> list[Line]:
    """Read a script: `[s0] good morning [s1] hello`.

    Raises:
        InputError: it has no tags, or a line without words.

    >>> script_of("[s0] Good morning! [s1] hello")
    [Line(speaker=0, text='good morning'), Line(speaker=1, text='hello')]
    """
    parts = _TAG.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise InputError(f"the script must begin with a speaker's tag, as in '[s0] good morning [s1] hello': {text!r}")
    lines = [Line(int(tag), normalize(words)) for tag, words in zip(parts[1::2], parts[2::2], strict=True)]
    for line in lines:
        if not line.text:
            raise InputError(f"[s{line.speaker}] has no text in the script")
    return lines


def speak(
    script: str, checkpoint: Path, target: Path, voices: Mapping[int, Path], max_s: float, sampling: Sampling
) -> None:
    """Speak a script and write it as a sound file.

    Args:
        script: lines, each after its speaker's tag.
        checkpoint: of a model that was trained on task speak.
        target: sound file to be written.
        voices: samples of the speakers' voices; who has none gets whatever voice the model takes.
        max_s: longest answer in seconds.
        sampling: how codes are drawn.

    Raises:
        InputError: the script, a voice or the checkpoint cannot be used.
    """
    lines = script_of(script)
    operator = Transcribe(checkpoint=str(newest_checkpoint(checkpoint)))
    header, tokenizer, grid = operator.header, operator.tokenizer, operator.grid
    try:
        codec = reload_codec(header.codec, header.codec_weights)
        operator.check_codec(codec.spec)
        document = Document(grid.layout, codec.spec)
        document.add_text([tokenizer.SPEAK])
        for speaker in sorted({line.speaker for line in lines}):
            if speaker in voices:
                document.add_text([tokenizer.speaker(speaker), tokenizer.ENROL])
                wav = read_mono(voices[speaker], codec.spec.sample_rate_hz)
                document.add_audio(pack_codes(codec.encode(wav), codec.spec.bits))
        tokens = [i for line in lines for i in (tokenizer.speaker(line.speaker), *tokenizer.encode(line.text))]
    except ValueError as error:
        raise InputError(str(error)) from error
    document.add_text([tokenizer.TEXT, *tokens, tokenizer.AUDIO])
    nothing = np.zeros((codec.spec.num_codebooks, 0), np.uint16)
    (codes,) = generate_audio(
        operator.model,
        [document.prompt()],
        grid,
        given=[nothing],
        max_frames=max(1, round(max_s * codec.spec.frame_rate_hz)),
        end=tokenizer.AUDIO_END,
        sampling=sampling,
        pad_weight=header.pad_weight,
    )
    if not codes.shape[1]:
        raise InputError("the model ended before it made any audio; was it trained on --compose.tasks speak?")
    wav = codec.decode(codes, codes.shape[1] * codec.spec.hop_samples)
    soundfile.write(target, wav, codec.spec.sample_rate_hz)
    console.line("spoken", f"{codes.shape[1] / codec.spec.frame_rate_hz:.1f} s to {target}")
