"""Checkpoints: safetensors and JSON, never a pickle; a folder appears completely or not at all."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.config.errors import InputError
from models.config.header import POSITION, Header, check_checkpoint_files, read_header, remedy, steps
from models.config.intact import digest_file, read_json, sealed
from models.parallel.sharding import gather_full, shard_like
from models.speech_lm.front_end import encoder_digest
from models.speech_lm.model import SpeechLM


class StreamPosition(TypedDict):
    """A training's position in the stream of packs."""

    position: int
    seed: int
    packs: str
    """Digest of the stream's packs."""
    grad_norms: list[float]
    """Gradient norms of recent steps, which spikes are measured against."""
    validations: list[tuple[int, float]]
    """Step and loss of each validation so far: they decide which checkpoints are best, and when training ends."""


@dataclass(frozen=True)
class State:
    """A copy, on the CPU, of everything that a training needs to continue."""

    weights: dict[str, torch.Tensor]
    averaged: dict[str, torch.Tensor]
    """The running mean of the weights, where one is kept."""
    moments: dict[str, torch.Tensor]
    """The optimizer's, as `<parameter>:<moment>`."""


def copy_state(
    model: SpeechLM,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    averaged: Mapping[str, torch.Tensor] | None = None,
) -> State:
    """Copy weights and moments; where parameters are sharded over ranks, every rank must call this."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moments = {
        f"{names[id(parameter)]}:{key}": gather_full(value)
        for optimizer in optimizers
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }
    weights = {name: gather_full(tensor) for name, tensor in model.state_dict().items()}
    means = {name: gather_full(tensor) for name, tensor in (averaged or {}).items()}
    return State(weights, means, moments)


def save(folder: Path, step: int, state: State, header: Header, place: StreamPosition | None = None) -> Path:
    """Write `step-<step>` to a folder unless it exists; return its path.

    `model.safetensors` is what a user takes: the running mean where one is kept, with the raw weights in
    `raw.safetensors`.

    Args:
        folder: of all checkpoints of a training.
        step: steps done.
        state: what is written.
        header: the checkpoint's metadata.
        place: position in the stream of packs from which training continues.

    Raises:
        OSError: the disk is full; no partial folder is left, earlier checkpoints stay.
    """
    target = folder / f"step-{step:06d}"
    if target.exists():
        return target
    staged = folder / f".step-{step:06d}-{os.getpid()}"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        save_file({**state.weights, **state.averaged}, str(staged / "model.safetensors"))
        if state.averaged:
            save_file(state.weights, str(staged / "raw.safetensors"))
        if state.moments:
            save_file(state.moments, str(staged / "optimizer.safetensors"))
        if place is not None:
            (staged / POSITION).write_bytes(sealed(place))
        if header.tokenizer_file is not None:
            shutil.copyfile(header.tokenizer_file, staged / "tokenizer.json")
        files = {one.name: (one.stat().st_size, digest_file(one)) for one in staged.iterdir()}
        (staged / "checkpoint.json").write_bytes(sealed({"step": step, "files": files, **asdict(header)}))
        for path in staged.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        try:
            os.rename(staged, target)
        except OSError:
            if not target.exists():
                raise
        _sync_folder(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def _sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk: until then, a power cut may take what was renamed into it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: Path, device: str = "cpu", *, raw: bool = False) -> tuple[SpeechLM, int, Header]:
    """Return model, step and header of a checkpoint folder.

    Args:
        path: the folder.
        device: where the model goes.
        raw: take the weights that were trained, not their running mean.

    Raises:
        InputError: it is not a checkpoint, its weights are damaged, or do not fit its header.
    """
    step, header = read_header(path)
    name = header.shape.encoder
    if name is not None and encoder_digest(name) != header.vocabulary.encoder_digest:
        raise InputError(f"{path} was trained with a different encoder than the one now at {name}")
    model = SpeechLM(header.shape, header.vocabulary)
    chosen = path / ("raw.safetensors" if raw and (path / "raw.safetensors").exists() else "model.safetensors")
    check_checkpoint_files(path, chosen.name)
    try:
        weights = load_file(str(chosen))
        # Before updates of rows of text were trained apart, they were in the tables.
        apart = {name: one for name, one in model.state_dict().items() if name in ("text_update_up", "head_update_up")}
        model.load_state_dict({**apart, **weights})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the weights of {path} do not load: {str(error).splitlines()[0]}; {remedy(path)}") from error
    return model.to(device), step, header


def load_moments(path: Path, model: SpeechLM, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Restore the optimizers' moments, each parameter's in the optimizer that updates it.

    Raises:
        InputError: their file is missing or damaged.
    """
    file = path / "optimizer.safetensors"
    check_checkpoint_files(path, file.name)
    try:
        loaded = load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} does not load: {str(error).splitlines()[0]}; {remedy(path)}") from error
    owner = {id(p): one for one in optimizers for group in one.param_groups for p in group["params"]}
    saved: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in loaded.items():
        name, _, moment = key.rpartition(":")
        saved.setdefault(name, {})[moment] = value
    for name, parameter in model.named_parameters():
        if name in saved:
            owner[id(parameter)].state[parameter] = {
                moment: value if moment == "step" else shard_like(value, parameter)
                for moment, value in saved[name].items()
            }


def read_position(path: Path) -> dict[str, Any]:
    """Return a checkpoint's position in the stream of packs, as it was written.

    Raises:
        InputError: its file is missing or damaged.
    """
    check_checkpoint_files(path, POSITION)
    place: dict[str, Any] = read_json(path / POSITION, remedy(path))
    if not {"position", "packs", "seed"} <= place.keys():
        raise InputError(f"{path / POSITION} is damaged: it is not what was written; {remedy(path)}")
    return place


def check_position(path: Path, packs: str, seed: int) -> StreamPosition:
    """Return a checkpoint's position, after checking that it is one in the same stream of packs.

    Raises:
        ValueError: it was trained on different packs, or on the same ones in a different order.
    """
    place = read_position(path)
    if (place["packs"], place["seed"]) != (packs, seed):
        raise ValueError(
            f"{path} was trained on packs {place['packs'][:12]} with seed {place['seed']}, "
            f"not on packs {packs[:12]} with seed {seed}; train into another folder"
        )
    return {
        "position": place["position"],
        "seed": seed,
        "packs": packs,
        "grad_norms": place.get("grad_norms", []),
        "validations": [(step, loss) for step, loss in place.get("validations", [])],
    }


def prune(folder: Path, keep: int, best: Sequence[int] = ()) -> None:
    """Remove all but the first checkpoint (the untrained model), the newest `keep` and the best."""
    for step in [step for step in steps(folder) if step][:-keep]:
        if step not in best:
            shutil.rmtree(folder / f"step-{step:06d}", ignore_errors=True)
