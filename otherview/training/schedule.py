"""Schedules: plain functions of progress in [0, 1]."""

import math


def warmup_cosine(progress: float, *, warmup: float) -> float:
    """The share of the peak rate: 0 at the start, linear to 1 at `warmup`, half a cosine to 0 at the end."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
