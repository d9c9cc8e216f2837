"""Initial weights of a training: random, a Hubbub checkpoint, a pretrained text LLM, or the newest checkpoint here."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.config.header import Header, read_header, steps, weights_digest
from models.config.intact import read_json, sealed
from models.config.shape import Shape
from models.training.mirror import Mirror
from operators.digest import digest, digest_file
from operators.errors import InputError
from operators.store import storage
from pipelines.recipes.recipe import Recipe
from pipelines.recipes.whisper import LONGEST_S

if TYPE_CHECKING:  # where nothing is started from, a plan does without torch
    from models.speech_lm.model import SpeechLM

_DECISION = "start.json"
"""File that records what `last` was when a training began, so that repeating the command starts from the same."""


def newest_checkpoint(path: Path) -> Path:
    """Return a checkpoint folder, given one, a training's folder or an output folder.

    Raises:
        InputError: there is none.
    """
    for pattern in ("checkpoint.json", "step-*/checkpoint.json", "checkpoints/*/step-*/checkpoint.json"):
        # The last step of each training, whatever the clock said when it was written; of those the newest.
        last: dict[Path, Path] = {}
        for one in path.glob(pattern):
            folder = one.parent
            last[folder.parent] = max(folder, last.get(folder.parent, folder), key=lambda step: step.name)
        if last:
            return max(last.values(), key=lambda folder: ((folder / "checkpoint.json").stat().st_mtime, folder.name))
    raise InputError(f"there is no checkpoint at {path}; --checkpoint takes a step-... folder or a run's output folder")


def _ours(name: str) -> Path | None:
    """Return a Hubbub checkpoint, given its folder or an output folder, whose newest is taken; else None."""
    folder = Path(name).expanduser()
    if (folder / "checkpoint.json").is_file():
        return folder
    return newest_checkpoint(folder) if (folder / "checkpoints").is_dir() else None


def shape_of(recipe: Recipe) -> Shape:
    """Return the shape of the model that a recipe trains: the pretrained model's, where it starts from one.

    Raises:
        InputError: the initial weights cannot be used.
    """
    name = recipe.train.start_from
    if name is None or name == "last":
        return recipe.model
    try:
        ours = _ours(name)
        if ours is None:
            from models.speech_lm.pretrained.llm import find
            from models.speech_lm.pretrained.start import read_shape

            return read_shape(find(name), recipe.model)
        _, header = read_header(ours)
    except ValueError as error:
        raise InputError(f"train.start_from: {error}") from error
    wanted = recipe.model
    # Updates of low rank may be added to what has none; and columns left out that were not.
    return replace(
        header.shape,
        lora_rank=wanted.lora_rank,
        lora_alpha=wanted.lora_alpha,
        encoder_rank=wanted.encoder_rank or header.shape.encoder_rank,
        compress="none" if wanted.compress == header.shape.compress == "none" else "ctc",
    )


def check_start(recipe: Recipe, header: Header) -> None:
    """Check that the initial checkpoint has the same vocabulary, codec, layout and tokenizer as the recipe.

    Raises:
        InputError: names what differs, or what Whisper's decoder cannot do.
    """
    if header.shape.decoder == "whisper":
        _check_whisper(recipe)
    name = recipe.train.start_from
    ours = None if name in (None, "last") else _ours(str(name))
    if ours is None:
        return
    _, theirs = read_header(ours)
    for what in ("vocabulary", "codec", "layout", "group", "tokenizer_digest"):
        if getattr(theirs, what) != getattr(header, what):
            raise InputError(
                f"train.start_from: {ours} was trained with a different {what.removesuffix('_digest')} "
                f"({_short(getattr(theirs, what))}) than the recipe's ({_short(getattr(header, what))})"
            )


def _check_whisper(recipe: Recipe) -> None:
    """Check that nothing is asked for that Whisper's decoder does not have: states of audio, and of long sequences.

    Raises:
        InputError: names what is.
    """
    train = recipe.train
    asked = {
        "train.ctc_weight": train.ctc_weight > 0,
        "train.activity_weight": train.activity_weight > 0,
        "train.context_size": train.context_size > 1,
        "train.compile graphs": train.compile == "graphs",
        "model.prompt_attention both": recipe.model.prompt_attention == "both",
    }
    for name, is_set in asked.items():
        if is_set:
            raise InputError(f"Whisper's decoder reads text alone and hears across: {name} is not for it")
    if recipe.compose.window_s > LONGEST_S:
        raise InputError(f"Whisper hears {LONGEST_S:g} s at once: lower --compose.window-s")


def _short(value: Any) -> str:
    return str(getattr(value, "name", value))[:80]


def start_digest(recipe: Recipe) -> str | None:
    """Return the digest of the initial weights, for a training's key."""
    name = recipe.train.start_from
    if name is None or name == "last":
        return name
    ours = _ours(name)
    if ours is not None:
        return weights_digest(ours)
    from models.speech_lm.pretrained.llm import find

    return digest([digest_file(path) for path in sorted(find(name).glob("*.safetensors"))])


