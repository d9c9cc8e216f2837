"""Whisper folders: the decoder's weights as a speech-LLM's, and a trained one back as a Whisper folder.

Whisper's token ids follow our special tokens (`models.sequence.tokenizer`). A document for the untrained model is then
what Whisper itself reads: in front of it Whisper's first tokens, where the task stands "transcribe", and where text
begins "no timestamps".
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.config.header import Header
from models.config.shape import Shape
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.hearing.encoder import tail_frames
from models.speech_lm.lora import LoRALinear
from models.speech_lm.pretrained.remote import whisper as remote
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


def why_not_exported(model: WhisperLM) -> str:
    """Return why a model cannot be written as a Whisper folder; empty if it can."""
    if model.shape.diarization != "none":
        return "it is told whom to hear by transformations of frames, which a Whisper folder has no place for"
    if model.shape.encoder_mix == "sum":
        return "its decoder hears a sum of the encoder's layers, and Whisper's the last one alone"
    return ""


@torch.no_grad()
def export_whisper(model: WhisperLM, header: Header, folder: Path) -> None:
    """Write a folder that transformers loads without this project, its own code beside the weights.

    Our special tokens follow Whisper's; encoder and decoder are whole, low-rank updates added to their matrices. The
    weights are named as Whisper's, so that the plain class loads them too; it hears 30 s, as the model never did.

    Args:
        model: the speech-LLM.
        header: of its checkpoint.
        folder: where it goes.

    Raises:
        ValueError: the model has parts that Whisper does not.
    """
    if reason := why_not_exported(model):
        raise ValueError(f"this model cannot be written as a Whisper folder: {reason}")
    from transformers import WhisperFeatureExtractor

    assert model.front_end is not None
    shape, (encoder, heard) = model.shape, model.front_end.hearing.whole_encoder()
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"model.encoder.{name}": tensor for name, tensor in heard.items()}
    modules, own = dict(model.named_modules()), dict(model.named_parameters())
    for name, parts in whisper_names(shape.num_layers):
        layer = modules[name.rpartition(".")[0]]
        tensor = layer.merged() if isinstance(layer, LoRALinear) and name.endswith("weight") else own[name]
        pieces = zip(parts, torch.split(tensor, len(tensor) // len(parts)), strict=True)
        # Whisper's keys have no bias: the same for all frames, it changes no attention.
        state |= {part: piece for part, piece in pieces if not part.endswith("k_proj.bias")}
    table = model.text_table.roll(-_OURS, 0)
    state["model.decoder.embed_tokens.weight"] = table  # which is the head too
    theirs = len(table) - _OURS

    def moved(token: int) -> int:
        return (token - _OURS) % len(table)

    config = encoder.to_dict() | {
        "architectures": ["HubbubWhisper"],
        "model_type": "hubbub_whisper",
        "auto_map": {
            "AutoConfig": "modeling_hubbub.HubbubWhisperConfig",
            "AutoModelForSpeechSeq2Seq": "modeling_hubbub.HubbubWhisper",
            "AutoModel": "modeling_hubbub.HubbubWhisper",
        },
        "vocab_size": len(table),
        "decoder_layers": shape.num_layers,
        "tail_frames": tail_frames(shape.encoder_tail_s),
        "is_padded": shape.encoder_window == "full",
        "prompt_ids": [*map(moved, (*shape.prefix, ByteTokenizer.ASR, ByteTokenizer.TEXT))],
        "end_id": moved(ByteTokenizer.END),
        "tag_ids": [theirs + i for i in range(ByteTokenizer.FIRST_SPEAKER, ByteTokenizer.FIRST_TEXT)],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(remote.__file__, folder / "modeling_hubbub.py")
    WhisperFeatureExtractor(feature_size=encoder.num_mel_bins).save_pretrained(folder)
    if header.tokenizer_file is not None and Path(header.tokenizer_file).is_file():
        shutil.copy(header.tokenizer_file, folder / "tokenizer.json")


def model_type_of(folder: Path) -> Any:
    """Return the family that a folder's config.json names; None where it cannot be read."""
    try:
        return json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
