"""Many classes, few images of most: repeat-factor sampling and the federated loss (LVIS, arXiv 1908.03195; 2104.08444).

Axes: R regions, K classes with 0 for none of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

ROUNDS = 16
"""An epoch under repeat factors is so many passes over the images, each with its own rounding of fractions."""


class Federated(nn.Module):
    """Sigmoid cross-entropy over the classes of a step's objects and others drawn until there are `count`."""

    weights: Tensor

    def __init__(self, images: Sequence[int], *, count: int, power: float) -> None:
        """`images` has the number of images that show each class."""
        super().__init__()
        self.count = min(count, len(images))
        self.register_buffer("weights", torch.as_tensor(images, dtype=torch.float64) ** power, persistent=False)

    def forward(self, scores: Float[Tensor, "R K"], labels: Int[Tensor, " R"]) -> Float[Tensor, ""]:
        chosen = self.classes(labels)
        wanted = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
        loss = F.binary_cross_entropy_with_logits(scores[:, chosen], wanted[:, chosen], reduction="sum")
        return loss / max(1, len(labels))

    def classes(self, labels: Int[Tensor, " R"]) -> Int[Tensor, " C"]:
        """Columns of the scores that count in this step: all that occur, and negatives drawn by their weights."""
        occurring = torch.unique(labels[labels > 0])
        missing = self.count - len(occurring)
        weights = self.weights.clone()
        weights[occurring - 1] = 0
        missing = min(missing, int((weights > 0).sum()))
        if missing <= 0:
            return occurring
        return torch.cat([occurring, torch.multinomial(weights, missing) + 1])


def repeat_factors(kinds: Sequence[Sequence[int]], *, threshold: float) -> Float[np.ndarray, " N"]:
    """How often each image is seen in an epoch: the largest of max(1, sqrt(threshold / f)) over the classes it shows,
    where f is the share of images that show the class."""
    count = max((max(some, default=-1) for some in kinds), default=-1) + 1
    shown = np.bincount([kind for some in kinds for kind in some], minlength=count) / max(1, len(kinds))
    factors = np.maximum(1.0, np.sqrt(threshold / np.maximum(shown, 1e-12)))
    return np.array([max((factors[kind] for kind in some), default=1.0) for some in kinds])


def repeated(factors: Float[np.ndarray, " N"], *, seed: int) -> Int[np.ndarray, " M"]:
    """Places of images, each as often as its factor says, over ROUNDS passes; fractions are rounded by chance."""
    rng = np.random.default_rng(seed)
    whole, part = np.divmod(factors, 1.0)
    times = whole[None].astype(int) + (rng.random((ROUNDS, len(factors))) < part)
    return np.concatenate([np.repeat(np.arange(len(factors)), some) for some in times])
