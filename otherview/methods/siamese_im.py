"""Siamese Image Modeling: from one view, masked, predict the dense representation of another.

Chenxin Tao et al., "Siamese Image Modeling for Self-Supervised Vision Representation Learning", arXiv 2206.01204.

    seen view ──visible──▶ encoder ──▶ projector ──▶ predictor(+ where the other view lies) ──▶ y ─┐
    other view ──whole───▶ target encoder ──▶ target projector ──▶ layer norm ────────────────▶ z ─┴─▶ UniGrad

    learner = SiameseIM(online=Branch(…), target=MovingTarget(…), predictor=…, objective=Dense(0.02), views=…)

Axes: B images, M masks an image, L patches, A patches that are asked for, N tokens, P width of the heads, K numbers that
answer a question: P, or a patch's pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from otherview.geometry import inside
from otherview.learner import Learner, StepLoss
from otherview.losses.objectives import Objective, Statistics
from otherview.losses.overlap import overlap_roots
from otherview.losses.unigrad import dead_channels
from otherview.methods.target import Target
from otherview.nn.branch import Branch
from otherview.nn.heads import Predictor
from otherview.nn.positions import relative_code, sincos_grid
from otherview.nn.relation import Relation, Told, relative
from otherview.views.pair import PairViews
from otherview.views.view import View, ViewPair, normalise, under_each_mask, visible_indices


class Context(NamedTuple):
    """What is known of a whole optimiser step before its first online pass, by micro-batch."""

    targets: list[Float[Tensor, "B L K"]]
    statistics: Statistics
    weights: "Sequence[Float[Tensor, 'B L 1']] | None"
    """Roots of the patches' weights, where they do not all count alike."""


class SiameseIM(Learner):
    """The method as its parts.

    `relation` says where the other view lies (default: the paper's place and scale), `prediction_norm` (default none) is
    applied to the predictions before the loss, and with `overlap_only` patches outside the seen view count for nothing.
    """

    def __init__(
        self,
        *,
        online: Branch,
        target: Target,
        predictor: Predictor,
        objective: Objective,
        views: PairViews,
        relation: Relation = relative,
        prediction_norm: nn.Module | None = None,
        overlap_only: bool = False,
    ) -> None:
        super().__init__()
        self.online = online
        self.target = target
        self.predictor = predictor
        self.prediction_norm = prediction_norm or nn.Identity()
        self.objective = objective
        self.relation = relation
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
        """Move the target towards the online branch, then let it represent every other view of the step."""
        self.target.follow(self.online, progress)
        targets = [self.target(self._normalised(batch.other)) for batch in micro_batches]
        return Context(targets, self.objective.statistics(targets), self._weigh(micro_batches))

    def forward(self, batch: ViewPair, context: Context, index: int) -> StepLoss:
        pair = under_each_mask(batch)
        asked = self._asked(pair)
        y, z = self._answer(pair, asked), self._of_asked(context.targets[index], asked)
        if context.weights is None:
            return self.objective(y, z, context.statistics)
        roots = self._of_asked(context.weights[index], asked)
        loss = self.objective(y * roots, z * roots, context.statistics)
        return loss._replace(parts={name: part for name, part in loss.parts.items() if name != "cosine"})

    def figures(self, context: Context) -> Mapping[str, Tensor]:
        return {**self.objective.figures(context.statistics), "dead_channels": dead_channels(context.targets)}

    def predict(self, batch: ViewPair) -> Float[Tensor, "MB A K"]:
        """y: the prediction of every patch of the other view that is asked for, from the visible ones of the seen view."""
        pair = under_each_mask(batch)
        return self._answer(pair, self._asked(pair))

    def _answer(self, pair: ViewPair, asked: Int[Tensor, "MB A"]) -> Float[Tensor, "MB A K"]:
        grid, width = self._views.grid, self.predictor.head.in_features
        hidden = self._views.settings.mask.hidden_of(grid.patches)
        visible = visible_indices(pair.seen.hidden, visible=grid.patches - hidden)
        tokens = self.online.encoder(self._normalised(pair.seen), visible)
        projected = self.online.projector(tokens.without_registers)
        table = sincos_grid(grid, width=width, device=projected.device)
        code = relative_code(self.relation(pair.seen.crop, pair.other.crop, grid), width=width)
        told = Told(self._of_asked(code, asked), torch.cat([pair.seen.colour, pair.other.colour], dim=-1))
        return self.prediction_norm(self.predictor(projected[:, 0], projected[:, 1:], table[visible], told))

    def _asked(self, pair: ViewPair) -> Int[Tensor, "MB A"]:
        """Which patches of the other view are asked for."""
        patches = self._views.grid.patches
        return visible_indices(pair.other.hidden, visible=patches - self._views.settings.unasked_of(patches))

    def _of_asked(self, values: Float[Tensor, "any L K"], asked: Int[Tensor, "MB A"]) -> Float[Tensor, "MB A K"]:
        """The asked patches' values, an image's under each of its masks."""
        if len(values) < len(asked):
            values = values.repeat_interleave(len(asked) // len(values), dim=0)
        if asked.shape[1] == values.shape[1]:
            return values
        return values.gather(1, asked[..., None].expand(-1, -1, values.shape[2]))

    def _weigh(self, micro_batches: Sequence[ViewPair]) -> Sequence[Tensor] | None:
        if not self.overlap_only:
            return None
        grid = self._views.grid
        shown = [inside(relative(batch.seen.crop, batch.other.crop, grid), grid) for batch in micro_batches]
        return overlap_roots(shown, [~batch.other.hidden for batch in micro_batches])

    def _normalised(self, view: View) -> Tensor:
        return normalise(view.pixels, self._views.settings.mean, self._views.settings.std)
