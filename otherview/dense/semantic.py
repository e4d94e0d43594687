"""A segmenter learns: a Learner under the one loop.

Axes: B images, C channels, K classes, S side in pixels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from otherview.data.picture import Look
from otherview.dense.detect import draw_anew
from otherview.dense.pixels import PixelsView, PixelViews
from otherview.dense.settings import SegmentConfig
from otherview.dense.upernet import UPerNet, resized
from otherview.evaluation.finetune import layer_of
from otherview.evaluation.segment import IGNORED
from otherview.learner import Learner, StepLoss
from otherview.training.optim import layered_groups
from otherview.views.view import normalise


class Segment(Learner):
    """Dropout and drop path draw from generators of (seed, progress, rank)."""

    def __init__(self, net: UPerNet, views: PixelViews, look: Look, config: SegmentConfig, *, seed: int) -> None:
        super().__init__()
        self.net, self.look, self.config, self.seed = net, look, config, seed
        self._views = views

    @property
    def views(self) -> PixelViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Any]:
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        last = len(self.net.blocks) + 1
        return layered_groups(
            self, lambda name: _layer_of(name, last=last), spared=_spared, last=last,
            layer_decay=self.config.layer_decay, weight_decay=weight_decay,
        )  # fmt: skip

    def prepare(self, micro_batches: Sequence[PixelsView], progress: float) -> None:
        draw_anew(self.seed, f"segmentation at {progress!r}")

    def forward(self, batch: PixelsView, context: None, index: int) -> StepLoss:
        scores, auxiliary = self.net(normalise(batch.pixels, self.look.mean, self.look.std))
        assert auxiliary is not None
        labels = batch.labels.long()
        main, side = (_cross_entropy(part, labels) for part in (scores, auxiliary))
        with torch.no_grad():
            known = labels != IGNORED
            guessed = resized(scores, like=labels).argmax(dim=1)
            right = ((guessed == labels) & known).sum() / known.sum().clamp(min=1)
        parts = {"main": main.detach(), "auxiliary": side.detach(), "accuracy": right}
        return StepLoss(main + self.config.auxiliary_weight * side, parts)

    def figures(self, context: None) -> Mapping[str, Tensor]:
        return {}


def _layer_of(name: str, *, last: int) -> int:
    """Relative positions belong to their block."""
    if name.startswith("net.relative."):
        return int(name.split(".")[2]) + 1
    return layer_of(name.removeprefix("net.backbone.vit."), last=last)


def _spared(name: str, value: Tensor) -> bool:
    """Whether a tensor does not decay: norms, biases, tokens and tables of positions."""
    return value.ndim <= 1 or name.endswith(("_token", "table", "pos_embed"))


def _cross_entropy(scores: Float[Tensor, "B K _ _"], labels: Tensor) -> Float[Tensor, ""]:
    """The mean over the pixels that count; 0 where none does."""
    total = F.cross_entropy(resized(scores.float(), like=labels), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)
