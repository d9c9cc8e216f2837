"""Weights of text LLMs: logits as transformers makes them, there and back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.config.options import Training
from models.config.shape import Shape, Vocabulary
from models.sequence.batch import collate
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.model import SpeechLM
from models.speech_lm.pretrained.llm import (
    export,
    export_lora,
    find,
    ids_in_one_vocabulary,
    load_weights,
    read_shape,
)
from models.training.optimizers import make_optimizers
from tests.models.support import PackedDocuments, document, grid_spec, header, joined, model_for, vocabulary_of

transformers = pytest.importorskip("transformers")

OURS, TOKENS = ByteTokenizer.FIRST_TEXT, 90
COMMON = {
    "vocab_size": TOKENS + 6,  # padded, as Qwen's are
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS = {
    "llama": ("Llama", {}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}


def saved(folder, kind):
    """A tiny model with random weights, biases included, saved by transformers."""
    family, extra = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**COMMON, **extra)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "embed" in name or "head" in name:
                parameter.mul_(3)
    model.save_pretrained(folder)
    return model


def ours(folder, **changes):
    shape = read_shape(find(str(folder)), Shape(**changes))
    grid = grid_spec()
    vocabulary = Vocabulary(text_size=OURS + TOKENS, num_streams=4, codebook_size=16, ordinal=True)
    model = SpeechLM(shape, vocabulary).initialize(0)
    load_weights(folder, model)
    return model.eval(), grid


def text_only(ids):
    return PackedDocuments(
        pack_id="t",
        num_columns=len(ids),
        cu_seqlens=np.array([0, len(ids)], np.int32),
        segments=np.array([[0, 0, len(ids)]], np.int32),
        text_tokens=np.array(ids, np.int32) + OURS,
        codes=b"",
        loss_spans=np.zeros((0, 3), np.int32),
        loss_weights=np.zeros(0, np.float32),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(tmp_path, kind):
    theirs = saved(tmp_path, kind)
    model, grid = ours(tmp_path)
    lengths = (100, 1, 37)
    prompts = [np.random.default_rng(n).integers(0, TOKENS, n).tolist() for n in lengths]
    with torch.no_grad():
        packed = model.text_logits(model.states(collate([joined([text_only(p) for p in prompts])], grid)))
        alone = torch.cat([theirs(torch.tensor([p])).logits[0] for p in prompts])
    assert alone[:, :TOKENS].std() > 0.1
    torch.testing.assert_close(packed[:, OURS:], alone[:, :TOKENS], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_read_by_transformers_and_by_us(tmp_path, kind):
    saved(tmp_path / "theirs", kind)
    model, grid = ours(tmp_path / "theirs")
    export(model, header(grid), tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = list(range(0, TOKENS, 3))
    special = TOKENS + ByteTokenizer.ASR  # ours come behind theirs
    with torch.no_grad():
        mine = model.text_logits(model.states(collate([text_only([ByteTokenizer.ASR - OURS, *ids])], grid)))
        logits = again(torch.tensor([[special, *ids]])).logits[0]
    torch.testing.assert_close(logits[:, :TOKENS], mine[:, OURS:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[:, TOKENS:], mine[:, :OURS], rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "out/hubbub.json").read_text())["tokenizer"] == "toy"
    assert read_shape(tmp_path / "out", Shape()) == replace(model.shape, head_width=model.shape.head_width)


@pytest.mark.parametrize("layout", ["flat", "coarse_first"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_a_column_is_a_token_the_whole_model_is_one_of_transformers(tmp_path, kind, layout):
    saved(tmp_path / "theirs", kind)
    shape, grid = read_shape(tmp_path / "theirs", Shape()), grid_spec(layout)
    vocabulary = replace(vocabulary_of(grid), text_size=OURS + TOKENS)
    model = SpeechLM(shape, vocabulary).initialize(0)
    load_weights(tmp_path / "theirs", model)
    torch.nn.init.normal_(model.audio_embedding.weight)
    torch.nn.init.normal_(model.audio_head.weight)
    export(model, header(grid), tmp_path / "out", with_audio=True)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(again).__name__.startswith(KINDS[kind][0])
    batch = collate([document(grid, seed=2, num_frames=5, num_text=9)], grid)
    ids = ids_in_one_vocabulary(batch, vocabulary)
    assert (ids >= vocabulary.text_size).sum() == grid.layout.num_columns(5)
    with torch.no_grad():
        states = model.eval().states(batch)
        theirs = again(ids[None]).logits[0]
    text, audio = model.text_logits(states), model.audio_head(states)
    assert audio.std() > 0.1
    expected = torch.cat([text[:, OURS:], text[:, :OURS], audio], dim=1)
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["parallel", "delay", "depth"])
def test_a_column_of_several_cells_is_no_token(tmp_path, layout):
    grid = grid_spec(layout)
    model = model_for(grid)
    with pytest.raises(ValueError, match="4 audio cells, not one token"):
        export(model, header(grid), tmp_path, with_audio=True)
    flat = grid_spec("flat")
    with pytest.raises(ValueError, match="both directions"):
        export(model_for(flat, prompt_attention="both"), header(flat), tmp_path, with_audio=True)
    assert not list(tmp_path.iterdir())


def test_text_beside_audio_and_hidden_codes_have_no_token():
    grid = grid_spec("flat")
    batch = collate([document(grid, seed=2, num_frames=5, num_text=9)], grid)
    vocabulary = vocabulary_of(grid)
    with pytest.raises(ValueError, match="both text and audio"):
        ids_in_one_vocabulary(replace(batch, text=torch.ones_like(batch.text)), vocabulary)
    hidden = torch.full_like(batch.audio, grid.layout.vocab_size)
    with pytest.raises(ValueError, match="hidden code"):
        ids_in_one_vocabulary(replace(batch, audio=hidden), vocabulary)


def test_what_is_pretrained_has_a_rate_of_its_own(tmp_path):
    saved(tmp_path, "qwen3")
    model, _ = ours(tmp_path)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for kind, options in (("adamw", {}), ("muon", {}), ("adamw", {"pretrained_lr": 1.0})):
        config = Training(lr=2e-3, optimizer=kind, **options)
        groups = [group for one in make_optimizers(model, config) for group in one.param_groups]
        rates = {names[id(p)]: config.lr * group["share"] for group in groups for p in group["params"]}
        assert set(rates) == set(names.values())
        assert {rates[name] for name in rates if name.startswith("audio_")} == {2e-3}
        expected = min(config.pretrained_lr, config.lr)
        assert [rates[name] for name in rates if not name.startswith("audio_")] == pytest.approx(
            [expected] * len(model.pretrained)
        )
    fresh = SpeechLM(model.shape, model.vocabulary)
    groups = [group for one in make_optimizers(fresh, Training()) for group in one.param_groups]
    assert {group["share"] for group in groups} == {1.0}


def test_low_rank_updates_begin_as_nothing_and_merge(tmp_path):
    saved(tmp_path, "qwen2")
    plain, grid = ours(tmp_path)
    model, _ = ours(tmp_path, lora_rank=4)
    words = collate([text_only([1, 2, 3, 70])], grid)
    with torch.no_grad():
        assert torch.equal(model.states(words), plain.states(words))
    batch = collate([joined([document(grid, seed) for seed in range(3)])], grid)
    model(batch).total.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name for name in trained if name.startswith("blocks")} == {
        name
        for name, _ in model.named_parameters()
        if name.startswith("blocks") and name.endswith(("update_up", "update_down"))
    }
    assert {"audio_embedding.weight", "text_update_up", "head_update_up", "audio_head.weight"} <= trained
    assert trained.isdisjoint({"text_embedding.weight", "text_head.weight", "norm.weight"})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("update_up"):
                parameter.normal_(std=0.1)
    export(model, header(grid), tmp_path / "out")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = [3, 1, 4, 1, 5]
    with torch.no_grad():
        mine = model.text_logits(model.states(collate([text_only(ids)], grid)))[:, OURS:]
        assert (mine - plain.text_logits(plain.states(collate([text_only(ids)], grid)))[:, OURS:]).abs().max() > 0.01
        torch.testing.assert_close(merged(torch.tensor([ids])).logits[0, :, :TOKENS], mine, rtol=1e-4, atol=1e-4)


def updated(folder, kind, rank=4):
    """A pretrained model with low-rank updates that do something."""
    saved(folder, kind)
    model, grid = ours(folder, lora_rank=rank, lora_alpha=6.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("update_up", "update_down")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model, grid


@pytest.mark.parametrize("kind", KINDS)
def test_the_updates_in_a_peft_folder_merge_to_the_exported_matrices(tmp_path, kind):
    model, grid = updated(tmp_path / "llm", kind)
    export(model, header(grid), tmp_path / "merged")
    export_lora(model, header(grid), tmp_path / "lora", base="the-llm")
    config = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 6.0, "the-llm")
    adapter = load_file(tmp_path / "lora/adapter_model.safetensors")
    plain, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("llm", "merged"))
    changed = {
        name for name in plain if name in merged and "layers" in name and not torch.equal(plain[name], merged[name])
    }
    assert len(changed) == 7 * model.shape.num_layers == len(adapter) / 2
    for name in changed:
        own = f"base_model.model.{name.removesuffix('.weight')}"
        assert own.rsplit(".", maxsplit=1)[-1] in config["target_modules"]
        update = adapter[f"{own}.lora_B.weight"] @ adapter[f"{own}.lora_A.weight"] * (6.0 / 4)
        torch.testing.assert_close(plain[name] + update, merged[name], rtol=1e-5, atol=1e-6)
    rest = load_file(tmp_path / "lora/hubbub_rest.safetensors")
    assert torch.equal(rest["special_tokens.read"], model.text_table[:OURS])
    assert {"audio_norm.weight", "audio_embedding.weight"} <= rest.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_the_updates_onto_the_llm_with_equal_logits(tmp_path, kind):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model, grid = updated(tmp_path / "llm", kind)
    export_lora(model, header(grid), tmp_path / "lora")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "llm").eval()
    ids = list(range(0, TOKENS, 3))
    with torch.no_grad():
        before = base(torch.tensor([ids])).logits[0]
        theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "lora")).eval()(torch.tensor([ids])).logits[0]
        mine = model.text_logits(model.states(collate([text_only(ids)], grid)))
    assert (theirs - before).abs().max() > 0.1
    torch.testing.assert_close(theirs[:, :TOKENS], mine[:, OURS:], rtol=1e-4, atol=1e-4)


def test_a_model_without_updates_has_no_peft_folder(tmp_path):
    saved(tmp_path / "llm", "llama")
    model, grid = ours(tmp_path / "llm")
    with pytest.raises(ValueError, match=r"trained with model\.lora_rank 0"):
        export_lora(model, header(grid), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_audio_comes_in_as_loud_as_text(tmp_path):
    saved(tmp_path, "llama")
    model, grid = ours(tmp_path)
    batch = collate([document(grid, 1, num_frames=20)], grid)
    with torch.no_grad():
        x = model.embed(batch.text, batch.audio, batch.audio_columns)
    heard, read = x[batch.audio_columns], model.text_embedding.weight.detach()[OURS:]
    assert float(heard.square().mean().sqrt()) == pytest.approx(float(read.square().mean().sqrt()), rel=0.05)


def test_what_cannot_be_started_from_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        find(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"lacks config\.json or safetensors"):
        find(str(tmp_path / "empty"))
    transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1).save_pretrained(tmp_path / "gpt")
    with pytest.raises(ValueError, match="is a gpt2; ours starts from llama"):
        read_shape(tmp_path / "gpt", Shape())
    saved(tmp_path / "small", "llama")
    model = SpeechLM(
        read_shape(tmp_path / "small", Shape()),
        Vocabulary(text_size=OURS + 500, num_streams=4, codebook_size=16, ordinal=True),
    ).initialize(0)
    with pytest.raises(ValueError, match="has 96 tokens, but the tokenizer has 500"):
        load_weights(tmp_path / "small", model)


def test_a_hub_id_without_network_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="the hub does not give nobody/nothing"):
        find("nobody/nothing")
