"""Logistic regression on frozen features: the quick linear measure.

Features are standardised by the training set; mean cross-entropy + (strength / 2)·‖W‖² is minimised by L-BFGS, which
has one optimum whatever the learning rate or the order of images.
Axes: N images, D width, K classes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


class LinearClassifier(NamedTuple):
    """Standardisation and weights of a fitted classifier."""

    shift: Float[Tensor, " D"]
    scale: Float[Tensor, " D"]
    weight: Float[Tensor, "D K"]
    bias: Float[Tensor, " K"]

    def logits(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """Scores of every class."""
        return (features - self.shift) / self.scale @ self.weight + self.bias

    def predict(self, features: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
        """The most likely class."""
        return self.logits(features).argmax(dim=1)


def fit_logistic(
    features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, strength: float = 1e-4, iterations: int = 200
) -> LinearClassifier:
    """Fit a multinomial classifier with an intercept that is not penalised."""
    shift, scale = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    inputs = (features - shift) / scale
    classes = int(labels.max()) + 1
    parameters = torch.zeros(features.shape[1] + 1, classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [parameters],
        max_iter=iterations,
        history_size=10,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        weight, bias = parameters[:-1], parameters[-1]
        loss = F.cross_entropy(inputs @ weight + bias, labels) + 0.5 * strength * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(objective)  # pyright: ignore[reportArgumentType]
    fitted = parameters.detach()
    return LinearClassifier(shift, scale, fitted[:-1], fitted[-1])
