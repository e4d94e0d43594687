"""The published linear probe: a Linear on the frozen mean token, for several rates at once (specification 2).

    image ──crop, flip──▶ frozen encoder ──▶ mean token ──▶ layer norm, batch norm (no parameters) ──▶ Linear per rate

A Learner under the one loop, so it resumes like any run. The encoder and its untrained control see the same crops, and
every rate its own head: gradients of one never reach another. With LARS the sum of their losses trains each as if alone.

Axes: B images, D width, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.learner import Learner, StepLoss
from otherview.nn.class_head import ClassHead
from otherview.nn.initialise import seeded
from otherview.views.single import LabelledView, LabelledViews
from otherview.views.view import normalise

AT_ONCE = 256
"""Images that go through a frozen encoder together: batches are large here, and nothing of it is kept."""


class Probe(nn.Module):
    """Norms without parameters, and a Linear for every rate."""

    def __init__(self, width: int, classes: int, *, rates: int) -> None:
        super().__init__()
        self.norm = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6, elementwise_affine=False), nn.BatchNorm1d(width, eps=1e-6, affine=False)
        )
        linears = [nn.Linear(width, classes) for _ in range(rates)]
        self.heads = nn.ModuleList(linears)
        for head in linears:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, features: Float[Tensor, "B D"]) -> list[Float[Tensor, "B K"]]:
        """The scores of every rate's head."""
        normed = self.norm(features)
        return [head(normed) for head in self.heads]


class LinearProbe(Learner):
    """Probes of several frozen encoders. `rates` are per 256 images, the first is what the run's rate is scaled to."""

    def __init__(
        self,
        frozen: Mapping[str, nn.Module],
        *,
        width: int,
        classes: int,
        rates: Sequence[float],
        views: LabelledViews,
        seed: int,
    ) -> None:
        super().__init__()
        self.frozen = nn.ModuleDict(frozen).requires_grad_(False)
        self.rates = rates
        self.probes = nn.ModuleDict()
        for name in frozen:
            with seeded(seed, "probe"):  # the control begins with the same heads
                self.probes[name] = Probe(width, classes, rates=len(rates))
        self._views = views

    @property
    def views(self) -> LabelledViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Any]:
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """For every rate the matrices, which LARS scales, and the biases, which it does not."""
        groups = []
        for index, rate in enumerate(self.rates):
            of_rate = f".heads.{index}."
            mine = [value for name, value in self.probes.named_parameters() if of_rate in name]
            for adapt in (True, False):
                values = [value for value in mine if (value.ndim > 1) == adapt]
                groups.append({"params": values, "lr_scale": rate / self.rates[0], "always_adapt": adapt})
        return groups

    def train(self, mode: bool = True) -> "LinearProbe":
        super().train(mode)
        self.frozen.eval()
        return self

    def prepare(self, micro_batches: Sequence[LabelledView], progress: float) -> None:
        """The classes are known."""

    def forward(self, batch: LabelledView, context: None, index: int) -> StepLoss:
        settings, labels = self._views.make.settings, torch.as_tensor(batch.label)
        losses, parts = [], {}
        for name, encoder in self.frozen.items():
            with torch.no_grad():
                features = torch.cat([
                    encoder(normalise(pixels, settings.mean, settings.std)).mean.float()
                    for pixels in batch.view.pixels.split(AT_ONCE)
                ])  # fmt: skip
            for rate, scores in zip(self.rates, self.probes[name](features), strict=True):
                losses.append(F.cross_entropy(scores, labels))
                parts[f"accuracy_{name}_{rate:g}"] = (scores.detach().argmax(dim=1) == labels).float().mean()
        return StepLoss(torch.stack(losses).sum(), parts)

    def figures(self, context: None) -> Mapping[str, Tensor]:
        return {}

    @torch.no_grad()
    def classifier(self, name: str, rate: float) -> ClassHead:
        """One head with its norms as a plain layer norm and Linear, that gives the same scores in testing."""
        probe = self.probes[name]
        assert isinstance(probe, Probe)
        batch_norm, linear = probe.norm[1], probe.heads[list(self.rates).index(rate)]
        assert isinstance(batch_norm, nn.BatchNorm1d) and isinstance(linear, nn.Linear)
        assert batch_norm.running_mean is not None and batch_norm.running_var is not None
        head = ClassHead(linear.in_features, linear.out_features)
        scale = (batch_norm.running_var + batch_norm.eps).rsqrt()
        last = head[1]
        assert isinstance(last, nn.Linear)
        last.weight.copy_(linear.weight * scale)
        last.bias.copy_(linear.bias - linear.weight @ (batch_norm.running_mean * scale))
        return head

    @torch.no_grad()
    def predict(self, name: str, features: Float[Tensor, "B D"]) -> dict[float, Int[Tensor, " B"]]:
        """The classes of an encoder's mean tokens, by rate."""
        probe = self.probes[name].eval()
        found = probe(features.to(next(probe.parameters()).device))
        return {rate: scores.argmax(dim=1).cpu() for rate, scores in zip(self.rates, found, strict=True)}
