"""Masks with an exact count: block-wise (the paper), random, and block-wise with a uniform marginal.

Every function returns bool [rows, columns], True = masked, with exactly `count` masked patches.
Source: specification 1.2; BEiT-style blocks with a fixed final count.
"""

import math
from functools import lru_cache
from random import Random

import numpy as np

from otherview.geometry import PatchGrid
from otherview.views.settings import MaskSettings, ViewSettings

BLOCK_ASPECT = (0.3, 1 / 0.3)


def blockwise_mask(grid: PatchGrid, *, count: int, minimum_block: int, rng: Random) -> np.ndarray:
    """Blocks of at least `minimum_block` patches until no further block fits, then single patches up to the count."""
    board, masked = 0, 0  # one bit per patch in row order: counting bits is what this loop does
    while masked < count:
        block = _draw_block(board, grid, room=count - masked, minimum_block=minimum_block, rng=rng)
        if block == 0:
            break
        board |= block
        masked = board.bit_count()
    octets = np.frombuffer(board.to_bytes(-(-grid.patches // 8), "little"), np.uint8)
    mask = np.unpackbits(octets, count=grid.patches, bitorder="little").view(bool).reshape(grid)
    free = np.flatnonzero(~mask).tolist()
    mask.flat[rng.sample(free, count - masked)] = True
    return mask


def _draw_block(board: int, grid: PatchGrid, *, room: int, minimum_block: int, rng: Random) -> int:
    """Up to ten tries to draw a block that adds between 1 and `room` patches to the board; 0 where none does."""
    low, high = sorted((minimum_block, room))
    for _ in range(10):
        area = low + (high - low) * rng.random()
        aspect = BLOCK_ASPECT[0] * (BLOCK_ASPECT[1] / BLOCK_ASPECT[0]) ** rng.random()
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < grid.rows and w < grid.columns:
            top, left = int(rng.random() * (grid.rows - h + 1)), int(rng.random() * (grid.columns - w + 1))
            block = _corner_block(h, w, grid.columns) << (top * grid.columns + left)
            if 0 < (block & ~board).bit_count() <= room:
                return block
    return 0


@lru_cache(maxsize=4096)
def _corner_block(height: int, width: int, columns: int) -> int:
    """The bits of a block at the upper left of a board with so many columns."""
    return sum(((1 << width) - 1) << (row * columns) for row in range(height))


def random_mask(grid: PatchGrid, *, count: int, rng: Random) -> np.ndarray:
    """Single patches, every set of `count` patches equally likely."""
    mask = np.zeros(grid, dtype=bool)
    if count:
        mask.flat[rng.sample(range(grid.patches), count)] = True
    return mask


def uniform_block_mask(grid: PatchGrid, *, count: int, minimum_block: int, rng: Random) -> np.ndarray:
    """A block-wise mask rolled by a random offset with wrap-around: every patch is masked equally often."""
    mask = blockwise_mask(grid, count=count, minimum_block=minimum_block, rng=rng)
    return np.roll(mask, (rng.randrange(grid.rows), rng.randrange(grid.columns)), axis=(0, 1))


def draw_masks(grid: PatchGrid, settings: ViewSettings, rng: Random) -> np.ndarray:
    """As many masks as the settings say, bool [masks, rows, columns]; one is [rows, columns]."""
    if settings.masks_per_image == 1:
        return draw_mask(grid, settings.mask, rng)
    return np.stack([draw_mask(grid, settings.mask, rng) for _ in range(settings.masks_per_image)])


def draw_mask(grid: PatchGrid, settings: MaskSettings, rng: Random) -> np.ndarray:
    """One mask of the kind that the settings name."""
    count, minimum_block = settings.masked_of(grid.patches), settings.minimum_block_of(grid.patches)
    match settings.kind:
        case "blockwise":
            return blockwise_mask(grid, count=count, minimum_block=minimum_block, rng=rng)
        case "uniform":
            return uniform_block_mask(grid, count=count, minimum_block=minimum_block, rng=rng)
        case "random":
            return random_mask(grid, count=count, rng=rng)
        case "none":
            return np.zeros(grid, dtype=bool)
