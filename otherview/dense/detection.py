"""A detector learns: a Learner under the one loop.

Axes: B images, S side in pixels.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from otherview.data.agreement import check_agreement
from otherview.data.coco import CocoImages
from otherview.data.image import Preprocessing
from otherview.data.objects import Category, Placing, mask_tools, placed_in, placing
from otherview.data.source import Selected, Source
from otherview.data.spec import open_aloud
from otherview.dense.box_ap import ap_scores, category_report
from otherview.dense.dense_defaults import settled_detection
from otherview.dense.detector import Detector
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
from otherview.dense.fitted import FittedDetector, save_detector
from otherview.dense.inference import Detection, detections
from otherview.dense.regions import repeat_factors, repeated
from otherview.dense.samples import JitteredObjects, ObjectsView
from otherview.dense.settings import DetectSettings
from otherview.distributed import computed_by_first, rank
from otherview.errors import WrongRequest
from otherview.evaluation.class_report import ClassReport
from otherview.evaluation.classifier import layer_of
from otherview.evaluation.result import finish
from otherview.files import write_atomically
from otherview.launch import launched_rank
from otherview.losses.objectives import StepLoss
from otherview.methods.learner import Learner
from otherview.nn.encoder import Encoder
from otherview.report.predictions import draw_objects
from otherview.scores import Score, Scores
from otherview.seeding import named_seed
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import resolve_device
from otherview.training.optim import falling, layered_groups, peak_rate
from otherview.views.view import normalise
from otherview.weights.names import known_of
from otherview.weights.pretrained import Card, weights_fingerprint


class Detect(Learner):
    """The sampling of proposals and regions, and drop path, draw from generators of (seed, progress, rank)."""

    def __init__(
        self, detector: Detector, views: JitteredObjects, preprocessing: Preprocessing, *, layer_decay: float, seed: int
    ) -> None:
        super().__init__()
        self.detector, self.preprocessing, self.seed, self.layer_decay = detector, preprocessing, seed, layer_decay
        self._views = views

    @property
    def views(self) -> JitteredObjects:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Any]:
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Norms and positions do not decay; the rate of a block falls by `layer_decay` from the last one down."""
        last = len(self.detector.backbone.blocks) + 1
        norms = {id(value) for part in self.modules() if isinstance(part, nn.LayerNorm) for value in part.parameters()}
        return layered_groups(
            self,
            lambda name: layer_of(name.removeprefix("detector.backbone."), last=last),
            no_weight_decay=lambda name, value: id(value) in norms or name.endswith("pos_embed"),
            last=last,
            layer_decay=self.layer_decay,
            weight_decay=weight_decay,
        )

    def prepare(self, micro_batches: Sequence[ObjectsView], progress: float) -> None:
        draw_anew(self.seed, f"detection at {progress!r}")

    def forward(self, batch: ObjectsView, context: None, index: int) -> StepLoss:
        images = normalise(batch.pixels, self.preprocessing.mean, self.preprocessing.std)
        sizes = [(height, width) for height, width in batch.size.tolist()]
        parts = zip(batch.boxes.split(), batch.labels.split(), batch.masks.split(), strict=True)
        objects = [{"boxes": boxes, "labels": labels, "masks": masks} for boxes, labels, masks in parts]
        _, losses = self.detector(images, sizes, objects)
        return StepLoss(
            torch.stack(list(losses.values())).sum(), {name: part.detach() for name, part in losses.items()}
        )

    def metrics(self, context: None) -> Mapping[str, Tensor]:
        return {}


def draw_anew(seed: int, purpose: str) -> None:
    """Set torch's generator for a step on this rank."""
    torch.manual_seed(named_seed(seed, f"{purpose}, rank {rank()}"))


SHOWN_FAULTS = 10


