"""A detector learns: a Learner under the one loop.

Axes: B images, S side in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from otherview.data.picture import Look
from otherview.dense.detector import Detector
from otherview.dense.jitter import JitteredObjects, ObjectsView
from otherview.distributed import rank
from otherview.evaluation.finetune import layer_of
from otherview.learner import Learner, StepLoss
from otherview.seeding import named_seed
from otherview.training.optim import layered_groups
from otherview.views.view import normalise


class Detect(Learner):
    """What samples proposals and regions, and drop path, draw from generators of (seed, progress, rank)."""

    def __init__(
        self, detector: Detector, views: JitteredObjects, look: Look, *, layer_decay: float, seed: int
    ) -> None:
        super().__init__()
        self.detector, self.look, self.seed, self.layer_decay = detector, look, seed, layer_decay
        self._views = views

    @property
    def views(self) -> JitteredObjects:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Any]:
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Norms and positions do not decay; the rate of a block falls by `layer_decay` from the last one down."""
        last = len(self.detector.backbone.blocks) + 1
        norms = {id(value) for part in self.modules() if isinstance(part, nn.LayerNorm) for value in part.parameters()}
        return layered_groups(
            self,
            lambda name: layer_of(name.removeprefix("detector.backbone."), last=last),
            spared=lambda name, value: id(value) in norms or name.endswith("pos_embed"),
            last=last,
            layer_decay=self.layer_decay,
            weight_decay=weight_decay,
        )

    def prepare(self, micro_batches: Sequence[ObjectsView], progress: float) -> None:
        draw_anew(self.seed, f"detection at {progress!r}")

    def forward(self, batch: ObjectsView, context: None, index: int) -> StepLoss:
        images = normalise(batch.pixels, self.look.mean, self.look.std)
        sizes = [(height, width) for height, width in batch.size.tolist()]
        parts = zip(batch.boxes.split(), batch.labels.split(), batch.masks.split(), strict=True)
        objects = [{"boxes": boxes, "labels": labels, "masks": masks} for boxes, labels, masks in parts]
        _, losses = self.detector(images, sizes, objects)
        return StepLoss(
            torch.stack(list(losses.values())).sum(), {name: part.detach() for name, part in losses.items()}
        )

    def figures(self, context: None) -> Mapping[str, Tensor]:
        return {}


def draw_anew(seed: int, purpose: str) -> None:
    """Set torch's generator for a step on this rank."""
    torch.manual_seed(named_seed(seed, f"{purpose}, rank {rank()}"))
