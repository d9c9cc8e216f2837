"""Fewer columns than packs hold: packed equals alone, decoding equals training, and CTC decides what is left out."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.config.options import Training
from models.sequence.batch import collate
from models.sequence.documents import SegmentFeatures
from models.speech_lm.ctc import ctc_loss, ctc_targets
from models.speech_lm.flops import training_flops
from models.speech_lm.front_end import Queries, Stacked
from models.speech_lm.generate import greedy_text
from models.speech_lm.hearing.compress import merge_runs, stacked
from models.training.metrics import read_metrics
from tests.models.speech_lm.test_front_end import GRID, document, header, model_for
from tests.models.support import Source, joined, save_small_whisper, train_flat

pytest.importorskip("transformers")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
FEWER = [{"compress": "ctc"}, {"stack": 8}, {"stack": 16, "projector": "queries"}, {"stack": 8, "compress": "ctc"}]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    return save_small_whisper(tmp_path_factory.mktemp("encoder") / "whisper")


def lively(encoder, **shape):
    """A model whose projector's likeliest tokens change from column to column, and are the blank in some."""
    model = model_for(encoder, **shape)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.front_end.projector.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        head = torch.randn(model.text_head.weight.shape, generator=generator)
        head[3:] *= 0.01  # three tokens win, one of them the blank
        model.text_head.weight.copy_(head)
    return model


def features_of(one, seed, wild=True):
    """The document with features in place of codes; wild ones differ from frame to frame as speech does."""
    frames = 4 * int(one.segments[1, 2])
    values = np.random.default_rng(seed).standard_normal((frames, 32)).astype(np.float32)
    return replace(one, codes=b"", features=(SegmentFeatures(values if wild else values * 0, np.zeros(0, np.float32)),))


def heard(seed, seconds):
    """A document with features, whose text has no control tokens, and none twice."""
    one = features_of(document(seed, seconds), seed)
    return replace(one, text_tokens=(24 + (5 * seed + np.arange(len(one.text_tokens))) % 16).astype(np.int32))


def together(documents):
    pack = joined([replace(one, features=None) for one in documents])
    return replace(pack, features=tuple(part for one in documents for part in one.features))


