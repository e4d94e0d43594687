"""From the paper's run to a small one: learning rate, momentum and negative weight from batch, steps and width.

    rule(batch=64, steps=9000, width=128)      # lr_per_256 4e-3, momentum .99, negative weight .12

peak rate         1e-3 from batch 4096 (the paper) down to 64; below, with the square root of the batch. AdamW's step hardly
                  depends on the gradient's size, so the linear rule of large batches would starve a small one. On CIFAR-10 with
                  batch 64 the half of it is as good after 1000 steps, and the double destroys the encoder.
momentum          1 − 90/steps, between .99 and the paper's .995: the target renews itself some 90 times in a run. With .998 in a
                  run of 2000 steps kNN stayed 3 points behind.
negative weight   15.36/width, the paper's .02 · 768 in terms of unit-norm tokens; with .02 at width 128 targets stay at rank 3.

The experiments are in docs/log.md.
"""

import math
from typing import NamedTuple

PEAK_RATE, LEAST_BATCH = 1e-3, 64
TARGETS_PER_RUN = 90.0
MOMENTA = (0.99, 0.995)
NEGATIVE_TIMES_WIDTH = 15.36


class Scaled(NamedTuple):
    """Settings for training.lr_per_256, method.momentum and method.negative_weight."""

    lr_per_256: float
    momentum: float
    negative_weight: float


def rule(*, batch: int, steps: int, width: int) -> Scaled:
    """What the rule above says for a global batch, a number of optimiser steps and the width of the heads."""
    peak = PEAK_RATE * min(1.0, math.sqrt(batch / LEAST_BATCH))
    momentum = min(max(1 - TARGETS_PER_RUN / steps, MOMENTA[0]), MOMENTA[1])
    return Scaled(peak * 256 / batch, momentum, NEGATIVE_TIMES_WIDTH / width)
