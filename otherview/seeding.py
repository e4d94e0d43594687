"""Randomness without state: a generator is a function of what it is for.

Every draw of a worker depends on (seed, epoch, index), every draw of the model on (seed, purpose), so nothing has to
be stored for an exact resume and the number of workers cannot matter.

    rng = sample_rng(seed=0, epoch=3, index=1417)
"""

import zlib
from random import Random

import numpy as np


def sample_rng(*, seed: int, epoch: int, index: int) -> Random:
    """The generator of one image in one epoch.

    Python's own: views draw some fifty single numbers, for each of which NumPy takes ten times as long.
    """
    return Random(f"image {index} of epoch {epoch}, seed {seed}")


def named_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for a named purpose ('encoder', 'epoch order' ...), independent of all other purposes."""
    words = np.random.SeedSequence((seed, zlib.crc32(purpose.encode()))).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def epoch_order(length: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits `length` images: one permutation from (seed, epoch)."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence((named_seed(seed, "epoch order"), epoch)))
    ).permutation(length)
