"""Checkpoints: safetensors and JSON, never a pickle; a folder appears completely or not at all."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from models.config.errors import InputError
from models.config.header import POSITION, Header, check_checkpoint_files, read_header, remedy, steps, tensor_files
from models.config.intact import digest_file, read_json, sealed
from models.parallel.parts import PartWriters, StoredTensors
from models.parallel.sharding import own_part
from models.speech_lm.hearing.load import encoder_digest
from models.speech_lm.model import SpeechLM
from models.speech_lm.pretrained.start import build_model
from models.training.mirror import Mirror


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
    """A copy, on the CPU, of everything that a training needs to continue; where it is sharded, of a rank's part."""

    weights: dict[str, torch.Tensor]
    averaged: dict[str, torch.Tensor]
    """The running mean of the weights, where one is kept."""
    moments: dict[str, torch.Tensor]
    """The optimizer's, as `<parameter>:<moment>`."""


def copy_state(
    model: SpeechLM,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    averaged: Mapping[str, torch.Tensor] | None = None,
    rank: int = 0,
) -> State:
    """Copy what this rank writes of weights and moments: all of them on rank 0, or its rows where they are sharded."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moments = {
        f"{names[id(parameter)]}:{key}": value
        for optimizer in optimizers
        for parameter, values in optimizer.state.items()
        for key, value in (optimizer.kept(parameter) if hasattr(optimizer, "kept") else values).items()
    }

    def own(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        parts = ((name, own_part(tensor, rank)) for name, tensor in tensors.items())
        return {name: part for name, part in parts if part is not None}

    return State(own(model.state_dict()), own(averaged or {}), own(moments))


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
        files = _write_tensors(staged, state) | _write_rest(staged, header, place)
        _write_header(staged, step, header, files)
        _commit(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def save_part(
    folder: Path,
    step: int,
    state: State,
    header: Header,
    place: StreamPosition,
    writers: PartWriters,
    mirror: Mirror | None = None,
) -> None:
    """Write this rank's part of `step-<step>`; rank 0 makes it a checkpoint when all parts are there.

    Ranks need not see one folder where there is a mirror: each sends its part there, and on a machine that does not
    hold all of them there is no checkpoint.

    Args:
        folder: of all checkpoints of a training.
        step: steps done.
        state: this rank's part.
        header: the checkpoint's metadata.
        place: position in the stream of packs from which training continues.
        writers: all of which call this.
        mirror: of the folder.

    Raises:
        OSError: on every rank, where one could not write; no checkpoint is left of this step, earlier ones stay.
    """
    target, staged = folder / f"step-{step:06d}", folder / f".step-{step:06d}-parts"
    files: dict[str, FileRecord] = {}

    def agree(work: Callable[[], None]) -> list[dict[str, Any]]:
        """Do a part of the work; learn of all ranks' files, or that one has failed."""
        message: dict[str, Any] = {}
        try:
            work()
            message |= {"files": files, "exists": target.exists()}
        except Exception as error:  # noqa: BLE001 - whatever it is: the others wait for a word
            message["fault"] = str(error) or type(error).__name__
        said = writers.exchange(message)
        if faults := [f"rank {rank}: {one['fault']}" for rank, one in enumerate(said) if "fault" in one]:
            raise OSError(f"the checkpoint of step {step} cannot be written: {'; '.join(faults)}")
        return said

    def begin() -> None:
        if writers.rank == 0 and not target.exists():
            shutil.rmtree(staged, ignore_errors=True)  # what a kill has left, of as many ranks or not
            staged.mkdir(parents=True)

    def write() -> None:
        staged.mkdir(parents=True, exist_ok=True)
        files.update(_write_tensors(staged, state, writers.suffix))
        if mirror:
            mirror.send_files(staged, step, files)

    def finish() -> None:
        if writers.rank:
            return
        rest = _write_rest(staged, header, place)
        _write_header(staged, step, header, parts | rest)
        if mirror:
            mirror.send_loose()
            mirror.send_files(staged, step, [*rest, "checkpoint.json"])
        if all((staged / name).exists() for name in parts):
            _commit(staged, target)
        elif mirror is None:
            raise OSError(f"{folder} is not one folder to all ranks; give a --store that all of them reach")

    try:
        if agree(begin)[0]["exists"]:
            return
        parts = {name: tuple(record) for one in agree(write) for name, record in one["files"].items()}
        agree(finish)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


FileRecord = tuple[int, str]
"""Size and digest of a file."""


