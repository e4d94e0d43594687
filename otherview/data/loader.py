"""From a source to batches: the same batches for any number of workers, ranks and restarts.

A step is a list of (epoch, index) pairs, and a sample is a function of (seed, epoch, index), so a run that stopped
after step s simply asks for steps s, s + 1, ...
A broken image is replaced by the next readable one in the source's order, with the broken one's random draws.
At most workers × WAITING micro-batches wait.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from otherview.data.image import RGB, Preprocessing, Views
from otherview.data.picture import picture_of
from otherview.data.source import Source
from otherview.data.workers import Batches
from otherview.errors import BrokenImage, WrongRequest
from otherview.seeding import epoch_order, sample_rng


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


MOST_BROKEN_IN_A_ROW = 100
WAITING = 4
"""Micro-batches that a worker makes ahead."""


class Sample(NamedTuple):
    """The method's own sample, whose image it is, and whose it replaces (−1: nobody's); collated, a batch of them."""

    views: Any
    read: int | Tensor
    broken: int | Tensor

    def replaced(self) -> list[int]:
        """The indices of the broken images in this batch."""
        return [index for index in torch.as_tensor(self.broken).reshape(-1).tolist() if index >= 0]


@dataclass(frozen=True)
class SampleMaker(Dataset[Sample]):
    """(epoch, index) → Sample."""

    source: Source
    views: Views
    seed: int
    preprocessing: Preprocessing = RGB

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        rng, reason = sample_rng(seed=self.seed, epoch=epoch, index=index), ""
        for step in range(MOST_BROKEN_IN_A_ROW):
            actual = (index + step) % len(self.source)
            try:
                image = picture_of(self.source, actual, self.preprocessing)
                views = self.views(image, rng)
            except BrokenImage as error:
                reason = reason or str(error)
                rng = sample_rng(seed=self.seed, epoch=epoch, index=index)  # a late fault may have drawn already
                continue
            return Sample(views, actual, -1 if step == 0 else index)
        raise BrokenImage(
            f"{MOST_BROKEN_IN_A_ROW} images in a row cannot be read, the first of them because {reason}: "
            "train on the list of good images that `otherview doctor --out DIR` writes"
        )


class _PlanSampler(Sampler[list[tuple[int, int]]]):
    def __init__(self, plan: StepPlan, start: int) -> None:
        self.plan, self.start = plan, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.plan.micro_batches(self.start)

    def __len__(self) -> int:
        return (self.plan.steps - self.start) * self.plan.accumulation


def make_loader(maker: SampleMaker, plan: StepPlan, *, start: int, workers: int, pin: bool) -> Batches[Sample]:
    """Batches from step `start` to the end of the plan in one uninterrupted stream."""
    return Batches(
        maker,
        workers=workers,
        batch_sampler=_PlanSampler(plan, start),
        kinds=KINDS,
        pin_memory=pin,
        prefetch_factor=WAITING if workers else None,
    )


class Ragged(NamedTuple):
    """Of one image, or of a batch: the rows of all its images one after another."""

    values: Shaped[Tensor, "N *shape"]
    counts: Int[Tensor, "*B"]

    @classmethod
    def of(cls, values: Tensor) -> "Ragged":
        """The rows of one image."""
        return cls(values, torch.tensor(len(values)))

    def split(self) -> Sequence[Tensor]:
        """The rows of each image of a batch."""
        return self.values.split(self.counts.tolist())


def _join(batch: Sequence[Ragged], *, collate_fn_map: Any = None) -> Ragged:
    return Ragged(torch.cat([rows.values for rows in batch]), torch.stack([rows.counts for rows in batch]))


KINDS = {Ragged: _join}
"""Samples of a type of their own, and how they become a batch."""
