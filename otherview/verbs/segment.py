"""Semantic segmentation: UPerNet on an encoder, the whole of it fine-tuned, beside the same encoder untrained.

otherview evaluate segment --recipe segment_pico --weights DIR --train shapes:2000@64 --test shapes:500:test@64
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from otherview.dense.settings import SegmentConfig
from otherview.errors import BrokenImage, WrongRequest
from otherview.evaluation.scores import Score, Scores
from otherview.training.launch import launched_rank, launched_ranks
from otherview.verbs import dense_fit
from otherview.verbs.judging import finish, options_of, show_scores
from otherview.verbs.request import resolve_device
from otherview.verbs.weights import known_of

if TYPE_CHECKING:
    from otherview.data.source import Source
    from otherview.dense.upernet import UPerNet
    from otherview.evaluation.segment import Segmented
    from otherview.nn.encoder import Encoder
    from otherview.weights.pretrained import Card


@dataclass(kw_only=True)
class SegmentRequest(dense_fit.DenseRequest):
    """Fine-tune an encoder with UPerNet: the class of every pixel, mIoU and accuracy. Resumes like any run.

    Beside the checkpoints lie a picture of classes for every test image and pictures of predictions beside the truth.
    """

    classes: int | None = None
    """How many classes there are; default: what the labels of the training images show."""
    config: Annotated[SegmentConfig, tyro.conf.arg(name="")]
    """Every setting of the fit; the values shown are the recipe's."""


def run(request: SegmentRequest) -> dict[str, Any]:
    """The verb."""
    return segment(request.weights, **options_of(request)).as_json()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What both encoders are fitted to and judged by."""

    request: SegmentRequest
    images: str
    """Names the training images' bytes and labels."""
    learned: "Source"
    test: "Source"
    judged: np.ndarray
    classes: int


def segment(weights: str | Path, *, train: str, test: str, config: SegmentConfig, **options: Any) -> Scores:
    """mIoU and pixel accuracy after the last step; further options are the fields of SegmentRequest."""
    request = SegmentRequest(weights=str(weights), train=train, test=test, config=config, **options)
    began = time.monotonic()
    dense_fit.check_request(request, config)
    if config.batch < 2 * config.training.accumulation * launched_ranks():
        raise WrongRequest(f"--batch {config.batch} gives a process one image a time: batch norm needs two or more")
    from otherview.data.objects import check_pixels
    from otherview.data.source import Selected
    from otherview.data.spec import open_source

    sources = open_source(train), open_source(test)
    for source, spec in zip(sources, (train, test), strict=True):
        check_pixels(source, spec)
    loaded = dense_fit.load_both(request, config)
    used, judged = dense_fit.chosen(sources[0], request.train_images), dense_fit.chosen(sources[1], request.test_images)
    images = dense_fit.compare_sides(request, (sources[0], used), (sources[1], judged))
    learned = Selected(sources[0], used)
    classes, labels = _classes(learned, Selected(sources[1], judged), request)
    job = _Job(
        request=request,
        images=f"{images} {labels}",
        learned=learned,
        test=sources[1],
        judged=judged,
        classes=classes,
    )
    found = {name: _segmented(name, one.encoder, one.card, job) for name, one in loaded.items()}
    about = {**dense_fit.about_fit(request, config, learned), "classes": job.classes}
    return finish(request, found, known=known_of(loaded["encoder"].card), about=about, began=began)


def _classes(learned: "Source", judged: "Source", request: SegmentRequest) -> tuple[int, str]:
    """How many classes there are, and what names the training labels; raises WrongRequest where labels and --classes do not
    fit each other."""
    from otherview.evaluation.segment import IGNORED

    if request.classes is not None and not 2 <= request.classes <= IGNORED:
        raise WrongRequest(f"--classes {request.classes} must lie between 2 and {IGNORED}")
    known = {flag: _known(side, request) for flag, side in (("--train", learned), ("--test", judged))}
    classes = request.classes or known["--train"][0] + 1
    if classes < 2:
        raise WrongRequest(f"--train {request.train} has one class only: segmentation needs two or more")
    for flag, (largest, _) in known.items():
        if largest >= classes:
            raise WrongRequest(
                f"{flag} has labels of class {largest}, where there are {classes}: give --classes {largest + 1}"
            )
    return classes, known["--train"][1]


