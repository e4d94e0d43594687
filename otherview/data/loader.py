"""From a source to batches: the same batches for any number of workers, ranks and restarts.

A step is a list of (epoch, index) pairs, and a sample is a function of (seed, epoch, index), so a run that stopped
after step s simply asks for steps s, s + 1, ...
A broken image is replaced by the next readable one in the source's order, with the broken one's random draws.
Samples wait in shared memory: at most workers × WAITING micro-batches of them.
"""

import gc
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from otherview.data.image import RGB, Preprocessing, Views
from otherview.data.picture import picture_of
from otherview.data.source import Source
from otherview.errors import BrokenImage, WrongRequest
from otherview.launch import STOPPING, keep_pages
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


KEPT_UNUSED = 128 * 2**20
"""Bytes that a worker keeps for its next image; one huge image is given back."""


def settle_worker(_worker: int) -> None:
    """A worker computes on one thread, the model has the others; and signals are the main process's business.

    Terminals and cluster schedulers send a signal to every process of a job: a worker that died of it would take the
    run down before its checkpoint is written. A worker leaves when its own parent says so, or is gone.
    What the parent left to its garbage collector stays there: a worker that frees another library's session waits for
    threads that only the parent has, for ever (ONNX Runtime's, after an export in the same process).
    """
    import cv2

    gc.freeze()
    keep_pages(KEPT_UNUSED)
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    _leave_for_parent_alone()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _leave_for_parent_alone() -> None:
    """End this process at a SIGTERM of its parent, and at nobody else's; where the sender is not told, at anybody's.

    Ignoring it altogether would leave a parent that ends with an error waiting for its workers for ever.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="waits for the parent's SIGTERM").start()


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


collate_samples = partial(collate, collate_fn_map={**default_collate_fn_map, Ragged: _join})
"""torch's own way to make a batch of samples, which knows Ragged as well."""
