"""Logistic regression on frozen features: the quick linear measure.

Features are standardised by the training set; mean cross-entropy + (strength / 2)·‖W‖² is minimised by L-BFGS, which
has one optimum whatever the learning rate or the order of images.
Axes: N images, D width, K classes.
"""

from collections.abc import Callable
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

    def objective(parameters: Tensor) -> Tensor:
        weight, bias = parameters[:-1], parameters[-1]
        return F.cross_entropy(inputs @ weight + bias, labels) + 0.5 * strength * weight.square().sum()

    start = torch.zeros(features.shape[1] + 1, classes)
    fitted = minimised(objective, start, iterations=iterations, least_gradient=1e-6, least_change=1e-10)
    return LinearClassifier(shift, scale, fitted[:-1], fitted[-1])


def minimised(
    objective: Callable[[Tensor], Float[Tensor, ""]],
    start: Float[Tensor, "D K"],
    *,
    iterations: int,
    least_gradient: float,
    least_change: float,
) -> Float[Tensor, "D K"]:
    """Where a smooth objective is least, by L-BFGS with a strong Wolfe line search."""
    weight = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight], max_iter=iterations, history_size=10, tolerance_grad=least_gradient, tolerance_change=least_change,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = objective(weight)
        loss.backward()
        return loss

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    return weight.detach()
