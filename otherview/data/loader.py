"""From a source to batches: the same batches for any number of workers, ranks and restarts.

A step is a list of (epoch, index) pairs, and a sample is a function of (seed, epoch, index), so a run that stopped
after step s simply asks for steps s, s + 1, ...
A broken image is replaced by the next readable one in the source's order, seen through the broken one's randomness.
Samples wait in shared memory: at most workers × WAITING micro-batches of them.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from otherview.data.levels import RGB, Decoding
from otherview.data.picture import picture_of
from otherview.data.plan import StepPlan
from otherview.data.ragged import collate_samples
from otherview.data.source import Source
from otherview.errors import BrokenImage
from otherview.learner import Views
from otherview.seeding import sample_rng

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
    decoding: Decoding = RGB

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        rng = sample_rng(seed=self.seed, epoch=epoch, index=index)
        for step in range(MOST_BROKEN_IN_A_ROW):
            actual = (index + step) % len(self.source)
            try:
                image = picture_of(self.source, actual, self.decoding)
                views = self.views(image, rng)
            except BrokenImage:
                rng = sample_rng(seed=self.seed, epoch=epoch, index=index)  # a late fault may have drawn already
                continue
            return Sample(views, actual, -1 if step == 0 else index)
        raise BrokenImage(
            f"{MOST_BROKEN_IN_A_ROW} images in a row cannot be read, from {self.source.name(index)} on: "
            "train on the list of good images that `otherview doctor --out DIR` writes"
        )


class _PlanSampler(Sampler[list[tuple[int, int]]]):
    def __init__(self, plan: StepPlan, start: int) -> None:
        self.plan, self.start = plan, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.plan.micro_batches(self.start)

    def __len__(self) -> int:
        return (self.plan.steps - self.start) * self.plan.accumulation


def settle_worker(_worker: int) -> None:
    """A worker computes on one thread, the model has the others; and signals are the main process's business.

    Terminals and cluster schedulers send a signal to every process of a job: a worker that died of it would take the
    run down before its checkpoint is written. A worker leaves when its loader or its parent does.
    """
    import cv2

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def make_loader(maker: SampleMaker, plan: StepPlan, *, start: int, workers: int, pin: bool) -> DataLoader[Sample]:
    """Batches from step `start` to the end of the plan in one uninterrupted stream."""
    return DataLoader(
        maker,
        batch_sampler=_PlanSampler(plan, start),
        collate_fn=collate_samples,
        num_workers=min(workers, usable_cores()),
        worker_init_fn=settle_worker,
        pin_memory=pin,
        prefetch_factor=WAITING if workers else None,
    )


def usable_cores() -> int:
    """More workers than cores only take turns; the batches are the same for any number of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
