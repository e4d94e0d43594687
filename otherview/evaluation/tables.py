"""What is confused with what: per-class accuracy and the confusion matrix as CSV. Torch-free."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np


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
