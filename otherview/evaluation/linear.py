"""Logistic regression on frozen features: the quick linear measure.

Features are standardised by the training set; mean cross-entropy + (strength / 2)·‖W‖² has one optimum, and L-BFGS goes
there in coordinates in which the objective is nearly round: along the principal axes of the features, each divided by
its spread. In the features' own, some encoders' heads would still be hundreds of iterations away and others not.
Axes: N images, D width, R the smaller of the two, K classes.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from otherview.evaluation.frozen import Protocol, judge_frozen
from otherview.evaluation.settings import LinearSettings
from otherview.scores import Scores
from otherview.signature import takes


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
    features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, strength: float = 1e-4, iterations: int = 500
) -> LinearClassifier:
    """Fit a multinomial classifier with an intercept that is not penalised.

    Weights and the mean over images are doubles: steps near the optimum change the objective by less than a float shows.
    """
    shift, scale = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    classes = int(labels.max()) + 1
    inputs = (features - shift) / scale
    axes, lengths = _round_coordinates(inputs, strength=strength, classes=classes)
    inputs = inputs @ (axes * lengths)
    penalties = 0.5 * strength * lengths.double().square()[:, None]

    def objective(parameters: Tensor) -> Tensor:
        weight, bias = parameters.float().split(len(lengths))
        losses = F.cross_entropy(inputs @ weight + bias, labels, reduction="none")
        return losses.double().mean() + (penalties * parameters[:-1].square()).sum()

    start = torch.zeros(len(lengths) + 1, classes, dtype=torch.float64)
    fitted = minimised(objective, start, iterations=iterations, least_gradient=1e-6, least_change=1e-10)
    weight = (axes * lengths).double() @ fitted[:-1]
    return LinearClassifier(shift, scale, weight.float(), fitted[-1].float())


def _round_coordinates(
    inputs: Float[Tensor, "N D"], *, strength: float, classes: int
) -> tuple[Float[Tensor, "D R"], Float[Tensor, " R"]]:
    """Orthogonal axes as columns, and lengths along them that make the objective's curvature at the start the same in all.

    There it is curvature · covariance + strength, with the curvature of a softmax of equal classes. Fewer images than
    channels span fewer axes, and the optimum lies within.
    """
    curvature = (max(classes, 2) - 1) / max(classes, 2) ** 2
    if len(inputs) < inputs.shape[1]:
        _, roots, rows = torch.linalg.svd(inputs, full_matrices=False)
        spread, axes = roots.square() / len(inputs), rows.T
    else:
        spread, axes = torch.linalg.eigh((inputs.T @ inputs / len(inputs)).double())
    lengths = (spread + strength / curvature).clamp(min=1e-9).rsqrt()
    return axes.to(inputs.dtype), lengths.to(inputs.dtype)


def minimised(
    objective: Callable[[Tensor], Float[Tensor, ""]],
    start: Float[Tensor, "D K"],
    *,
    iterations: int,
    least_gradient: float,
    least_change: float,
) -> Float[Tensor, "D K"]:
    """Where a smooth objective is least, by L-BFGS with a strong Wolfe line search; says so where it did not get there."""
    weight = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight], max_iter=iterations, max_eval=2 * iterations, history_size=10, tolerance_grad=least_gradient,
        tolerance_change=least_change, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = objective(weight)
        loss.backward()
        return loss

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    if optimiser.state[weight]["n_iter"] >= iterations:
        print(f"a linear head is not at its optimum after {iterations} iterations", file=sys.stderr)
    return weight.detach()


@takes(LinearSettings)
def linear(settings: LinearSettings) -> Scores:
    """Logistic regression on the mean and the cls token, next to the untrained encoder and raw pixels."""

    def classify(features: Tensor, labels: Tensor, queries: Tensor) -> dict[str, Tensor]:
        return {"": fit_logistic(features, labels, strength=settings.strength).predict(queries)}

    return judge_frozen(settings, Protocol("linear", {"strength": settings.strength}, classify))
