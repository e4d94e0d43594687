"""The published linear probe: a Linear on the frozen mean token, for several rates at once (specification 2).

    image ──crop, flip──▶ frozen encoder ──▶ mean token ──▶ layer norm, batch norm (no parameters) ──▶ Linear per rate

A Learner under the one loop, so it resumes like any run. The encoder and its untrained control see the same crops, and
every rate its own head: gradients of one never reach another. With LARS the sum of their losses trains each as if alone.

Axes: B images, D width, K classes.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.data.image import Preprocessing
from otherview.data.loader import StepPlan
from otherview.distributed import ranks
from otherview.errors import WrongRequest
from otherview.evaluation.backbone import Backbone, load_backbone
from otherview.evaluation.class_report import ClassReport, class_report
from otherview.evaluation.features import WHOLE, blank_of, extract_all
from otherview.evaluation.fit_defaults import ProbeRecipe, probe_recipe
from otherview.evaluation.result import chance_of, check_crop_pct, finish, fit_folder
from otherview.evaluation.settings import LinearProbeSettings
from otherview.evaluation.split import Split, labels_fingerprint, open_splits, with_fingerprints
from otherview.launch import launched_rank, launched_ranks, shortened
from otherview.losses.objectives import StepLoss
from otherview.methods.learner import Learner
from otherview.nn.heads import ClassHead, token_statistics
from otherview.nn.initialise import seeded
from otherview.scores import Score, Scores, accuracy_score
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on, resolve_device
from otherview.training.fit import Fit, run_fit
from otherview.training.optim import make_lars
from otherview.training.settings import TrainingSettings
from otherview.views.crop import one_try_crop
from otherview.views.transforms import LabelledView, LabelledViews, plain_view
from otherview.views.view import normalise
from otherview.weights.names import check_weights, load_encoder
from otherview.weights.pretrained import save_classifier, weights_fingerprint

AT_ONCE = 256
"""Images that go through a frozen encoder together: batches are large here, and nothing of it is kept."""


class BatchNormOfAllRanks(nn.BatchNorm1d):
    """Statistics over the batch of all ranks in training, running ones in testing; torch's own refuses CPUs."""

    def forward(self, input: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        if not self.training or ranks() == 1:
            return super().forward(input)
        mean, variance = token_statistics(input)
        count = len(input) * ranks()
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum or 0.0)
            self.num_batches_tracked += 1
        return (input - mean) * (variance + self.eps).rsqrt()


class Probe(nn.Module):
    """Norms without parameters, and a Linear for every rate."""

    def __init__(self, width: int, classes: int, *, rates: int) -> None:
        super().__init__()
        self.norm = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6, elementwise_affine=False), BatchNormOfAllRanks(width, eps=1e-6, affine=False)
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
        losses, terms = [], {}
        for name, encoder in self.frozen.items():
            with torch.no_grad():
                features = torch.cat([
                    encoder(normalise(pixels, settings.mean, settings.std)).mean.float()
                    for pixels in batch.view.pixels.split(AT_ONCE)
                ])  # fmt: skip
            for rate, scores in zip(self.rates, self.probes[name](features), strict=True):
                losses.append(F.cross_entropy(scores, labels))
                terms[f"accuracy_{name}_{rate:g}"] = (scores.detach().argmax(dim=1) == labels).float().mean()
        return StepLoss(torch.stack(losses).sum(), terms)

    def metrics(self, context: None) -> Mapping[str, Tensor]:
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
    def predict(self, name: str, features: Float[Tensor, "B D"]) -> dict[float, Float[Tensor, "B K"]]:
        """The chances of the classes by an encoder's mean tokens, by rate."""
        probe = self.probes[name].eval()
        found = probe(features.to(next(probe.parameters()).device))
        return {rate: scores.double().softmax(dim=1).cpu() for rate, scores in zip(self.rates, found, strict=True)}


WARMUP = 10 / 90
"""Share of the probe in which the rate rises."""


