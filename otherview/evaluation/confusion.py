"""Confusion matrices: what is taken for what, of images as CSV and of pixels as mIoU with its spread.

Axes: I images, K classes.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from otherview.data.objects import IGNORED
from otherview.errors import BrokenImage

RESAMPLES = 200


def confusion(truth: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """Images by true class (rows) and predicted class (columns): int [K, K]."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def write_confusion(path: Path, truth: np.ndarray, predicted: np.ndarray, *, names: Sequence[str]) -> None:
    """A line per class: its name, how many images, their accuracy, and how many were taken for each class."""
    counts = confusion(truth, predicted, classes=len(names))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "n", "accuracy", *names])
        for kind, (name, row) in enumerate(zip(names, counts.tolist(), strict=True)):
            total = sum(row)
            writer.writerow([name, total, f"{row[kind] / total:.6f}" if total else "", *row])


class Segmented(NamedTuple):
    """What a head made of the test images."""

    confusion: Float[Tensor, "I K K"]
    """Pixels of every image by truth and prediction."""

    @classmethod
    def of(cls, found: Sequence[np.ndarray]) -> "Segmented":
        """From the confusion of every image."""
        return cls(torch.from_numpy(np.stack(found)).double())

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
        whole = self.confusion.sum(dim=0)
        return float(whole.diagonal().sum() / whole.sum())

    def spread(self, figure: Callable[[Float[Tensor, "K K"]], float]) -> float:
        """Standard error over images, by drawing them anew."""
        rng = torch.Generator().manual_seed(0)
        count, classes = self.confusion.shape[:2]
        flat = self.confusion.flatten(1)
        drawn = (torch.randint(count, (count,), generator=rng) for _ in range(RESAMPLES))
        times = (torch.bincount(images, minlength=count).to(flat.dtype) for images in drawn)
        return float(np.std([figure((weights @ flat).view(classes, classes)) for weights in times]))

    @property
    def spreads(self) -> tuple[float, float]:
        """Of mIoU and of accuracy."""
        return self.spread(_miou), self.spread(lambda whole: float(whole.diagonal().sum() / whole.sum()))


def _miou(confusion: Float[Tensor, "K K"]) -> float:
    truth, predicted = confusion.sum(dim=1), confusion.sum(dim=0)
    union = truth + predicted - confusion.diagonal()
    present = truth > 0
    return float((confusion.diagonal()[present] / union[present]).mean())


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
