import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layouts import LAYOUTS, make_layout
from models.layouts.coarse_first import CoarseFirst
from models.layouts.delay import Delay
from models.layouts.flat import Flat
from models.layouts.parallel import Parallel
from models.sequence.batch import collate
from tests.models.support import document, grid_spec, model_for


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(LAYOUTS)),
    st.integers(1, 32),
    st.integers(0, 2000),
    st.integers(1, 6),
    st.integers(0, 99),
    st.data(),
)
def test_layouts_are_bijections_that_know_their_length(name, num_codebooks, num_frames, group, seed, data):
    layout = make_layout(name, num_codebooks, 16, group if LAYOUTS[name].has_groups else 1)
    codes = np.random.default_rng(seed).integers(0, 16, (num_codebooks, num_frames))
    grid = layout.to_grid(codes)
    assert grid.shape == (layout.num_streams, layout.num_columns(num_frames))
    assert np.array_equal(layout.from_grid(grid, num_frames), codes)
    assert (grid != layout.vocab_size).sum() == codes.size  # every code once, the rest is pad
    assert not codes.size or (grid.min() >= 0 and grid.max() <= layout.vocab_size)
    # Hidden codes become pad, and nothing else does.
    hidden = codes.copy()
    hidden[:, ::2] = 16
    assert (layout.to_grid(hidden) != layout.vocab_size).sum() == (hidden != 16).sum()
    if num_frames:
        # The columns of frames from the first on are those that a change of such frames can reach.
        first = data.draw(st.integers(0, num_frames - 1))
        marked = np.full_like(codes, 16)
        marked[:, first:] = codes[:, first:]
        touched = np.flatnonzero((layout.to_grid(marked) != layout.vocab_size).any(axis=0))
        spans = layout.target_columns(first, num_frames)
        inside = np.concatenate([np.arange(a, b) for a, b in spans])
        assert set(touched.tolist()) <= set(inside.tolist())
        assert inside[0] == touched[0]


def test_delay_shifts_each_codebook_by_its_number():
    grid = Delay(3, 9).to_grid(np.array([[0, 1], [2, 3], [4, 5]]))
    assert grid.tolist() == [[0, 1, 9, 9], [9, 2, 3, 9], [9, 9, 4, 5]]


def test_a_group_stands_side_by_side():
    grid = Parallel(2, 9, group=2).to_grid(np.array([[0, 1, 2], [3, 4, 5]]))
    assert grid.T.tolist() == [[0, 3, 1, 4], [2, 5, 9, 9]]


def test_flat_goes_frame_by_frame_and_coarse_first_codebook_by_codebook():
    codes = np.array([[0, 1, 2], [3, 4, 5]])
    assert Flat(2, 9).to_grid(codes).tolist() == [[0, 12, 1, 13, 2, 14]]
    assert CoarseFirst(2, 9).to_grid(codes).tolist() == [[0, 1, 2, 12, 13, 14]]


def test_unknown_layouts_are_named():
    for name in (one for one in LAYOUTS if not LAYOUTS[one].has_groups):
        with pytest.raises(ValueError, match=f"layout {name} has no groups"):
            make_layout(name, 4, 16, group=2)
    with pytest.raises(ValueError, match=r"no layout 'zigzag'; choose from parallel, delay, flat, coarse_first, depth"):
        make_layout("zigzag", 4, 16)


def logits_of(model, batch):
    """Logits of every audio target: (P, S, V)."""
    states = model.states(batch)[batch.audio_from]
    head = model.audio_head
    if model.vocabulary.depth:
        weight = head.head.weight.view(head.num_streams, head.size, -1)
        return torch.einsum("psw,svw->psv", head.states(states, batch.audio_targets[:, :-1]), weight)
    return head(states).view(len(states), model.vocabulary.num_streams, -1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_target_sees_a_code_that_it_should_not(layout):
    """Change one code: only predictions behind it, in the order of the layout, may change."""
    grid = grid_spec(layout)
    model = model_for(grid)
    pack = document(grid, 1, num_frames=6, num_text=3)
    batch = collate([pack], grid)
    with torch.no_grad():
        before = logits_of(model, batch)
        for row in range(0, len(batch.audio), 2):
            for stream in range(batch.audio.shape[1]):
                if batch.audio[row, stream] == grid.layout.vocab_size:
                    continue
                audio, targets = batch.audio.clone(), batch.audio_targets.clone()
                audio[row, stream] = (audio[row, stream] + 1) % grid.layout.vocab_size
                column = int(batch.audio_columns[row])
                at = (batch.audio_from + 1 == column).nonzero()
                if len(at):
                    targets[int(at[0, 0]), stream] = audio[row, stream]
                from dataclasses import replace

                after = logits_of(model, replace(batch, audio=audio, audio_targets=targets))
                moved = ((after - before).abs() > 1e-12).any(dim=-1)  # (P, S)
                predicted = batch.audio_from + 1
                assert not moved[predicted < column].any()
                own = moved[predicted == column]
                if model.vocabulary.depth:
                    assert not own[:, : stream + 1].any()
                else:
                    assert not own.any()
                if bool((predicted > column).any()):
                    assert moved[predicted > column].any()  # and it is seen from there on


def test_depth_loss_is_that_of_each_cell_after_those_above_it():
    grid = grid_spec("depth")
    model = model_for(grid)
    batch = collate([document(grid, 3, num_frames=9)], grid)
    loss = model(batch)
    with torch.no_grad():
        states = model.states(batch)[batch.audio_from]
        total = 0.0
        head = model.audio_head
        weight = head.head.weight.view(head.num_streams, head.size, -1)
        for row, targets in enumerate(batch.audio_targets):
            for stream in range(len(targets)):
                alone = head.states(states[row : row + 1], targets[None, :stream])[0, stream]
                logits = weight[stream] @ alone
                if targets[stream] != grid.layout.vocab_size:
                    total -= float(torch.log_softmax(logits, 0)[targets[stream]] * batch.audio_weights[row])
    assert loss.audio_total.item() == pytest.approx(total, rel=1e-9)
