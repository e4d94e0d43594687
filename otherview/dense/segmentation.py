"""A segmenter learns: a Learner under the one loop.

Axes: B images, C channels, K classes, S side in pixels, H and W pixels.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from otherview.data.agreement import check_agreement
from otherview.data.image import Preprocessing
from otherview.data.objects import IGNORED, check_pixels, pixels_named
from otherview.data.shapes import Shapes
from otherview.data.source import Selected, Source, name_once
from otherview.data.spec import open_aloud
from otherview.dense.dense_defaults import settled_segmentation
from otherview.dense.detection import draw_anew
from otherview.dense.fit_models import (
    DenseFit,
    about_fit,
    check_request,
    chosen,
    compare_splits,
    fit_dense,
    load_all,
    settled_config,
)
from otherview.dense.fitted import FittedSegmenter, save_segmenter
from otherview.dense.inference import predictions
from otherview.dense.samples import PixelsView, PixelViews, numbered
from otherview.dense.settings import SegmentConfig, SegmentSettings
from otherview.dense.upernet import UPerNet, resized, share_statistics, synchronised
from otherview.distributed import computed_by_first, on_first
from otherview.errors import BrokenImage, WrongRequest
from otherview.evaluation.class_report import ClassReport
from otherview.evaluation.classifier import layer_of
from otherview.evaluation.pixel_scores import Segmented, pixel_confusion
from otherview.evaluation.result import finish
from otherview.launch import launched_rank, launched_ranks
from otherview.losses.objectives import StepLoss
from otherview.methods.learner import Learner
from otherview.nn.encoder import Encoder
from otherview.report.predictions import draw_pixels
from otherview.scores import Score, Scores
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import resolve_device
from otherview.training.optim import layered_groups, peak_rate, polynomial
from otherview.views.view import normalise
from otherview.weights.names import known_of
from otherview.weights.pretrained import Card, weights_fingerprint


class Segment(Learner):
    """Dropout and drop path draw from generators of (seed, progress, rank)."""

    def __init__(
        self, net: UPerNet, views: PixelViews, preprocessing: Preprocessing, config: SegmentConfig, *, seed: int
    ) -> None:
        super().__init__()
        self.net, self.preprocessing, self.config, self.seed = net, preprocessing, config, seed
        self._views = views

    @property
    def views(self) -> PixelViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Any]:
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        last = len(self.net.blocks) + 1
        return layered_groups(
            self, lambda name: _layer_of(name, last=last), no_weight_decay=_no_weight_decay, last=last,
            layer_decay=self.config.layer_decay, weight_decay=weight_decay,
        )  # fmt: skip

    def prepare(self, micro_batches: Sequence[PixelsView], progress: float) -> None:
        draw_anew(self.seed, f"segmentation at {progress!r}")

    def forward(self, batch: PixelsView, context: None, index: int) -> StepLoss:
        scores, auxiliary = self.net(normalise(batch.pixels, self.preprocessing.mean, self.preprocessing.std))
        assert auxiliary is not None
        labels = batch.labels.long()
        main, side = (_cross_entropy(part, labels) for part in (scores, auxiliary))
        with torch.no_grad():
            known = labels != IGNORED
            guessed = resized(scores, like=labels).argmax(dim=1)
            right = ((guessed == labels) & known).sum() / known.sum().clamp(min=1)
        terms = {"main": main.detach(), "auxiliary": side.detach(), "accuracy": right}
        return StepLoss(main + self.config.auxiliary_weight * side, terms)

    def metrics(self, context: None) -> Mapping[str, Tensor]:
        return {}


def _layer_of(name: str, *, last: int) -> int:
    """Relative positions belong to their block."""
    if name.startswith("net.relative."):
        return int(name.split(".")[2]) + 1
    return layer_of(name.removeprefix("net.backbone.vit."), last=last)


def _no_weight_decay(name: str, value: Tensor) -> bool:
    """Whether a tensor does not decay: norms, biases, tokens and tables of positions."""
    return value.ndim <= 1 or name.endswith(("_token", "table", "pos_embed"))


def _cross_entropy(scores: Float[Tensor, "B K _ _"], labels: Tensor) -> Float[Tensor, ""]:
    """The mean over the pixels that count; 0 where none does."""
    total = F.cross_entropy(resized(scores.float(), like=labels), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all encoders are fitted to and judged by."""

    settings: SegmentSettings
    images: str
    """Names the training images' bytes and labels."""
    learned: "Source"
    test: "Source"
    judged: np.ndarray
    classes: int


@takes(SegmentSettings)
def segment(settings: SegmentSettings) -> Scores:
    """mIoU and pixel accuracy after the last step, next to the controls'."""
    train, test = settings.train, settings.test
    began = time.monotonic()
    check_request(settings, settings.config.training)

    sources = open_aloud(train), open_aloud(test)
    for source, spec in zip(sources, (train, test), strict=True):
        check_pixels(source, spec)
        check_agreement(source, flag=spec)
    loaded = load_all(settings, sources)
    card = loaded["encoder"].card
    used, judged = chosen(sources[0], settings.train_images), chosen(sources[1], settings.test_images)
    learned = Selected(sources[0], used)
    config = settled_config(settings.config, settings, learned, card.encoder, settle=settled_segmentation)
    if config.batch < 2 * config.training.accumulation * launched_ranks():
        raise WrongRequest(
            f"--batch {config.batch} leaves one image per process and micro-batch: batch norm needs two or more"
        )
    settings = replace(settings, config=config)
    images = compare_splits(settings, (sources[0], used), (sources[1], judged))
    classes, labels = _classes(learned, Selected(sources[1], judged), settings)
    job = _Job(
        settings=settings,
        images=f"{images} {labels}",
        learned=learned,
        test=sources[1],
        judged=judged,
        classes=classes,
    )
    made = {name: _segmented(name, one.encoder, one.card, job) for name, one in loaded.items()}
    found, report = {name: scores for name, (scores, _) in made.items()}, made["encoder"][1]
    about = {**about_fit(settings, config, learned), "classes": job.classes}
    return finish(settings, found, known=known_of(card), about=about, began=began, report=report)


