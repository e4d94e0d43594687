"""What a method descends: statistics of the whole step first, then the loss of one micro-batch.

The CVPR form is dense alone; the article's form adds a global term on mean tokens (specification 0 and 1.8). The rest is
what the paper compares them with.
Axes: B images, L tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from otherview.distributed import gather, mean_over_ranks
from otherview.losses.contrastive import info_nce_in_chunks
from otherview.losses.unigrad import correlation, effective_rank, spectrum_metrics, split_mean, unigrad


class StepLoss(NamedTuple):
    """What a forward pass returns: the scalar to descend and its detached terms, by name."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Tensor]


Statistics = tuple[Tensor, ...]
"""C, or two of them, or all keys: what an objective needs of the whole step."""


@runtime_checkable
class Objective(Protocol):
    """A loss between predictions and targets that needs statistics of all targets of a step."""

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Statistics: ...

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Statistics) -> StepLoss: ...

    def metrics(self, statistics: Statistics) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Dense:
    """UniGrad over all tokens: the CVPR form, the default."""

    negative_weight: float

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Statistics:
        return (correlation(targets),)

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Statistics) -> StepLoss:
        loss = unigrad(y, z, statistics[0], weight=self.negative_weight)
        return StepLoss(loss.total, {"positive": loss.positive, "negative": loss.negative, "cosine": loss.cosine})

    def metrics(self, statistics: Statistics) -> Mapping[str, Tensor]:
        return spectrum_metrics(statistics[0], weight=self.negative_weight)


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
            for a, b, c in zip(split_mean(y.float()), split_mean(z), statistics, strict=True)
        )
        total = self.global_weight * of_means.total + self.dense_weight * of_rests.total
        terms = {"global": of_means.total.detach(), "dense": of_rests.total.detach(), "cosine": of_rests.cosine}
        return StepLoss(total, terms)

    def metrics(self, statistics: Statistics) -> Mapping[str, Tensor]:
        of_means, of_rests = (spectrum_metrics(c, weight=self.negative_weight) for c in statistics)
        return {f"global_{name}": value for name, value in of_means.items()} | of_rests


@dataclass(frozen=True)
class Global:
    """UniGrad on every image's mean token alone."""

    negative_weight: float

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Statistics:
        return (correlation([z.mean(dim=1) for z in targets]),)

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Statistics) -> StepLoss:
        loss = unigrad(y.float().mean(dim=1), z.mean(dim=1), statistics[0], weight=self.negative_weight)
        return StepLoss(loss.total, {"positive": loss.positive, "negative": loss.negative, "cosine": loss.cosine})

    def metrics(self, statistics: Statistics) -> Mapping[str, Tensor]:
        return spectrum_metrics(statistics[0], weight=self.negative_weight)


@dataclass(frozen=True)
class DenseInfoNCE:
    """Every token against the tokens of all images on all ranks; what UniGrad does without the similarities."""

    temperature: float

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Statistics:
        return (gather(torch.cat([z.flatten(0, 1) for z in targets])).flatten(0, 1),)

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Statistics) -> StepLoss:
        y, z = y.flatten(0, 1), z.flatten(0, 1)
        cosine = F.cosine_similarity(y.detach().float(), z, dim=1).mean()
        return StepLoss(info_nce_in_chunks(y, z, statistics[0], temperature=self.temperature), {"cosine": cosine})

    def metrics(self, statistics: Statistics) -> Mapping[str, Tensor]:
        return {"effective_rank": effective_rank(correlation([F.normalize(statistics[0], dim=1)]))}


@dataclass(frozen=True)
class MeanSquare:
    """The mean square over all values, for targets that cannot collapse: pixels."""

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Statistics:
        return ()

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Statistics) -> StepLoss:
        return StepLoss(F.mse_loss(y.float(), z), {})

    def metrics(self, statistics: Statistics) -> Mapping[str, Tensor]:
        return {}


@torch.no_grad()
def overlap_roots(
    inside: Sequence[Bool[Tensor, "B L"]], predicted: Sequence[Bool[Tensor, "B L"]]
) -> list[Float[Tensor, "B L 1"]]:
    """Roots of weights that are 0 outside and alike inside, with mean 1 over all predicted patches of the step on all ranks."""
    counts = torch.stack([
        torch.cat([(i & a).flatten() for i, a in zip(inside, predicted, strict=True)]).float().sum(),
        torch.cat([a.flatten() for a in predicted]).float().sum(),
    ])  # fmt: skip
    within, whole = mean_over_ranks(counts)
    weight = whole / within.clamp(min=1 / 2)  # nothing overlaps: no loss
    return [(i * weight).sqrt()[..., None] for i in inside]
