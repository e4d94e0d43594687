"""Fine-tuning: the whole encoder learns to name classes (specification 2). A Learner under the one loop.

    view ──erase, mix──▶ encoder with drop path ──▶ mean token ──▶ layer norm, Linear ──▶ soft cross-entropy

Erasing, mixing and drop path draw from generators of (seed, progress, rank), set at every step: a run that stopped goes on
as if it had not. The operations are timm's.

Axes: B images, K classes.
"""

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from timm.data import Mixup  # pyright: ignore[reportPrivateImportUsage]
from timm.data.random_erasing import RandomErasing
from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.data.loader import StepPlan
from otherview.distributed import rank
from otherview.errors import WrongRequest
from otherview.evaluation.features import extract_all
from otherview.evaluation.linear import fit_logistic
from otherview.evaluation.result import chance_of, finish, fit_folder
from otherview.evaluation.settings import FinetuneSettings, Regularisation
from otherview.evaluation.split import Split, labels_fingerprint, open_splits, settled_images, with_fingerprints
from otherview.evaluation.whole_images import as_asked
from otherview.launch import launched_rank, launched_ranks, shortened
from otherview.losses.objectives import StepLoss
from otherview.methods.learner import Learner
from otherview.nn.encoder import Encoder
from otherview.nn.heads import ClassHead
from otherview.nn.initialise import seeded
from otherview.scores import Score, Scores, accuracy_score
from otherview.seeding import named_seed
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on, resolve_device
from otherview.training.fit import Fit, default_batch, run_fit
from otherview.training.optim import layered_groups, make_optimiser
from otherview.training.settings import TrainingSettings
from otherview.views.crop import draw_crop
from otherview.views.transforms import AugmentedViews, LabelledView, LabelledViews, check_policy, plain_view
from otherview.views.view import normalise
from otherview.weights.names import check_weights, known_of, load_encoder, named
from otherview.weights.pretrained import Card, save_classifier, weights_fingerprint


class FineTune(Learner):
    """The classifier as its parts."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        head: ClassHead,
        views: AugmentedViews | LabelledViews,
        seed: int,
        by: Regularisation,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(True)
        if encoder.vit.pos_embed is not None:
            encoder.vit.pos_embed.requires_grad_(False)  # positions stay fixed (specification 2)
        self.head = head
        self.seed, self.by = seed, by
        self._views = views
        self._erase = RandomErasing(probability=by.erasing, mode="pixel", max_count=1, device="cpu")
        mixed = by.mixup > 0 or by.cutmix > 0
        self._mix = (
            Mixup(by.mixup, by.cutmix, label_smoothing=by.smoothing, num_classes=head.classes) if mixed else None
        )
        drop_paths(encoder, by.drop_path)

    @property
    def views(self) -> AugmentedViews | LabelledViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"encoder": self.encoder}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """A group for each layer and whether it decays; the rate falls by `layer_decay` from the head down."""
        last = len(self.encoder.vit.blocks) + 1
        return layered_groups(
            self,
            lambda name: layer_of(name.removeprefix("encoder.vit."), last=last),
            no_weight_decay=lambda name, value: value.ndim <= 1 or name.endswith("_token"),
            last=last,
            layer_decay=self.by.layer_decay,
            weight_decay=weight_decay,
        )

    def prepare(self, micro_batches: Sequence[LabelledView], progress: float) -> None:
        """Set the generators that erasing, mixing and drop path draw from."""
        seed = named_seed(self.seed, f"fine-tuning at {progress!r}, rank {rank()}")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def forward(self, batch: LabelledView, context: None, index: int) -> StepLoss:
        settings, labels = self._views.make.settings, torch.as_tensor(batch.label)
        images = normalise(batch.view.pixels, settings.mean, settings.std)
        self._erase.device = images.device.type
        images = self._erase(images)
        if self._mix is None:
            soft = F.one_hot(labels, self.head.classes).float()
            soft = soft * (1 - self.by.smoothing) + self.by.smoothing / soft.shape[1]
        else:
            images, soft = self._mix(images, labels)
        scores = self.classify(images)
        loss = -(soft * F.log_softmax(scores, dim=1)).sum(dim=1).mean()
        right = (scores.detach().argmax(dim=1) == soft.argmax(dim=1)).float().mean()  # of mixed images, the larger part
        return StepLoss(loss, {"accuracy": right})

    def metrics(self, context: None) -> Mapping[str, Tensor]:
        return {}

    def classify(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Scores of the classes for normalised images."""
        return self.head(self.encoder(images).mean).float()


