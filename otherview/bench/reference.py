"""The naive twins: written plainly, as the formulas read, to be tested and measured against.

Axes: B images, L patches, N tokens, D width.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import Attention  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor

from otherview.losses.objectives import StepLoss
from otherview.losses.unigrad import spectrum_metrics
from otherview.methods.siamese_im import Context, SiameseIM
from otherview.methods.target import EMATarget
from otherview.views.view import ViewPair


def unigrad_by_similarities(
    y: Float[Tensor, "N D"], z: Float[Tensor, "N D"], *, weight: float, negatives: Float[Tensor, "M D"] | None = None
) -> Float[Tensor, ""]:
    """UniGrad's value through the similarities of all pairs: mean yᵀ·C·y is their mean square (negatives: z)."""
    width = y.shape[1]
    negatives = z if negatives is None else negatives
    positive = (y - z).square().sum(dim=1).mean()
    negative = (y @ negatives.T).square().sum(dim=1).mean() / len(negatives)
    return (positive + weight * negative) / width


@dataclass(frozen=True)
class DenseBySquare:
    """The dense objective as yᵀ·C·y reads for all tokens at once: the diagonal of a square matrix that is formed whole."""

    negative_weight: float

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Any:
        z = torch.cat([target.flatten(0, 1) for target in targets])
        return (z.T @ z / len(z),)

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Any) -> StepLoss:
        y, z = y.flatten(0, 1), z.flatten(0, 1)
        positive = (y - z).square().sum(dim=1).mean()
        negative = (y @ statistics[0] @ y.T).diagonal().mean()
        return StepLoss((positive + self.negative_weight * negative) / y.shape[1], {})

    def metrics(self, statistics: Any) -> Mapping[str, Tensor]:
        return spectrum_metrics(statistics[0], weight=self.negative_weight)


class NaiveSiameseIM(SiameseIM):
    """The method as one would first write it: unfused attention, the square negative term, the average moved one
    parameter at a time. Same parameters, same names, same numbers."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.objective = DenseBySquare(self.objective.negative_weight)  # pyright: ignore
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused_attn = False

    @torch.no_grad()
    def prepare(self, micro_batches: Sequence[ViewPair], progress: float) -> Context:
        assert isinstance(self.target, EMATarget)
        momentum = self.target.momentum(progress)
        for mine, theirs in zip(self.target.parameters(), self.online.parameters(), strict=True):
            mine.data = mine.data * momentum + theirs.data * (1 - momentum)
        targets = [self.target(self._normalised(batch.target)) for batch in micro_batches]
        return Context(targets, self.objective.statistics(targets), None)


def naive_twin(learner: SiameseIM) -> NaiveSiameseIM:
    """The naive twin of a learner, with the same weights."""
    parts = copy.deepcopy(learner)
    return NaiveSiameseIM(
        online=parts.online,
        target=parts.target,
        predictor=parts.predictor,
        objective=parts.objective,
        views=parts.views,
    )