LENGTHS = (0.5, 1.31, 0.09, 2.2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", FEWER)
def test_packed_equals_each_document_alone(encoder, shape, device):
    model = lively(encoder, **shape).to(device)
    documents = [heard(seed, seconds) for seed, seconds in enumerate(LENGTHS)]
    found = []
    for batches in ([collate([one], GRID) for one in documents], [collate([together(documents)], GRID)]):
        model.zero_grad()
        losses = [model(batch.to(device), ctc_weight=0.3, ctc_at="projector") for batch in batches]
        sum(loss.total for loss in losses).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        left = [length for loss in losses for length in np.diff(loss.seen.boundaries).tolist()]
        found.append((sum(float(loss.total.detach()) for loss in losses), left, gradients))
    (alone, left_alone, slopes_alone), (packed, left_packed, slopes_packed) = found
    assert left_packed == left_alone
    assert sum(left_packed) < sum(one.num_columns for one in documents)
    assert packed == pytest.approx(alone, rel=1e-5)
    for name, slope in slopes_alone.items():
        assert float((slopes_packed[name] - slope).norm()) <= 2e-3 * float(slope.norm()) + 1e-6, name
    assert slopes_alone["front_end.projector." + ("into" if "projector" in shape else "inner") + ".weight"].any()


def test_columns_that_ctc_finds_blank_are_left_out_and_equal_neighbours_averaged(encoder):
    model = lively(encoder, compress="ctc")
    batch = collate([together([heard(0, 1.0), heard(1, 1.31)])], GRID)
    with torch.no_grad():
        columns = model.front_end.project_stored(batch.features, None, batch.feature_columns)
        labels = F.linear(model.norm(columns), model.text_weight).argmax(1).tolist()
        embedded = model._embed_batch(batch)
    wanted, first = [], 0
    for length in batch.feature_columns:  # by a plain loop
        runs = []
        for column in range(first, first + length):
            if column > first and labels[column] == labels[column - 1]:
                runs[-1][1].append(column)
            else:
                runs.append((labels[column], [column]))
        wanted += [columns[run].mean(0) for label, run in runs if label != 0]
        first += length
    assert 0 in labels  # blanks there are ...
    assert any(one == other != 0 for one, other in itertools.pairwise(labels))  # ... and repeats
    at = embedded.batch.audio_columns
    assert len(at) == len(wanted)
    expected = model.audio_norm(torch.stack(wanted))
    torch.testing.assert_close(embedded.x[at] - model._embed_text(embedded.batch.text[at]), expected)


def test_a_stretch_in_which_nothing_is_found_keeps_one_column(encoder):
    model = lively(encoder, compress="ctc")
    batch = collate([features_of(document(0, 1.0), 0, wild=False)], GRID)  # all logits are 0, the blank's first
    loss = model(batch)
    assert len(loss.seen.audio_columns) == 1
    assert loss.seen.prompts == (2,)


def test_where_nothing_is_left_out_the_loss_is_that_without_compression(encoder):
    plain, compressing = lively(encoder), lively(encoder, compress="ctc")
    batch = collate([together([heard(0, 0.16), heard(1, 0.16), heard(2, 0.08)])], GRID)
    with torch.no_grad():
        for model in (plain, compressing):  # every column says another token than its neighbour, none the blank
            model.text_head.weight[0] = 0.0
    columns = plain.front_end.project_stored(batch.features, None, batch.feature_columns)
    keep, _ = merge_runs(columns, torch.arange(1, len(columns) + 1), batch.feature_columns)
    assert keep.all()
    nothing = batch.audio_columns[~keep]
    left = batch.without_columns(nothing)
    assert left.boundaries == batch.boundaries
    for name in ("text", "audio_columns", "positions", "cu_seqlens", "text_from", "talker_spans"):
        assert torch.equal(getattr(left, name), getattr(batch, name)), name
    labels = F.linear(plain.norm(columns), plain.text_weight).argmax(1)
    assert merge_runs(columns, labels, batch.feature_columns)[0].all()  # else the next line would prove nothing
    assert torch.equal(compressing(batch).text_total, plain(batch).text_total)


def test_without_columns_moves_what_is_predicted_and_keeps_its_targets():
    documents = [replace(heard(0, 0.5), talker_spans=np.array([[0, 2, 5], [1, 4, 7]], np.int32)), heard(1, 0.5)]
    pack = replace(together(documents), talker_spans=documents[0].talker_spans)
    batch = collate([pack], GRID)
    dropped = torch.tensor([1, 4, 5, 14])
    left = batch.without_columns(dropped)
    kept = [column for column in range(len(batch.text)) if column not in dropped.tolist()]
    assert torch.equal(left.text, batch.text[kept])
    assert left.boundaries == (0, 9, 20)
    assert left.positions.tolist() == [*range(9), *range(11)]
    assert left.prompts == (batch.prompts[0] - 3, batch.prompts[1] - 1)
    assert torch.equal(left.text[left.text_from + 1], batch.text_targets)
    assert left.talker_spans.tolist() == [[0, 1, 3], [1, 3, 4]]
    assert left.max_seqlen == 11
    with pytest.raises(ValueError, match="cannot be left out"):
        batch.without_columns(batch.text_from[:1] + 1)
    with pytest.raises(ValueError, match="cannot be left out"):
        batch.without_columns(torch.tensor([0]))


@pytest.mark.parametrize("kind", [Stacked, Queries])
@pytest.mark.parametrize("stack", [8, 16])
def test_a_stacked_column_reads_its_own_frames_whatever_stretches_are_beside_it(kind, stack):
    torch.manual_seed(0)
    projector, times = kind(6, 64, stack).double(), stack // 4
    lengths = [5, 1, 8]
    frames = torch.randn(4 * sum(lengths), 6, dtype=torch.float64)
    with torch.no_grad():
        whole = projector(frames, lengths)
        alone = [projector(part, [len(part) // 4]) for part in frames.split([4 * length for length in lengths])]
        assert [len(one) for one in alone] == [-(-length // times) for length in lengths]
        torch.testing.assert_close(whole, torch.cat(alone))
        changed = frames.clone()
        changed[-1] += 1.0
        assert torch.equal(projector(changed, lengths)[: -16 // stack - 1], whole[: -16 // stack - 1])
        assert not torch.equal(projector(changed, lengths)[-1], whole[-1])


def test_ctc_counts_the_columns_that_are_left_by_stacking(encoder):
    model = lively(encoder, stack=8)
    batch = collate([heard(0, 0.5)], GRID)  # seven columns, four of them left, for four tokens
    assert int(ctc_targets(batch).input_lengths) == 7
    left = stacked(batch, model.shape)
    assert int(ctc_targets(left).input_lengths) == 4
    loss = model(batch, ctc_weight=1.0, ctc_at="projector")
    columns = model.front_end.project_stored(batch.features, None, batch.feature_columns)
    states = model.norm(columns)
    scores = model.text_logits(states).float().log_softmax(-1)[:, None]
    wanted = F.ctc_loss(scores, batch.text_targets[None], (4,), (4,), reduction="sum")
    assert float(loss.ctc_total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


@pytest.mark.parametrize("is_large", [False, True])
def test_ctc_at_the_projector_is_torchs_on_its_columns_of_each_document(encoder, monkeypatch, is_large):
    monkeypatch.setattr("models.speech_lm.ctc.LARGE_VOCABULARY", 0 if is_large else 10**9)
    model = lively(encoder)
    documents = [heard(seed, seconds) for seed, seconds in enumerate((1.0, 1.31, 2.2))]
    batch = collate([together(documents)], GRID)
    wanted = 0.0
    for one in documents:
        alone = collate([one], GRID)
        states = model.norm(model.front_end.project_stored(alone.features, None, alone.feature_columns))
        scores, text = model.text_logits(states).float().log_softmax(-1)[:, None], alone.text_targets
        wanted = wanted + F.ctc_loss(scores, text[None], (len(scores),), (len(text),), reduction="sum")
    wanted.backward()
    slope = model.front_end.projector.outer.weight.grad.clone()
    model.zero_grad()
    loss = model(batch, ctc_weight=1.0, ctc_at="projector")
    loss.ctc_total.backward()
    assert float(loss.ctc_total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    torch.testing.assert_close(model.front_end.projector.outer.weight.grad, slope, rtol=1e-3, atol=1e-5)
    at_output = ctc_loss(model.states(batch), model.text_weight, batch)
    assert float(at_output.detach()) != pytest.approx(float(wanted.detach()), rel=1e-3)


@pytest.mark.parametrize("shape", FEWER)
def test_decoding_says_what_training_would(encoder, shape):
    """The greedy answer's tokens, given as a document's text, are the likeliest at every place of a training's pass."""
    model = lively(encoder, **shape)
    with torch.no_grad():
        for block in model.blocks:
            for parameter in block.parameters():
                parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
        model.text_head.weight.normal_(generator=torch.Generator().manual_seed(1))
    prompts = []
    for seed, seconds in enumerate(LENGTHS[1:]):
        one = heard(seed, seconds)
        columns = int(one.segments[1, 2])
        prompts.append(
            replace(
                one,
                num_columns=1 + columns,
                cu_seqlens=np.array([0, 1 + columns], np.int32),
                segments=one.segments[:2],
                text_tokens=one.text_tokens[:1],
                loss_spans=np.zeros((0, 3), np.int32),
                loss_weights=np.zeros(0, np.float32),
            )
        )
    answers = greedy_text(model, prompts, GRID, end=1, max_tokens=4, slots=2)
    assert any(answers)
    for prompt, answer in zip(prompts, answers, strict=True):
        total = prompt.num_columns + len(answer)
        whole = replace(
            prompt,
            num_columns=total,
            cu_seqlens=np.array([0, total], np.int32),
            segments=np.array([*prompt.segments.tolist(), [0, prompt.num_columns, len(answer)]], np.int32),
            text_tokens=np.array([*prompt.text_tokens.tolist(), *answer], np.int32),
        )
        if not answer:
            continue
        with torch.no_grad():
            states = model.states(collate([whole], GRID))
            logits = model.text_logits(states[-len(answer) - 1 : -1]).float()
        logits[:, 0] = -torch.inf
        assert logits.argmax(1).tolist() == answer


def test_operations_are_counted_of_the_columns_that_the_blocks_read(encoder, tmp_path):
    packs = [together([heard(2 * i, 1.0), heard(2 * i + 1, 0.7)]) for i in range(3)]
    flops = {}
    for stack in (4, 16):
        model = model_for(encoder, stack=stack)
        config = Training(steps=1, packs_per_step=3, packs_per_pass=3, warmup_steps=1)
        folder = tmp_path / str(stack)
        folder.mkdir()
        train_flat(model, Source(packs), GRID, config, seed=0, folder=folder, header=header(model))
        flops[stack] = read_metrics(folder / "metrics.jsonl")[0].flops
        batch = stacked(collate(packs, GRID), model.shape)
        assert flops[stack] == training_flops(model.shape, model.vocabulary, batch)
    assert flops[16] < 0.6 * flops[4]


def test_training_with_compression_resumes_to_the_bytes_of_one_never_stopped(encoder, tmp_path):
    packs = [replace(together([heard(2 * i, 1.0), heard(2 * i + 1, 1.3)]), pack_id=f"p{i}") for i in range(3)]
    config = Training(
        steps=6, packs_per_step=2, warmup_steps=1, checkpoint_every=2, lr=3e-3, ctc_weight=0.5, ctc_at="projector"
    )

    def go(folder, **options):
        folder.mkdir(exist_ok=True)
        model = model_for(encoder, compress="ctc")
        train_flat(model, Source(packs), GRID, config, seed=0, folder=folder, header=header(model), **options)
        return (folder / "step-000006/model.safetensors").read_bytes()

    def stop(record):
        if record.step == 4:
            raise KeyboardInterrupt

    whole = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", on_step=stop)
    assert go(tmp_path / "cut") == whole
    losses = [record.ctc_loss for record in read_metrics(tmp_path / "whole/metrics.jsonl")]
    assert 0.0 < losses[-1] < losses[0]
