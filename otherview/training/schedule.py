"""Schedules: plain functions of progress in [0, 1]. Torch-free."""

import math
from collections.abc import Callable, Sequence

from otherview.training.settings import TrainingSettings

Rate = Callable[[TrainingSettings, int, float], float]
"""The learning rate by settings, batch and progress."""


def warmup_cosine(progress: float, *, warmup: float) -> float:
    """The share of the peak rate: 0 at the start, linear to 1 at `warmup`, half a cosine to 0 at the end."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def falling(progress: float, *, warmup: float, milestones: Sequence[float], by: float = 0.1) -> float:
    """The share of the peak rate: linear from a thousandth to 1 at `warmup`, times `by` from each of `milestones` on."""
    rising = min(1.0, 1e-3 + (1 - 1e-3) * progress / warmup) if warmup else 1.0
    return rising * by ** sum(progress >= milestone for milestone in milestones)


def polynomial(progress: float, *, warmup: float, power: float) -> float:
    """The share of the peak rate: (1 - progress)^power, and before `warmup` linear towards it from a millionth of it."""
    rising = min(1.0, 1e-6 + (1 - 1e-6) * progress / warmup) if warmup else 1.0
    return rising * (1 - progress) ** power


def peak_rate(settings: TrainingSettings, batch: int) -> float:
    """The largest rate of a run."""
    return settings.lr_per_256 * batch / 256


def rate_at(settings: TrainingSettings, batch: int, progress: float) -> float:
    """Linear from 0 to the peak, then half a cosine down to the least."""
    peak = peak_rate(settings, batch)
    share = warmup_cosine(progress, warmup=settings.warmup)
    return peak * share if progress < settings.warmup else settings.min_lr + (peak - settings.min_lr) * share
