"""What an evaluation returns: scores beside their controls, what was taken for what, and one line of results.jsonl.

Confusion matrices: of images as CSV, of pixels as mIoU with its spread.

Axes: I images, K classes.
"""

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import bootstrap
from torch import Tensor

from otherview.data.objects import IGNORED
from otherview.errors import BrokenImage, WrongRequest
from otherview.evaluation.settings import JudgeSettings
from otherview.launch import launched_rank
from otherview.report.run_page import refresh_page
from otherview.scores import Score, Scores, append_result
from otherview.training.device import resolve_device
from otherview.weights.names import folder_of

RESAMPLES = 200
"""Draws of all images that a standard error is taken from."""


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

    def spread(self, measure: Callable[[Float[Tensor, "K K"]], float]) -> float:
        """Standard error over images, by drawing them anew."""
        count, classes = self.confusion.shape[:2]
        flat = self.confusion.flatten(1)

        def of_images(images: np.ndarray) -> float:
            times = torch.from_numpy(np.bincount(images, minlength=count)).to(flat.dtype)
            return measure((times @ flat).view(classes, classes))

        return bootstrap_error(count, of_images)

    @property
    def spreads(self) -> tuple[float, float]:
        """Of mIoU and of accuracy."""
        return self.spread(_miou), self.spread(lambda whole: float(whole.diagonal().sum() / whole.sum()))


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


NAMED = (
    "block", "train_images", "test_images", "k", "temperature", "strength", "crop_pct", "draws", "seed", "epochs", "batch",
    "rate", "fit", "size",
)  # fmt: skip
"""Settings that stand in the names of scores where they are not the defaults, so that one name is one protocol."""


def finish(
    settings: JudgeSettings,
    found: Mapping[str, Sequence[Score]],
    *,
    known: Mapping[str, Any],
    about: Mapping[str, Any],
    began: float,
) -> Scores:
    """The result with what it is about; rank 0 adds one line to results.jsonl, where there is a folder for it.

    `found` has the scores of "encoder" and, after it, of its controls; `known` is what the weights say of themselves.
    """
    unusual = _unusual(settings)
    found = {name: [score._replace(name=score.name + unusual) for score in scores] for name, scores in found.items()}
    named = {name: getattr(settings, name) for name in ("allow_shared", "block") if getattr(settings, name, None)}
    protocol = {"weights": str(settings.weights), **about, **named, "device": str(resolve_device(settings.device))}
    control = [score for name, scores in found.items() if name != "encoder" for score in scores]
    result = Scores(found["encoder"], control, time.monotonic() - began, {**protocol, **known})
    folder = settings.out or folder_of(settings.weights)
    if folder is not None and launched_rank() == 0:
        append_result(folder, result)
        refresh_page(folder)
    return result


def _unusual(settings: JudgeSettings) -> str:
    """Words for what a protocol has otherwise than by default."""
    words: list[str] = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in NAMED and value not in (None, field.default):
            values = value if isinstance(value, tuple) else (value,)
            if len(values) == 1 or field.name == "size":  # scores of several values are named by each
                said = "×".join(_word(one) for one in values)
                words.append(f"{field.name.replace('_', ' ')} {said}")
    return f" ({', '.join(words)})" if words else ""


def _word(value: float | int | str) -> str:
    return value if isinstance(value, str) else f"{value:{',' if isinstance(value, int) else 'g'}}"


def check_crop_pct(crop_pct: float) -> None:
    """Raise WrongRequest for what is no share of an image's side."""
    if not 0 < crop_pct <= 1:
        raise WrongRequest(f"--crop-pct {crop_pct:g} must be above 0 and up to 1")


def fit_folder(settings: JudgeSettings, name: str) -> Path:
    """Where the checkpoints of a fit are kept; raises WrongRequest where there is no place for them."""
    folder = settings.out or folder_of(settings.weights)
    if folder is None:
        raise WrongRequest(f"--weights {settings.weights} is no run folder: give --out DIR, where checkpoints are kept")
    return folder / name
