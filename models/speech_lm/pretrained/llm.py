"""Pretrained text LLMs of the Llama, Qwen2 and Qwen3 families: their weights as a speech-LLM's, and back.

Their token ids follow our special tokens (`models.sequence.tokenizer`); embeddings and heads for audio are new.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.config.header import Header
from models.config.shape import Shape, Vocabulary
from models.sequence.batch import Batch
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.lora import LoRALinear
from models.speech_lm.model import SpeechLM

FAMILIES = ("llama", "qwen2", "qwen3")
_OURS = ByteTokenizer.FIRST_TEXT


def find(name: str) -> Path:
    """Return the folder of a pretrained model: one that exists, or what the hub keeps under an id.

    Raises:
        ValueError: there is no such folder, or the hub does not have it.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise ValueError(f"{folder} lacks config.json or safetensors; pickled weights are not read")
        return folder
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ValueError(f"there is no folder {folder}")
    try:
        from huggingface_hub import snapshot_download

        patterns = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except ImportError as error:
        raise ValueError("pretrained weights need a package: pip install 'hubbub[codecs]'") from error
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the hub does not give {name}: {reason}; download it and name its folder") from error


def read_shape(folder: Path, base: Shape) -> Shape:
    """Return the size of a pretrained model; what text LLMs do not have (depth transformer, LoRA) is taken from `base`.

    Raises:
        ValueError: it is of another family, or has a part that ours does not.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ValueError("pretrained weights need a package: pip install 'hubbub[codecs]'") from error
    try:
        config: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}/config.json cannot be read: {str(error).splitlines()[0]}") from error
    if config.model_type not in FAMILIES:
        raise ValueError(f"{folder} is a {config.model_type}; ours starts from {', '.join(FAMILIES)}, whisper")
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    odd = {
        f"activation {config.hidden_act}": config.hidden_act != "silu",
        "biases in attention": getattr(config, "attention_bias", False),
        "biases in its feed-forward part": getattr(config, "mlp_bias", False),
        "a sliding window": getattr(config, "use_sliding_window", False),
        f"rotary positions of kind {kind}": kind not in ("default", "llama3"),
    }
    for part, there in odd.items():
        if there:
            raise ValueError(f"{folder} has {part}, which our model does not")
    scaling = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return replace(
        base,
        dim=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        ffn_dim=config.intermediate_size,
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=tuple(float(rope[key]) for key in scaling) if kind == "llama3" else (),
        qk_norm=config.model_type == "qwen3",
        qkv_bias=config.model_type == "qwen2",
        head_width=0 if width * config.num_attention_heads == config.hidden_size else width,
        norm_eps=float(config.rms_norm_eps),
        tie_text=bool(config.tie_word_embeddings),
    )


def _names(shape: Shape) -> dict[str, list[str]]:
    """Return, for each of our parameters, the names of theirs; several are stacked in ours."""
    names = {"norm.weight": ["model.norm.weight"]}
    for i in range(shape.num_layers):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        qkv = [f"{theirs}self_attn.{part}_proj" for part in "qkv"]
        names |= {
            f"{ours}attention_norm.weight": [f"{theirs}input_layernorm.weight"],
            f"{ours}attention.qkv.weight": [f"{one}.weight" for one in qkv],
            f"{ours}attention.out.weight": [f"{theirs}self_attn.o_proj.weight"],
            f"{ours}ffn_norm.weight": [f"{theirs}post_attention_layernorm.weight"],
            f"{ours}ffn.gate_up.weight": [f"{theirs}mlp.gate_proj.weight", f"{theirs}mlp.up_proj.weight"],
            f"{ours}ffn.down.weight": [f"{theirs}mlp.down_proj.weight"],
        }
        if shape.qkv_bias:
            names[f"{ours}attention.qkv.bias"] = [f"{one}.bias" for one in qkv]
        if shape.qk_norm:
            names |= {f"{ours}attention.{part}_norm.weight": [f"{theirs}self_attn.{part}_norm.weight"] for part in "qk"}
    return names


@torch.no_grad()
def load_weights(folder: Path, model: SpeechLM) -> None:
    """Put a pretrained model's weights into an initialized one; special tokens' rows start near their mean.

    Raises:
        ValueError: its weights are not those of the model's shape, or its vocabulary is smaller than the tokenizer's.
    """
    theirs = {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    own = dict(model.named_parameters())
    try:
        for name, parts in _names(model.shape).items():
            own[name].copy_(torch.cat([theirs[part].float() for part in parts]))
        tables = [(model.text_embedding.weight, theirs["model.embed_tokens.weight"].float())]
        if model.text_head is not None:
            tables.append((model.text_head.weight, theirs["lm_head.weight"].float()))
    except KeyError as error:
        raise ValueError(f"{folder} lacks {error.args[0]}") from error
    except RuntimeError as error:
        raise ValueError(f"the weights of {folder} have other sizes than its config.json says: {error}") from error
    wanted = model.vocabulary.text_size - _OURS
    for ours, table in tables:
        if len(table) < wanted:
            raise ValueError(
                f"{folder} has {len(table)} tokens, but the tokenizer has {wanted}; use the model's own: "
                f"--compose.tokenizer {folder}"
            )
        noise = ours[:_OURS] / ours[:_OURS].std() * 0.1 * table.std()
        ours[_OURS:] = table[:wanted]  # rows that pad the table after the tokenizer's last id are never used
        ours[:_OURS] = table[:wanted].mean(dim=0) + noise
    embedding = model.text_embedding.weight
    embedding[0] = 0.0
    tables_of_text = ["text_embedding.weight"] + ["text_head.weight"] * (model.text_head is not None)
    model.pretrained = frozenset([*_names(model.shape), *tables_of_text])
    # Audio comes in at the loudness of text, or it would drown everything that the LLM has learned.
    assert isinstance(model.audio_norm, torch.nn.RMSNorm)
    model.audio_norm.weight.fill_(float(embedding[_OURS:].square().mean().sqrt()))


def why_not_one_vocabulary(model: SpeechLM) -> str:
    """Return why a model's text and audio cannot be one vocabulary of tokens; empty where they can."""
    if model.audio_embedding is None:
        return "its audio goes through an encoder and has no ids"
    if model.vocabulary.depth or model.vocabulary.num_streams > 1:
        streams = model.vocabulary.num_streams
        return f"a column of its layout has {streams} audio cells, not one token (--compose.layout flat has one)"
    if model.shape.prompt_attention == "both":
        return "it attends to prompts in both directions, and transformers' classes and vLLM attend causally"
    return ""


