"""The published linear probe: a Linear on frozen features, trained with augmentation by LARS, beside the untrained control.

otherview evaluate probe --weights DIR --train SPEC --test SPEC
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores, accuracy_score
from otherview.training.launch import launched_rank, launched_ranks
from otherview.verbs.judging import (
    Evaluate,
    check_shown,
    compute_on,
    finish,
    open_sides,
    options_of,
    read_contents,
    show_scores,
)
from otherview.verbs.request import resolve_device, shortened
from otherview.verbs.weights import check_weights, load_subject

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Side
    from otherview.evaluation.probe import LinearProbe
    from otherview.evaluation.subject import Subject

WARMUP = 10 / 90
"""Share of the probe in which the rate rises."""
LARGEST_BATCH = 16384


@dataclass(kw_only=True)
class ProbeRequest(Evaluate):
    """The paper's linear probe: 90 epochs of LARS on a frozen encoder; the last epoch is reported."""

    epochs: float = 90.0
    """Times through the training images."""
    batch: int | None = None
    """Images a step; default: 16384, or a tenth of the training images where they are fewer."""
    accumulation: int = 1
    """Micro-batches a step, each with a batch norm of its own."""
    rates: tuple[float, ...] = (0.1,)
    """Learning rates for a batch of 256; several are trained in one pass, each its own head."""
    shown: float = 0.875
    """Share of the shorter side that the centre crop of a test image leaves (224 of 256); 1 for small images."""
    seed: int = 0
    """Of the heads, the order of images and their crops."""


def run(request: ProbeRequest) -> dict[str, Any]:
    """The verb."""
    return probe(request.weights, **options_of(request)).as_json()


def probe(weights: "str | Path | Subject", *, train: str, test: str, **options: Any) -> Scores:
    """Accuracy of the last epoch for every rate; further options are the fields of ProbeRequest."""
    request = ProbeRequest(weights=str(weights), train=train, test=test, **options)
    began = time.monotonic()
    check_shown(request.shown)
    if not (0 < request.epochs < math.inf and request.rates and min(request.rates) > 0):
        raise WrongRequest(f"--epochs {request.epochs:g} and --rates {request.rates} must be above 0")
    if request.batch is not None and request.batch < 2:
        raise WrongRequest(f"--batch {request.batch} is too small for batch norm: give 2 or more")
    from otherview.verbs.fitting import check_out

    check_weights(weights)
    check_out(request)
    sides = open_sides(train, test, request)
    compute_on(request)
    subject = load_subject(weights)
    sides = read_contents(sides, workers=request.workers, allow_shared=request.allow_shared)
    learner, batch = _train(subject, sides[0], request)
    found = _judge(learner, sides[1], subject=subject, request=request)
    if isinstance(weights, str | Path) and launched_rank() == 0:
        _keep(learner, weights, sides[0].names, request)
    about = {
        "train": train, "test": test, "train_images": len(sides[0].indices), "epochs": request.epochs, "batch": batch,
        "rates": request.rates, "shown": request.shown, "probe_seed": request.seed,
    }  # fmt: skip
    return finish(request, found, known=subject.about, about=about, began=began)


def _train(subject: "Subject", side: "Side", request: ProbeRequest) -> "tuple[LinearProbe, int]":
    """The fitted probes of the encoder and its untrained control, and the batch they were fitted with."""
    from otherview.data.plan import StepPlan
    from otherview.evaluation.content import weights_content
    from otherview.evaluation.features import WHOLE, blank_of
    from otherview.evaluation.probe import LinearProbe
    from otherview.training.optim import make_lars
    from otherview.training.settings import TrainingSettings
    from otherview.verbs.fitting import Fit, crops_of, default_batch, fitted, labelled, labels_content
    from otherview.views.crop import one_try_crop
    from otherview.views.single import LabelledViews

    images = len(side.indices)
    batch = request.batch or default_batch(images, most=LARGEST_BATCH, unit=request.accumulation * launched_ranks())
    steps = 4 if shortened() else max(1, round(request.epochs * (images // batch)))
    learner = LinearProbe(
        subject.modules,
        width=blank_of(subject.encoder, subject.look, WHOLE)["mean"].shape[1],
        classes=len(side.names),
        rates=request.rates,
        views=LabelledViews(crops_of(subject.look, subject.grid, draw=one_try_crop)),
        seed=request.seed,
    )
    fit = Fit(
        folder=(request.out or Path(request.weights)) / "probe",
        about={
            "protocol": "probe", "weights": weights_content(subject.encoder), "train": request.train,
            "images": labels_content(side), "steps": steps, "batch": batch, "rates": request.rates, "seed": request.seed,
            "accumulation": request.accumulation,
        },
        source=labelled(side),
        plan=StepPlan(images, batch, steps, request.seed, accumulation=request.accumulation),
        settings=TrainingSettings(
            lr_per_256=request.rates[0], warmup=WARMUP, weight_decay=0.0, clip_norm=None, precision="fp32",
            accumulation=request.accumulation, workers=request.workers, save_every=max(1, steps // 10),
        ),
        decoding=subject.look.decoding,
        device=request.device,
        threads=request.threads,
    )  # fmt: skip
    fitted(learner, fit, make_optimiser=make_lars)
    return learner, batch


def _keep(learner: "LinearProbe", weights: str | Path, names: "Sequence[str]", request: ProbeRequest) -> None:
    """A classifier for every encoder and rate, which `evaluate robustness` takes."""
    from otherview.verbs.weights import load_encoder
    from otherview.weights.classifier import save_classifier

    card, folder = load_encoder(weights).card, (request.out or Path(weights)) / "probe"
    for name, encoder in learner.frozen.items():
        for rate in request.rates:
            path = folder / f"{'classifier' if name == 'encoder' else name}-{rate:g}.safetensors"
            save_classifier(path, encoder, learner.classifier(name, rate), card, list(names))  # pyright: ignore


def _judge(
    learner: "LinearProbe", test: "Side", *, subject: "Subject", request: ProbeRequest
) -> dict[str, list[Score]]:
    from otherview.evaluation.features import extract_all
    from otherview.evaluation.knn import accuracy
    from otherview.training.console import RunProgress

    learner.to(resolve_device(request.device))
    with RunProgress(total=len(test.indices), title="features", speak=launched_rank() == 0) as progress:
        found = extract_all(
            dict(learner.frozen.items()), test.source, subject.look._replace(shown=request.shown),
            indices=test.indices, workers=request.workers, advance=progress.advance,
        )  # fmt: skip
    scores: dict[str, list[Score]] = {}
    for name, features in found.items():
        truth = test.labels[features.kept]
        for rate, predicted in learner.predict(name, features.tokens["mean"]).items():
            words = f"probe_{name} (rate {rate:g})"
            scores.setdefault(name, []).append(accuracy_score(words, accuracy(predicted, truth), len(truth)))
    return scores


show = show_scores
