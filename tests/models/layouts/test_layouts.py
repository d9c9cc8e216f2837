"""The contract of `models.layouts.layout`, checked for every layout in the table `models.layouts.LAYOUTS`."""

from dataclasses import replace

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

ENTRIES = 16  # codebook size
CASES = {
    "num_codebooks": st.integers(1, 32),
    "num_frames": st.integers(0, 2000),
    "group": st.integers(1, 6),
    "seed": st.integers(0, 99),
}


def layout_and_codes(name, num_codebooks, num_frames, group, seed):
    layout = make_layout(name, num_codebooks, ENTRIES, group if LAYOUTS[name].has_groups else 1)
    return layout, np.random.default_rng(seed).integers(0, ENTRIES, (num_codebooks, num_frames))


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=100, deadline=None)
@given(**CASES)
def test_layouts_are_bijections_that_know_their_length(name, num_codebooks, num_frames, group, seed):
    layout, codes = layout_and_codes(name, num_codebooks, num_frames, group, seed)
    grid = layout.to_grid(codes)
    assert grid.shape == (layout.num_streams, layout.num_columns(num_frames))
    assert grid.dtype == np.int32
    assert np.array_equal(layout.from_grid(grid, num_frames), codes)
    assert layout.from_grid(grid, num_frames).dtype == np.int32
    assert (grid != layout.vocab_size).sum() == codes.size  # every code once, the rest is padding
    assert not codes.size or (grid.min() >= 0 and grid.max() <= layout.vocab_size)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=50, deadline=None)
@given(**CASES)
def test_hidden_codes_become_padding_and_nothing_else_does(name, num_codebooks, num_frames, group, seed):
    layout, codes = layout_and_codes(name, num_codebooks, num_frames, group, seed)
    codes[:, ::2] = ENTRIES
    grid = layout.to_grid(codes)
    assert (grid != layout.vocab_size).sum() == (codes != ENTRIES).sum()
    assert np.array_equal(layout.from_grid(grid, num_frames), codes)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=50, deadline=None)
@given(**CASES, data=st.data())
def test_target_columns_are_those_that_a_change_of_the_frames_can_reach(
    name, num_codebooks, num_frames, group, seed, data
):
    num_frames = max(1, num_frames)
    layout, codes = layout_and_codes(name, num_codebooks, num_frames, group, seed)
    first = data.draw(st.integers(0, num_frames - 1))
    marked = np.full_like(codes, ENTRIES)
    marked[:, first:] = codes[:, first:]
    touched = np.flatnonzero((layout.to_grid(marked) != layout.vocab_size).any(axis=0))
    inside = np.concatenate([np.arange(start, end) for start, end in layout.target_columns(first, num_frames)])
    assert set(touched.tolist()) <= set(inside.tolist())
    assert inside[0] == touched[0]
    assert inside[-1] < layout.num_columns(num_frames)
    assert (np.diff(inside) > 0).all()  # in order, no column twice


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=25, deadline=None)
@given(**CASES | {"num_frames": st.integers(1, 60)})
def test_the_range_of_a_columns_ids_is_what_its_cells_can_hold(name, num_codebooks, num_frames, group, seed):
    layout, codes = layout_and_codes(name, num_codebooks, num_frames, group, seed)
    ranges = np.array([layout.id_range(column, num_frames) for column in range(layout.num_columns(num_frames))])
    low, high = ranges.T
    grid = layout.to_grid(codes)
    is_code = grid != layout.vocab_size
    assert ((low <= grid) & (grid < high))[is_code].all()
    # No wider than that: the lowest and the highest code reach the ends.
    for value, end in ((0, low), (ENTRIES - 1, high - 1)):
        assert (layout.to_grid(np.full_like(codes, value)) == end)[is_code].all()


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=25, deadline=None)
@given(**CASES | {"num_frames": st.integers(1, 60)})
def test_the_first_columns_of_an_open_ended_layout_do_not_depend_on_the_number_of_frames(
    name, num_codebooks, num_frames, group, seed
):
    layout, codes = layout_and_codes(name, num_codebooks, num_frames, group, seed)
    if not layout.is_open_ended:
        return
    # Generation fills the grid of more frames, and cuts it where the model ends the audio.
    fewer = num_frames // 2
    cut = layout.to_grid(codes)[:, : layout.num_columns(fewer)]
    assert np.array_equal(layout.from_grid(cut, fewer), codes[:, :fewer])


def test_coarse_first_needs_the_number_of_frames():
    assert not CoarseFirst.is_open_ended
    grid = CoarseFirst(2, 9).to_grid(np.array([[0, 1, 2, 3], [4, 5, 6, 7]]))
    assert CoarseFirst(2, 9).from_grid(grid, 2).tolist() != [[0, 1], [4, 5]]


def test_delay_shifts_each_codebook_by_its_number():
    grid = Delay(3, 9).to_grid(np.array([[0, 1], [2, 3], [4, 5]]))
    assert grid.tolist() == [[0, 1, 9, 9], [9, 2, 3, 9], [9, 9, 4, 5]]


def test_the_frames_of_a_group_share_a_column():
    grid = Parallel(2, 9, group=2).to_grid(np.array([[0, 1, 2], [3, 4, 5]]))
    assert grid.T.tolist() == [[0, 3, 1, 4], [2, 5, 9, 9]]


def test_flat_goes_frame_by_frame_and_coarse_first_codebook_by_codebook():
    codes = np.array([[0, 1, 2], [3, 4, 5]])
    assert Flat(2, 9).to_grid(codes).tolist() == [[0, 12, 1, 13, 2, 14]]
    assert CoarseFirst(2, 9).to_grid(codes).tolist() == [[0, 1, 2, 12, 13, 14]]


def test_unknown_layouts_and_groups_where_there_are_none_are_refused():
    for name in (one for one in LAYOUTS if not LAYOUTS[one].has_groups):
        with pytest.raises(ValueError, match=f"layout {name} has no groups of frames; use group 1, or one of parallel"):
            make_layout(name, 4, 16, group=2)
    with pytest.raises(
        ValueError, match=r"unknown layout 'zigzag'; choose from parallel, delay, flat, coarse_first, depth"
    ):
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
def test_no_prediction_depends_on_a_later_code(layout):
    """Change one code: only predictions after it, in the order of the layout, may change."""
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
                    assert moved[predicted > column].any()  # later predictions depend on it


def test_depth_loss_is_the_sum_over_cells_each_given_those_above_it():
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
                state = head.states(states[row : row + 1], targets[None, :stream])[0, stream]
                logits = weight[stream] @ state
                if targets[stream] != grid.layout.vocab_size:
                    total -= float(torch.log_softmax(logits, 0)[targets[stream]] * batch.audio_weights[row])
    assert loss.audio_total.item() == pytest.approx(total, rel=1e-9)
