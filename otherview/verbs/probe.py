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
from otherview.training.launch import adopt_slurm, launched_rank, launched_ranks
from otherview.verbs.judging import Evaluate, finish, open_sides, options_of, show_scores
from otherview.verbs.request import resolve_device, shortened
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Side
    from otherview.evaluation.probe import LinearProbe
    from otherview.weights.pretrained import PretrainedEncoder

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


def probe(weights: str | Path, *, train: str, test: str, **options: Any) -> Scores:
    """Accuracy of the last epoch for every rate; further options are the fields of ProbeRequest."""
    request = ProbeRequest(weights=str(weights), train=train, test=test, **options)
    began = time.monotonic()
    if not (0 < request.epochs < math.inf and request.rates and min(request.rates) > 0 and 0 < request.shown <= 1):
        raise WrongRequest(
            f"--epochs {request.epochs:g} and --rates {request.rates} must be above 0, --shown {request.shown:g} up to 1"
        )
    if request.batch is not None and request.batch < 2:
        raise WrongRequest(f"--batch {request.batch} is too small for batch norm: give 2 or more")
    adopt_slurm()
    check_weights(weights)
    if request.out is None and not Path(weights).is_dir():
        raise WrongRequest(
            f"--weights {weights} is no run folder: give --out DIR, where the probe keeps its checkpoints"
        )
    sides = open_sides(train, test, request)
    from otherview.verbs.fitting import check_sides
    from otherview.verbs.weights import load_encoder

    check_sides(sides, workers=request.workers, allow_shared=request.allow_shared)
    subject = load_encoder(weights)
    learner, batch = _train(subject, sides[0], request)
    scores = _judge(learner, sides, subject=subject, request=request)
    about = {
        "train": train, "test": test, "train_images": len(sides[0].indices), "epochs": request.epochs, "batch": batch,
        "rates": request.rates, "shown": request.shown, "probe_seed": request.seed,
    }  # fmt: skip
    mine = [score for score in scores if score.name.startswith("probe_encoder")]
    rest = [score for score in scores if score not in mine]
    return finish(request, mine, rest, card=subject.card, about=about, began=began)


def _train(subject: "PretrainedEncoder", side: "Side", request: ProbeRequest) -> "tuple[LinearProbe, int]":
    """The fitted probes of the encoder and its untrained control, and the batch they were fitted with."""
    from otherview.data.plan import StepPlan
    from otherview.evaluation.probe import LinearProbe
    from otherview.geometry import PatchGrid
    from otherview.nn.encoder import Encoder
    from otherview.training.optim import make_lars
    from otherview.training.settings import TrainingSettings
    from otherview.verbs.fitting import Fit, default_batch, encoder_content, fitted, labels_content
    from otherview.views.crop import one_try_crop
    from otherview.views.settings import PLAIN, MaskSettings, ViewSettings
    from otherview.views.single import LabelledViews, SingleView

    card, images = subject.card, len(side.indices)
    batch = request.batch or default_batch(images, most=LARGEST_BATCH, unit=request.accumulation * launched_ranks())
    steps = 4 if shortened() else max(1, round(request.epochs * (images // batch)))
    settings = ViewSettings(
        mean=card.mean, std=card.std, levels=card.levels, seen_colour=PLAIN, mask=MaskSettings(kind="none")
    )
    view = SingleView(settings, card.encoder.image_size, PatchGrid(*card.encoder.grid), draw=one_try_crop)
    learner = LinearProbe(
        {"encoder": subject.encoder, "untrained": Encoder(card.encoder, seed=card.seed)},
        classes=len(side.names),
        rates=request.rates,
        views=LabelledViews(view),
        seed=request.seed,
    )
    fit = Fit(
        folder=(request.out or Path(request.weights)) / "probe",
        about={
            "protocol": "probe", "weights": encoder_content(subject.encoder), "train": request.train,
            "images": labels_content(side),
            "steps": steps, "batch": batch, "rates": request.rates, "seed": request.seed,
        },
        side=side,
        plan=StepPlan(images, batch, steps, request.seed, accumulation=request.accumulation),
        settings=TrainingSettings(
            lr_per_256=request.rates[0], warmup=WARMUP, weight_decay=0.0, clip_norm=None, precision="fp32",
            accumulation=request.accumulation, workers=request.workers, save_every=max(1, steps // 10),
        ),
        decoding=card.look.decoding,
        device=request.device,
        threads=request.threads,
    )  # fmt: skip
    fitted(learner, fit, make_optimiser=make_lars)
    return learner, batch


def _judge(
    learner: "LinearProbe", sides: "tuple[Side, Side]", *, subject: "PretrainedEncoder", request: ProbeRequest
) -> list[Score]:
    from otherview.evaluation.features import extract_all
    from otherview.evaluation.knn import accuracy
    from otherview.training.console import RunProgress

    device, test = resolve_device(request.device), sides[1]
    look = subject.card.look._replace(shown=request.shown)
    learner.to(device)
    with RunProgress(total=len(test.indices), title="features", speak=launched_rank() == 0) as progress:
        found = extract_all(
            dict(learner.frozen.items()), test.source, look,  # pyright: ignore[reportArgumentType]
            indices=test.indices, workers=request.workers, advance=progress.advance,
        )  # fmt: skip
    scores = []
    for name, features in found.items():
        truth = test.labels[features.kept]
        for rate, predicted in learner.predict(name, features.tokens["mean"]).items():
            words = f"probe_{name} (rate {rate:g})"
            scores.append(accuracy_score(words, accuracy(predicted, truth), len(truth)))
    return scores


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return show_scores(result)
