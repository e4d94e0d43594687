"""Detection and instance segmentation: ViTDet with Mask R-CNN on an encoder, beside the same encoder untrained.

otherview evaluate detect --recipe detect_pico --weights DIR --train shapes:2000@64 --test shapes:500:test@64
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from otherview.dense.settings import DetectConfig
from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores
from otherview.training.launch import launched_rank
from otherview.verbs import dense_fit
from otherview.verbs.judging import finish, options_of, show_scores
from otherview.verbs.request import resolve_device
from otherview.verbs.weights import known_of

if TYPE_CHECKING:
    from otherview.data.objects import Category, Placing
    from otherview.data.source import Source
    from otherview.dense.detections import Detection
    from otherview.dense.detector import Detector
    from otherview.nn.encoder import Encoder
    from otherview.weights.pretrained import Card

SHOWN_FAULTS = 10


@dataclass(kw_only=True)
class DetectRequest(dense_fit.DenseRequest):
    """Fine-tune an encoder as a detector: box and mask AP, by COCO's rules or, for LVIS files, by LVIS's. Resumes like any run.

    Beside the checkpoints lie predictions.json, in COCO's form, and pictures of predictions beside the truth.
    """

    config: Annotated[DetectConfig, tyro.conf.arg(name="")]
    """Every setting of the fit; the values shown are the recipe's."""


def run(request: DetectRequest) -> dict[str, Any]:
    """The verb."""
    return detect(request.weights, **options_of(request)).as_json()