def ids_in_one_vocabulary(batch: Batch, vocabulary: Vocabulary) -> torch.Tensor:
    """Return the ids (N,) that a folder written by `export` with audio has for the columns of a batch.

    Text comes first, the LLM's own ids before our special tokens, then audio.

    Raises:
        ValueError: a column holds text beside its audio, or a hidden code.
    """
    ids = (batch.text - _OURS) % vocabulary.text_size
    if bool((batch.text[batch.audio_columns] != ByteTokenizer.PAD).any()):
        raise ValueError("a column holds both text and audio, which one token cannot")
    cells = batch.audio[:, 0]
    if bool((cells == vocabulary.codebook_size).any()):
        raise ValueError("a hidden code has no token")
    return ids.index_copy(0, batch.audio_columns, vocabulary.text_size + cells)


def export(model: SpeechLM, header: Header, folder: Path, *, with_audio: bool = False) -> None:
    """Write a Hugging Face folder of the text model; the special tokens follow the LLM's own ids.

    The audio parameters are written to `hubbub_audio.safetensors` in the same folder, described by `hubbub.json`.

    Args:
        model: the speech-LLM.
        header: of its checkpoint.
        folder: where it goes.
        with_audio: whether audio ids follow those of text in the same tables, where a column is one token: the folder
            is then all of the model, for whatever loads its family (transformers, vLLM). Logits of text and of audio
            are those of two softmaxes: what is drawn must be confined to the ids of one of them.

    Raises:
        ValueError: no family of transformers has this shape, or its columns are no tokens.
    """
    if with_audio and (reason := why_not_one_vocabulary(model)):
        raise ValueError(f"this model cannot be written with its audio: {reason}")
    try:
        import transformers
    except ImportError as error:
        raise ValueError("exporting needs a package: pip install 'hubbub[codecs]'") from error
    shape = model.shape
    if shape.qk_norm and shape.qkv_bias:
        raise ValueError("no family of transformers has both qk_norm and qkv_bias")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.rope_theta}
    if shape.rope_scaling:
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        rope |= {"rope_type": "llama3", **dict(zip(keys, shape.rope_scaling, strict=True))}
        rope["original_max_position_embeddings"] = int(rope["original_max_position_embeddings"])
    family = "Qwen3" if shape.qk_norm else "Qwen2" if shape.qkv_bias else "Llama"
    config: Any = getattr(transformers, f"{family}Config")(
        vocab_size=model.vocabulary.text_size + with_audio * model.vocabulary.codebook_size,
        hidden_size=shape.dim,
        intermediate_size=shape.ffn_dim,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tie_text and not with_audio,
        rope_parameters=rope,
        max_position_embeddings=32768,
        bos_token_id=None,
        eos_token_id=model.vocabulary.text_size - _OURS + ByteTokenizer.END,
    )
    config.architectures = [f"{family}ForCausalLM"]
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    modules = dict(model.named_modules())
    state: dict[str, torch.Tensor] = {}
    for name, parts in _names(shape).items():
        layer = modules[name.rpartition(".")[0]]
        tensor = layer.merged() if isinstance(layer, LoRALinear) and name.endswith("weight") else own[name]
        state |= _apart(tensor, parts, shape)
    state |= _tables(model, with_audio=with_audio)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    audio = {name: tensor.contiguous() for name, tensor in own.items() if name.startswith("audio_")}
    save_file(audio, folder / "hubbub_audio.safetensors")
    _describe(header, folder)
    if header.tokenizer_file is not None and Path(header.tokenizer_file).is_file():
        from tokenizers import Tokenizer

        words = Tokenizer.from_file(header.tokenizer_file)
        words.add_special_tokens([f"<hubbub:{number}>" for number in range(_OURS)])
        if with_audio:
            words.add_special_tokens([f"<hubbub:audio:{number}>" for number in range(model.vocabulary.codebook_size)])
        words.save(str(folder / "tokenizer.json"))


