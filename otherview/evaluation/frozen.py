"""Frozen features judged by a classifier, always next to the untrained control and to raw pixels.

judge(encoder, control, train, test, classify=…)     # {"encoder_mean": .61, "untrained_mean": …, "pixels": …}
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from otherview.data.picture import Look
from otherview.data.source import Source
from otherview.errors import WrongRequest
from otherview.evaluation.features import Advance, extract_all
from otherview.evaluation.knn import accuracy
from otherview.nn.encoder import Encoder

Classify = Callable[
    [Float[Tensor, "N D"], Int[Tensor, " N"], Float[Tensor, "Q D"]],
    Int[Tensor, " Q"],
]
"""Features and labels of the training images and features of the test images in, predicted classes out."""


@dataclass(frozen=True)
class Side:
    """Labelled images: which of a source's, and their classes."""

    source: Source
    indices: np.ndarray
    labels: Tensor


def check_classes(train: Side, test: Side) -> None:
    """Raise WrongRequest unless there are two classes to tell apart and every test class can be learned."""
    known, asked = set(train.labels.tolist()), set(test.labels.tolist())
    if len(known) < 2:
        raise WrongRequest(f"--train has one class only ({known.pop()}): classification needs two or more")
    if unknown := asked - known:
        raise WrongRequest(
            f"--test has classes that --train lacks ({sorted(unknown)[:5]}): use the same classes in both"
        )


@torch.no_grad()
def judge(
    encoder: Encoder,
    control: Encoder,
    *,
    sides: tuple[Side, Side],
    look: Look,
    classify: Classify,
    workers: int,
    advance: Advance = lambda _: None,
) -> tuple[dict[str, float], int]:
    """Accuracies by subject (encoder_mean, encoder_cls, untrained_mean, untrained_cls, pixels) and how many were judged."""
    check_classes(*sides)
    subjects = {"encoder": encoder, "untrained": control, "": None}
    banks, queries = (
        extract_all(subjects, side.source, look, indices=side.indices, workers=workers, advance=advance)
        for side in sides
    )
    known, truth = (side.labels[of[""].kept] for side, of in zip(sides, (banks, queries), strict=True))
    found: dict[str, float] = {}
    for subject in subjects:
        for kind, bank in banks[subject].tokens.items():
            with torch.enable_grad():
                predicted = classify(bank, known, queries[subject].tokens[kind])
            found["_".join(filter(None, (subject, kind)))] = accuracy(predicted, truth)
    return found, len(truth)
