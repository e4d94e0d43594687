"""Fine-tuning: the whole encoder learns to classify images, beside what it could do without (specification 2).

Its controls are a logistic regression on its frozen features and, fine-tuned alike, the untrained encoder and the weights
that its run started from.

Axes: N images, D width.
"""

import sys
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from otherview.data.loader import StepPlan
from otherview.errors import WrongRequest
from otherview.evaluation.class_report import ClassReport, class_report
from otherview.evaluation.classifier import FineTune, start_linearly
from otherview.evaluation.features import extract_all
from otherview.evaluation.fit_defaults import finetune_recipe, in_words, published
from otherview.evaluation.result import chance_of, finish, fit_folder
from otherview.evaluation.settings import FinetuneRecipe, FinetuneSettings
from otherview.evaluation.split import Split, labels_fingerprint, open_splits, settled_images, with_fingerprints
from otherview.evaluation.whole_images import as_asked
from otherview.launch import launched_rank, launched_ranks, shortened
from otherview.nn.encoder import Encoder
from otherview.nn.heads import ClassHead
from otherview.nn.initialise import seeded
from otherview.scores import Score, Scores, accuracy_score
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on, resolve_device
from otherview.training.fit import Fit, run_fit
from otherview.training.optim import make_optimiser
from otherview.training.settings import TrainingSettings
from otherview.views.crop import draw_crop
from otherview.views.transforms import AugmentedViews, LabelledViews, check_policy, plain_view
from otherview.weights.names import check_weights, controls_of, known_of, load_encoder, named
from otherview.weights.pretrained import Card, save_classifier, weights_fingerprint

WARMUP = 5 / 100
"""Share of the run in which the rate rises."""
LEAST_RATE = 1e-6


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every encoder is fitted to and judged by."""

    settings: FinetuneSettings
    recipe: FinetuneRecipe
    card: Card
    train: Split
    test: Split


@takes(FinetuneSettings)
def finetune(settings: FinetuneSettings) -> Scores:
    """Accuracy of the last epoch, next to the controls."""
    began = time.monotonic()
    _check(settings)
    splits = open_splits(settings)
    compute_on(settings)

    loaded = load_encoder(named(settings.weights))
    card = loaded.card
    wanted = as_asked(card.preprocessing, settings, patch_size=card.encoder.patch_size)
    card = card.seeing(settled_images([split.source for split in splits], wanted))
    splits = with_fingerprints(
        splits, workers=settings.workers, allow_shared=settings.allow_shared, held_out=settings.test is None
    )
    recipe = _recipe(settings, splits[0], card)
    card = card.model_copy(update={"crop_pct": recipe.crop_pct})
    job = _Job(settings=settings, recipe=recipe, card=card, train=splits[0], test=splits[1])
    controls = controls_of(settings.weights, card) if settings.control else {}
    encoders = {"encoder": loaded.encoder, **controls}
    found: dict[str, list[Score]] = {}
    reports: list[ClassReport] = []
    for name, encoder in encoders.items():
        scores, report = _tuned(name, encoder, job)
        found |= scores
        reports.append(report)
    about = {
        "train": settings.train, "test": settings.judged_on, "train_images": len(splits[0].indices),
        "protocol": settings.protocol, **asdict(recipe), "finetune_seed": settings.seed, **card.preprocessing.about,
    }  # fmt: skip
    known = known_of(card)
    chance = chance_of(splits[1].labels)
    return finish(settings, found, known=known, about=about, began=began, chance=chance, report=reports[0])


def _check(settings: FinetuneSettings) -> None:
    """Raise WrongRequest before anything is opened."""
    check_weights(settings.weights)
    bounds = {
        "epochs": (1e-6, 1e6), "rate": (1e-12, 1e3), "layer_decay": (1e-6, 1), "crop_pct": (1e-6, 1), "weight_decay": (0, 1e3),
        "drop_path": (0, 0.999), "mixup": (0, 1e3), "cutmix": (0, 1e3), "smoothing": (0, 0.999), "erasing": (0, 1),
    }  # fmt: skip
    for name, (least, most) in bounds.items():
        value = getattr(settings, name)
        if value is not None and not least <= value <= most:
            raise WrongRequest(f"--{name.replace('_', '-')} {value:g} must lie between {least:g} and {most:g}")
    if settings.accumulation < 1 or (settings.batch or 2) < 2:
        raise WrongRequest(
            f"--batch {settings.batch} must be 2 or more and --accumulation {settings.accumulation} 1 or more"
        )
    if settings.crop_share is not None and not 0 < settings.crop_share[0] <= settings.crop_share[1] <= 1:
        low, high = settings.crop_share
        raise WrongRequest(f"--crop-share {low:g} {high:g} must be two shares above 0 and up to 1, the smaller first")
    if settings.augment not in (None, "none"):
        check_policy(settings.augment)

    fit_folder(settings, "finetune")


def _recipe(settings: FinetuneSettings, train: Split, card: Card) -> FinetuneRecipe:
    """What was asked for and chosen, which is said."""
    images = len(train.indices)
    unit = 2 * settings.accumulation * launched_ranks()  # mixing wants every micro-batch even
    recipe = finetune_recipe(settings, images=images, encoder=card.encoder, unit=unit)
    if recipe.batch % unit:
        raise WrongRequest(
            f"--batch {recipe.batch} must be a multiple of {unit}: micro-batches of every process, mixed in pairs"
        )
    if recipe.augment != "none" and card.encoder.channels != 3:
        raise WrongRequest(
            f"--augment {recipe.augment} is for colour images, not {card.encoder.channels} channels: give none"
        )
    if launched_rank() == 0:
        print(in_words(recipe, images=images, paper=published(settings, images=images)), file=sys.stderr)
    return recipe


class _Features(NamedTuple):
    """Mean tokens of a split's readable images, and their labels."""

    mean: Float[Tensor, "N D"]
    labels: Tensor


