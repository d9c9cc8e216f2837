"""The header of a checkpoint, and listing checkpoints. Does not import torch; `models.training.checkpoint` does."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.codecs.codec import CodecSpec
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
        data = {**data, "shape": shape, "tasks": tuple(data.get("tasks", ()))}
        return Header(**{key: kinds[key](**value) if key in kinds else value for key, value in data.items()})


def steps(folder: Path) -> list[int]:
    """Return the steps that have a complete checkpoint in a folder, ascending."""
    return sorted(int(path.parent.name[5:]) for path in folder.glob("step-*/checkpoint.json"))


def read_header(path: Path) -> tuple[int, Header]:
    """Return the step and header of a checkpoint's folder.

    Raises:
        ValueError: the folder is not a checkpoint.
    """
    try:
        data = json.loads((path / "checkpoint.json").read_text())
        step = data.pop("step")
        return step, Header.from_json(data)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a Hubbub checkpoint: {error}") from error