def detect(weights: str | Path, *, train: str, test: str, config: DetectConfig, **options: Any) -> Scores:
    """Box and mask AP after the last step; further options are the fields of DetectRequest."""
    request = DetectRequest(weights=str(weights), train=train, test=test, config=config, **options)
    began = time.monotonic()
    dense_fit.check_request(request, config)
    from otherview.data.objects import mask_tools, placing
    from otherview.data.spec import open_source

    mask_tools()
    sources = open_source(train), open_source(test)
    sides = placing(sources[0], train), placing(sources[1], test)
    _check_categories(*sides)
    for side in sides:
        _say_faults(side)
    judged = dense_fit.chosen(sources[1], request.test_images)
    if not any(sides[1].kinds(int(index)) for index in judged):
        raise WrongRequest(f"--test {test} shows no object in the images that are judged: there is nothing to find")
    loaded = dense_fit.load_both(request, config)
    used = dense_fit.chosen(sources[0], request.train_images)
    job = _Job(
        request=request,
        images=f"{dense_fit.compare_sides(request, (sources[0], used), (sources[1], judged))} {_annotations(sides[0])}",
        learned=_learned_from(sources[0], used, sides[0], request),
        test=sources[1],
        judged=judged,
        categories=sides[0].categories,
        truth=sides[1].truth(),
    )
    found = {name: _detected(name, one.encoder, one.card, job) for name, one in loaded.items()}
    return finish(
        request,
        found,
        known=known_of(loaded["encoder"].card),
        about=dense_fit.about_fit(request, config, job.learned),
        began=began,
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What both encoders are fitted to and judged by."""

    request: DetectRequest
    images: str
    """Names the training images' bytes and annotations."""
    learned: "Source"
    test: "Source"
    judged: np.ndarray
    categories: "Sequence[Category]"
    """Of the training images; the detector's classes."""
    truth: dict[str, Any]


def _check_categories(train: "Placing", test: "Placing") -> None:
    known, asked = ({kind.id: kind.name for kind in side.categories} for side in (train, test))
    if not known:
        raise WrongRequest("--train lists no categories: an annotation file needs an entry 'categories'")
    if unknown := sorted(set(asked.items()) - set(known.items())):
        raise WrongRequest(f"--test has categories that --train lacks ({unknown[0][1]}, id {unknown[0][0]}, for one)")


def _annotations(side: "Placing") -> str:
    """Names what an annotation file says; other sources are named by their SPEC."""
    from otherview.data.annotated import CocoImages

    return blake2b(side.file.read_bytes(), digest_size=8).hexdigest() if isinstance(side, CocoImages) else ""


def _say_faults(side: "Placing") -> None:
    from otherview.data.annotated import CocoImages

    if not isinstance(side, CocoImages) or launched_rank() > 0:
        return
    faults = list(islice(side.faults(), 1000))
    for line in faults[:SHOWN_FAULTS]:
        print(line, file=sys.stderr)
    if len(faults) > SHOWN_FAULTS:
        more = f"{len(faults) - SHOWN_FAULTS}{' or more' if len(faults) == 1000 else ''}"
        print(f"and {more} other annotations of {side.file}", file=sys.stderr)


def _learned_from(source: "Source", indices: np.ndarray, side: "Placing", request: DetectRequest) -> "Source":
    """Training images that show an object; where asked for, those with rare classes more often."""
    from otherview.data.source import Selected
    from otherview.dense.federated import repeat_factors, repeated

    kinds = [side.kinds(int(index)) for index in indices]
    shown = np.array([bool(some) for some in kinds])
    if not shown.any():
        raise WrongRequest(f"--train {request.train} shows no object that can be learned from")
    indices, kinds = indices[shown], [some for some in kinds if some]
    if request.config.repeat_threshold is not None:
        factors = repeat_factors(kinds, threshold=request.config.repeat_threshold)
        indices = indices[repeated(factors, seed=request.seed)]
    return Selected(source, indices)


def _detected(name: str, encoder: "Encoder", card: "Card", job: _Job) -> list[Score]:
    """Fit one encoder, keep and judge what it finds."""
    from otherview.dense.box_ap import ap_scores
    from otherview.dense.detect import Detect
    from otherview.dense.detections import detections
    from otherview.dense.detector import Detector
    from otherview.dense.jitter import JitteredObjects
    from otherview.distributed import from_first
    from otherview.evaluation.content import weights_content
    from otherview.training.console import RunProgress
    from otherview.training.schedule import falling, peak_rate

    request, config = job.request, job.request.config
    warmup = config.warmup_steps / config.steps
    fitting = dense_fit.Fitting(
        request=request, config=config, source=job.learned, protocol="detect", card=card, content=weights_content(encoder),
        images=job.images,
        rate=lambda settings, batch, progress: peak_rate(settings, batch)
        * falling(progress, warmup=warmup, falls=config.falls),
    )  # fmt: skip
    detector = Detector(encoder, config, job.categories, seed=request.seed)
    views = JitteredObjects(config.size, config.jitter, config.flip)
    learner = Detect(detector, views, card.look, layer_decay=config.layer_decay, seed=request.seed)
    folder = dense_fit.fit_one(name, learner, fitting)
    learner.to(resolve_device(request.device))
    with RunProgress(total=len(job.judged), title="detecting", speak=launched_rank() == 0) as progress:
        found, read = detections(
            detector, job.test, job.judged, card.look, side=config.size, workers=request.workers,
            category_ids=[kind.id for kind in job.categories], advance=progress.advance,
        )  # fmt: skip
    scores: list[Score] = []
    if launched_rank() == 0:
        scores = ap_scores(job.truth, found, image_ids=read, name=f"detect_{name}")
        _keep(folder, found, detector, job, read=read)
    scores = [Score(*score) for score in from_first([tuple(score) for score in scores])]
    if not scores:
        raise RuntimeError(f"no image of {request.test} that shows an object could be read: there is nothing to find")
    return scores


def _keep(
    folder: Path, found: "Sequence[Detection]", detector: "Detector", job: _Job, *, read: "Sequence[int]"
) -> None:
    """Predictions, the model and pictures beside the checkpoints."""
    from otherview.atomic import write_atomically
    from otherview.data.objects import placed_in
    from otherview.report.predictions import draw_objects
    from otherview.weights.states import save_state

    write_atomically(folder / "predictions.json", json.dumps(list(found)).encode())
    classes = [kind.name for kind in job.categories]
    save_state(
        folder / "detector.safetensors", detector, about={"recipe": job.request.config.recipe, "classes": classes}
    )
    known = set(read)
    shown = [index for index in job.judged.tolist() if placed_in(job.test, index) in known][: job.request.pictures]
    if shown:
        names = {kind.id: kind.name for kind in job.categories}
        figure = draw_objects(job.test, np.array(shown), found, names)
        figure.savefig(folder / "predictions.png", dpi=150, bbox_inches="tight")


show = show_scores
