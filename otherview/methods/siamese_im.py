"""Siamese Image Modeling: from one view, masked, predict the dense representation of another.

Chenxin Tao et al., "Siamese Image Modeling for Self-Supervised Vision Representation Learning", arXiv 2206.01204.

    online view ──visible──▶ encoder ──▶ projector ──▶ predictor(+ where the target view lies) ──▶ y ─┐
    target view ──whole───▶ target encoder ──▶ target projector ──▶ layer norm ────────────────▶ z ─┴─▶ UniGrad

    learner = SiameseIM(online=Branch(…), target=EMATarget(…), predictor=…, objective=Dense(0.02), views=…)

Axes: B images, M masks an image, L patches, A patches that are predicted, N tokens, P width of the heads, K values of a
prediction: P, or a patch's pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from otherview.geometry import Crop, inside
from otherview.losses.objectives import Objective, Statistics, StepLoss, overlap_roots
from otherview.losses.unigrad import dead_channels
from otherview.methods.learner import Learner
from otherview.methods.target import Target
from otherview.nn.heads import Branch, Predictor
from otherview.nn.positions import Conditioning, RelativePosition, position_and_scale, relative_code, sincos_grid
from otherview.views.device_colour import normalised
from otherview.views.settings import ColourSettings
from otherview.views.transforms import PairViews
from otherview.views.view import View, ViewPair, under_each_mask, visible_indices


class Context(NamedTuple):
    """What is known of a whole optimiser step before its first online pass, by micro-batch."""

    targets: list[Float[Tensor, "B L K"]]
    statistics: Statistics
    weights: "Sequence[Float[Tensor, 'B L 1']] | None"
    """Roots of the patches' weights, where they do not all count alike."""


class SiameseIM(Learner):
    """The method as its parts.

    `relative_position` says where the target view lies (default: the paper's position and scale), `prediction_norm` (default
    none) is applied to the predictions before the loss, and with `overlap_only` patches outside the online view count for
    nothing.
    """

    def __init__(
        self,
        *,
        online: Branch,
        target: Target,
        predictor: Predictor,
        objective: Objective,
        views: PairViews,
        relative_position: RelativePosition = position_and_scale,
        prediction_norm: nn.Module | None = None,
        overlap_only: bool = False,
    ) -> None:
        super().__init__()
        self.online = online
        self.target = target
        self.predictor = predictor
        self.prediction_norm = prediction_norm or nn.Identity()
        self.objective = objective
        self.relative_position = relative_position
        self.overlap_only = overlap_only
        self._views = views

    @property
    def views(self) -> PairViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Any]:
        return {"encoder": self.online.encoder, **self.target.encoders}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return param_groups_weight_decay(self, weight_decay)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def prepare(self, micro_batches: Sequence[ViewPair], progress: float) -> Context:
        """Move the target towards the online branch, then let it represent every target view of the step."""
        self.target.ema_update(self.online, progress)
        colour = self._views.settings.target_colour
        targets = [self.target(self._normalised(batch.target, colour)) for batch in micro_batches]
        return Context(targets, self.objective.statistics(targets), self._weigh(micro_batches))

    def forward(self, batch: ViewPair, context: Context, index: int) -> StepLoss:
        pair = under_each_mask(batch)
        predicted = self._predicted(pair)
        y, z = self._predict(pair, predicted), self._select(context.targets[index], predicted)
        if context.weights is None:
            return self.objective(y, z, context.statistics)
        roots = self._select(context.weights[index], predicted)
        loss = self.objective(y * roots, z * roots, context.statistics)
        return loss._replace(terms={name: term for name, term in loss.terms.items() if name != "cosine"})

    def metrics(self, context: Context) -> Mapping[str, Tensor]:
        return {**self.objective.metrics(context.statistics), "dead_channels": dead_channels(context.targets)}

    def predict(self, batch: ViewPair) -> Float[Tensor, "MB A K"]:
        """y: the predicted patches of the target view, from the visible ones of the online view."""
        pair = under_each_mask(batch)
        return self._predict(pair, self._predicted(pair))

    def _predict(self, pair: ViewPair, predicted: Int[Tensor, "MB A"]) -> Float[Tensor, "MB A K"]:
        grid, width = self._views.grid, self.predictor.head.in_features
        masked = self._views.settings.mask.masked_of(grid.patches)
        visible = visible_indices(pair.online.masked, visible=grid.patches - masked)
        images = self._normalised(pair.online, self._views.settings.online_colour)
        tokens = self.online.encoder(images, visible)
        projected = self.online.projector(tokens.without_registers)
        table = sincos_grid(grid, width=width, device=projected.device)
        code = relative_code(self.relative_position(*self._crops(pair), grid), width=width)
        conditioning = Conditioning(
            self._select(code, predicted), torch.cat([pair.online.colour, pair.target.colour], dim=-1)
        )
        return self.prediction_norm(self.predictor(projected[:, 0], projected[:, 1:], table[visible], conditioning))

    def _crops(self, pair: ViewPair) -> tuple[Crop, Crop]:
        """Where both views lie; views that are never turned say so."""
        crops = pair.online.crop, pair.target.crop
        return crops if self._views.settings.turned else (crops[0]._replace(turns=0), crops[1]._replace(turns=0))

    def _predicted(self, pair: ViewPair) -> Int[Tensor, "MB A"]:
        """Which patches of the target view are predicted."""
        patches = self._views.grid.patches
        return visible_indices(pair.target.masked, visible=patches - self._views.settings.unpredicted_of(patches))

    def _select(self, values: Float[Tensor, "any L K"], predicted: Int[Tensor, "MB A"]) -> Float[Tensor, "MB A K"]:
        """The predicted patches' values, an image's under each of its masks."""
        if len(values) < len(predicted):
            values = values.repeat_interleave(len(predicted) // len(values), dim=0)
        if predicted.shape[1] == values.shape[1]:
            return values
        return values.gather(1, predicted[..., None].expand(-1, -1, values.shape[2]))

    def _weigh(self, micro_batches: Sequence[ViewPair]) -> Sequence[Tensor] | None:
        if not self.overlap_only:
            return None
        grid = self._views.grid
        shown = [inside(position_and_scale(*self._crops(batch), grid), grid) for batch in micro_batches]
        return overlap_roots(shown, [~batch.target.masked for batch in micro_batches])

    def _normalised(self, view: View, colour: ColourSettings) -> Tensor:
        return normalised(view, self._views.settings, colour)
