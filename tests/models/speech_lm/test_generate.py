"""Generation: what the cache makes is what the whole model would, for every layout, whatever else is made at once."""

import numpy as np
import pytest
import torch

from models.codecs.codec import pack_codes
from models.layouts import LAYOUTS, make_layout
from models.sequence.batch import collate
from models.sequence.documents import PackedDocuments
from models.speech_lm.decode.sampling import Sampling
from models.speech_lm.depth import DepthTransformer
from models.speech_lm.generate import frames_in, generate_audio
from tests.models.support import K, V, grid_spec, model_for

END = 6


def prompt(tokens):
    return PackedDocuments(
        pack_id="p",
        num_columns=len(tokens),
        cu_seqlens=np.array([0, len(tokens)], np.int32),
        segments=np.array([[0, 0, len(tokens)]], np.int32),
        text_tokens=np.array(tokens, np.int32),
        codes=b"",
        loss_spans=np.zeros((0, 3), np.int32),
        loss_weights=np.zeros(0, np.float32),
    )


def nothing():
    return np.zeros((K, 0), np.uint16)


def says(ends):
    """A text head that always says the same: that audio goes on, or that it ends."""

    def logits(hidden):
        made = hidden.new_full((len(hidden), 40), -100.0)
        made[:, END if ends else 0] = 100.0
        return made

    return logits


def never_ending(layout, group=1, seed=0):
    grid = grid_spec(layout, group)
    model = model_for(grid, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)  # far from uniform
    model.text_logits = says(ends=False)
    return grid, model


GREEDY = Sampling(temperature=0, repetition_window=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_cell_is_the_likeliest_one_of_the_whole_model(layout):
    grid, model = never_ending(layout)
    (codes,) = generate_audio(
        model, [prompt([9, 10, 11])], grid, given=[nothing()], max_frames=7, end=END, sampling=GREEDY
    )
    assert codes.shape == (K, 7)
    columns = grid.layout.num_columns(7)
    whole = PackedDocuments(
        pack_id="p",
        num_columns=3 + columns,
        cu_seqlens=np.array([0, 3 + columns], np.int32),
        segments=np.array([[0, 0, 3], [1, 3, 7]], np.int32),
        text_tokens=np.array([9, 10, 11], np.int32),
        codes=pack_codes(codes, 4),
        loss_spans=np.array([[1, 3, 3 + columns]], np.int32),
        loss_weights=np.ones(1, np.float32),
    )
    batch = collate([whole], grid)
    with torch.no_grad():
        states = model.states(batch)[batch.audio_from]
        head, size = model.audio_head, grid.layout.vocab_size
        if isinstance(head, DepthTransformer):
            logits = torch.einsum(
                "psw,svw->psv",
                head.states(states, batch.audio_targets[:, :-1]),
                head.head.weight.view(-1, size, head.shape.dim),
            )
        else:
            logits = head(states).view(len(states), -1, size)
    for column in range(len(logits)):  # only ids of the column's codebook are drawn
        low, high = grid.layout.id_range(column, 7)
        logits[column, :, :low], logits[column, :, high:] = -torch.inf, -torch.inf
    wanted = logits.argmax(dim=-1)
    real = batch.audio_targets != size
    if layout == "delay":  # at the end whole columns were drawn whose corners are no frame of the answer
        real[7:] = False
    assert torch.equal(batch.audio_targets[real], wanted[real])


@pytest.mark.parametrize(("layout", "group"), [*((name, 1) for name in LAYOUTS), ("parallel", 2), ("depth", 2)])
def test_what_is_given_stays_and_what_else_is_made_at_once_changes_nothing(layout, group):
    grid, model = never_ending(layout, group, seed=1)
    rng = np.random.default_rng(0)
    given = [rng.integers(0, V, (K, 4)).astype(np.uint16), nothing(), rng.integers(0, V, (K, 4)).astype(np.uint16)]
    prompts = [prompt([9, 10]), prompt([9, 11, 12, 13]), prompt([20])]
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=5)
    together = generate_audio(model, prompts, grid, given=given, max_frames=10, end=END, sampling=sampling)
    for number in range(3):
        alone = Sampling(temperature=1.0, top_p=0.9, seed=5 + number)
        (one,) = generate_audio(
            model, [prompts[number]], grid, given=[given[number]], max_frames=10, end=END, sampling=alone
        )
        assert np.array_equal(one, together[number])
        assert np.array_equal(one[:, : given[number].shape[1]], given[number])
    other = generate_audio(
        model, prompts, grid, given=given, max_frames=10, end=END, sampling=Sampling(temperature=1.0, top_p=0.9, seed=6)
    )
    assert not all(np.array_equal(a, b) for a, b in zip(together, other, strict=True))


