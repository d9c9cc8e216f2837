"""The CTC loss: every document's own, however they are packed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config.options import Training
from models.sequence.batch import collate
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.ctc import check_ctc, ctc_loss, ctc_targets
from models.training.metrics import read_metrics
from tests.models.support import Source, document, grid_spec, header, joined, model_for, train_flat

GRID = grid_spec()


def heard(seed, num_frames=14, num_text=5):
    """A document whose audio is only heard, and whose text is predicted."""
    made = document(GRID, seed, num_frames=num_frames, num_text=num_text)
    columns = GRID.layout.num_columns(num_frames)
    spans = np.array([[0, 1 + columns, 1 + columns + num_text]], np.int32)
    # No control tokens, and none that stands twice in a row.
    tokens = 24 + np.arange(len(made.text_tokens)) % 2 + 2 * (made.text_tokens % 7)
    return replace(made, text_tokens=tokens, loss_spans=spans, loss_weights=np.ones(1, np.float32))


def alone(model, one):
    """Of one document, by torch's CTC on its own columns."""
    batch = collate([one], GRID)
    states = model.states(batch)
    logits = model.text_logits(states[batch.audio_columns]).float().log_softmax(-1)
    length = torch.tensor(len(logits)), torch.tensor(len(batch.text_targets))
    return torch.nn.functional.ctc_loss(logits[:, None], batch.text_targets, length[0][None], length[1][None])


@pytest.mark.parametrize("lengths", [[14], [14, 20, 9], [30, 5, 12, 7]])
def test_packed_is_the_sum_of_each_document_alone(lengths):
    model = model_for(GRID, prompt_attention="both")
    documents = [heard(seed, num_frames, 4) for seed, num_frames in enumerate(lengths)]
    batch = collate([joined(documents)], GRID)
    packed = ctc_loss(model.states(batch), model.text_weight, batch)
    each = sum(alone(model, one) * 4 for one in documents)  # torch divides by the length of the target
    assert float(packed.detach()) == pytest.approx(float(each.detach()), rel=1e-5)


def test_documents_without_heard_audio_or_with_too_much_text_count_for_nothing():
    model = model_for(GRID)
    good = heard(1)
    letters = heard(4, num_frames=5, num_text=4)
    twice = replace(letters, text_tokens=np.full_like(letters.text_tokens, 30))  # 4 letters and 3 blanks in 5 columns
    crowded = heard(2, num_frames=3, num_text=8)
    silent = replace(good, loss_spans=np.zeros((0, 3), np.int32), loss_weights=np.zeros(0, np.float32))
    batch = collate([joined([good, crowded, silent, twice])], GRID)
    only = collate([good], GRID)
    both = [ctc_loss(model.states(one), model.text_weight, one) for one in (batch, only)]
    assert float(both[0].detach()) == pytest.approx(float(both[1].detach()), rel=1e-5)
    found = ctc_targets(batch)
    assert found.usable.tolist() == [True, False, False, False]
    assert found.has_both.tolist() == [True, True, False, True]
    assert found.num_tokens == 5
    none = collate([silent], GRID)
    nothing = ctc_loss(model.states(none), model.text_weight, none)
    nothing.backward()
    assert float(nothing.detach()) == 0.0


def test_the_token_that_ends_an_answer_is_not_written_in_sound():
    model = model_for(GRID)
    one = heard(3)
    ended = replace(one, text_tokens=np.append(one.text_tokens[:-1], ByteTokenizer.END).astype(np.int32))
    shorter = heard(3)
    batches = [collate([d], GRID) for d in (ended, shorter)]
    counted = [int((b.text_targets != ByteTokenizer.END).sum()) for b in batches]
    assert counted == [4, 5]
    with torch.no_grad():
        states = model.states(batches[0])
        direct = ctc_loss(states, model.text_weight, replace(batches[0], text_targets=batches[0].text_targets))
        cut = replace(
            batches[0],
            text_targets=batches[0].text_targets[:-1],
            text_from=batches[0].text_from[:-1],
            text_weights=batches[0].text_weights[:-1],
        )
        assert torch.equal(direct, ctc_loss(states, model.text_weight, cut))


def test_it_adds_to_what_is_minimized_and_to_nothing_else():
    model = model_for(GRID)
    batch = collate([joined([heard(1), heard(2)])], GRID)
    plain, helped = model(batch), model(batch, ctc_weight=0.5)
    more = ctc_loss(model.states(batch), model.text_weight, batch)
    assert float((helped.total - plain.total).detach()) == pytest.approx(0.5 * float(more.detach()), rel=1e-5)
    assert torch.equal(helped.text_total, plain.text_total)
    assert torch.equal(helped.weight, plain.weight)


def test_training_is_refused_where_most_texts_have_more_letters_than_columns(tmp_path):
    good, crowded = heard(1), heard(2, num_frames=3, num_text=8)
    check_ctc([collate([good], GRID), collate([crowded], GRID)])  # half of them
    with pytest.raises(ValueError, match="CTC cannot use 2 of the first 3 documents"):
        check_ctc([collate([joined([good, crowded])], GRID), collate([crowded], GRID)])
    packs = [joined([good, crowded, crowded], f"p{i}") for i in range(3)]
    config = Training(steps=1, packs_per_step=1, ctc_weight=0.3)
    with pytest.raises(ValueError, match=r"CTC cannot use 6 .* 9 documents"):
        train_flat(model_for(GRID), Source(packs), GRID, config, seed=0, folder=tmp_path, header=header(GRID))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("packs_per_pass", [1, 2])
def test_auxiliary_losses_are_means_of_their_own(tmp_path, packs_per_pass):
    """What is minimized is the text loss plus each auxiliary loss times its weight, whatever there is of either."""
    spans = np.array([[0, 1, 9], [1, 6, 15]], np.int32)
    few, many = heard(1, num_text=2), heard(2, num_text=6)
    packs = [replace(few, talker_spans=spans), replace(many, talker_spans=spans)]
    config = Training(
        steps=1, packs_per_step=2, packs_per_pass=packs_per_pass, warmup_steps=1, ctc_weight=0.5, activity_weight=0.3
    )
    model = model_for(GRID, dtype=torch.float32)
    whole = collate(packs, GRID)
    with torch.no_grad():
        loss = model(whole, ctc_weight=1.0, activity_weight=1.0)
    train_flat(model, Source(packs), GRID, config, seed=0, folder=tmp_path, header=header(GRID))
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert record.text_loss == pytest.approx(float(loss.text_total) / 8, rel=1e-4)
    assert record.ctc_loss == pytest.approx(float(loss.ctc_total) / 8, rel=1e-4)
    assert record.activity_loss == pytest.approx(float(loss.activity_total) / 28, rel=1e-4)
    mean = record.text_loss + 0.5 * record.ctc_loss + 0.3 * record.activity_loss
    assert record.loss == pytest.approx(mean, rel=1e-4)
    assert record.ctc_share == 1.0
