"""Scores of pixels from one confusion matrix per image: mIoU and accuracy, with errors over images.

Axes: I images, K classes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import bootstrap
from torch import Tensor

from otherview.data.objects import IGNORED
from otherview.errors import BrokenImage
from otherview.evaluation.class_report import ClassReport
from otherview.scores import Score

RESAMPLES = 200
"""Draws of all images that a standard error is taken from."""
Measure = Callable[[Float[Tensor, "K K"]], float]
"""A score of a confusion matrix, the truth in rows."""


class Segmented(NamedTuple):
    """What a head made of the test images."""

    confusion: Float[Tensor, "I K K"]
    """Pixels of every image by truth and prediction."""

    @classmethod
    def of(cls, found: Sequence[np.ndarray]) -> "Segmented":
        """From the confusion of every image; those in which no pixel counts are left out."""
        counted = [one for one in found if one.any()]
        return cls(torch.from_numpy(np.stack(counted or found)).double())

    @property
    def counted(self) -> bool:
        """Whether any pixel counts."""
        return len(self.confusion) > 0 and float(self.confusion.sum()) > 0

    @property
    def miou(self) -> float:
        """Mean intersection over union, over the classes that the truth has."""
        return _miou(self.confusion.sum(dim=0))

    @property
    def accuracy(self) -> float:
        """Share of pixels."""
        return _accuracy(self.confusion.sum(dim=0))

    def spread(self, measure: Measure) -> float:
        """Standard error over images, by drawing them anew."""
        return bootstrap_error(len(self.confusion), lambda images: measure(self.drawn(images)))

    def report(self, names: Sequence[str] = ()) -> ClassReport:
        """Pixels, IoU, sensitivity and precision of every class; None where a class has no pixels."""
        whole = self.confusion.sum(dim=0)
        both, truth, said = whole.diagonal(), whole.sum(dim=1), whole.sum(dim=0)
        rows = []
        for kind in range(len(whole)):
            hit, there, named = (float(part[kind]) for part in (both, truth, said))
            rows.append({
                "class": names[kind] if kind < len(names) else str(kind), "pixels": int(there),
                "images": int((self.confusion[:, kind].sum(dim=1) > 0).sum()),
                "iou": round(hit / (there + named - hit), 6) if there else None,
                "sensitivity": round(hit / there, 6) if there else None,
                "precision": round(hit / named, 6) if named else None,
            })  # fmt: skip
        return ClassReport(rows)

    def drawn(self, images: np.ndarray) -> Float[Tensor, "K K"]:
        """The confusion of these images, each as often as it is named."""
        count, classes = self.confusion.shape[:2]
        times = torch.from_numpy(np.bincount(images, minlength=count)).to(self.confusion.dtype)
        return (times @ self.confusion.flatten(1)).view(classes, classes)

    def scores(self, name: str) -> list[Score]:
        """mIoU and accuracy, with standard errors over images."""
        n, whole = len(self.confusion), self.confusion.sum(dim=0)
        return [
            Score(f"{name}_{word}", measure(whole), unit, n, self.spread(measure), None, Pixels(self, measure))
            for word, unit, measure in (("miou", "mIoU", _miou), ("accuracy", "accuracy", _accuracy))
        ]


class Pixels(NamedTuple):
    """What a score of pixels was computed from."""

    segmented: Segmented
    measure: Measure

    def beside(self, other: "Pixels") -> tuple[float, None] | None:
        """The standard error of the difference, the same images drawn for both."""
        mine, others = self.segmented, other.segmented
        if len(mine.confusion) != len(others.confusion):
            return None
        difference = lambda images: self.measure(mine.drawn(images)) - self.measure(others.drawn(images))  # noqa: E731
        return bootstrap_error(len(mine.confusion), difference), None


def bootstrap_error(count: int, statistic: Callable[[np.ndarray], float]) -> float:
    """Standard error of a statistic of `count` images, whose indices are drawn anew with replacement; 0 for one image."""
    if count < 2:
        return 0.0
    found = bootstrap(
        (np.arange(count),), statistic, n_resamples=RESAMPLES, method="percentile", vectorized=False, rng=0
    )
    return float(found.standard_error)


def _miou(confusion: Float[Tensor, "K K"]) -> float:
    truth, predicted = confusion.sum(dim=1), confusion.sum(dim=0)
    union = truth + predicted - confusion.diagonal()
    present = truth > 0
    return float((confusion.diagonal()[present] / union[present]).mean())


def _accuracy(confusion: Float[Tensor, "K K"]) -> float:
    return float(confusion.diagonal().sum() / confusion.sum())


def pixel_confusion(truth: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """Pixels of one image by truth (rows) and prediction (columns), without those that count nowhere: [K, K].

    Pixels of a class beyond the `classes` known are an error of the data: raises BrokenImage.
    """
    counted = truth != IGNORED
    known = truth[counted].astype(np.int64)
    if known.max(initial=0) >= classes:
        raise BrokenImage(f"its labels reach class {known.max()}, where there are {classes}")
    pairs = known * classes + predicted[counted].astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
