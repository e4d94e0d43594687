"""Fine-tuning: the whole encoder learns the classes of labelled images, beside the same encoder untrained.

otherview evaluate finetune --weights DIR --train SPEC --test SPEC
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.regularisation import Regularisation
from otherview.evaluation.scores import Score, Scores, accuracy_score
from otherview.training.launch import launched_rank, launched_ranks
from otherview.verbs.judging import Evaluate, compute_on, finish, open_sides, options_of, read_contents, show_scores
from otherview.verbs.request import resolve_device, shortened
from otherview.verbs.weights import check_weights, known_of

if TYPE_CHECKING:
    from otherview.evaluation.finetune import FineTune
    from otherview.evaluation.frozen import Side
    from otherview.nn.encoder import Encoder
    from otherview.weights.pretrained import Card

WARMUP = 5 / 100
"""Share of the run in which the rate rises."""
LARGEST_BATCH = 1024
LEAST_RATE = 1e-6
DECIDING = "epochs", "rate", "weight_decay", "augment", *Regularisation.__dataclass_fields__
"""Settings that stand in the results."""


@dataclass(kw_only=True)
class Finetune(Evaluate, Regularisation):
    """Fine-tune the whole encoder with the paper's recipe; the last epoch is reported. Resumes like any run."""

    epochs: float = 100.0
    """Times through the training images."""
    batch: int | None = None
    """Images a step, an even number; default: 1024, or a tenth of the training images where they are fewer."""
    accumulation: int = 1
    """Micro-batches a step."""
    rate: float = 2.5e-4
    """Learning rate for a batch of 256."""
    weight_decay: float = 0.05
    augment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's words; none: crops and mirroring alone."""
    shown: float = 0.875
    """Share of the shorter side that the centre crop of a test image leaves (224 of 256); 1 for small images."""
    control: bool = True
    """Also fine-tune the untrained encoder, which takes as long again."""
    seed: int = 0
    """Of the head, the order of images and everything that is drawn."""


def run(request: Finetune) -> dict[str, Any]:
    """The verb."""
    return finetune(request.weights, **options_of(request)).as_json()


def finetune(weights: str | Path, *, train: str, test: str, **options: Any) -> Scores:
    """Accuracy of the last epoch; further options are the fields of Finetune."""
    request = Finetune(weights=str(weights), train=train, test=test, **options)
    began = time.monotonic()
    _check(request)
    sides = open_sides(train, test, request)
    compute_on(request)
    from otherview.nn.encoder import Encoder
    from otherview.verbs.weights import load_encoder

    loaded = load_encoder(weights)
    card = loaded.card
    sides = read_contents(sides, workers=request.workers, allow_shared=request.allow_shared)
    found = {"encoder": _tuned("encoder", loaded.encoder, card, sides=sides, request=request)}
    if request.control:
        control = Encoder(card.encoder, seed=card.seed)
        found["untrained"] = _tuned("untrained", control, card, sides=sides, request=request)
    about = {
        "train": train, "test": test, "train_images": len(sides[0].indices), "batch": _batch(sides[0], request),
        **{name: getattr(request, name) for name in DECIDING}, "shown": request.shown, "finetune_seed": request.seed,
    }  # fmt: skip
    return finish(request, found, known=known_of(card), about=about, began=began)


def _check(request: Finetune) -> None:
    """Raise WrongRequest before anything is opened."""
    check_weights(request.weights)
    bounds = {
        "epochs": (1e-6, 1e6), "rate": (1e-12, 1e3), "layer_decay": (1e-6, 1), "shown": (1e-6, 1), "weight_decay": (0, 1e3),
        "drop_path": (0, 0.999), "mixup": (0, 1e3), "cutmix": (0, 1e3), "smoothing": (0, 0.999), "erasing": (0, 1),
    }  # fmt: skip
    for name, (least, most) in bounds.items():
        if not least <= (value := getattr(request, name)) <= most:
            raise WrongRequest(f"--{name.replace('_', '-')} {value:g} must lie between {least:g} and {most:g}")
    if request.accumulation < 1 or (request.batch or 2) < 2:
        raise WrongRequest(
            f"--batch {request.batch} must be 2 or more and --accumulation {request.accumulation} 1 or more"
        )
    if request.augment != "none":
        from otherview.views.augmented import check_policy

        check_policy(request.augment)
    from otherview.verbs.fitting import check_out

    check_out(request)