@takes(LinearProbeSettings)
def linear_probe(settings: LinearProbeSettings) -> Scores:
    """Accuracy of the last epoch for every rate, next to the untrained encoder."""
    began = time.monotonic()
    if settings.crop_pct is not None:
        check_crop_pct(settings.crop_pct)
    if not (
        0 < settings.epochs < math.inf and (settings.rates is None or (settings.rates and min(settings.rates) > 0))
    ):
        raise WrongRequest(f"--epochs {settings.epochs:g} and --rates {settings.rates} must be above 0")
    if settings.batch is not None and settings.batch < 2:
        raise WrongRequest(f"--batch {settings.batch} is too small for batch norm: give 2 or more")

    check_weights(settings.weights)
    fit_folder(settings, "linear_probe")
    splits = open_splits(settings)
    compute_on(settings)
    backbone = load_backbone(settings.weights)
    backbone = backbone.shown(settings).seeing([split.source for split in splits])
    splits = with_fingerprints(
        splits, workers=settings.workers, allow_shared=settings.allow_shared, held_out=settings.test is None
    )
    unit = settings.accumulation * launched_ranks()
    preprocessing = backbone.preprocessing
    recipe = probe_recipe(settings, images=len(splits[0].indices), size=preprocessing.size, unit=unit)
    backbone = replace(backbone, preprocessing=preprocessing._replace(crop_pct=recipe.crop_pct))
    learner = _train(backbone, splits[0], settings, recipe)
    found, report = _judge(learner, splits[1], backbone=backbone, settings=settings)
    if isinstance(settings.weights, str | Path) and launched_rank() == 0:
        _keep(learner, settings.weights, splits[0].names, settings, preprocessing=backbone.preprocessing)
    about = {
        "train": settings.train, "test": settings.judged_on, "train_images": len(splits[0].indices),
        "protocol": settings.protocol, "epochs": settings.epochs, **recipe._asdict(), "linear_probe_seed": settings.seed,
        **backbone.preprocessing.about,
    }  # fmt: skip
    return finish(
        settings,
        found,
        known=backbone.about,
        about=about,
        began=began,
        chance=chance_of(splits[1].labels),
        report=report,
    )


def _train(backbone: Backbone, split: Split, settings: LinearProbeSettings, recipe: ProbeRecipe) -> LinearProbe:
    """The fitted probes of the encoder and its controls."""
    images, batch = len(split.indices), recipe.batch
    steps = 4 if shortened() else max(1, round(settings.epochs * (images // batch)))
    learner = LinearProbe(
        backbone.modules,
        width=blank_of(backbone.encoder, backbone.preprocessing, WHOLE)["mean"].shape[1],
        classes=len(split.names),
        rates=recipe.rates,
        views=LabelledViews(plain_view(backbone.preprocessing, backbone.grid, draw=one_try_crop)),
        seed=settings.seed,
    )
    fit = Fit(
        folder=fit_folder(settings, "linear_probe"),
        about={
            "protocol": "linear probe", "weights": weights_fingerprint(backbone.encoder), "train": settings.train,
            "images": labels_fingerprint(split), "steps": steps, "batch": batch, "rates": recipe.rates, "seed": settings.seed,
            "size": list(backbone.preprocessing.size),
            "accumulation": settings.accumulation,
        },
        source=split.relabelled,
        plan=StepPlan(images, batch, steps, settings.seed, accumulation=settings.accumulation),
        settings=TrainingSettings(
            lr_per_256=recipe.rates[0], warmup=WARMUP, weight_decay=0.0, clip_norm=None, precision="fp32",
            accumulation=settings.accumulation, workers=settings.workers, save_every=max(1, steps // 10),
        ),
        preprocessing=backbone.preprocessing,
        compute=settings,
    )  # fmt: skip
    run_fit(learner, fit, make_optimiser=make_lars)
    return learner


def _keep(
    learner: LinearProbe,
    weights: str | Path,
    names: Sequence[str],
    settings: LinearProbeSettings,
    *,
    preprocessing: Preprocessing,
) -> None:
    """A classifier for every encoder and rate, which `predict` and `evaluate robustness` take."""
    card = load_encoder(weights).card.seeing(preprocessing)
    folder = fit_folder(settings, "linear_probe")
    for name, encoder in learner.frozen.items():
        for rate in learner.rates:
            path = folder / f"{'classifier' if name == 'encoder' else name}-{rate:g}.safetensors"
            save_classifier(path, encoder, learner.classifier(name, rate), card, list(names))  # pyright: ignore


def _judge(
    learner: LinearProbe, test: Split, *, backbone: Backbone, settings: LinearProbeSettings
) -> tuple[dict[str, list[Score]], ClassReport | None]:
    learner.to(resolve_device(settings.device))
    with RunProgress(total=len(test.indices), title="features", speak=launched_rank() == 0) as progress:
        found = extract_all(
            dict(learner.frozen.items()), test.source, backbone.preprocessing,
            indices=test.indices, workers=settings.workers, advance=progress.advance,
        )  # fmt: skip
    scores: dict[str, list[Score]] = {}
    report: ClassReport | None = None  # of the encoder, by the first rate
    for name, features in found.items():
        truth = test.labels[features.kept]
        for rate, chances in learner.predict(name, features.tokens["mean"]).items():
            predicted = chances.argmax(dim=1)
            report = report or class_report(truth.numpy(), predicted.numpy(), list(test.names), chances=chances.numpy())
            words = f"linear_probe_{name} (rate {rate:g})"
            scores.setdefault(name, []).append(accuracy_score(words, (predicted == truth).numpy()))
    return scores, report
