"""What a method descends: statistics of the whole step first, then the loss of one micro-batch.

The CVPR form is dense alone; the article's form adds a global term on mean tokens (specification 0 and 1.8).
Axes: B images, L tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from otherview.learner import StepLoss
from otherview.losses.unigrad import correlation, spectrum_figures, split_mean, unigrad

Statistics = tuple[Float[Tensor, "D D"], ...]


@runtime_checkable
class Objective(Protocol):
    """A loss between predictions and targets that needs statistics of all targets of a step."""

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Statistics: ...

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Statistics) -> StepLoss: ...

    def figures(self, statistics: Statistics) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Dense:
    """UniGrad over all tokens: the CVPR form, the default."""

    negative_weight: float

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Statistics:
        return (correlation(targets),)

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Statistics) -> StepLoss:
        loss = unigrad(y, z, statistics[0], weight=self.negative_weight)
        return StepLoss(loss.total, {"positive": loss.positive, "negative": loss.negative, "cosine": loss.cosine})

    def figures(self, statistics: Statistics) -> Mapping[str, Tensor]:
        return spectrum_figures(statistics[0], weight=self.negative_weight)


@dataclass(frozen=True)
class GlobalDense:
    """The article's form: UniGrad on every image's mean token, and on the tokens without it, each with its own C."""

    negative_weight: float
    global_weight: float
    dense_weight: float

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Statistics:
        means, rests = zip(*(split_mean(z) for z in targets), strict=True)
        return correlation(means), correlation(rests)

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Statistics) -> StepLoss:
        of_means, of_rests = (
            unigrad(a, b, c, weight=self.negative_weight)
            for a, b, c in zip(split_mean(y), split_mean(z), statistics, strict=True)
        )
        total = self.global_weight * of_means.total + self.dense_weight * of_rests.total
        parts = {"global": of_means.total.detach(), "dense": of_rests.total.detach(), "cosine": of_rests.cosine}
        return StepLoss(total, parts)

    def figures(self, statistics: Statistics) -> Mapping[str, Tensor]:
        of_means, of_rests = (spectrum_figures(c, weight=self.negative_weight) for c in statistics)
        return {f"global_{name}": value for name, value in of_means.items()} | of_rests