def layer_of(name: str, *, last: int) -> int:
    """Tokens, positions and patch embedding are layer 0, block k is k + 1, the rest is `last`; by timm's names."""
    parts = name.split(".")
    if parts[0] in ("cls_token", "reg_token", "patch_embed", "pos_embed"):
        return 0
    return int(parts[1]) + 1 if parts[0] == "blocks" else last


def drop_paths(encoder: Encoder, most: float) -> None:
    """Let blocks drop their branches by chance, the deeper the oftener."""
    blocks = list(encoder.vit.blocks)
    for index, block in enumerate(blocks):
        share = most * index / max(1, len(blocks) - 1)
        block.drop_path1, block.drop_path2 = (DropPath(share) if share else nn.Identity() for _ in range(2))


WARMUP = 5 / 100
"""Share of the run in which the rate rises."""
LARGEST_BATCH = 1024
LEAST_RATE = 1e-6
DECIDING = "epochs", "rate", "weight_decay", "augment", *Regularisation.__dataclass_fields__
"""Settings that stand in the results."""


@takes(FinetuneSettings)
def finetune(settings: FinetuneSettings) -> Scores:
    """Accuracy of the last epoch, next to the untrained encoder fine-tuned alike."""
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
    found = {"encoder": _tuned("encoder", loaded.encoder, card, splits=splits, settings=settings)}
    if settings.control:
        control = Encoder(card.encoder, seed=card.seed)
        found["untrained"] = _tuned("untrained", control, card, splits=splits, settings=settings)
    about = {
        "train": settings.train, "test": settings.judged_on, "train_images": len(splits[0].indices),
        "batch": _batch(splits[0], settings),
        **{name: getattr(settings, name) for name in DECIDING}, "crop_pct": settings.crop_pct, "finetune_seed": settings.seed,
        **card.preprocessing.about,
    }  # fmt: skip
    return finish(settings, found, known=known_of(card), about=about, began=began, chance=chance_of(splits[1].labels))


def _check(settings: FinetuneSettings) -> None:
    """Raise WrongRequest before anything is opened."""
    check_weights(settings.weights)
    bounds = {
        "epochs": (1e-6, 1e6), "rate": (1e-12, 1e3), "layer_decay": (1e-6, 1), "crop_pct": (1e-6, 1), "weight_decay": (0, 1e3),
        "drop_path": (0, 0.999), "mixup": (0, 1e3), "cutmix": (0, 1e3), "smoothing": (0, 0.999), "erasing": (0, 1),
    }  # fmt: skip
    for name, (least, most) in bounds.items():
        if not least <= (value := getattr(settings, name)) <= most:
            raise WrongRequest(f"--{name.replace('_', '-')} {value:g} must lie between {least:g} and {most:g}")
    if settings.accumulation < 1 or (settings.batch or 2) < 2:
        raise WrongRequest(
            f"--batch {settings.batch} must be 2 or more and --accumulation {settings.accumulation} 1 or more"
        )
    if settings.augment != "none":
        check_policy(settings.augment)

    fit_folder(settings, "finetune")


def _batch(split: Split, settings: FinetuneSettings) -> int:
    unit = 2 * settings.accumulation * launched_ranks()  # mixing wants every micro-batch even
    batch = settings.batch or default_batch(len(split.indices), most=LARGEST_BATCH, unit=unit)
    if batch % unit:
        raise WrongRequest(
            f"--batch {batch} must be a multiple of {unit}: micro-batches of every process, mixed in pairs"
        )
    return batch