def _batch(side: "Side", request: Finetune) -> int:
    from otherview.verbs.fitting import default_batch

    unit = 2 * request.accumulation * launched_ranks()  # mixing wants every micro-batch even
    batch = request.batch or default_batch(len(side.indices), most=LARGEST_BATCH, unit=unit)
    if batch % unit:
        raise WrongRequest(
            f"--batch {batch} must be a multiple of {unit}: micro-batches of every process, mixed in pairs"
        )
    return batch


def _tuned(
    name: str, encoder: "Encoder", card: "Card", *, sides: "tuple[Side, Side]", request: Finetune
) -> list[Score]:
    """Fine-tune one encoder in a folder of its own, keep the classifier, judge it."""
    from otherview.data.plan import StepPlan
    from otherview.evaluation.content import weights_content
    from otherview.training.optim import make_optimiser
    from otherview.training.settings import TrainingSettings
    from otherview.verbs.fitting import Fit, fitted, labelled, labels_content
    from otherview.weights.classifier import save_classifier

    side, batch, device = sides[0], _batch(sides[0], request), resolve_device(request.device)
    steps = 4 if shortened() else max(1, round(request.epochs * (len(side.indices) // batch)))
    fit = Fit(
        folder=(request.out or Path(request.weights)) / ("finetune" if name == "encoder" else f"finetune_{name}"),
        about={
            "protocol": "finetune", "weights": weights_content(encoder), "train": request.train,
            "images": labels_content(side), "steps": steps, "batch": batch, "accumulation": request.accumulation,
            "seed": request.seed, **{setting: getattr(request, setting) for setting in DECIDING},
        },
        source=labelled(side),
        plan=StepPlan(len(side.indices), batch, steps, request.seed, accumulation=request.accumulation),
        settings=TrainingSettings(
            lr_per_256=request.rate, least_lr=LEAST_RATE, warmup=WARMUP, weight_decay=request.weight_decay,
            betas=(0.9, 0.999), clip_norm=None, precision="bf16" if device.type == "cuda" else "fp32",
            accumulation=request.accumulation, workers=request.workers, save_every=max(1, min(500, steps // 10)),
        ),
        decoding=card.look.decoding,
        device=request.device,
        threads=request.threads,
    )  # fmt: skip
    learner = _learner(encoder, card, classes=len(side.names), request=request)
    fitted(learner, fit, make_optimiser=make_optimiser)
    if launched_rank() == 0:
        names = list(side.names)
        save_classifier(fit.folder / "classifier.safetensors", learner.encoder, learner.head, card, names)
    return _judge(f"finetune_{name}", learner, card, test=sides[1], request=request)


def _learner(encoder: "Encoder", card: "Card", *, classes: int, request: Finetune) -> "FineTune":
    from otherview.evaluation.finetune import FineTune
    from otherview.geometry import PatchGrid
    from otherview.nn.class_head import ClassHead
    from otherview.nn.initialise import seeded
    from otherview.verbs.fitting import crops_of
    from otherview.views.augmented import AugmentedViews
    from otherview.views.crop import draw_crop
    from otherview.views.single import LabelledViews

    if request.augment != "none" and card.encoder.channels != 3:
        raise WrongRequest(
            f"--augment {request.augment} is for colour images, not {card.encoder.channels} channels: give none"
        )
    view = crops_of(card.look, PatchGrid(*card.encoder.grid), draw=draw_crop)
    views = LabelledViews(view) if request.augment == "none" else AugmentedViews(view, request.augment)
    with seeded(request.seed, "class head"):
        head = ClassHead(card.encoder.width, classes)
    return FineTune(encoder=encoder, head=head, views=views, seed=request.seed, by=request)


def _judge(name: str, learner: "FineTune", card: "Card", *, test: "Side", request: Finetune) -> list[Score]:
    """Accuracy of the first guess, and of the first five where there are more classes."""
    import torch

    from otherview.evaluation.features import extract_all
    from otherview.training.console import RunProgress

    learner.to(resolve_device(request.device)).eval()
    with RunProgress(total=len(test.indices), title="judging", speak=launched_rank() == 0) as progress:
        found = extract_all(
            {"it": learner.encoder}, test.source, card.look._replace(shown=request.shown),
            indices=test.indices, workers=request.workers, advance=progress.advance,
        )["it"]  # fmt: skip
    with torch.no_grad():
        scores = learner.head(found.tokens["mean"].to(next(learner.parameters()).device)).cpu()
    truth = test.labels[found.kept]
    guesses = scores.topk(min(5, scores.shape[1]), dim=1).indices == truth[:, None]
    shares = {name: guesses[:, 0], **({f"{name}_top5": guesses.any(dim=1)} if scores.shape[1] > 5 else {})}
    return [accuracy_score(label, float(right.double().mean()), len(truth)) for label, right in shares.items()]


show = show_scores
