"""A linear head on frozen patch tokens that names the class of every pixel: the quick dense measure.

The head is fitted on patches, each labelled by most of its pixels; at test time its scores are resized to the image
(bilinear) and every pixel counts. mIoU and accuracy come from one confusion matrix (rows: truth, columns: prediction).

Axes: I images, L patches, D width, K classes, H and W pixels.
"""

import time

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from otherview.data.agreement import check_agreement, check_classes, disagreement, size_in_header
from otherview.data.image import Preprocessing
from otherview.data.objects import IGNORED, check_pixels, pixels_named
from otherview.data.source import first_of, name_once
from otherview.data.spec import open_aloud
from otherview.distributed import computed_by_first
from otherview.errors import BrokenImage, WrongRequest
from otherview.evaluation.backbone import Backbone, load_backbone
from otherview.evaluation.class_report import ClassReport
from otherview.evaluation.features import FeatureSpec
from otherview.evaluation.frozen import FeatureMaker, Known, cache_of, features_of
from otherview.evaluation.linear import LinearClassifier, fit_logistic
from otherview.evaluation.pixel_scores import Segmented, pixel_confusion
from otherview.evaluation.result import finish
from otherview.evaluation.settings import LinearSegmentSettings
from otherview.evaluation.split import Split, images_used, with_fingerprints
from otherview.evaluation.whole_images import prepared_labels
from otherview.geometry import PatchGrid
from otherview.launch import launched_rank
from otherview.scores import Score, Scores
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on
from otherview.weights.names import check_weights


def patch_labels(labels: Int[Tensor, "I H W"], grid: PatchGrid) -> Int[Tensor, "I L"]:
    """The class of most pixels of every patch; of equals the lowest."""
    count, height, width = labels.shape
    parts = labels.view(count, grid.rows, height // grid.rows, grid.columns, width // grid.columns)
    pixels = parts.permute(0, 1, 3, 2, 4).reshape(count, grid.patches, -1)
    classes = int(labels.max()) + 1
    return torch.stack([F.one_hot(image, classes).sum(dim=1).argmax(dim=1) for image in pixels])


def fit_head(
    tokens: Float[Tensor, "I L D"], labels: Int[Tensor, "I H W"], grid: PatchGrid, *, strength: float
) -> LinearClassifier:
    """Logistic regression on patches that are not ignored."""
    wanted = patch_labels(labels, grid).flatten()
    kept = wanted != IGNORED
    return fit_logistic(tokens.flatten(0, 1)[kept], wanted[kept], strength=strength)


def segment(
    head: LinearClassifier, tokens: Float[Tensor, "I L D"], labels: Int[Tensor, "I H W"], *, grid: PatchGrid
) -> Segmented:
    """Judge a head on test images."""
    classes = max(head.bias.shape[0], int(labels[labels != IGNORED].max()) + 1)
    found = []
    for image, truth in zip(tokens, labels, strict=True):
        scores = head.logits(image).T.reshape(1, -1, *grid)
        predicted = F.interpolate(scores, truth.shape, mode="bilinear", align_corners=False)[0].argmax(dim=0)
        found.append(pixel_confusion(truth.numpy(), predicted.numpy(), classes=classes))
    return Segmented.of(found)


@takes(LinearSegmentSettings)
def linear_segment(settings: LinearSegmentSettings) -> Scores:
    """mIoU and accuracy over pixels, next to the untrained encoder and raw patches."""
    began = time.monotonic()
    check_weights(settings.weights)
    device = compute_on(settings)
    backbone = load_backbone(settings.weights).to(device)
    backbone.check_block(settings.block)
    backbone.check_patches()
    wanted = (settings.train, settings.train_images), (settings.test, settings.test_images)
    backbone = backbone.shown(settings)
    one, two = (_open(spec, count, backbone.preprocessing) for spec, count in wanted)
    backbone = backbone.seeing((one.source, two.source))
    splits = with_fingerprints((one, two), workers=settings.workers, allow_shared=settings.allow_shared)
    found, report = _judge(backbone, splits, settings=settings)
    about = {
        "train": settings.train, "test": settings.test, "train_images": len(splits[0].indices), "strength": settings.strength,
        **backbone.preprocessing.about,
    }  # fmt: skip
    return finish(settings, found, known=backbone.about, about=about, began=began, report=report)


def _open(spec: str, count: int | None, preprocessing: Preprocessing) -> Split:
    """Images whose labels cannot be read are named and left out."""
    source = open_aloud(spec)
    check_pixels(source, spec)
    check_agreement(source, flag=spec)
    indices, labels = [], []
    for index in first_of(source, images_used(count)):
        try:
            found = pixels_named(source, int(index))
            size = size_in_header(source, int(index)) or found.shape
            if fault := disagreement(source, int(index), size, labels=found):
                raise BrokenImage(f"{source.name(int(index))}: {fault}")
            labels.append(prepared_labels(found, preprocessing))
            indices.append(index)
        except BrokenImage as error:
            name_once(str(error))
    if not labels:
        raise WrongRequest(f"{spec} has no pixel labels that can be read")
    found = torch.stack(labels)
    check_classes(np.bincount(found.flatten().numpy(), minlength=IGNORED + 1), flag=spec)
    return Split(source, np.asarray(indices), found)


def _judge(
    backbone: Backbone, splits: tuple[Split, Split], *, settings: LinearSegmentSettings
) -> tuple[dict[str, list[Score]], ClassReport | None]:
    """mIoU and accuracy of every module's tokens, and the encoder's class by class."""
    grid = backbone.grid
    maker = FeatureMaker(
        backbone.preprocessing, FeatureSpec(backbone.patch_size, settings.block), cache_of(settings), settings.workers
    )
    images = sum(len(split.indices) for split in splits)
    with RunProgress(total=images, title="features", speak=launched_rank() == 0) as progress:
        train, test = features_of({**backbone.modules, "pixels": None}, splits, maker, advance=progress.advance)
    return computed_by_first(lambda: _heads(train, test, grid, strength=settings.strength))


def _heads(
    train: Known, test: Known, grid: PatchGrid, *, strength: float
) -> tuple[dict[str, list[Score]], ClassReport | None]:
    """A head fitted on every module's patches, and its scores."""
    found: dict[str, list[Score]] = {}
    report: ClassReport | None = None
    with RunProgress(total=len(train.tokens), title="heads") as progress:
        for name, tokens in train.tokens.items():
            head = fit_head(tokens["patches"], train.labels, grid, strength=strength)
            result = segment(head, test.tokens[name]["patches"], test.labels, grid=grid)
            found[name] = result.scores(f"linear_segment_{name}")
            report = report or result.report()
            progress.advance(1)
    return found, report
