"""MoCo-v3: tell two views of one image from all other images.

Xinlei Chen et al., "An Empirical Study of Training Self-Supervised Vision Transformers", arXiv 2104.02057; our
specification 4.

    view 1, view 2 ──▶ encoder(cls) ──▶ projector ──▶ predictor ──▶ queries ─┐
    view 1, view 2 ──▶ EMA encoder ──▶ EMA projector ─────────────▶ keys ────┴─▶ InfoNCE, view 1 against view 2 and back

    learner = MoCoV3(encoder=…, projector=…, predictor=…, views=…, momentum=…, temperature=0.2)

Axes: B images, K keys of the whole step on all ranks, D width of the keys.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.distributed import gather, rank
from otherview.losses.contrastive import info_nce
from otherview.losses.objectives import StepLoss
from otherview.losses.unigrad import correlation, effective_rank
from otherview.methods.learner import Learner
from otherview.methods.target import ema_update, frozen_copy
from otherview.nn.encoder import Encoder
from otherview.nn.heads import Branch, TokenBatchNorm
from otherview.views.device_colour import normalised
from otherview.views.settings import ColourSettings
from otherview.views.transforms import PairViews
from otherview.views.view import View, ViewPair


class Head(nn.Sequential):
    """Linear layers without bias, batch norm after each and ReLU between; the last batch norm has no affine part."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise(widths)):
            last = place == len(widths) - 2
            layers += [nn.Linear(before, after, bias=False), TokenBatchNorm(after, affine=not last)]
            layers += [] if last else [nn.ReLU()]
        super().__init__(*layers)


class Context(NamedTuple):
    """The keys of the whole step on all ranks, of the first views and of the second, and where a micro-batch's begin."""

    keys: tuple[Float[Tensor, "K D"], Float[Tensor, "K D"]]
    starts: list[int]


class MoCoV3(Learner):
    """The method as its parts. The encoder has a final norm; its patch embedding stays as it was at the start."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        projector: Head,
        predictor: Head,
        views: PairViews,
        momentum: Callable[[float], float],
        temperature: float,
    ) -> None:
        super().__init__()
        self.online = Branch(encoder, projector)
        self.target = frozen_copy(self.online)
        self.predictor = predictor
        self.momentum = momentum
        self.temperature = temperature
        self._views = views

    @property
    def views(self) -> PairViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"encoder": self.online.encoder, "target": self.target.encoder}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """All trainable parameters are decayed, norms and biases too."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "weight_decay": weight_decay}]

    @torch.no_grad()
    def prepare(self, micro_batches: Sequence[ViewPair], progress: float) -> Context:
        """Move the target, then take its keys of both views of every micro-batch, from all ranks."""
        ema_update(self.target, towards=self.online, momentum=self.momentum(progress))
        sizes = [len(batch.online.pixels) for batch in micro_batches]
        first, second = (
            gather(torch.cat([self._project(self.target, view, colour) for view in views])).flatten(0, 1)
            for views, colour in zip(zip(*micro_batches, strict=True), self._colours, strict=True)
        )
        starts = [rank() * sum(sizes) + sum(sizes[:place]) for place in range(len(sizes))]
        return Context((first, second), starts)

    def forward(self, batch: ViewPair, context: Context, index: int) -> StepLoss:
        first, second = (
            self.predictor(self._project(self.online, view, colour))
            for view, colour in zip(batch, self._colours, strict=True)
        )
        own = context.starts[index] + torch.arange(len(first), device=first.device)
        loss = info_nce(first, context.keys[1], own, temperature=self.temperature)
        loss = loss + info_nce(second, context.keys[0], own, temperature=self.temperature)
        return StepLoss(loss, {})

    def metrics(self, context: Context) -> Mapping[str, Tensor]:
        """How many directions the keys fill."""
        return {"effective_rank": effective_rank(correlation([F.normalize(keys, dim=1) for keys in context.keys]))}

    @property
    def _colours(self) -> tuple[ColourSettings, ColourSettings]:
        """Of the first views and of the second."""
        return self._views.settings.online_colour, self._views.settings.target_colour

    def _project(self, branch: Branch, view: View, colour: ColourSettings) -> Float[Tensor, "B D"]:
        return branch.projector(branch.encoder(self._normalised(view, colour)).cls)

    def _normalised(self, view: View, colour: ColourSettings) -> Tensor:
        return normalised(view, self._views.settings, colour)
