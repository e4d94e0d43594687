"""An encoder and a head learn to classify images: a Learner under the one loop (specification 2).

    view ──erase, mix──▶ encoder with drop path ──▶ mean token ──▶ layer norm, Linear ──▶ soft cross-entropy

Erasing, mixing and drop path draw from generators of (seed, progress, rank), set at every step: a run that stopped goes on
as if it had not. The operations are timm's.

Axes: B images, N training images, D width, K classes.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from timm.data import Mixup  # pyright: ignore[reportPrivateImportUsage]
from timm.data.random_erasing import RandomErasing
from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.distributed import rank
from otherview.evaluation.linear import fit_logistic
from otherview.evaluation.settings import Regularisation
from otherview.losses.objectives import StepLoss
from otherview.methods.learner import Learner
from otherview.nn.encoder import Encoder
from otherview.nn.heads import ClassHead
from otherview.seeding import named_seed
from otherview.training.optim import layered_groups
from otherview.views.transforms import AugmentedViews, LabelledView, LabelledViews
from otherview.views.view import normalise


class FineTune(Learner):
    """The classifier as its parts."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        head: ClassHead,
        views: AugmentedViews | LabelledViews,
        seed: int,
        by: Regularisation,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(True)
        if encoder.vit.pos_embed is not None:
            encoder.vit.pos_embed.requires_grad_(False)  # positions stay fixed (specification 2)
        self.head = head
        self.seed, self.by = seed, by
        self._views = views
        self._erase = RandomErasing(probability=by.erasing, mode="pixel", max_count=1, device="cpu")
        mixed = by.mixup > 0 or by.cutmix > 0
        self._mix = (
            Mixup(by.mixup, by.cutmix, label_smoothing=by.smoothing, num_classes=head.classes) if mixed else None
        )
        drop_paths(encoder, by.drop_path)

    @property
    def views(self) -> AugmentedViews | LabelledViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"encoder": self.encoder}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """A group for each layer and whether it decays; the rate falls by `layer_decay` from the head down."""
        last = len(self.encoder.vit.blocks) + 1
        return layered_groups(
            self,
            lambda name: layer_of(name.removeprefix("encoder.vit."), last=last),
            no_weight_decay=lambda name, value: value.ndim <= 1 or name.endswith("_token"),
            last=last,
            layer_decay=self.by.layer_decay,
            weight_decay=weight_decay,
        )

    def prepare(self, micro_batches: Sequence[LabelledView], progress: float) -> None:
        """Set the generators that erasing, mixing and drop path draw from."""
        seed = named_seed(self.seed, f"fine-tuning at {progress!r}, rank {rank()}")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def forward(self, batch: LabelledView, context: None, index: int) -> StepLoss:
        settings, labels = self._views.make.settings, torch.as_tensor(batch.label)
        images = normalise(batch.view.pixels, settings.mean, settings.std)
        self._erase.device = images.device.type
        images = self._erase(images)
        if self._mix is None:
            soft = F.one_hot(labels, self.head.classes).float()
            soft = soft * (1 - self.by.smoothing) + self.by.smoothing / soft.shape[1]
        else:
            images, soft = self._mix(images, labels)
        scores = self.classify(images)
        loss = -(soft * F.log_softmax(scores, dim=1)).sum(dim=1).mean()
        right = (scores.detach().argmax(dim=1) == soft.argmax(dim=1)).float().mean()  # of mixed images, the larger part
        return StepLoss(loss, {"accuracy": right})

    def metrics(self, context: None) -> Mapping[str, Tensor]:
        return {}

    def classify(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Scores of the classes for normalised images."""
        return self.head(self.encoder(images).mean).float()


def layer_of(name: str, *, last: int) -> int:
    """Tokens, positions and patch embedding are layer 0, block k is k + 1, the rest is `last`; by timm's names."""
    parts = name.split(".")
    if parts[0] in ("cls_token", "reg_token", "patch_embed", "pos_embed"):
        return 0
    return int(parts[1]) + 1 if parts[0] == "blocks" else last


def drop_paths(encoder: Encoder, most: float) -> None:
    """Let blocks drop their branches by chance, the deeper the oftener."""
    blocks = list(encoder.vit.blocks)
    for index, block in enumerate(blocks):
        share = most * index / max(1, len(blocks) - 1)
        block.drop_path1, block.drop_path2 = (DropPath(share) if share else nn.Identity() for _ in range(2))


@torch.no_grad()
def start_linearly(head: ClassHead, features: Float[Tensor, "N D"], labels: Int[Tensor, " N"]) -> None:
    """Let a head begin as a logistic regression on frozen features (A. Kumar et al., arXiv 2202.10054, section 4).

    The penalty is scikit-learn's default: half the squared weights, over the sum of N cross-entropies.
    """
    norm, last = head[0], head[1]
    assert isinstance(last, nn.Linear)
    with torch.enable_grad():
        fitted = fit_logistic(norm(features).detach(), labels, strength=1 / len(labels))
    weight = (fitted.weight / fitted.scale[:, None]).T
    bias = fitted.bias - weight @ fitted.shift
    last.weight.zero_()
    last.bias.fill_(float(bias.min()))  # of classes beyond those whose images can be read
    last.weight[: len(weight)] = weight
    last.bias[: len(bias)] = bias
