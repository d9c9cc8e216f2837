"""Who talks when: as it is said in packs, every document's own however they are packed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.sequence.batch import collate
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.activity import activity_loss, talking
from tests.models.speech_lm.test_ctc import heard
from tests.models.support import grid_spec, joined, model_for

GRID = grid_spec()


def talked(seed, num_frames, *spans):
    """A document whose audio is heard, with who talks in it: talker, first and last frame."""
    made = heard(seed, num_frames, 4)
    rows = [(who, 1 + start, 1 + end) for who, start, end in spans]
    return replace(made, talker_spans=np.array(rows, np.int32).reshape(-1, 3))


def together(documents):
    pack = joined(documents)
    starts = np.cumsum([0, *(d.num_columns for d in documents)])
    moved = [d.talker_spans + np.array([0, s, s]) for d, s in zip(documents, starts, strict=False)]
    return replace(pack, talker_spans=np.concatenate(moved).astype(np.int32))


DOCUMENTS = (
    talked(0, 14, (0, 0, 6), (1, 4, 14)),
    talked(1, 20, (1, 10, 12), (0, 2, 11), (0, 5, 8)),
    talked(2, 9),  # nobody knows who talks
    talked(3, 12, (2, 0, 12)),
)


def plainly(model, one):
    most = int(one.talker_spans[:, 0].max()) + 1
    batch = collate([one], GRID)
    wanted = torch.zeros(batch.audio_columns.numel(), most, dtype=torch.float64)
    for who, start, end in one.talker_spans.tolist():
        wanted[start - 1 : end - 1, who] = 1
    tags = model.text_weight[ByteTokenizer.FIRST_SPEAKER : ByteTokenizer.FIRST_SPEAKER + most]
    logits = model.states(batch)[batch.audio_columns] @ tags.T
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / most


@pytest.mark.parametrize("which", [(0,), (0, 1), (1, 2, 3, 0)])
def test_packed_is_the_sum_of_each_document_alone_as_written_plainly(which):
    model = model_for(GRID, prompt_attention="both")
    documents = [DOCUMENTS[i] for i in which]
    batch = collate([together(documents)], GRID)
    loss = activity_loss(model.states(batch), model.text_weight, batch)
    expected = sum(plainly(model, d) for d in documents if len(d.talker_spans))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    two = collate([together(documents[:1]), *documents[1:]], GRID)
    assert torch.equal(talking(batch)[1], talking(two)[1])


def test_nobody_known_to_talk_and_audio_that_is_predicted_count_for_nothing():
    model = model_for(GRID)
    batch = collate([DOCUMENTS[2]], GRID)
    loss = activity_loss(model.states(batch), model.text_weight, batch)
    loss.backward()
    assert float(loss.detach()) == 0.0
    predicted = replace(DOCUMENTS[0], loss_spans=np.array([[0, 5, DOCUMENTS[0].num_columns]], np.int32))
    columns, *_ = talking(collate([predicted], GRID))
    assert columns.tolist() == [1, 2, 3, 4]


def test_it_is_asked_of_what_the_last_block_reads_and_changes_no_other_sum():
    model = model_for(GRID, prompt_attention="both")
    batch = collate([together(DOCUMENTS)], GRID)
    plain, helped = model(batch), model(batch, activity_weight=0.5)
    assert torch.equal(plain.text_total, helped.text_total)
    assert torch.equal(plain.weight, helped.weight)
    (helped.total - plain.total).backward()
    last = model.blocks[-1]
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-9 for p in last.parameters())
    assert float(model.blocks[0].ffn.down.weight.grad.abs().max()) > 0