@takes(DetectSettings)
def detect(settings: DetectSettings) -> Scores:
    """Box and mask AP after the last step, next to the controls'."""
    train, test = settings.train, settings.test
    began = time.monotonic()
    check_request(settings, settings.config.training)

    mask_tools()
    sources = open_aloud(train), open_aloud(test)
    splits = placing(sources[0], train), placing(sources[1], test)
    _check_categories(*splits)
    for split, source, spec in zip(splits, sources, (train, test), strict=True):
        check_agreement(source, flag=spec)
        _say_faults(split)
    judged = chosen(sources[1], settings.test_images)
    if not any(splits[1].kinds(int(index)) for index in judged):
        raise WrongRequest(f"--test {test} shows no object in the images that are judged: there is nothing to find")
    loaded = load_all(settings, sources)
    card, used = loaded["encoder"].card, _shown(sources[0], splits[0], settings)
    config = settled_config(
        settings.config, settings, Selected(sources[0], used), card.encoder, settle=settled_detection
    )
    settings = replace(settings, config=config)
    job = _Job(
        settings=settings,
        images=f"{compare_splits(settings, (sources[0], used), (sources[1], judged))} {_annotations(splits[0])}",
        learned=_repeated(sources[0], used, splits[0], settings),
        test=sources[1],
        judged=judged,
        categories=splits[0].categories,
        truth=splits[1].truth(),
    )
    made = {name: _detected(name, one.encoder, one.card, job) for name, one in loaded.items()}
    found, report = {name: scores for name, (scores, _) in made.items()}, made["encoder"][1]
    return finish(
        settings,
        found,
        known=known_of(card),
        about=about_fit(settings, config, job.learned),
        began=began,
        report=report,
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all encoders are fitted to and judged by."""

    settings: DetectSettings
    images: str
    """Names the training images' bytes and annotations."""
    learned: "Source"
    test: "Source"
    judged: np.ndarray
    categories: "Sequence[Category]"
    """Of the training images; the detector's classes."""
    truth: dict[str, Any]


def _check_categories(train: Placing, test: Placing) -> None:
    known, asked = ({kind.id: kind.name for kind in split.categories} for split in (train, test))
    if not known:
        raise WrongRequest("--train lists no categories: an annotation file needs an entry 'categories'")
    if sorted(asked.values()) == sorted(known.values()) and asked != known:
        raise WrongRequest("--test has the categories of --train under other ids: give both files the same ids")
    if unknown := sorted(set(asked.items()) - set(known.items())):
        raise WrongRequest(f"--test has categories that --train lacks ({unknown[0][1]}, id {unknown[0][0]}, for one)")


def _annotations(split: Placing) -> str:
    """Names what an annotation file says; other sources are named by their SPEC."""
    return split.fingerprint() if isinstance(split, CocoImages) else ""


def _say_faults(split: Placing) -> None:
    if not isinstance(split, CocoImages) or launched_rank() > 0:
        return
    faults = list(islice(split.faults(), 1000))
    for line in faults[:SHOWN_FAULTS]:
        print(line, file=sys.stderr)
    if len(faults) > SHOWN_FAULTS:
        more = f"{len(faults) - SHOWN_FAULTS}{' or more' if len(faults) == 1000 else ''}"
        print(f"and {more} other annotations of {split.file}", file=sys.stderr)


def _shown(source: Source, split: Placing, settings: DetectSettings) -> np.ndarray:
    """Indices of the training images that show an object."""
    indices = chosen(source, settings.train_images)
    shown = np.array([bool(split.kinds(int(index))) for index in indices])
    if not shown.any():
        raise WrongRequest(f"--train {settings.train} shows no object that can be learned from")
    return indices[shown]


def _repeated(source: Source, indices: np.ndarray, split: Placing, settings: DetectSettings) -> Source:
    """Training images; where asked for, those with rare classes more often."""
    if settings.config.repeat_threshold is not None:
        factors = repeat_factors(
            [split.kinds(int(index)) for index in indices], threshold=settings.config.repeat_threshold
        )
        indices = indices[repeated(factors, seed=settings.seed)]
    return Selected(source, indices)


def _detected(name: str, encoder: Encoder, card: Card, job: _Job) -> tuple[list[Score], ClassReport]:
    """Fit one encoder, keep and judge what it finds."""
    settings, config = job.settings, job.settings.config
    warmup = config.warmup_steps / config.steps
    fitting = DenseFit(
        settings=settings, config=config, source=job.learned, protocol="detect", card=card,
        fingerprint=weights_fingerprint(encoder),
        images=job.images,
        rate=lambda settings, batch, progress: peak_rate(settings, batch)
        * falling(progress, warmup=warmup, milestones=config.milestones),
    )  # fmt: skip
    detector = Detector(encoder, config, job.categories, seed=settings.seed)
    views = JitteredObjects(config.size, config.jitter, config.flip)
    learner = Detect(detector, views, card.preprocessing, layer_decay=config.layer_decay, seed=settings.seed)
    folder = fit_dense(name, learner, fitting)
    learner.to(resolve_device(settings.device))
    with RunProgress(total=len(job.judged), title="detecting", speak=launched_rank() == 0) as progress:
        found, read = detections(
            detector, job.test, job.judged, card.preprocessing, side=config.size, workers=settings.workers,
            category_ids=[kind.id for kind in job.categories], advance=progress.advance,
        )  # fmt: skip

    def judged() -> tuple[list[Score], ClassReport]:
        ids = [image.id for image in read]
        scores = ap_scores(job.truth, found, image_ids=ids, name=f"detect_{name}")
        _keep(folder, found, FittedDetector(detector, config, card, list(job.categories)), job, read=ids)
        return scores, category_report(job.truth, found, image_ids=ids)

    scores, report = computed_by_first(judged)
    if not scores:
        raise RuntimeError(f"no image of {settings.test} that shows an object could be read: there is nothing to find")
    return scores, report


def _keep(folder: Path, found: Sequence[Detection], fitted: FittedDetector, job: _Job, *, read: Sequence[int]) -> None:
    """Predictions, the model and pictures beside the checkpoints."""
    write_atomically(folder / "predictions.json", json.dumps(list(found)).encode())
    save_detector(folder / "detector.safetensors", fitted)
    known = set(read)
    shown = [index for index in job.judged.tolist() if placed_in(job.test, index) in known][: job.settings.pictures]
    if shown:
        names = {kind.id: kind.name for kind in job.categories}
        figure = draw_objects(job.test, np.array(shown), found, names)
        figure.savefig(folder / "predictions.png", dpi=150, bbox_inches="tight")
