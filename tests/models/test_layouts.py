import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layouts import Delay, Parallel, make_layout


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 32), st.integers(0, 300), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_layouts_are_bijections_that_know_their_length(num_codebooks, num_frames, group, delay, seed):
    layout = Delay(num_codebooks, 16) if delay else Parallel(num_codebooks, 16, group)
    codes = np.random.default_rng(seed).integers(0, 16, (num_codebooks, num_frames))
    grid = layout.to_grid(codes)
    assert grid.shape == (layout.num_streams, layout.num_columns(num_frames))
    assert np.array_equal(layout.from_grid(grid, num_frames), codes)
    assert (grid != 16).sum() == codes.size  # every code once, the rest is pad
    for frame in range(0, num_frames, 7):
        marked = np.full_like(codes, 16)
        marked[:, frame] = codes[:, frame]
        touched = np.flatnonzero((layout.to_grid(marked) != 16).any(axis=0))
        assert touched[0] == layout.first_column(frame)


def test_delay_shifts_each_codebook_by_its_number():
    grid = Delay(3, 9).to_grid(np.array([[0, 1], [2, 3], [4, 5]]))
    assert grid.tolist() == [[0, 1, 9, 9], [9, 2, 3, 9], [9, 9, 4, 5]]


def test_a_group_stands_side_by_side():
    grid = Parallel(2, 9, group=2).to_grid(np.array([[0, 1, 2], [3, 4, 5]]))
    assert grid.T.tolist() == [[0, 3, 1, 4], [2, 5, 9, 9]]


def test_unknown_layouts_are_named():
    with pytest.raises(ValueError, match="no layout 'delay' with group 2"):
        make_layout("delay", 4, 16, group=2)
