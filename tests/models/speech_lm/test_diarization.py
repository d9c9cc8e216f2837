"""A model that is told whom to hear: classes of frames, and transformations by them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.sequence.batch import collate
from models.sequence.documents import SegmentFeatures
from models.speech_lm.diarization import FrameTransforms, classes_of, of_frames
from tests.models.whisper_support import GRID, document, load, save_whisper

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper") / "small"
    save_whisper(path)
    return path


def asked(tokenizer, seed, talker, spans, seconds=0.8, text="good day"):
    """A document of task asr_talker: the talker's tag, ten columns of sound, and who speaks in them (from, to)."""
    one = document(seed, tokenizer, text, seconds)
    tokens = one.text_tokens.tolist()
    columns = one.segments[1, 2]
    tokens = [tokenizer.ASR_TALKER, tokenizer.speaker(talker), *tokens[1:]]
    total = one.num_columns + 1
    return replace(
        one,
        num_columns=total,
        cu_seqlens=np.array([0, total], np.int32),
        segments=np.array([[0, 0, 2], [1, 2, columns], [0, 2 + columns, len(tokens) - 2]], np.int32),
        text_tokens=np.array(tokens, np.int32),
        loss_spans=one.loss_spans + np.array([0, 1, 1], np.int32),
        talker_spans=np.array([[who, 2 + start, 2 + end] for who, start, end in spans], np.int32).reshape(-1, 3),
    )


SPANS = [(0, 0, 6), (1, 4, 8)]


def test_columns_are_silence_target_others_or_overlap(folder):
    _, tokenizer = load(folder)
    packs = [asked(tokenizer, 0, 0, SPANS), document(1, tokenizer), asked(tokenizer, 2, 1, SPANS)]
    classes = classes_of(collate(packs, GRID))
    plain = packs[1].segments[1, 2]
    first, none, second = torch.split(classes, [10, int(plain), 10])
    assert first.argmax(dim=1).tolist() == [1, 1, 1, 1, 3, 3, 2, 2, 0, 0]
    assert second.argmax(dim=1).tolist() == [2, 2, 2, 2, 3, 3, 1, 1, 0, 0]
    assert first.sum() == second.sum() == 10
    assert not none.any()


def test_frames_repeat_their_column_and_the_tail_is_silence_where_somebody_is_asked_for():
    classes = torch.eye(4)[[1, 2, 3]]
    told, plain = of_frames(torch.cat([classes, torch.zeros(2, 4)]), [3, 2], 4, 5)
    assert told.argmax(dim=1).tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [0] * 5
    assert plain.shape == (13, 4)
    assert not plain.any()


def test_frames_of_no_class_and_of_the_talker_stay_as_they_are_at_first():
    change, x = FrameTransforms(8, is_first=True), torch.randn(5, 8)
    classes = torch.cat([torch.zeros(1, 4), torch.eye(4)])
    out = change(x, classes)
    for row in (0, 2, 4):  # no class, target, overlap
        torch.testing.assert_close(out[row], x[row])
    for row in (1, 3):  # silence, others
        torch.testing.assert_close(out[row], 0.1 * x[row])
    torch.testing.assert_close(FrameTransforms(8, is_first=False)(x, classes), x)


@pytest.mark.parametrize("how", ["frames", "encoder"])
def test_whom_it_is_asked_for_decides_and_only_where_it_is_told(folder, how):
    losses = {}
    for kind in ("none", how):
        model, tokenizer = load(folder, diarization=kind, encoder_tail_s=0.1)
        for swapped in (False, True):
            spans = [(1 - who, *span) for who, *span in SPANS] if swapped else SPANS
            with torch.no_grad():
                losses[kind, swapped] = float(model(collate([asked(tokenizer, 0, 0, spans)], GRID)).total)
    assert losses["none", False] == losses["none", True]
    assert abs(losses[how, False] - losses[how, True]) > 1e-3


@pytest.mark.parametrize("how", ["frames", "encoder"])
def test_told_documents_packed_equal_each_alone_and_all_is_trained(folder, how):
    model, tokenizer = load(folder, diarization=how, encoder_tail_s=0.1)
    documents = [asked(tokenizer, 0, 0, SPANS), document(1, tokenizer), asked(tokenizer, 2, 1, SPANS, seconds=1.9)]
    with torch.no_grad():
        alone = torch.cat([model.states(collate([one], GRID)) for one in documents])
        torch.testing.assert_close(model.states(collate(documents, GRID)), alone, rtol=1e-4, atol=1e-4)
    model(collate(documents, GRID)).total.backward()
    told = {name: p.grad for name, p in model.named_parameters() if "told" in name}
    assert len(told) == (2 if how == "frames" else 4)
    assert all(grad is not None and grad.abs().max() > 0 for grad in told.values())


def test_stored_frames_are_told_apart_as_those_of_the_step_are(folder):
    model, tokenizer = load(folder, diarization="frames", encoder_tail_s=0.1)
    one = asked(tokenizer, 0, 1, SPANS)
    batch = collate([one], GRID)
    with torch.no_grad():
        frames, _ = model.front_end.hear(batch.audio, batch.audio_columns)
        features = (SegmentFeatures(frames.numpy(), np.zeros(0, np.float32)),)
        stored = collate([replace(one, codes=b"", features=features)], GRID)
        assert float(model(stored).total) == pytest.approx(float(model(batch).total), rel=1e-5)
