"""Supervised pre-training: the control of every table.

The same encoder, trained to name the class: mean of the patch tokens ──▶ layer norm ──▶ Linear, cross-entropy with label
smoothing (specification 4). The published recipe's RandAugment, mixup, cutmix and erasing are not here: at small size all
methods see the same crops.

    learner = Supervised(encoder=…, head=…, views=…, smoothing=0.1)

Axes: B images, D encoder width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor
from torch.nn import functional as F

from otherview.losses.objectives import StepLoss
from otherview.methods.learner import Learner
from otherview.nn.encoder import Encoder
from otherview.nn.heads import ClassHead
from otherview.views.device_colour import normalised
from otherview.views.transforms import LabelledView, LabelledViews


class Supervised(Learner):
    """The method as its parts."""

    def __init__(self, *, encoder: Encoder, head: ClassHead, views: LabelledViews, smoothing: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.smoothing = smoothing
        self._views = views

    @property
    def views(self) -> LabelledViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"encoder": self.encoder}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return param_groups_weight_decay(self, weight_decay)  # pyright: ignore[reportReturnType]

    def prepare(self, micro_batches: Sequence[LabelledView], progress: float) -> None:
        """The classes are known."""

    def forward(self, batch: LabelledView, context: None, index: int) -> StepLoss:
        settings, labels = self._views.make.settings, torch.as_tensor(batch.label)
        scores = self.head(self.encoder(normalised(batch.view, settings, settings.online_colour)).mean).float()
        right = (scores.detach().argmax(dim=1) == labels).float().mean()
        return StepLoss(F.cross_entropy(scores, labels, label_smoothing=self.smoothing), {"accuracy": right})

    def metrics(self, context: None) -> Mapping[str, Tensor]:
        return {}
