"""A linear head on frozen patch tokens that names the class of every pixel: the quick dense measure.

The head is fitted on patches, each labelled by most of its pixels; at test time its scores are resized to the image
(bilinear) and every pixel counts. mIoU and accuracy come from one confusion matrix (rows: truth, columns: prediction).

Axes: I images, L patches, D width, K classes, H and W pixels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from otherview.errors import BrokenImage
from otherview.evaluation.logistic import LinearClassifier, fit_logistic
from otherview.geometry import PatchGrid

IGNORED = 255
"""Pixels with this label count nowhere."""
RESAMPLES = 200


def centre_labels(labels: np.ndarray, size: tuple[int, int]) -> Int[Tensor, "H W"]:
    """The labels of the centre that features are taken of (`features.centre`), nearest neighbours."""
    height, width = labels.shape
    scale = max(size[0] / height, size[1] / width)
    cut = max(1, round(size[0] / scale)), max(1, round(size[1] / scale))
    corner = (height - cut[0]) // 2, (width - cut[1]) // 2
    rows, columns = (
        np.minimum(first + ((np.arange(new) + 0.5) * old / new).astype(int), first + old - 1)
        for first, new, old in zip(corner, size, cut, strict=True)
    )
    return torch.from_numpy(labels[rows[:, None], columns].astype(np.int64))


def patch_labels(labels: Int[Tensor, "I H W"], grid: PatchGrid) -> Int[Tensor, "I L"]:
    """The class of most pixels of every patch; of equals the lowest."""
    count, height, width = labels.shape
    parts = labels.view(count, grid.rows, height // grid.rows, grid.columns, width // grid.columns)
    pixels = parts.permute(0, 1, 3, 2, 4).reshape(count, grid.patches, -1)
    classes = int(labels.max()) + 1
    return torch.stack([F.one_hot(image, classes).sum(dim=1).argmax(dim=1) for image in pixels])


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


def fit_head(
    tokens: Float[Tensor, "I L D"], labels: Int[Tensor, "I H W"], grid: PatchGrid, *, strength: float
) -> LinearClassifier:
    """Logistic regression on patches that are not ignored."""
    wanted = patch_labels(labels, grid).flatten()
    kept = wanted != IGNORED
    return fit_logistic(tokens.flatten(0, 1)[kept], wanted[kept], strength=strength)


def segment(
    head: LinearClassifier, tokens: Float[Tensor, "I L D"], labels: Int[Tensor, "I H W"], *, grid: PatchGrid
) -> Segmented:
    """Judge a head on test images."""
    classes = max(head.bias.shape[0], int(labels[labels != IGNORED].max()) + 1)
    found = []
    for image, truth in zip(tokens, labels, strict=True):
        scores = head.logits(image).T.reshape(1, -1, *grid)
        predicted = F.interpolate(scores, truth.shape, mode="bilinear", align_corners=False)[0].argmax(dim=0)
        found.append(pixel_confusion(truth.numpy(), predicted.numpy(), classes=classes))
    return Segmented.of(found)


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