def decide(recipe: Recipe, folder: Path, header: Header, url: str | None = None) -> dict[str, Any]:
    """Return a training's initial weights, as recorded in its lineage; `last` is resolved once and kept.

    Args:
        recipe: of the training.
        folder: of the training; other trainings' folders are next to it.
        header: of its checkpoints.
        url: that the training is copied to, if any; `last` is then searched there too.

    Returns:
        `kind` (scratch, checkpoint, pretrained), and where there is one `path`, `weights_digest` and `step`.
    """
    path = folder / _DECISION
    mirror = Mirror(folder, url) if url else None
    if mirror:
        mirror.fetch_loose()
    if path.exists():
        return _decided(path)
    name = recipe.train.start_from
    if name == "last" and mirror:
        _bring_newest(mirror)
    chosen = _last(folder, header) if name == "last" else _ours(name) if name else None
    if chosen is not None:
        step, _ = read_header(chosen)
        weights = weights_digest(chosen)
        made = {"kind": "checkpoint", "path": str(chosen.absolute()), "weights_digest": weights, "step": step}
    elif name is None or name == "last":
        made = {"kind": "scratch", "why": "requested" if name is None else "no matching checkpoint here yet"}
    else:
        from models.speech_lm.pretrained.llm import find

        made = {"kind": "pretrained", "path": str(find(name).absolute()), "weights_digest": start_digest(recipe)}
    folder.mkdir(parents=True, exist_ok=True)
    storage.replace_bytes(sealed(made), str(path))
    if mirror:
        mirror.send_loose()
    return made


def _decided(path: Path) -> dict[str, Any]:
    remedy = f"remove {path} (the recipe's train.start_from decides again), or {path.parent} to train anew"
    found: dict[str, Any] = read_json(path, remedy)
    if found.get("kind") not in ("scratch", "checkpoint", "pretrained"):
        raise InputError(f"{path} is damaged: it is not what was written; {remedy}")
    return found


def _bring_newest(mirror: Mirror) -> None:
    """Fetch the newest checkpoint of each other training at the URL; their order in time is kept."""
    found = [(one, done[-1]) for one in mirror.beside() if (done := one.steps()) and done[-1]]
    for one, step in sorted(found, key=lambda pair: pair[0].written_at(pair[1])):
        one.fetch([step])
        os.utime(one.folder / f"step-{step:06d}" / "checkpoint.json", times=None)


def _last(own: Path, header: Header) -> Path | None:
    """Return the newest checkpoint of other trainings here with the same shape, vocabulary, codec and layout."""
    found = []
    for folder in own.parent.glob("*"):
        done = steps(folder)
        if folder.name == own.name or not done or not done[-1]:
            continue
        path = folder / f"step-{done[-1]:06d}"
        _, theirs = read_header(path)
        same = ("shape", "vocabulary", "codec", "layout", "group", "tokenizer_digest")
        if all(getattr(theirs, what) == getattr(header, what) for what in same):
            found.append(((path / "checkpoint.json").stat().st_mtime_ns, path))
    return max(found)[1] if found else None


def llm_of(lineage: Mapping[str, Any]) -> str | None:
    """Return the text LLM that a checkpoint goes back to, by way of those that it started from; None if unknown.

    Raises:
        InputError: a checkpoint on the way is damaged.
    """
    start = lineage.get("started_from", {})
    if start.get("kind") == "pretrained":
        return str(start["path"])
    if start.get("kind") == "checkpoint" and (Path(start["path"]) / "checkpoint.json").is_file():
        return llm_of(read_header(Path(start["path"]))[1].lineage)
    return None


def _is_update(name: str) -> bool:
    """Return whether a parameter is a low-rank update, or one of an encoder's list of them."""
    return name.rstrip("0123456789").rstrip(".").endswith(("update_up", "update_down"))


def load_start(model: "SpeechLM", start: dict[str, Any]) -> "SpeechLM":
    """Load the initial weights into an initialized model.

    Raises:
        InputError: they do not fit.
    """
    try:
        if start["kind"] == "pretrained":
            from models.speech_lm.pretrained.start import load_weights

            load_weights(Path(start["path"]), model)
        elif start["kind"] == "checkpoint":
            from models.training.checkpoint import load

            weights = load(Path(start["path"]))[0].state_dict()
            missing, odd = model.load_state_dict(weights, strict=False)
            wrong = [*odd, *(name for name in missing if not _is_update(name))]
            if wrong:
                raise InputError(f"train.start_from: {start['path']} does not fit the model: {wrong[0]}")
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"train.start_from: {str(error).splitlines()[0]}") from error
    return model