def _features(encoder: Encoder, split: Split, job: _Job, *, title: str) -> _Features:
    with RunProgress(total=len(split.indices), title=title, speak=launched_rank() == 0) as progress:
        found = extract_all(
            {"it": encoder}, split.source, job.card.preprocessing, indices=split.indices, workers=job.settings.workers,
            advance=progress.advance,
        )["it"]  # fmt: skip
    return _Features(found.tokens["mean"], split.labels[found.kept])


def _tuned(name: str, encoder: Encoder, job: _Job) -> tuple[dict[str, list[Score]], ClassReport]:
    """Fine-tune one encoder in a folder of its own, keep the classifier, judge it; the encoder itself as it is, too."""
    settings, recipe, split = job.settings, job.recipe, job.train
    device = resolve_device(settings.device)
    steps = 4 if shortened() else max(1, round(recipe.epochs * (len(split.indices) // recipe.batch)))
    fit = Fit(
        folder=fit_folder(settings, "finetune" if name == "encoder" else f"finetune_{name}"),
        about={
            "protocol": "finetune", "weights": weights_fingerprint(encoder), "train": settings.train,
            "images": labels_fingerprint(split), "steps": steps, "accumulation": settings.accumulation,
            "seed": settings.seed, **asdict(recipe), "size": list(job.card.preprocessing.size),
        },
        source=split.relabelled,
        plan=StepPlan(len(split.indices), recipe.batch, steps, settings.seed, accumulation=settings.accumulation),
        settings=TrainingSettings(
            lr_per_256=recipe.rate, min_lr=LEAST_RATE, warmup=WARMUP, weight_decay=recipe.weight_decay,
            betas=(0.9, 0.999), clip_norm=None, precision="bf16" if device.type == "cuda" else "fp32",
            accumulation=settings.accumulation, workers=settings.workers, save_every=max(1, min(500, steps // 10)),
        ),
        preprocessing=job.card.preprocessing,
        compute=settings,
    )  # fmt: skip
    learner = _learner(encoder, job)
    learner.to(device).eval()
    before: dict[str, list[Score]] = {}
    if name == "encoder" or recipe.head == "linear":
        known = _features(learner.encoder, split, job, title="frozen features")
        random_head = {key: value.clone() for key, value in learner.head.state_dict().items()}
        start_linearly(learner.head.cpu(), known.mean, known.labels)
        learner.to(device)
        if name == "encoder":
            before = {"frozen": _judge("finetune_frozen", learner, job)[0]}
        if recipe.head == "random":
            learner.head.load_state_dict(random_head)
    run_fit(learner, fit, make_optimiser=make_optimiser)
    if launched_rank() == 0:
        names = list(split.names)
        save_classifier(fit.folder / "classifier.safetensors", learner.encoder, learner.head, job.card, names)
    scores, report = _judge(f"finetune_{name}", learner, job)
    return {name: scores, **before}, report


def _learner(encoder: Encoder, job: _Job) -> FineTune:
    recipe, card, seed = job.recipe, job.card, job.settings.seed
    view = plain_view(card.preprocessing, card.grid, draw=draw_crop, share=recipe.crop_share)
    views = LabelledViews(view) if recipe.augment == "none" else AugmentedViews(view, recipe.augment)
    with seeded(seed, "class head"):
        head = ClassHead(card.encoder.width, len(job.train.names))
    return FineTune(encoder=encoder, head=head, views=views, seed=seed, by=recipe)


def _judge(name: str, learner: FineTune, job: _Job) -> tuple[list[Score], ClassReport]:
    """Accuracy of the first guess, and of the first five where there are more classes; and the classes one by one."""
    learner.to(resolve_device(job.settings.device)).eval()
    found = _features(learner.encoder, job.test, job, title="judging")
    with torch.no_grad():
        scores = learner.head(found.mean.to(next(learner.parameters()).device)).cpu()
    guesses = scores.topk(min(5, scores.shape[1]), dim=1).indices == found.labels[:, None]
    shares = {name: guesses[:, 0], **({f"{name}_top5": guesses.any(dim=1)} if scores.shape[1] > 5 else {})}
    made = [accuracy_score(label, right.numpy()) for label, right in shares.items()]
    if name != "finetune_encoder":
        return made, ClassReport([])
    chances, truth = scores.double().softmax(dim=1).numpy(), found.labels.numpy()
    return made, class_report(truth, chances.argmax(axis=1), list(job.train.names), chances=chances)