def _classes(learned: Source, judged: Source, settings: SegmentSettings) -> tuple[int, str]:
    """How many classes there are, and what names the training labels; raises WrongRequest where labels and --classes do not
    fit each other."""
    if settings.classes is not None and not 2 <= settings.classes <= IGNORED:
        raise WrongRequest(f"--classes {settings.classes} must lie between 2 and {IGNORED}")
    known = {flag: _known(split, settings) for flag, split in (("--train", learned), ("--test", judged))}
    classes = settings.classes or known["--train"][0] + 1
    if classes < 2:
        raise WrongRequest(f"--train {settings.train} has one class only: segmentation needs two or more")
    for flag, (largest, _) in known.items():
        if largest >= classes:
            raise WrongRequest(
                f"{flag} has labels of class {largest}, where there are {classes}: give --classes {largest + 1}"
            )
    return classes, known["--train"][1]


def _known(source: Source, settings: SegmentSettings) -> tuple[int, str]:
    """The largest class of all labels, and what names them; takes a pass over them."""
    most, digest = -1, blake2b(digest_size=8)
    with RunProgress(total=len(source), title="counting classes", speak=launched_rank() == 0) as progress:
        for index in range(len(source)):
            try:
                labels = numbered(pixels_named(source, index), zero_is_ignored=settings.config.zero_is_ignored)
                most = max(most, int(labels[labels != IGNORED].astype(int).max(initial=-1)))
                digest.update(np.ascontiguousarray(labels).tobytes())
            except BrokenImage as error:
                name_once(f"{source.name(index)}: {error}")
            progress.advance(1)
    return most, digest.hexdigest()


def _segmented(name: str, encoder: Encoder, card: Card, job: _Job) -> tuple[list[Score], ClassReport]:
    """Fit one encoder, keep and judge what it says of the test images."""
    settings, config = job.settings, job.settings.config
    warmup = config.warmup_steps / config.steps
    fitting = DenseFit(
        settings=settings, config=config, source=job.learned, protocol="segment", card=card, images=job.images,
        fingerprint=f"{weights_fingerprint(encoder)}, {job.classes} classes",
        rate=lambda settings, batch, progress: peak_rate(settings, batch)
        * polynomial(progress, warmup=warmup, power=config.power),
    )  # fmt: skip
    net = synchronised(
        UPerNet(encoder, config, classes=job.classes, seed=settings.seed),
        cuda=resolve_device(settings.device).type == "cuda",
    )
    views = PixelViews(config, tuple(round(255 * level) for level in card.mean))
    folder = fit_dense(name, Segment(net, views, card.preprocessing, config, seed=settings.seed), fitting)
    share_statistics(net)
    return _judge(f"segment_{name}", net.to(resolve_device(settings.device)), card, folder, job)


def _judge(name: str, net: UPerNet, card: Card, folder: Path, job: _Job) -> tuple[list[Score], ClassReport]:
    config, drawn, confusion = job.settings.config, [], []
    with RunProgress(total=len(job.judged), title="segmenting", speak=launched_rank() == 0) as progress:
        for one in predictions(net, job.test, job.judged, card.preprocessing, config, workers=job.settings.workers):
            progress.advance(1)
            if one is None:
                continue
            one.save(folder / "predictions")
            assert one.truth is not None
            confusion.append(pixel_confusion(one.truth, one.predicted, classes=job.classes))
            if len(drawn) < job.settings.pictures:
                drawn.append((one.name, one.pixels, one.truth, one.predicted))
    everyone = on_first(confusion) or []

    def judged() -> tuple[list[Score], ClassReport]:
        found = [image for part in everyone for image in part]
        result = Segmented.of(found) if found else None
        scores = result.scores(name) if result is not None and result.counted else []
        names = _names(job.test, config)
        known = [names[kind] if kind < len(names) else str(kind) for kind in range(job.classes)]
        save_segmenter(folder / "segmenter.safetensors", FittedSegmenter(net, config, card, known))
        if drawn:
            draw_pixels(drawn, names).savefig(folder / "predictions.png", dpi=150, bbox_inches="tight")
        return scores, result.report(names) if scores and result is not None else ClassReport([])

    scores, report = computed_by_first(judged)
    if not scores:
        raise RuntimeError(
            f"no image of {job.settings.test} with pixels that count could be read: there is nothing to judge"
        )
    return scores, report


def _names(source: Source, config: SegmentConfig) -> Sequence[str]:
    """What the classes of pixels are called, where that is known."""
    return ["ground", *source.classes] if isinstance(source, Shapes) and not config.zero_is_ignored else []
