"""Frozen features judged by a classifier, always next to the untrained control and to raw pixels.

judge(subjects_of(encoder, seed=0, images=60_000), (train, test), look, classify=…)     # {"encoder_mean": .61, "pixels": …}, n
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
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
from otherview.nn.encoder import Encoder

Classify = Callable[
    [Float[Tensor, "N D"], Int[Tensor, " N"], Float[Tensor, "Q D"]],
    dict[str, Int[Tensor, " Q"]],
]
"""Features and labels of the training images and features of the test images in, predicted classes out, by setting."""
MOST_PIXELS = 4 * 2**30
"""Bytes of raw pixels that are held as features; beyond, that control is left out."""


@dataclass(frozen=True)
class Side:
    """Labelled images: which of a source's, and their classes, numbered without gaps."""

    source: Source
    indices: np.ndarray
    labels: Tensor
    names: Sequence[str] = ()
    """Of the classes, by number."""


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
    allow_shared: bool = False,
) -> tuple[Known, Known]:
    """The features of both sides; every image is read once, and none may be on both unless that is allowed."""
    check_classes(*sides)
    known: list[Known] = []
    seen: Collection[str] = ()
    # the test images first: they are fewer, and then the first shared one ends it
    for flag, side in (("--test", sides[1]), ("--train", sides[0])):
        found = extract_all(
            subjects, side.source, look, indices=side.indices, workers=workers, advance=advance, normed=normed,
            apart_from=() if allow_shared else seen,
        )  # fmt: skip
        one = next(iter(found.values()))
        seen = one.contents
        if not len(one.kept):
            raise WrongRequest(f"none of the images of {flag} can be read: `otherview doctor` says why")
        tokens = {name: features.tokens for name, features in found.items()}
        known.append(Known(tokens, side.labels[one.kept], one.kept))
    return known[1], known[0]


def judge(
    subjects: Mapping[str, Encoder | None],
    sides: tuple[Side, Side],
    look: Look,
    *,
    classify: Classify,
    workers: int,
    advance: Advance = lambda _: None,
    allow_shared: bool = False,
) -> tuple[dict[str, Int[Tensor, " Q"]], Int[Tensor, " Q"]]:
    """Predicted classes by subject (encoder_mean, encoder_cls, untrained_mean, untrained_cls, pixels), and the true ones.

    Where the classifier has several settings, their words follow: 'encoder_mean (k 5)'.
    """
    train, test = features_of(subjects, sides, look, workers=workers, advance=advance, allow_shared=allow_shared)
    found = {
        "_".join(filter(None, (subject, kind))) + words: predicted
        for subject, tokens in train.tokens.items()
        for kind, bank in tokens.items()
        for words, predicted in classify(bank, train.labels, test.tokens[subject][kind]).items()
    }
    return found, test.labels
