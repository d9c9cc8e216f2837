"""Whisper folders: the decoder's weights as a speech-LLM's, and a trained one back as a Whisper folder.

Whisper's token ids follow our special tokens (`models.sequence.tokenizer`). A document for the untrained model is then
what Whisper itself reads: in front of it Whisper's first tokens, where the task stands "transcribe", and where text
begins "no timestamps".
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from models.config.shape import Shape
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.whisper.model import WhisperLM

_OURS = ByteTokenizer.FIRST_TEXT


def read_whisper_shape(folder: Path, base: Shape) -> Shape:
    """Return the shape of a Whisper folder's decoder; its encoder is the one that is heard by.

    Raises:
        ValueError: its tokenizer is missing, or does not have the language.
    """
    config = json.loads((folder / "config.json").read_text())
    return replace(
        base,
        decoder="whisper",
        dim=config["d_model"],
        num_layers=config["decoder_layers"],
        num_heads=config["decoder_attention_heads"],
        num_kv_heads=config["decoder_attention_heads"],
        ffn_dim=config["decoder_ffn_dim"],
        num_positions=config["max_target_positions"],
        prefix=tuple(_OURS + i for i in _beginning(folder, base.language)[:-2]),
        tie_text=True,
        qk_norm=False,
        qkv_bias=True,
        head_width=0,
        norm_eps=1e-5,
        rope_scaling=(),
        encoder=base.encoder or str(folder),
    )


def _beginning(folder: Path, language: str) -> list[int]:
    """Return the ids that Whisper's own decoder begins with, for text without times.

    Raises:
        ValueError: the tokenizer is missing, is not Whisper's, or does not have the language.
    """
    added = _added_tokens(folder)
    names = ["<|startoftranscript|>"]
    if "<|en|>" in added and "<|transcribe|>" in added:  # a multilingual one
        names += [f"<|{language}|>", "<|transcribe|>"]
    names.append("<|notimestamps|>")
    missing = [name for name in names if name not in added]
    if missing:
        raise ValueError(f"{folder}/tokenizer.json does not have {missing[0]}, which Whisper begins with")
    return [added[name] for name in names]


def _added_tokens(folder: Path) -> dict[str, int]:
    path = folder / "tokenizer.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {token["content"]: int(token["id"]) for token in data["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; a Whisper folder needs its tokenizer.json") from error


def whisper_names(num_layers: int) -> Iterator[tuple[str, list[str]]]:
    """Yield each of our parameters of the decoder with the names of Whisper's that are stacked in it."""
    theirs = "model.decoder."
    yield "position_embedding.weight", [f"{theirs}embed_positions.weight"]
    for kind in ("weight", "bias"):
        yield f"norm.{kind}", [f"{theirs}layer_norm.{kind}"]
        for i in range(num_layers):
            ours, layer = f"blocks.{i}.", f"{theirs}layers.{i}."
            own, across = f"{layer}self_attn.", f"{layer}encoder_attn."
            yield f"{ours}attention_norm.{kind}", [f"{layer}self_attn_layer_norm.{kind}"]
            yield f"{ours}qkv.{kind}", [f"{own}{part}_proj.{kind}" for part in "qkv"]
            yield f"{ours}out.{kind}", [f"{own}out_proj.{kind}"]
            yield f"{ours}across_norm.{kind}", [f"{layer}encoder_attn_layer_norm.{kind}"]
            yield f"{ours}across_q.{kind}", [f"{across}q_proj.{kind}"]
            yield f"{ours}across_kv.{kind}", [f"{across}{part}_proj.{kind}" for part in "kv"]
            yield f"{ours}across_out.{kind}", [f"{across}out_proj.{kind}"]
            yield f"{ours}ffn_norm.{kind}", [f"{layer}final_layer_norm.{kind}"]
            yield f"{ours}up.{kind}", [f"{layer}fc1.{kind}"]
            yield f"{ours}down.{kind}", [f"{layer}fc2.{kind}"]


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a folder's safetensors files, named as the whole Whisper, with its head, names them."""
    files = sorted(folder.glob("*.safetensors"))
    found = {name: tensor for path in files for name, tensor in load_file(path).items()}
    return {name if name.startswith(("model.", "proj_out.")) else f"model.{name}": one for name, one in found.items()}


@torch.no_grad()
def load_whisper_weights(folder: Path, model: WhisperLM) -> None:
    """Put a Whisper folder's decoder into an initialized model.

    Special tokens begin as what they stand for: tasks as "transcribe", the beginning of text as "no timestamps", the
    end as Whisper's end; speakers' tags near the mean of all tokens.

    Raises:
        ValueError: its weights are not those of the model's shape, or its vocabulary is smaller than the tokenizer's.
    """
    theirs, own = read_tensors(folder), dict(model.named_parameters())
    zeros = torch.zeros(model.shape.dim)  # Whisper's keys have no bias
    try:
        for name, parts in whisper_names(model.shape.num_layers):
            tensors = [zeros if part.endswith("k_proj.bias") else theirs[part].float() for part in parts]
            own[name].copy_(torch.cat(tensors))
        table = theirs["model.decoder.embed_tokens.weight"].float()
    except KeyError as error:
        raise ValueError(f"{folder} lacks {error.args[0]}") from error
    except RuntimeError as error:
        raise ValueError(f"the weights of {folder} have other sizes than its config.json says: {error}") from error
    wanted = model.vocabulary.text_size - _OURS
    if len(table) < wanted:
        raise ValueError(
            f"{folder} has {len(table)} tokens, but the tokenizer has {wanted}; use the model's own: "
            f"--compose.tokenizer {folder}"
        )
    rows = model.text_embedding.weight
    noise = rows[:_OURS] / rows[:_OURS].std() * 0.1 * table.std()
    rows[_OURS:] = table[:wanted]
    rows[:_OURS] = table[:wanted].mean(dim=0) + noise
    *_, transcribe, no_times = _beginning(folder, model.shape.language)
    end = _added_tokens(folder)["<|endoftext|>"]
    tasks = [i for i in range(ByteTokenizer.FIRST_SPEAKER) if i not in _NO_TASKS]
    rows[tasks] = table[transcribe]
    rows[ByteTokenizer.TEXT], rows[ByteTokenizer.END] = table[no_times], table[end]
    rows[ByteTokenizer.PAD] = 0.0
    names = [name for name, _ in whisper_names(model.shape.num_layers)]
    model.pretrained = frozenset([*names, "text_embedding.weight"])


_NO_TASKS = (
    ByteTokenizer.PAD,
    ByteTokenizer.END,
    ByteTokenizer.TEXT,
    ByteTokenizer.CARRY,
    ByteTokenizer.AUDIO_END,
    ByteTokenizer.CHANGE,
    ByteTokenizer.ENROL,
    ByteTokenizer.AUDIO,
    ByteTokenizer.INSTRUCTION,
)


def model_type_of(folder: Path) -> Any:
    """Return the family that a folder's config.json names; None where it cannot be read."""
    try:
        return json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
