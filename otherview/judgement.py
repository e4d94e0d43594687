"""One judgement, everywhere the same: a state, its evidence in numbers, and what to do. Torch-free.

    lead = apart("raw pixels", 0.57, 0.064, 0.70, 0.059, n=60)
    str(conclude("kNN, mean token", 0.57, 0.064, 60, [lead]))       # "not yet worth it: …"

The verdict on a run (training/health.py), what an evaluation concludes and what `otherview compare` says are all made here. A
difference counts from two standard errors on; where both were asked about the same images, by McNemar's exact test (Q. McNemar,
Psychometrika 12, 1947) at 5 %.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

ERRORS, LEVEL = 2.0, 0.05
"""From so many standard errors on, or below such a p, a difference counts."""
SMALL_ERROR = 0.01
"""Where a difference's standard error is at most this, the test images are enough: what is level then is no better."""
SOUGHT = 0.05
"""The difference that test images should be able to show."""


class Judgement(NamedTuple):
    """What to think, why, and what to do about it."""

    state: str
    evidence: str
    action: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.evidence}." + (f" {self.action}." if self.action else "")

    @property
    def bad(self) -> bool:
        """Whether it is news that a reader has to see first."""
        return self.state in BAD

    def as_json(self) -> dict[str, str]:
        """The parts, and the sentence."""
        return {**self._asdict(), "sentence": str(self)}


WORTH_IT, NOT_YET, TOO_FEW = "worth it", "not yet worth it", "too few test images to say"
DIVERGING, COLLAPSING, SLOW, EARLY, LEARNING = "diverging", "collapsing", "slow", "too early to say", "learning"
FALLING, FITTING, UNKNOWN, ALONE = "falling back", "fitting", "cannot be told without labels", "nothing to compare with"
BAD = {NOT_YET, DIVERGING, COLLAPSING, SLOW, FALLING}


class Comparison(NamedTuple):
    """How far a score lies above a reference, and how sure that is."""

    reference: str
    value: float
    """Of the reference."""
    difference: float
    """The score less the reference's."""
    error: float
    """Standard error of the difference."""
    n: int
    """Test images."""
    spread: float = 0.0
    """Of the reference."""
    p: float | None = None
    """The chance of such a difference between equals, where an exact test gave it."""

    @property
    def counts(self) -> bool:
        """Whether it is more than chance may do."""
        if self.p is not None:
            return self.p < LEVEL
        return self.error > 0 and abs(self.difference) >= ERRORS * self.error  # an error of 0 is one that is not known

    @property
    def standard_errors(self) -> float:
        """The difference in its standard errors."""
        return self.difference / self.error if self.error else math.copysign(math.inf, self.difference)

    @property
    def images_needed(self) -> int | None:
        """About so many test images would make this difference count; None where no number would."""
        if not self.difference or not self.error:
            return None
        wanted, sure = ERRORS, abs(self.standard_errors)
        if self.p is not None:
            wanted, sure = (NormalDist().inv_cdf(1 - p / 2) for p in (LEVEL, max(self.p, 1e-12)))
        return math.ceil(self.n * (wanted / sure) ** 2) if sure > 0 else None

    def as_json(self) -> dict[str, Any]:
        """With what is derived from it."""
        kept = {name: value for name, value in self._asdict().items() if value is not None}
        return {**kept, "counts": self.counts, "images_needed": self.images_needed}

    def __str__(self) -> str:
        beside = f"{self.reference} {self.value:.3f}"
        if not self.difference:
            return f"equal to {beside}"
        sure = f"{abs(self.standard_errors):.1f} standard errors" if self.error else "of unknown error"
        if self.p is not None:
            sure += f", p {self.p:.2g}" if self.p >= 0.001 else ", p < 0.001"
        if self.counts:
            return f"{points(abs(self.difference))} {'above' if self.difference > 0 else 'below'} {beside} ({sure})"
        if self.enough:
            return f"no better than {beside} ({signed(self.difference)}, {sure})"
        return f"too close to {beside} to tell ({signed(self.difference)}, {sure})"

    @property
    def enough(self) -> bool:
        """Whether the test images would show a small difference, so that one that does not count is none."""
        least = SOUGHT / ERRORS if self.reference == CHANCE else SMALL_ERROR
        return max(self.error, 1 / max(1, self.n)) <= least  # on few images, equal answers are no proof


def points(difference: float) -> str:
    """0.134 → '13.4 points'."""
    return f"{100 * difference:.1f} points"


def signed(difference: float) -> str:
    """0.012 → '+1.2 points'."""
    return f"{100 * difference:+.1f} points"


def apart(reference: str, value: float, error: float, other: float, other_error: float, *, n: int) -> Comparison:
    """Of two scores whose images were not the same, or whose answers are not known: their errors add up in squares."""
    return Comparison(reference, other, value - other, math.hypot(error, other_error), n, other_error)


def mcnemar(only_mine: int, only_others: int) -> float:
    """The chance that, of the images which only one of two names right, so many or more fall to one side."""
    from scipy.stats import binomtest

    asked = only_mine + only_others
    return float(binomtest(only_mine, asked, 0.5).pvalue) if asked else 1.0


def images_for(value: float) -> int:
    """So many test images show a difference of 5 points between two accuracies near `value`, asked about different images."""
    return math.ceil(2 * value * (1 - value) * (ERRORS / SOUGHT) ** 2)


def conclude(name: str, value: float, error: float, n: int, comparisons: Sequence[Comparison]) -> Judgement:
    """What a score says beside its references: was it worth it?"""
    score = f"{name} {value:.3f} ± {error:.3f} ({n:,} test images)"
    if not comparisons:
        return Judgement(
            ALONE, score, "Judge an untrained encoder in the same way (--weights random:RECIPE) and compare"
        )
    behind, level, ahead = _sorted(comparisons)
    evidence = ", ".join([score, *map(str, [*behind, *level, *ahead])])
    if behind:
        return Judgement(NOT_YET, evidence, _what_to_do({one.reference for one in behind}))
    if none := [one for one in level if one.enough]:
        return Judgement(NOT_YET, evidence, _what_to_do({one.reference for one in none}))
    if level:
        wanted = max((one.images_needed or 0 for one in level), default=0)
        needed = f"About {wanted:,} test images would settle it" if wanted else "Judge on more test images"
        return Judgement(TOO_FEW, evidence, needed)
    return Judgement(WORTH_IT, evidence)


def _sorted(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison], list[Comparison]]:
    """Those that the score is behind, those that it cannot be told from, and those that it is ahead of."""
    behind = [one for one in comparisons if one.counts and one.difference < 0]
    level = [one for one in comparisons if not one.counts]
    return behind, level, [one for one in comparisons if one.counts and one.difference > 0]


UNTRAINED, PIXELS, START, CHANCE = "the untrained encoder", "raw pixels", "the start weights", "chance level"
FROZEN = "logistic regression on its frozen features"
"""What references are called, everywhere."""


def _what_to_do(ahead: set[str]) -> str:
    """By what the score is not ahead of, the most telling first."""
    if CHANCE in ahead:
        return "It has not learned the classes: train for more epochs, with a higher rate or on more images"
    if FROZEN in ahead:
        return "Use `otherview evaluate linear`, or fine-tune with a lower --rate or more --epochs"
    if START in ahead:
        return "Use the start weights as they are, or train longer on these images"
    if UNTRAINED in ahead:
        return "Training has not helped yet: train longer, and look at the verdict of the run"
    return "Train longer or on more images, and judge again"
