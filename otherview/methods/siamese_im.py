"""Siamese Image Modeling: from one view, masked, predict the dense representation of another.

Chenxin Tao et al., "Siamese Image Modeling for Self-Supervised Vision Representation Learning", arXiv 2206.01204.

    seen view ──visible──▶ encoder ──▶ projector ──▶ predictor(+ where the other view lies) ──▶ y ─┐
    other view ──whole───▶ target encoder ──▶ target projector ──▶ layer norm ────────────────▶ z ─┴─▶ UniGrad

    learner = SiameseIM(encoder=…, projector=…, predictor=…, objective=Dense(0.02), views=…, momentum=…)

Axes: B images, L patches, N tokens, P width of the heads.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.geometry import place
from otherview.learner import Learner, StepLoss
from otherview.losses.objectives import Objective, Statistics
from otherview.losses.unigrad import dead_channels
from otherview.nn.branch import Branch
from otherview.nn.ema import move, twin
from otherview.nn.encoder import Encoder
from otherview.nn.heads import Predictor, Projector
from otherview.nn.positions import relative_code, sincos_grid
from otherview.views.pair import PairViews
from otherview.views.view import View, ViewPair, normalise, visible_indices


class Context(NamedTuple):
    """What is known of a whole optimiser step before its first online pass."""

    targets: list[Float[Tensor, "B L P"]]
    statistics: Statistics


class SiameseIM(Learner):
    """The method as its parts. `prediction_norm` (default none) is applied to the predictions before the loss."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        projector: Projector,
        predictor: Predictor,
        objective: Objective,
        views: PairViews,
        momentum: Callable[[float], float],
        prediction_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.online = Branch(encoder, projector)
        self.target = twin(self.online)
        self.predictor = predictor
        self.prediction_norm = prediction_norm or nn.Identity()
        self.objective = objective
        self.momentum = momentum
        self._views = views

    @property
    def views(self) -> PairViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"encoder": self.online.encoder, "target": self.target.encoder}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return param_groups_weight_decay(self, weight_decay)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def prepare(self, micro_batches: Sequence[ViewPair], progress: float) -> Context:
        """Move the target towards the online branch, then let it represent every other view of the step."""
        move(self.target, towards=self.online, momentum=self.momentum(progress))
        targets = [self.represent(batch.other) for batch in micro_batches]
        return Context(targets, self.objective.statistics(targets))

    def forward(self, batch: ViewPair, context: Context, index: int) -> StepLoss:
        return self.objective(self.predict(batch), context.targets[index], context.statistics)

    def figures(self, context: Context) -> Mapping[str, Tensor]:
        return {**self.objective.figures(context.statistics), "dead_channels": dead_channels(context.targets)}

    def represent(self, view: View) -> Float[Tensor, "B L P"]:
        """z: the target's patch tokens of a whole view after the projector, layer-normalised without affine in fp32."""
        tokens = self.target.encoder(self._normalised(view))
        return normalise_target(self.target.projector(tokens.without_registers)[:, 1:])

    def predict(self, batch: ViewPair) -> Float[Tensor, "B L P"]:
        """y: the prediction of every patch of the other view from the visible patches of the seen one."""
        grid, width = self._views.grid, self.predictor.head.in_features
        visible = visible_indices(
            batch.seen.hidden, visible=grid.patches - self._views.settings.mask.hidden_of(grid.patches)
        )
        tokens = self.online.encoder(self._normalised(batch.seen), visible)
        projected = self.online.projector(tokens.without_registers)
        table = sincos_grid(grid, width=width, device=projected.device)
        code = relative_code(place(batch.other.crop, within=batch.seen.crop, grid=grid), width=width)
        return self.prediction_norm(self.predictor(projected[:, 0], projected[:, 1:], table[visible], code))

    def _normalised(self, view: View) -> Tensor:
        return normalise(view.pixels, self._views.settings.mean, self._views.settings.std)


def normalise_target(tokens: Float[Tensor, "B L P"]) -> Float[Tensor, "B L P"]:
    """Layer norm without affine, eps 1e-5, in float32."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-5)
