"""Few labels: multinomial logistic regression on frozen features of a few images per class (specification 2).

The protocol is that of masked siamese networks (Assran et al., arXiv 2204.07141): a feature less its own mean over channels,
divided by its length; mean cross-entropy + (strength / 2)·‖W‖² without an intercept, minimised by L-BFGS, one fit.

Axes: N images, D width, K classes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from otherview.errors import WrongRequest
from otherview.evaluation.logistic import minimised

STRENGTH = 0.1
"""Times 1/N; scikit-learn's C = 10 whatever N is."""


def to_unit(features: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Each feature less its own mean over channels, divided by its length."""
    return F.normalize(features - features.mean(dim=1, keepdim=True), dim=1)


def objective(
    weight: Float[Tensor, "D K"], features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, strength: float
) -> Float[Tensor, ""]:
    """What is minimised."""
    return F.cross_entropy(features @ weight, labels) + 0.5 * strength * weight.square().sum()


def fit(
    features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, strength: float | None = None, iterations: int = 500
) -> Float[Tensor, "D K"]:
    """The weights of unit features; `strength` is STRENGTH / N by default."""
    strength = STRENGTH / len(labels) if strength is None else strength
    weight = torch.zeros(features.shape[1], int(labels.max()) + 1)
    loss = partial(objective, features=features, labels=labels, strength=strength)
    return minimised(loss, weight, iterations=iterations, least_gradient=1e-10, least_change=1e-12)


class Draw(NamedTuple):
    """A choice of images to learn from."""

    name: str
    """'1 %', '5 shots' or the list's file name."""
    number: int
    """Which draw of this kind, counted from 0."""
    chosen: np.ndarray
    """Places of the images, ascending."""


def draw_shots(labels: np.ndarray, shots: int, *, number: int, seed: int) -> Draw:
    """So many images of every class, at random; raises WrongRequest where a class has fewer."""
    if shots < 1:
        raise WrongRequest(f"--shots {shots} is too few: give 1 or more")
    counts = np.bincount(labels)
    short = [(int(count), kind) for kind, count in enumerate(counts) if 0 < count < shots]
    if short:
        count, kind = min(short)
        raise WrongRequest(
            f"--shots {shots} are more images than class {kind} has ({count}): use --shots {count} or fewer"
        )
    return Draw(f"{shots} shots", number, _of_every_class(labels, lambda _: shots, (seed, number)))


def draw_shares(labels: np.ndarray, share: float, *, number: int, seed: int) -> Draw:
    """A share of every class, at random, rounded, and at least one image of each."""
    if not 0 < share <= 1:
        raise WrongRequest(f"--shares {share:g} is no share of the images: give a number above 0 and up to 1")
    chosen = _of_every_class(labels, lambda count: max(1, round(share * count)), (seed, number))
    return Draw(f"{100 * share:g} %", number, chosen)


def _of_every_class(labels: np.ndarray, wanted: Callable[[int], int], key: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(key)
    found = []
    for kind in np.unique(labels):
        members = np.flatnonzero(labels == kind)
        found.append(rng.choice(members, wanted(len(members)), replace=False))
    return np.sort(np.concatenate(found))


def draw_listed(names: Sequence[str], listed: Sequence[str], *, name: str) -> Draw:
    """The images whose names stand in a list, with their folders or, where no two are alike, without.

    Raises WrongRequest for names that are not there, or that several images have.
    """
    short = Counter(image.rsplit("/", 1)[-1] for image in names)
    places = {image.rsplit("/", 1)[-1]: place for place, image in enumerate(names)}
    places |= {image: place for place, image in enumerate(names)}
    whole = set(names)
    several = [entry for entry in listed if entry not in whole and short[entry.rsplit("/", 1)[-1]] > 1]
    if several:
        raise WrongRequest(f"--list {name}: {several[0]!r} is the name of several images: write it with its folder")
    listed = [entry if entry in places else entry.rsplit("/", 1)[-1] for entry in listed]
    missing = [entry for entry in listed if entry not in places]
    if missing or not listed:
        what = (
            f"{len(missing)} of {len(listed)} names are not in --train ({missing[0]!r} first)"
            if missing
            else "it is empty"
        )
        raise WrongRequest(f"--list {name}: {what}; give a text file with one image's file name a line")
    return Draw(name, 0, np.unique([places[entry] for entry in listed]))
