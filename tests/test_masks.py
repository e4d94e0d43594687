from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otherview.geometry import PatchGrid
from otherview.views.masks import blockwise_mask, draw_mask, random_mask, uniform_block_mask
from otherview.views.settings import MaskSettings


@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_every_mask_hides_exactly_the_asked_count(rows: int, columns: int, data: st.DataObject) -> None:
    grid = PatchGrid(rows, columns)
    hidden = data.draw(st.integers(0, grid.patches))
    minimum = data.draw(st.integers(1, 30))
    rng = Random(data.draw(st.integers(0, 2**32)))
    for mask in (
        blockwise_mask(grid, count=hidden, minimum_block=minimum, rng=rng),
        uniform_block_mask(grid, count=hidden, minimum_block=minimum, rng=rng),
        random_mask(grid, count=hidden, rng=rng),
    ):
        assert mask.shape == (rows, columns)
        assert mask.dtype == bool
        assert mask.sum() == hidden


@pytest.mark.parametrize(("patches", "hidden", "block"), [(196, 118, 16), (256, 154, 21), (64, 39, 5), (16, 10, 4)])
def test_the_paper_s_counts_on_other_grids(patches: int, hidden: int, block: int) -> None:
    assert (MaskSettings().masked_of(patches), MaskSettings().minimum_block_of(patches)) == (hidden, block)


def frequency(kind: str, grid: PatchGrid, count: int) -> np.ndarray:
    rng = Random(0)
    settings = MaskSettings(kind=kind)  # pyright: ignore[reportArgumentType]
    return np.mean([draw_mask(grid, settings, rng) for _ in range(count)], axis=0)


def test_marginals() -> None:
    grid, count = PatchGrid(14, 14), 3000
    share = 118 / 196
    error = np.sqrt(share * (1 - share) / count)
    for kind in ("uniform", "random"):
        assert np.abs(frequency(kind, grid, count) - share).max() < 4.5 * error, kind
    blocks = frequency("blockwise", grid, count)
    assert blocks[7, 7] > 0.9 and blocks[0, 0] < 0.13
    assert frequency("none", grid, 3).max() == 0


def test_uniform_masks_are_still_blocks() -> None:
    grid, rng = PatchGrid(14, 14), Random(0)
    together = {}
    for kind in ("uniform", "random"):
        masks = [draw_mask(grid, MaskSettings(kind=kind), rng) for _ in range(300)]
        together[kind] = np.mean([(m == np.roll(m, 1, axis=0)).mean() for m in masks])
    assert together["uniform"] > together["random"] + 0.2
