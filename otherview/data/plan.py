"""Which images go into which step, on which rank: a function of (seed, step) alone. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from otherview.errors import WrongRequest
from otherview.seeding import epoch_order


@dataclass(frozen=True)
class StepPlan:
    """Which images go into which step. The last partial batch of an epoch is dropped."""

    images: int
    batch: int
    steps: int
    seed: int
    ranks: int = 1
    rank: int = 0
    accumulation: int = 1

    def __post_init__(self) -> None:
        if self.batch % (self.ranks * self.accumulation):
            raise WrongRequest(
                f"--batch {self.batch} is not divisible by {self.ranks} ranks × {self.accumulation} accumulation steps"
            )
        if self.images < self.batch:
            raise WrongRequest(
                f"--batch {self.batch} is larger than the data ({self.images} images): the largest batch that fits is "
                f"{self.images - self.images % (self.ranks * self.accumulation)}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.images // self.batch

    def micro_batches(self, start: int) -> Iterator[list[tuple[int, int]]]:
        """This rank's micro-batches from step `start` on, `accumulation` of them per step.

        Micro-batch j of a step holds the same images however many ranks share it out, since batch norm sees them together.
        """
        micro = self.batch // self.accumulation
        size = micro // self.ranks
        order, known = np.empty(0, int), -1
        for step in range(start, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != known:
                order, known = epoch_order(self.images, seed=self.seed, epoch=epoch), epoch
            for part in range(self.accumulation):
                first = place * self.batch + part * micro + self.rank * size
                yield [(epoch, int(index)) for index in order[first : first + size]]
