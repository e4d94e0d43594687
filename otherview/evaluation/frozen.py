"""Frozen features judged by a classifier, always next to the untrained control and to raw pixels.

judge(subjects_of(subject, images=60_000), (train, test), Seen(look), Protocol("knn", {"k": 20}, classify))
# {"encoder_mean": …, "pixels": …}, truth
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from otherview.data.picture import Look
from otherview.data.source import Source
from otherview.errors import WrongRequest
from otherview.evaluation.cache import FeatureCache
from otherview.evaluation.content import Advance
from otherview.evaluation.features import WHOLE, Asked
from otherview.evaluation.subject import Subject

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
    labels: Int[Tensor, "N *pixels"]
    names: Sequence[str] = ()
    """Of the classes, by number."""
    contents: Sequence[str] = ()
    """Digests of the images' bytes, where they were read."""


class Known(NamedTuple):
    """Features of a side by subject and kind of token, of the images that could be read."""

    tokens: dict[str, dict[str, Float[Tensor, "N *L D"]]]
    labels: Int[Tensor, "N *pixels"]
    kept: Int[Tensor, " N"]
    """Places in the side's list of images."""


class Protocol(NamedTuple):
    """A classifier of frozen features with the name and settings that stand in the results."""

    name: str
    settings: dict[str, Any]
    classify: Classify
    least_images: int = 1
    """To learn from."""


class Seen(NamedTuple):
    """How the images of both sides become features."""

    look: Look
    asked: Asked = WHOLE
    cache: FeatureCache = FeatureCache(None)
    workers: int = 1


def check_classes(train: Side, test: Side) -> None:
    """Raise WrongRequest unless there are two classes to tell apart and every test class can be learned."""
    known = set(train.labels.tolist())
    if len(known) < 2:
        raise WrongRequest(f"--train has one class only ({known.pop()}): classification needs two or more")
    refuse_unknown(set(test.labels.tolist()), known)


def refuse_unknown(asked: Collection[int], known: Collection[int]) -> None:
    """Raise WrongRequest for test classes that cannot be learned."""
    if unknown := sorted(set(asked) - set(known)):
        raise WrongRequest(f"--test has classes that --train lacks ({unknown[:5]}): use the same classes in both")


def subjects_of(subject: Subject, *, images: int) -> dict[str, nn.Module | None]:
    """What is judged: the encoder, its untrained twin and, where they fit into memory, raw pixels."""
    size = 4 * images * subject.look.decoding.channels * prod(subject.look.size)
    if size <= MOST_PIXELS:
        return {**subject.modules, "pixels": None}
    print(f"raw pixels are left out: they would take {size / 2**30:.0f} GB of memory", file=sys.stderr)
    return dict(subject.modules)


def label_of(subject: str, kind: str) -> str:
    """What a score is called: encoder_mean, pixels."""
    return subject if subject == kind else f"{subject}_{kind}"


def features_of(
    subjects: Mapping[str, nn.Module | None], sides: tuple[Side, Side], seen: Seen, *, advance: Advance = lambda _: None
) -> tuple[Known, Known]:
    """The features of both sides; raises WrongRequest where none of a side's images can be read."""
    known: list[Known] = []
    for flag, side in zip(("--train", "--test"), sides, strict=True):
        found = seen.cache.features(
            subjects, side.source, seen.look, indices=side.indices, contents=side.contents, workers=seen.workers,
            advance=advance, asked=seen.asked,
        )  # fmt: skip
        kept = next(iter(found.values())).kept
        if not len(kept):
            raise WrongRequest(f"none of the images of {flag} can be read: `otherview doctor` says why")
        tokens = {name: features.tokens for name, features in found.items()}
        known.append(Known(tokens, side.labels[kept], kept))
    return known[0], known[1]


def judge(
    subjects: Mapping[str, nn.Module | None],
    sides: tuple[Side, Side],
    seen: Seen,
    protocol: Protocol,
    *,
    advance: Advance = lambda _: None,
) -> tuple[dict[str, Int[Tensor, " Q"]], Int[Tensor, " Q"]]:
    """Predicted classes by subject (encoder_mean, encoder_cls, untrained_mean, untrained_cls, pixels), and the true ones.

    Where the classifier has several settings, their words follow: 'encoder_mean (k 5)'.
    """
    train, test = features_of(subjects, sides, seen, advance=advance)
    labels = blake2b(train.labels.numpy().tobytes()).hexdigest()
    question = f"{protocol.name} {protocol.settings} {len(sides[0].contents)} {labels}"
    contents = [*sides[0].contents, *sides[1].contents]
    found: dict[str, Int[Tensor, " Q"]] = {}
    for subject, tokens in train.tokens.items():
        for kind, bank in tokens.items():
            answer = partial(protocol.classify, bank, train.labels, test.tokens[subject][kind])
            pixels = subjects[subject] is None
            answers = (
                seen.cache.answers(question, seen.look, seen.asked, contents, answer=answer) if pixels else answer()
            )
            found |= {label_of(subject, kind) + words: predicted for words, predicted in answers.items()}
    return found, test.labels