@pytest.mark.parametrize("prompt_attention", ["both", "causal"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_given_audio_is_read_as_it_was_in_training(layout, prompt_attention):
    """A continuation's first states are those of a document whose prompt holds the same audio."""
    grid = grid_spec(layout)
    model = model_for(grid, prompt_attention=prompt_attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0 if parameter.dim() > 1 else 1.0)  # attention does little at first
    given = np.random.default_rng(3).integers(0, V, (K, 6)).astype(np.uint16)
    columns, targets = grid.layout.num_columns(10), grid.layout.target_columns(6, 10)
    whole = PackedDocuments(
        pack_id="p",
        num_columns=2 + columns,
        cu_seqlens=np.array([0, 2 + columns], np.int32),
        segments=np.array([[0, 0, 2], [1, 2, 10]], np.int32),
        text_tokens=np.array([9, 10], np.int32),
        codes=pack_codes(np.concatenate([given, np.zeros((K, 4), np.uint16)], axis=1), 4),
        loss_spans=np.array([[1, 2 + start, 2 + end] for start, end in targets], np.int32),
        loss_weights=np.ones(len(targets), np.float32),
    )
    batch = collate([whole], grid)
    with torch.no_grad():
        trained = model.states(batch)[int(batch.audio_from[0])]
    kept, prefill = [], model.prefill

    def spied(*arguments):
        hidden, cache, batch = prefill(*arguments)
        kept.append(hidden)
        return hidden, cache, batch

    model.prefill = spied
    prompts = [prompt([9, 10]), prompt([12])]
    generate_audio(model, prompts, grid, given=[given, nothing()], max_frames=10, end=END, sampling=GREEDY)
    assert len(kept) == 2  # prompts with as much given audio are read together
    assert min(float((hidden[0] - trained).abs().max()) for hidden in kept) < 1e-12
    assert float(trained.abs().max()) > 0.1


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if LAYOUTS[name].is_open_ended])
def test_the_model_ends_audio_but_nothing_that_is_given(layout):
    grid, model = never_ending(layout)
    model.text_logits = says(ends=True)
    given = np.random.default_rng(0).integers(0, V, (K, 4)).astype(np.uint16)
    short, none = generate_audio(
        model, [prompt([9, 10]), prompt([9])], grid, given=[given, nothing()], max_frames=50, end=END, sampling=GREEDY
    )
    assert np.array_equal(short, given)
    assert none.shape == (K, 0)


def test_the_weight_of_cells_that_go_on_is_taken_out_of_the_odds_of_an_end():
    grid, model = never_ending("parallel")

    def even(hidden):  # the odds of an end are 3:1 as learned, and .3:1 in truth where what goes on weighed a tenth
        made = hidden.new_full((len(hidden), 40), -100.0)
        made[:, 0], made[:, END] = 0.0, float(np.log(3.0))
        return made

    model.text_logits = even
    arguments = {"given": [nothing()], "max_frames": 3, "end": END, "sampling": GREEDY}
    (ended,) = generate_audio(model, [prompt([9])], grid, **arguments)
    (goes_on,) = generate_audio(model, [prompt([9])], grid, **arguments, pad_weight=0.1)
    assert (ended.shape[1], goes_on.shape[1]) == (0, 3)


def test_draws_follow_the_distribution_and_its_nucleus():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(20_000, 1)
    uniforms = torch.rand((20_000, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = Sampling(top_p=1.0).draw(logits, uniforms, None)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)
    inside = Sampling(top_p=0.8).draw(logits, uniforms, None)
    shares = torch.bincount(inside, minlength=4) / len(inside)
    assert shares.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.015)
    sharp = Sampling(temperature=0.5, top_p=1.0).draw(logits, uniforms, None)
    weights = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    shares = torch.bincount(sharp, minlength=4) / len(sharp)
    assert shares.tolist() == pytest.approx((weights / weights.sum()).tolist(), abs=0.015)


def test_what_came_too_often_is_drawn_again_from_all():
    logits = torch.tensor([[9.0, 0.0, 0.0, 0.0]])
    sampling = Sampling(top_p=0.9, repetition_window=4, repetition_share=0.5)
    uniforms = torch.tensor([[0.5, 0.9999]], dtype=torch.float64)
    assert sampling.draw(logits, uniforms, torch.tensor([[1, 2, 3, 0]])).item() == 0
    assert sampling.draw(logits, uniforms, torch.tensor([[0, 0, 0, 2]])).item() != 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_columns_hold_as_many_frames_as_made_them(name):
    layout = make_layout(name, 4, 16)
    for frames in range(12):
        assert frames_in(layout, layout.num_columns(frames)) == frames
    with pytest.raises(ValueError, match="top_p"):
        Sampling(top_p=0)