def _tuned(
    name: str, encoder: Encoder, card: Card, *, splits: tuple[Split, Split], settings: FinetuneSettings
) -> list[Score]:
    """Fine-tune one encoder in a folder of its own, keep the classifier, judge it."""
    split, batch, device = splits[0], _batch(splits[0], settings), resolve_device(settings.device)
    steps = 4 if shortened() else max(1, round(settings.epochs * (len(split.indices) // batch)))
    fit = Fit(
        folder=fit_folder(settings, "finetune" if name == "encoder" else f"finetune_{name}"),
        about={
            "protocol": "finetune", "weights": weights_fingerprint(encoder), "train": settings.train,
            "images": labels_fingerprint(split), "steps": steps, "batch": batch, "accumulation": settings.accumulation,
            "seed": settings.seed, **{setting: getattr(settings, setting) for setting in DECIDING},
            "size": list(card.preprocessing.size),
        },
        source=split.relabelled,
        plan=StepPlan(len(split.indices), batch, steps, settings.seed, accumulation=settings.accumulation),
        settings=TrainingSettings(
            lr_per_256=settings.rate, min_lr=LEAST_RATE, warmup=WARMUP, weight_decay=settings.weight_decay,
            betas=(0.9, 0.999), clip_norm=None, precision="bf16" if device.type == "cuda" else "fp32",
            accumulation=settings.accumulation, workers=settings.workers, save_every=max(1, min(500, steps // 10)),
        ),
        preprocessing=card.preprocessing,
        compute=settings,
    )  # fmt: skip
    learner = _learner(encoder, card, classes=len(split.names), settings=settings)
    if settings.head == "linear":
        start_linearly(learner, card, split=split, settings=settings)
    run_fit(learner, fit, make_optimiser=make_optimiser)
    if launched_rank() == 0:
        names = list(split.names)
        save_classifier(fit.folder / "classifier.safetensors", learner.encoder, learner.head, card, names)
    return _judge(f"finetune_{name}", learner, card, test=splits[1], settings=settings)


def start_linearly(learner: FineTune, card: Card, *, split: Split, settings: FinetuneSettings) -> None:
    """Let the head begin as a logistic regression on the frozen encoder's features (Kumar et al., arXiv 2202.10054)."""
    learner.to(resolve_device(settings.device)).eval()
    preprocessing = card.preprocessing._replace(crop_pct=settings.crop_pct)
    found = extract_all(
        {"it": learner.encoder}, split.source, preprocessing, indices=split.indices, workers=settings.workers
    )["it"]
    norm, last = learner.head[0], learner.head[1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        features = norm(found.tokens["mean"].to(last.weight.device)).cpu()
    labels = split.labels[found.kept]
    fitted = fit_logistic(features, labels, strength=1 / len(labels))
    with torch.no_grad():
        weight = (fitted.weight / fitted.scale[:, None]).T
        last.weight.copy_(weight)
        last.bias.copy_(fitted.bias - weight @ fitted.shift)


def _learner(encoder: Encoder, card: Card, *, classes: int, settings: FinetuneSettings) -> FineTune:
    if settings.augment != "none" and card.encoder.channels != 3:
        raise WrongRequest(
            f"--augment {settings.augment} is for colour images, not {card.encoder.channels} channels: give none"
        )
    view = plain_view(card.preprocessing, card.grid, draw=draw_crop)
    views = LabelledViews(view) if settings.augment == "none" else AugmentedViews(view, settings.augment)
    with seeded(settings.seed, "class head"):
        head = ClassHead(card.encoder.width, classes)
    return FineTune(encoder=encoder, head=head, views=views, seed=settings.seed, by=settings)


def _judge(name: str, learner: FineTune, card: Card, *, test: Split, settings: FinetuneSettings) -> list[Score]:
    """Accuracy of the first guess, and of the first five where there are more classes."""
    learner.to(resolve_device(settings.device)).eval()
    with RunProgress(total=len(test.indices), title="judging", speak=launched_rank() == 0) as progress:
        found = extract_all(
            {"it": learner.encoder}, test.source, card.preprocessing._replace(crop_pct=settings.crop_pct),
            indices=test.indices, workers=settings.workers, advance=progress.advance,
        )["it"]  # fmt: skip
    with torch.no_grad():
        scores = learner.head(found.tokens["mean"].to(next(learner.parameters()).device)).cpu()
    truth = test.labels[found.kept]
    guesses = scores.topk(min(5, scores.shape[1]), dim=1).indices == truth[:, None]
    shares = {name: guesses[:, 0], **({f"{name}_top5": guesses.any(dim=1)} if scores.shape[1] > 5 else {})}
    return [accuracy_score(label, right.numpy()) for label, right in shares.items()]
