"""Masks with an exact count: block-wise (the paper), random, and block-wise with a uniform marginal.

Every function returns bool [rows, columns], True = hidden, and always hides exactly `hidden` patches.
Source: specification 1.2; BEiT-style blocks with a fixed final count.
"""

import math

import numpy as np

from otherview.geometry import PatchGrid
from otherview.views.settings import MaskSettings

BLOCK_ASPECT = (0.3, 1 / 0.3)


def blockwise_mask(grid: PatchGrid, *, hidden: int, minimum_block: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks of at least `minimum_block` patches until no further block fits, then single patches up to the count."""
    mask = np.zeros(grid, dtype=bool)
    count = 0
    while count < hidden:
        added = _mark_block(mask, room=hidden - count, minimum_block=minimum_block, rng=rng)
        if added == 0:
            break
        count += added
    free = np.flatnonzero(~mask)
    mask.flat[rng.choice(free, hidden - count, replace=False)] = True
    return mask


def _mark_block(mask: np.ndarray, *, room: int, minimum_block: int, rng: np.random.Generator) -> int:
    """Up to ten tries to mark one block that adds between 1 and `room` patches; returns how many it added."""
    rows, columns = mask.shape
    low, high = BLOCK_ASPECT
    for _ in range(10):
        area = rng.uniform(*sorted((minimum_block, room)))
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < rows and w < columns:
            top, left = rng.integers(0, rows - h + 1), rng.integers(0, columns - w + 1)
            block = mask[top : top + h, left : left + w]
            new = block.size - int(np.count_nonzero(block))
            if 0 < new <= room:
                block[:] = True
                return new
    return 0


def random_mask(grid: PatchGrid, *, hidden: int, rng: np.random.Generator) -> np.ndarray:
    """Single patches, every set of `hidden` patches equally likely."""
    mask = np.zeros(grid, dtype=bool)
    mask.flat[rng.permutation(grid.patches)[:hidden]] = True
    return mask


def uniform_block_mask(grid: PatchGrid, *, hidden: int, minimum_block: int, rng: np.random.Generator) -> np.ndarray:
    """A block-wise mask rolled by a random offset with wrap-around: every patch is hidden equally often."""
    mask = blockwise_mask(grid, hidden=hidden, minimum_block=minimum_block, rng=rng)
    return np.roll(mask, (rng.integers(grid.rows), rng.integers(grid.columns)), axis=(0, 1))


def draw_mask(grid: PatchGrid, settings: MaskSettings, rng: np.random.Generator) -> np.ndarray:
    """One mask of the kind that the settings name."""
    hidden, minimum_block = settings.hidden_of(grid.patches), settings.minimum_block_of(grid.patches)
    match settings.kind:
        case "blockwise":
            return blockwise_mask(grid, hidden=hidden, minimum_block=minimum_block, rng=rng)
        case "uniform":
            return uniform_block_mask(grid, hidden=hidden, minimum_block=minimum_block, rng=rng)
        case "random":
            return random_mask(grid, hidden=hidden, rng=rng)
        case "none":
            return np.zeros(grid, dtype=bool)