def _known(source: "Source", request: SegmentRequest) -> tuple[int, str]:
    """The largest class of all labels, and what names them; takes a pass over them."""
    from otherview.data.objects import pixels_named
    from otherview.dense.pixels import numbered
    from otherview.evaluation.features import name_once
    from otherview.evaluation.segment import IGNORED
    from otherview.training.console import RunProgress

    most, digest = -1, blake2b(digest_size=8)
    with RunProgress(total=len(source), title="counting classes", speak=launched_rank() == 0) as progress:
        for index in range(len(source)):
            try:
                labels = numbered(pixels_named(source, index), zero_is_ignored=request.config.zero_is_ignored)
                most = max(most, int(labels[labels != IGNORED].astype(int).max(initial=-1)))
                digest.update(np.ascontiguousarray(labels).tobytes())
            except BrokenImage as error:
                name_once(f"{source.name(index)}: {error}")
            progress.advance(1)
    return most, digest.hexdigest()


def _segmented(name: str, encoder: "Encoder", card: "Card", job: _Job) -> list[Score]:
    """Fit one encoder, keep and judge what it says of the test images."""
    from otherview.dense.pixels import PixelViews
    from otherview.dense.semantic import Segment
    from otherview.dense.upernet import UPerNet, share_statistics, synchronised
    from otherview.evaluation.content import weights_content
    from otherview.training.schedule import peak_rate, polynomial

    request, config = job.request, job.request.config
    warmup = config.warmup_steps / config.steps
    fitting = dense_fit.Fitting(
        request=request, config=config, source=job.learned, protocol="segment", card=card, images=job.images,
        content=f"{weights_content(encoder)}, {job.classes} classes",
        rate=lambda settings, batch, progress: peak_rate(settings, batch)
        * polynomial(progress, warmup=warmup, power=config.power),
    )  # fmt: skip
    net = synchronised(
        UPerNet(encoder, config, classes=job.classes, seed=request.seed),
        cuda=resolve_device(request.device).type == "cuda",
    )
    views = PixelViews(config, tuple(round(255 * level) for level in card.mean))
    folder = dense_fit.fit_one(name, Segment(net, views, card.look, config, seed=request.seed), fitting)
    share_statistics(net)
    return _judge(f"segment_{name}", net.to(resolve_device(request.device)), card, folder, job)


def _judge(name: str, net: "UPerNet", card: "Card", folder: Path, job: _Job) -> list[Score]:
    from otherview.dense.sliding import predictions
    from otherview.distributed import from_first, on_first
    from otherview.evaluation.segment import Segmented, pixel_confusion
    from otherview.report.predictions import draw_pixels
    from otherview.training.console import RunProgress
    from otherview.weights.states import save_state

    config, drawn, confusion = job.request.config, [], []
    with RunProgress(total=len(job.judged), title="segmenting", speak=launched_rank() == 0) as progress:
        for one in predictions(net, job.test, job.judged, card.look, config, workers=job.request.workers):
            progress.advance(1)
            if one is None:
                continue
            one.save(folder / "predictions")
            confusion.append(pixel_confusion(one.truth, one.predicted, classes=job.classes))
            if len(drawn) < job.request.pictures:
                drawn.append((one.name, one.pixels, one.truth, one.predicted))
    everyone = on_first(confusion)
    scores: list[Score] = []
    if everyone is not None:
        found = [image for part in everyone for image in part]
        scores = _scores(name, Segmented.of(found) if found else None)
        save_state(folder / "segmenter.safetensors", net, about={"recipe": config.recipe, "classes": job.classes})
        if drawn:
            names = _names(job.test, config)
            draw_pixels(drawn, names).savefig(folder / "predictions.png", dpi=150, bbox_inches="tight")
    scores = [Score(*score) for score in from_first([tuple(score) for score in scores])]
    if not scores:
        raise RuntimeError(
            f"no image of {job.request.test} with pixels that count could be read: there is nothing to judge"
        )
    return scores


def _scores(name: str, result: "Segmented | None") -> list[Score]:
    if result is None or not result.counted:
        return []
    n, spreads = len(result.confusion), result.spreads
    return [
        Score(f"{name}_miou", result.miou, "mIoU", n, spreads[0]),
        Score(f"{name}_accuracy", result.accuracy, "accuracy", n, spreads[1]),
    ]


def _names(source: "Source", config: SegmentConfig) -> Sequence[str]:
    """What the classes of pixels are called, where that is known."""
    from otherview.data.shapes import Shapes

    return ["ground", *source.classes] if isinstance(source, Shapes) and not config.zero_is_ignored else []


show = show_scores
