"""What more images or steps would bring: a surface through the scores of short runs, and how sure it is beyond. Torch-free.

    curve = fitted([Point(images=1183, steps=250, score=0.31, error=0.01), …])
    curve.range_at(images=94_640, steps=1000)        # Range(low=0.38, high=0.52)

The score's log-odds are taken to grow by so much with every doubling of the images, and by so much with every doubling of the
steps, which is a power law where few answers are right and bends towards 1 where most are. Four points are the least, and the
range is the least squares' interval for a new run (Student's t), never narrower than what a score's own error leaves open.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SURE = 0.9
"""The share of new runs whose score lies within the range."""
WIDEST = 0.3
"""A wider range tells nobody anything."""


class Point(NamedTuple):
    """A run and its score."""

    images: int
    steps: int
    score: float
    """In [0, 1]."""
    error: float
    """Its standard error over the test images."""


class Range(NamedTuple):
    """Where the score of a run would lie."""

    low: float
    high: float

    @property
    def tells(self) -> bool:
        """Whether it is narrow enough to go by."""
        return self.high - self.low <= WIDEST


class Curve(NamedTuple):
    """Log-odds = c · (1, log2 images, log2 steps), and the errors of that."""

    coefficients: np.ndarray
    covariance: np.ndarray
    """Of the coefficients, in parts of the variance of one run: [3, 3]."""
    variance: float
    """Of one run around the surface."""
    quantile: float
    """Student's t."""

    def range_at(self, *, images: float, steps: float) -> Range:
        """Where a run on so many images in so many steps would come out."""
        at = np.array([1.0, math.log2(images), math.log2(steps)])
        middle = float(at @ self.coefficients)
        half = self.quantile * math.sqrt(self.variance * (1.0 + float(at @ self.covariance @ at)))
        return Range(_share(middle - half), _share(middle + half))


def fitted(points: Sequence[Point]) -> Curve | None:
    """The surface through these scores; None where there are too few runs to know its error."""
    rows = np.array([[1.0, math.log2(point.images), math.log2(point.steps)] for point in points])
    freedom = len(points) - 3
    if freedom < 1 or np.linalg.matrix_rank(rows - rows.mean(0), tol=1e-6) < 2:
        return None
    from scipy.stats import t

    odds, errors = np.array([_log_odds(point) for point in points]).T
    coefficients = np.linalg.lstsq(rows, odds, rcond=None)[0]
    scatter = float(((odds - rows @ coefficients) ** 2).sum()) / freedom
    variance = max(scatter, float((errors**2).mean()))
    return Curve(coefficients, np.linalg.inv(rows.T @ rows), variance, float(t.ppf((1 + SURE) / 2, freedom)))


def _log_odds(point: Point) -> tuple[float, float]:
    """The log-odds of a score and their standard error; no score is 0 or 1 for certain."""
    score = min(max(point.score, 1e-3), 1 - 1e-3)
    return math.log(score / (1 - score)), point.error / (score * (1 - score))


def _share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))
