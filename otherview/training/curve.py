"""A measure of learning along a run: what it was at first, at best, and lately. Torch-free.

    curve = Curve("kNN", least=0.05)
    curve.add(Look(step=500, value=0.41, error=0.011))
    curve.risen, curve.per_hundred_steps

Rules with a memory, so that a look within chance of the one before never turns a judgement round.
"""

import math
import statistics
from collections import deque
from typing import NamedTuple

from otherview.judgement import ERRORS

EARLY_LOOKS = 2
"""The start and one more: with no more than these there is little to say."""


class Look(NamedTuple):
    """A measure at a step, and its standard error where the number of images is known."""

    step: int
    value: float
    error: float


class Curve:
    """A measure along a run: its first look, its best, its latest ones; memory does not grow."""

    def __init__(self, name: str, *, least: float) -> None:
        self.name, self.least = name, least
        self.looks = 0
        self.recent: deque[Look] = deque(maxlen=5)
        self.first = self.best = Look(0, math.nan, 0.0)
        self.risen = self.ever_risen = self.fallen = False

    def add(self, look: Look) -> None:
        """The next look."""
        self.first, self.best = (look, look) if not self.looks else (self.first, max(self.best, look, key=value_of))
        self.looks += 1
        self.recent.append(look)
        gained = look.value - self.first.value
        # what has risen stays so until all of it is lost: no look in between turns the sentence round
        self.risen = gained > 0 if self.risen else gained >= max(self.least, ERRORS * error_between(look, self.first))
        self.ever_risen |= self.risen
        lost, error = self.best.value - look.value, error_between(look, self.best)
        badly = lost >= max(self.least, 1.5 * ERRORS * error)  # the best of many looks is best by some luck
        self.fallen = self.ever_risen and (badly or (self.fallen and lost >= 0.5 * max(self.least, ERRORS * error)))

    @property
    def latest(self) -> Look:
        """There has to be one."""
        return self.recent[-1]

    @property
    def early(self) -> bool:
        """Whether too little has been seen to judge."""
        return not self.ever_risen and self.looks <= EARLY_LOOKS

    @property
    def unsure(self) -> bool:
        """Whether it has moved as far as learning does, on so few images that chance may do it."""
        moved = self.latest.value - self.first.value
        return self.least <= moved < ERRORS * error_between(self.latest, self.first)

    @property
    def per_hundred_steps(self) -> float | None:
        """The slope of the latest looks, where it is more than one look's error."""
        if len(self.recent) < 3:
            return None
        slope, _ = statistics.linear_regression([one.step for one in self.recent], [one.value for one in self.recent])
        steps = self.recent[-1].step - self.recent[0].step
        return 100 * slope if slope * steps > max(0.01, self.latest.error) else None

    def __str__(self) -> str:
        return f"{self.name} {self.first.value:.3f} → {self.latest.value:.3f}"


def value_of(look: Look) -> float:
    """To order looks by."""
    return look.value


def error_between(one: Look, two: Look) -> float:
    """The standard error of their difference, as if of different images."""
    return math.hypot(one.error, two.error)
