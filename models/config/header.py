"""The header of a checkpoint, and listing checkpoints. Does not import torch; `models.training.checkpoint` does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.codecs.codec import CodecSpec
from models.config.errors import InputError
from models.config.intact import check_file, digest_bytes, digest_file, read_json
from models.config.shape import Shape, Vocabulary

POSITION = "loader.json"
"""File of a checkpoint that holds its position in the stream of packs, and the validations so far."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything needed to use a checkpoint without its recipe."""

    shape: Shape
    vocabulary: Vocabulary
    codec: CodecSpec
    codec_weights: str | None
    layout: str
    group: int
    tokenizer: str
    tokenizer_digest: str
    tokenizer_file: str | None = None
    """The user's tokenizer.json, copied into every checkpoint."""
    deduplicate: bool = False
    """Whether repeated frames of prompt audio are left out."""
    tasks: tuple[str, ...] = ()
    """Tasks that it was trained on."""
    window_s: float = 30.0
    """Longest piece of a conversation in a document."""
    overlap_s: float = 0.0
    """How far later windows reached back, with the text of what they repeat in the prompt."""
    carry_voices: bool = False
    """Whether later windows' prompts held a sample of each voice of earlier windows."""
    enrol_s: float = 3.0
    """Longest voice sample."""
    predicts_activity: bool = False
    """Whether it was trained to tell who talks in each column of a prompt."""
    pad_weight: float = 1.0
    """Weight in the loss of text cells that only said that audio goes on, relative to the one that ends it."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """Data sets with their Merkle roots, recipe digest, seed and code version."""

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Header":
        """Return the header that `dataclasses.asdict` turned into JSON values."""
        kinds = {"shape": Shape, "vocabulary": Vocabulary, "codec": CodecSpec}
        shape = {name: tuple(value) if isinstance(value, list) else value for name, value in data["shape"].items()}
        if shape.get("encoder"):  # earlier versions padded with silence, and did not say so
            shape = {"encoder_window": "full", **shape}
        data = {**data, "shape": shape, "tasks": tuple(data.get("tasks", ()))}
        return Header(**{key: kinds[key](**value) if key in kinds else value for key, value in data.items()})


def remedy(path: Path) -> str:
    """Return the way out where something of a checkpoint is damaged."""
    return f"hubbub data verify OUTPUT --repair trains from the one before it; or remove {path} and run again"


def steps(folder: Path) -> list[int]:
    """Return the steps that have a complete checkpoint in a folder, ascending."""
    return sorted(int(path.parent.name[5:]) for path in folder.glob("step-*/checkpoint.json"))


def _read(path: Path) -> tuple[int, Header, Mapping[str, tuple[int, str]]]:
    """Return step, header, and size and digest of each other file, of a checkpoint's folder."""
    if not (path / "checkpoint.json").exists():
        raise InputError(f"{path} is not a Hubbub checkpoint: it has no checkpoint.json")
    data = read_json(path / "checkpoint.json", remedy(path))
    try:
        step, files = data.pop("step"), data.pop("files", {})
        return step, Header.from_json(data), {name: (size, digest) for name, (size, digest) in files.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a Hubbub checkpoint, or is damaged: {error}; {remedy(path)}") from error


def read_header(path: Path) -> tuple[int, Header]:
    """Return the step and header of a checkpoint's folder.

    Raises:
        InputError: the folder is not a checkpoint, or its header is damaged.
    """
    step, header, _ = _read(path)
    return step, header


def tensor_files(path: Path, kind: str) -> list[str]:
    """Return the names of a checkpoint's files of tensors of a kind, in the order of their rows.

    It is one, or one of each rank that held a part. Checkpoints of earlier versions do not list their files.

    Args:
        path: of the checkpoint.
        kind: `model`, `raw` or `optimizer`.

    Raises:
        InputError: the folder is not a checkpoint, or its header is damaged.
    """
    of_kind = re.compile(rf"{kind}(-\d+-of-\d+)?\.safetensors")
    return sorted(name for name in _read(path)[2] if of_kind.fullmatch(name)) or [f"{kind}.safetensors"]


def weights_digest(path: Path) -> str:
    """Return the digest of the file of weights that a user takes; that of its parts' digests where there are parts.

    Raises:
        InputError: the folder is not a checkpoint, or its header is damaged.
    """
    digests = [digest_file(path / name) for name in tensor_files(path, "model")]
    return digests[0] if len(digests) == 1 else digest_bytes("".join(digests).encode())


def check_checkpoint_files(path: Path, *names: str) -> None:
    """Hold files of a checkpoint, or all of them, against the sizes and digests in its header.

    Checkpoints of earlier versions record none.

    Raises:
        InputError: one is missing or damaged.
    """
    _, _, files = _read(path)
    for name in names or files:
        if name in files:
            check_file(path / name, *files[name], remedy(path))