def _write_tensors(folder: Path, state: State, suffix: str = "") -> dict[str, FileRecord]:
    """Write a state's tensors to a folder; return the records of their files, which are on the disk."""
    kinds = {"model": {**state.weights, **state.averaged}}
    if state.averaged:
        kinds["raw"] = state.weights
    if state.moments:
        kinds["optimizer"] = state.moments
    for kind, tensors in kinds.items():
        save_file(tensors, str(folder / f"{kind}{suffix}.safetensors"))
    return _recorded(folder, [f"{kind}{suffix}.safetensors" for kind in kinds])


def _write_rest(folder: Path, header: Header, place: StreamPosition | None) -> dict[str, FileRecord]:
    """Write the position and the tokenizer to a folder; return the records of their files, which are on the disk."""
    names = []
    if place is not None:
        (folder / POSITION).write_bytes(sealed(place))
        names.append(POSITION)
    if header.tokenizer_file is not None:
        shutil.copyfile(header.tokenizer_file, folder / "tokenizer.json")
        names.append("tokenizer.json")
    return _recorded(folder, names)


def _write_header(folder: Path, step: int, header: Header, files: Mapping[str, FileRecord]) -> None:
    (folder / "checkpoint.json").write_bytes(sealed({"step": step, "files": files, **asdict(header)}))
    _sync(folder / "checkpoint.json")


def _recorded(folder: Path, names: Sequence[str]) -> dict[str, FileRecord]:
    """Put files on the disk; return the size and digest of each."""
    for name in names:
        _sync(folder / name)
    return {name: ((folder / name).stat().st_size, digest_file(folder / name)) for name in names}


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _commit(staged: Path, target: Path) -> None:
    """Give a complete folder its name, unless another process was faster."""
    try:
        os.rename(staged, target)
    except OSError:
        if not target.exists():
            raise
    _sync_folder(target.parent)


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
    check_encoder(path)
    model = build_model(header.shape, header.vocabulary)
    load_weights(path, model, raw=raw)
    return model.to(device), step, header


def check_encoder(path: Path) -> None:
    """Check that the encoder that a checkpoint names is the one that it was trained with.

    Raises:
        InputError: it is another one, or the header is damaged.
    """
    _, header = read_header(path)
    name = header.shape.encoder
    if name is not None and encoder_digest(name) != header.vocabulary.encoder_digest:
        raise InputError(f"{path} was trained with a different encoder than the one now at {name}")


def load_weights(path: Path, model: SpeechLM, *, raw: bool = False) -> None:
    """Copy a checkpoint's weights into a model, one tensor after the other; of a sharded one, this rank's rows.

    Args:
        path: the checkpoint's folder.
        model: of the shape in its header.
        raw: take the weights that were trained, not their running mean.

    Raises:
        InputError: the weights are damaged, or do not fit the model.
    """
    try:
        # Before updates of rows of text were trained apart, they were in the tables.
        open_tensors(path, raw=raw).fill(model.state_dict(), frozenset(("text_update_up", "head_update_up")))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the weights of {path} do not load: {str(error).splitlines()[0]}; {remedy(path)}") from error


def open_tensors(path: Path, *, raw: bool = False) -> StoredTensors:
    """Open a checkpoint's weights: those for use, or those that were trained, where their running mean is kept.

    Raises:
        InputError: they are missing or damaged.
        OSError: they cannot be read.
        SafetensorError: they are not what their names say.
    """
    has_raw = any((path / name).exists() for name in tensor_files(path, "raw"))
    return StoredTensors(path, "raw" if raw and has_raw else "model")


def load_moments(path: Path, model: SpeechLM, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Restore the optimizers' moments, each parameter's in the optimizer that updates it.

    Raises:
        InputError: their file is missing or damaged.
    """
    owner = {id(p): one for one in optimizers for group in one.param_groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    try:
        stored = StoredTensors(path, "optimizer")
        for key in stored:
            name, _, moment = key.rpartition(":")
            if name in parameters:
                parameter = parameters[name]
                optimizer = owner[id(parameter)]
                if hasattr(optimizer, "restore"):
                    optimizer.restore(parameter, moment, stored.rows(key).to(parameter.device))
                elif moment == "step":
                    optimizer.state[parameter][moment] = stored.rows(key).to(parameter.device)
                else:
                    optimizer.state[parameter][moment] = stored.like(key, parameter)
    except (OSError, SafetensorError) as error:
        file = path / "optimizer.safetensors"
        raise InputError(f"{file} does not load: {str(error).splitlines()[0]}; {remedy(path)}") from error


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
