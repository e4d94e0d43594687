"""Frozen features judged by a classifier, always next to the untrained control and to raw pixels.

judge(subjects_of(encoder, seed=0, images=60_000), (train, test), look, classify=…)     # {"encoder_mean": .61, "pixels": …}, n
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
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
MOST_PIXELS = 4 * 2**30
"""Bytes of raw pixels that are held as features; beyond, that control is left out."""


@dataclass(frozen=True)
class Side:
    """Labelled images: which of a source's, and their classes."""

    source: Source
    indices: np.ndarray
    labels: Tensor


class Known(NamedTuple):
    """Features of a side by subject and kind of token, of the images that could be read."""

    tokens: dict[str, dict[str, Float[Tensor, "N D"]]]
    labels: Int[Tensor, " N"]
    kept: Int[Tensor, " N"]
    """Places in the side's list of images."""


def check_classes(train: Side, test: Side) -> None:
    """Raise WrongRequest unless there are two classes to tell apart and every test class can be learned."""
    known, asked = set(train.labels.tolist()), set(test.labels.tolist())
    if len(known) < 2:
        raise WrongRequest(f"--train has one class only ({known.pop()}): classification needs two or more")
    if unknown := asked - known:
        raise WrongRequest(
            f"--test has classes that --train lacks ({sorted(unknown)[:5]}): use the same classes in both"
        )


def subjects_of(encoder: Encoder, *, seed: int, images: int) -> dict[str, Encoder | None]:
    """What is judged: the encoder, the one it started as, and, where they fit into memory, raw pixels."""
    settings, device = encoder.settings, next(encoder.parameters()).device
    subjects: dict[str, Encoder | None] = {
        "encoder": encoder,
        "untrained": Encoder(settings, seed=seed).to(device),
    }
    size = 4 * images * settings.channels * prod(settings.image_size)
    if size <= MOST_PIXELS:
        subjects[""] = None
    else:
        print(f"raw pixels are left out: they would take {size / 2**30:.0f} GB of memory", file=sys.stderr)
    return subjects


def features_of(
    subjects: Mapping[str, Encoder | None],
    sides: tuple[Side, Side],
    look: Look,
    *,
    workers: int,
    advance: Advance = lambda _: None,
    normed: bool = True,
) -> tuple[Known, Known]:
    """The features of both sides; every image is read once."""
    check_classes(*sides)
    known = []
    for side in sides:
        found = extract_all(
            subjects, side.source, look, indices=side.indices, workers=workers, advance=advance, normed=normed
        )
        kept = next(iter(found.values())).kept
        known.append(Known({name: features.tokens for name, features in found.items()}, side.labels[kept], kept))
    return known[0], known[1]


def judge(
    subjects: Mapping[str, Encoder | None],
    sides: tuple[Side, Side],
    look: Look,
    *,
    classify: Classify,
    workers: int,
    advance: Advance = lambda _: None,
) -> tuple[dict[str, float], int]:
    """Accuracies by subject (encoder_mean, encoder_cls, untrained_mean, untrained_cls, pixels) and how many were judged."""
    train, test = features_of(subjects, sides, look, workers=workers, advance=advance)
    found = {
        "_".join(filter(None, (subject, kind))): accuracy(
            classify(bank, train.labels, test.tokens[subject][kind]), test.labels
        )
        for subject, tokens in train.tokens.items()
        for kind, bank in tokens.items()
    }
    return found, len(test.labels)
