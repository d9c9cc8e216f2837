"""Checkpoints: safetensors and JSON, never a pickle; a folder appears whole or not at all."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.codec import CodecSpec
from models.speech_lm import Shape, SpeechLM, Vocabulary


class Place(TypedDict):
    """Where a training stands in the stream of packs."""

    position: int
    seed: int
    packs: str
    """Digest of the packs that the stream goes through."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint must say to be used by somebody who has nothing else."""

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
    """Whether repeated frames of what is heard are left out."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """Data sets with their Merkle roots, recipe digest, seed and code version."""

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Header":
        """Read a header back."""
        kinds = {"shape": Shape, "vocabulary": Vocabulary, "codec": CodecSpec}
        return Header(**{key: kinds[key](**value) if key in kinds else value for key, value in data.items()})


def save(
    folder: Path,
    step: int,
    model: SpeechLM,
    header: Header,
    optimizer: torch.optim.Optimizer | None = None,
    place: Place | None = None,
) -> Path:
    """Write `step-<step>` below a folder, or leave the one that is there; return it.

    Args:
        folder: of all checkpoints of a training.
        step: steps done.
        model: its weights are written.
        header: what explains them.
        optimizer: its moments are written too.
        place: where the stream of packs goes on.

    Raises:
        OSError: the disk is full; nothing is left behind, earlier checkpoints stay.
    """
    target = folder / f"step-{step:06d}"
    if target.exists():
        return target
    staged = folder / f".step-{step:06d}-{os.getpid()}"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, str(staged / "model.safetensors"))
        if optimizer is not None:
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            moments = {
                f"{names[id(parameter)]}:{key}": value.detach().cpu().contiguous()
                for parameter, values in optimizer.state.items()
                for key, value in values.items()
            }
            save_file(moments, str(staged / "optimizer.safetensors"))
        if place is not None:
            (staged / "loader.json").write_text(json.dumps(place))
        if header.tokenizer_file is not None:
            shutil.copyfile(header.tokenizer_file, staged / "tokenizer.json")
        text = json.dumps({"step": step, **asdict(header)}, indent=1, sort_keys=True)
        (staged / "checkpoint.json").write_text(text + "\n")
        for path in staged.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        try:
            os.rename(staged, target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def steps(folder: Path) -> list[int]:
    """Return the steps whose checkpoints are complete, in order."""
    return sorted(int(path.parent.name[5:]) for path in folder.glob("step-*/checkpoint.json"))


def read_header(path: Path) -> tuple[int, Header]:
    """Return step and header of a checkpoint folder.

    Raises:
        ValueError: it is not one.
    """
    try:
        data = json.loads((path / "checkpoint.json").read_text())
        step = data.pop("step")
        return step, Header.from_json(data)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a checkpoint of ours: {error}") from error


def load(path: Path, device: str = "cpu") -> tuple[SpeechLM, int, Header]:
    """Return model, step and header of a checkpoint folder.

    Raises:
        ValueError: it is not a checkpoint, or its weights do not fit its header.
    """
    step, header = read_header(path)
    model = SpeechLM(header.shape, header.vocabulary)
    try:
        model.load_state_dict(load_file(str(path / "model.safetensors")))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights of {path} do not load: {str(error).splitlines()[0]}") from error
    return model.to(device), step, header


def load_optimizer(path: Path, model: SpeechLM, optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer's moments back."""
    saved = load_file(str(path / "optimizer.safetensors"))
    for name, parameter in model.named_parameters():
        keys = [key for key in saved if key.rsplit(":", 1)[0] == name]
        optimizer.state[parameter] = {
            key.rsplit(":", 1)[1]: saved[key].to("cpu" if key.endswith(":step") else parameter.device) for key in keys
        }


def check_place(path: Path, packs: str, seed: int) -> None:
    """Check that a checkpoint's place is one in the stream that is to go on.

    Raises:
        ValueError: it has seen other packs, or the same in another order.
    """
    place = json.loads((path / "loader.json").read_text())
    if (place["packs"], place["seed"]) != (packs, seed):
        raise ValueError(
            f"{path} stands in the stream of packs {place['packs'][:12]} with seed {place['seed']}, "
            f"not of packs {packs[:12]} with seed {seed}; train into another folder"
        )


def prune(folder: Path, keep: int) -> None:
    """Remove all but the first checkpoint (the untrained model) and the newest `keep`."""
    for step in steps(folder)[1:-keep]:
        shutil.rmtree(folder / f"step-{step:06d}", ignore_errors=True)