def _apart(tensor: torch.Tensor, parts: list[str], shape: Shape) -> dict[str, torch.Tensor]:
    """Return the tensors, by their names, that are stacked in one of ours."""
    heads = [shape.num_heads * shape.head_dim, *[shape.num_kv_heads * shape.head_dim] * 2]
    sizes = {1: [len(tensor)], 2: [shape.ffn_dim] * 2, 3: heads}[len(parts)]
    return dict(zip(parts, torch.split(tensor, sizes), strict=True))


def export_lora(model: SpeechLM, header: Header, folder: Path, base: str | None = None) -> None:
    """Write the low-rank updates of the blocks as a PEFT folder, for the text LLM that the model was started from.

    `peft.PeftModel.from_pretrained(llm, folder)` has our logits of the LLM's own tokens. What the LLM has no place for
    is written to `hubbub_rest.safetensors`: the rows of our special tokens, and everything for audio.
    Source: PEFT, "Checkpoint format" (huggingface.co/docs/peft/developer_guides/checkpoint).

    Args:
        model: the speech-LLM.
        header: of its checkpoint.
        folder: where it goes.
        base: folder or hub id of the text LLM, if it is known.

    Raises:
        ValueError: the model has no low-rank updates.
    """
    shape, own = model.shape, {name: parameter.detach() for name, parameter in model.named_parameters()}
    if not shape.lora_rank:
        raise ValueError("the checkpoint has no low-rank updates of its blocks: it was trained with model.lora_rank 0")
    if shape.decoder != "llama":
        raise ValueError("a PEFT folder is for text LLMs; without --lora, Whisper's updates are added to its weights")
    state: dict[str, torch.Tensor] = {}
    for name, parts in _names(shape).items():
        ours, _, kind = name.rpartition(".")
        if kind != "weight" or f"{ours}.update_up" not in own:
            continue
        # What is stacked in ours reads its input by one matrix; theirs have a copy each.
        for part, up in _apart(own[f"{ours}.update_up"], parts, shape).items():
            theirs = f"base_model.model.{part.removesuffix('.weight')}"
            state |= {f"{theirs}.lora_A.weight": own[f"{ours}.update_down"], f"{theirs}.lora_B.weight": up}
    targets = sorted({name.split(".")[-3] for name in state})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": shape.lora_rank,
        "lora_alpha": shape.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": targets,
    }
    rest = {name: tensor for name, tensor in own.items() if name.startswith(("audio_", "front_end."))}
    rest |= {"special_tokens.read": model.text_table[:_OURS], "special_tokens.predicted": model.text_weight[:_OURS]}
    folder.mkdir(parents=True, exist_ok=True)
    for file, tensors in (("adapter_model", state), ("hubbub_rest", rest)):
        kept = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        save_file(kept, folder / f"{file}.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    _describe(header, folder)


def _describe(header: Header, folder: Path) -> None:
    (folder / "hubbub.json").write_text(json.dumps(asdict(header), indent=1, sort_keys=True, default=str) + "\n")


def _tables(model: SpeechLM, *, with_audio: bool) -> dict[str, torch.Tensor]:
    """Return the embeddings and, where it is another matrix, the head of an export."""
    read, predicted = (table.detach().roll(-_OURS, 0) for table in (model.text_table, model.text_weight))
    if with_audio:
        assert model.audio_embedding is not None
        assert isinstance(model.audio_head, torch.nn.Linear)
        of_audio = model.audio_embedding.weight[: model.vocabulary.codebook_size]
        read = torch.cat([read, model.audio_norm(of_audio).detach()])  # a cell's vector depends on nothing else
        predicted = torch.cat([predicted, model.audio_head.weight.detach()])
    elif model.shape.tie_text:
        return {"model.embed_tokens.weight": read}
    return {"model.embed_tokens.weight": read, "lm_head.weight": predicted}
