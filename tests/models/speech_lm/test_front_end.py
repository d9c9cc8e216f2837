"""Hearing through a pretrained encoder, with small random weights: packed equals alone, frozen stays frozen."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from models.codecs import load_codec
from models.codecs.codec import pack_codes, unpack_codes
from models.config.header import Header
from models.config.intact import read_json, sealed
from models.config.options import Training
from models.config.shape import Vocabulary
from models.layouts import make_layout
from models.sequence.batch import collate
from models.sequence.documents import GridSpec, PackedDocuments, SegmentFeatures
from models.speech_lm.front_end import Queries
from models.speech_lm.generate import greedy_text
from models.speech_lm.hearing.load import encoder_digest, load_encoder
from models.speech_lm.model import SpeechLM
from models.training import checkpoint
from models.training.metrics import read_metrics
from tests.models.support import SHAPE, Source, grid_spec, joined, save_small_whisper, train_flat
from tests.models.support import model_for as toy_model

transformers = pytest.importorskip("transformers")
PCM = load_codec("pcm")
GRID = GridSpec(make_layout("parallel", 1280, 1 << 16), 1280, 1 << 16, 16)
KINDS = ("whisper", "wavlm", "hubert")


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder") / request.param
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    convolutions = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    if request.param == "whisper":
        save_small_whisper(folder)
    elif request.param == "wavlm":
        transformers.WavLMModel(transformers.WavLMConfig(**small, **convolutions)).save_pretrained(folder)
    else:
        transformers.HubertModel(transformers.HubertConfig(**small, **convolutions)).save_pretrained(folder)
    return str(folder)


def model_for(encoder, **shape):
    vocabulary = Vocabulary(
        text_size=40, num_streams=1280, codebook_size=1 << 16, ordinal=True, encoder_digest=encoder_digest(encoder)
    )
    return SpeechLM(replace(SHAPE, encoder=encoder, **shape), vocabulary).initialize(0)


def document(seed, seconds=0.5, num_text=4):
    rng = np.random.default_rng(seed)
    codes = PCM.encode((0.1 * rng.standard_normal(int(seconds * 16_000))).astype(np.float32))
    columns = codes.shape[1]
    total = 1 + columns + num_text
    return PackedDocuments(
        pack_id=f"d{seed}",
        num_columns=total,
        cu_seqlens=np.array([0, total], np.int32),
        segments=np.array([[0, 0, 1], [1, 1, columns], [0, 1 + columns, num_text]], np.int32),
        text_tokens=rng.integers(1, 40, 1 + num_text).astype(np.int32),
        codes=pack_codes(codes, 16),
        loss_spans=np.array([[0, 1 + columns, total]], np.int32),
        loss_weights=np.ones(1, np.float32),
    )


def test_samples_come_back_as_they_were():
    wav = (np.random.default_rng(0).integers(-32768, 32768, 5000) / 32768).astype(np.float32)
    codes = PCM.encode(wav)
    assert codes.shape == (1280, 4)
    assert np.array_equal(PCM.decode(codes, 5000), wav)
    assert not PCM.decode(codes, 6000)[5000:].any()


@pytest.mark.parametrize("projector", ["mlp", "queries"])
def test_packed_equals_each_document_alone(encoder, projector):
    model = model_for(encoder, projector=projector)
    documents = [document(seed, seconds) for seed, seconds in enumerate((0.5, 1.31, 0.09))]
    results = []
    for batches in ([collate([d], GRID) for d in documents], [collate([joined(documents)], GRID)]):
        model.zero_grad()
        total = sum(model(batch).total for batch in batches)
        total.backward()
        results.append((float(total.detach()), {n: p.grad.clone() for n, p in model.named_parameters()}))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=2e-3, atol=2e-5, msg=name)
    assert (
        results[0][1]["front_end.projector." + ("inner" if projector == "mlp" else "into") + ".weight"].abs().sum() > 0
    )


def test_the_encoder_is_frozen_and_no_part_of_a_checkpoint(encoder):
    model = model_for(encoder)
    assert not any("hearing" in name for name in model.state_dict())
    held = load_encoder(encoder)
    model(collate([document(1)], GRID)).total.backward()
    inside = dict(model.front_end.hearing._held[0].named_parameters())
    assert all(parameter.grad is None for parameter in inside.values())
    assert all(torch.equal(inside[name], parameter) for name, parameter in held.named_parameters())


def test_updates_of_the_encoder_begin_as_nothing_and_learn(encoder):
    batch = collate([joined([document(1), document(2)])], GRID)
    model = model_for(encoder, encoder_rank=2)
    front = model.front_end
    with torch.no_grad():
        samples = batch.audio, batch.audio_columns
        before = front(*samples)
        updates = [p for name, p in model.named_parameters() if ".update_up." in name]
        assert len(updates) == 4  # queries and values of two layers
        for update in updates:
            update.normal_(std=0.5)
        assert not torch.allclose(front(*samples), before, atol=1e-4)
        for update in updates:
            update.zero_()
        torch.testing.assert_close(front(*samples), before)
    model(batch).total.backward()
    assert all(update.grad.abs().sum() > 0 for update in updates)


def test_a_window_of_queries_sees_its_own_columns_only():
    torch.manual_seed(0)
    projector = Queries(8, 64)
    frames = torch.randn(4 * 10, 8)
    with torch.no_grad():
        whole = projector(frames, [10])
        assert whole.shape == (10, 64)
        torch.testing.assert_close(projector(frames[: 4 * 8], [8]), whole[:8])  # two windows of four
        changed = frames.clone()
        changed[-1] += 1
        assert torch.equal(projector(changed, [10])[:8], whole[:8])
        assert not torch.equal(projector(changed, [10])[8:], whole[8:])
        apart = [projector(frames[: 4 * 3], [3]), projector(frames[4 * 3 :], [7])]
        torch.testing.assert_close(projector(frames, [3, 7]), torch.cat(apart))
        assert not torch.allclose(torch.cat(apart), whole, atol=1e-5)  # the border matters


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("projector", ["mlp", "queries"])
def test_stored_features_take_the_place_of_the_encoder(encoder, projector, device):
    model = model_for(encoder, projector=projector).to(device)
    codes = [document(seed, seconds) for seed, seconds in enumerate((0.5, 1.31))]
    heard = []
    for one in codes:
        wav = torch.from_numpy(PCM.decode(unpack_codes(one.codes, 1280, 16), one.segments[1, 2] * 1280)).to(device)
        with torch.no_grad():
            frames = model.front_end.hearing([wav])[0].flatten(1).cpu().numpy()
        heard.append(replace(one, codes=b"", features=(SegmentFeatures(frames, np.zeros(0, np.float32)),)))
    found = []
    for packs in (codes, heard):
        model.zero_grad()
        loss = model(collate(packs, GRID).to(device)).total
        loss.backward()
        found.append((float(loss.detach()), [p.grad.clone() for p in model.front_end.projector.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_features_that_do_not_fit_are_refused(encoder):
    one = document(0)
    short = SegmentFeatures(np.zeros((4 * int(one.segments[1, 2]) - 4, 32), np.float32), np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="do not use up its features"):
        collate([replace(one, codes=b"", features=(short, short))], GRID)
    wide = SegmentFeatures(np.zeros((4 * int(one.segments[1, 2]), 64), np.float32), np.zeros(0, np.float32))
    batch = collate([replace(one, codes=b"", features=(wide,))], GRID)
    with pytest.raises(ValueError, match="are not 1 layers of width 32"):
        model_for(encoder)(batch)
    toy = toy_model(grid_spec())
    with pytest.raises(ValueError, match="which the model does not have"):
        toy(batch)


@pytest.mark.parametrize("mix", ["concat", "sum"])
def test_several_layers_are_heard_side_by_side_or_in_a_learned_sum(encoder, mix):
    batch = collate([joined([document(1), document(2)])], GRID)
    model = model_for(encoder, encoder_layers=(0, 2), encoder_mix=mix)
    alone = [model_for(encoder, encoder_layers=(layer,)).front_end for layer in (0, 2)]
    wav = [torch.randn(1280 * 3, generator=torch.Generator().manual_seed(0)) * 0.1]
    (both,) = model.front_end.hearing(wav)
    torch.testing.assert_close(both, torch.cat([front.hearing(wav)[0] for front in alone], dim=1))
    model(batch).total.backward()
    if mix == "concat":
        assert model.front_end.projector.inner.weight.shape[1] == 4 * 2 * 32
    else:
        assert model.front_end.mix.grad.abs().min() > 0
        with torch.no_grad():
            before = model.front_end(batch.audio, batch.audio_columns)
            model.front_end.mix[0] += 5.0
            assert not torch.allclose(model.front_end(batch.audio, batch.audio_columns), before, atol=1e-4)
    with pytest.raises(ValueError, match="has layers 0 to 2, not 3"):
        model_for(encoder, encoder_layers=(3,))


def test_a_checkpoint_that_does_not_say_its_window_was_trained_on_the_full_one(encoder):
    kept = asdict(header(model_for(encoder)))
    assert Header.from_json(kept).shape.encoder_window == "content"
    del kept["shape"]["encoder_window"]
    assert Header.from_json(kept).shape.encoder_window == "full"


def header(model):
    return Header(
        shape=model.shape,
        vocabulary=model.vocabulary,
        codec=PCM.spec,
        codec_weights=None,
        layout="parallel",
        group=1,
        tokenizer="toy",
        tokenizer_digest="0",
    )


def test_training_goes_on_and_a_checkpoint_names_its_encoder(encoder, tmp_path):
    packs = [joined([document(2 * i), document(2 * i + 1, 0.7)], f"p{i}") for i in range(3)]
    config = Training(steps=6, packs_per_step=2, warmup_steps=1, checkpoint_every=2, lr=3e-3)

    def go(folder, **options):
        folder.mkdir(exist_ok=True)
        model = model_for(encoder, encoder_rank=2)
        train_flat(model, Source(packs), GRID, config, seed=0, folder=folder, header=header(model), **options)
        return [record.loss for record in read_metrics(folder / "metrics.jsonl")]

    def stop(record):
        if record.step == 4:
            raise KeyboardInterrupt

    whole = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", on_step=stop)
    assert go(tmp_path / "cut") == whole
    assert whole[-1] < whole[0]
    path = tmp_path / "whole/step-000006"
    model, _, _ = checkpoint.load(path)
    prompt = replace(document(3), loss_spans=np.zeros((0, 3), np.int32), loss_weights=np.zeros(0, np.float32))
    assert len(greedy_text(model, [prompt], GRID, end=1, max_tokens=3)[0]) <= 3
    text = read_json(path / "checkpoint.json", "")
    text["vocabulary"]["encoder_digest"] = "0" * 64
    (path / "checkpoint.json").write_bytes(sealed(text))
    with pytest.raises(ValueError, match="was trained with a different encoder"):
        checkpoint.load(path)


def test_what_is_no_encoder_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        load_encoder(str(tmp_path / "nothing"))
    transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1).save_pretrained(tmp_path / "gpt")
    with pytest.raises(ValueError, match="is a gpt2; there are whisper"):
        load_encoder(str(tmp_path / "gpt"))
