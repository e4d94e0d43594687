"""A linear head on frozen patch tokens, judged by mIoU beside the untrained encoder's tokens and raw patches.

otherview evaluate linear-segment --weights DIR --train shapes:2000 --test shapes:500:test
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores
from otherview.training.launch import launched_rank
from otherview.verbs.judging import (
    Evaluate,
    Frozen,
    cache_of,
    compute_on,
    finish,
    images_used,
    options_of,
    read_contents,
    show_scores,
)
from otherview.verbs.weights import check_weights, load_subject

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Side
    from otherview.evaluation.subject import Subject


@dataclass(kw_only=True)
class LinearSegment(Evaluate, Frozen):
    """A linear head on frozen patch tokens names the class of every pixel: mIoU and accuracy."""

    strength: float = 1e-4
    """Half of this times the squared weights is added to the mean cross-entropy; features are standardised."""


def run(request: LinearSegment) -> dict[str, Any]:
    """The verb."""
    return linear_segment(request.weights, **options_of(request)).as_json()


def linear_segment(weights: "str | Path | Subject", *, train: str, test: str, **options: Any) -> Scores:
    """mIoU and accuracy over pixels of the encoder, of the untrained one and of raw patches; options: fields of LinearSegment."""
    request = LinearSegment(weights=str(weights), train=train, test=test, **options)
    began = time.monotonic()
    check_weights(weights)
    device = compute_on(request)
    subject = load_subject(weights).to(device)
    subject.check_block(request.block)
    subject.check_patches()
    asked = (train, request.train_images), (test, request.test_images)
    one, two = (_open(spec, count, subject.look.size) for spec, count in asked)
    sides = read_contents((one, two), workers=request.workers, allow_shared=request.allow_shared)
    found = _judge(subject, sides, request=request)
    about = {
        "train": train, "test": test, "train_images": len(sides[0].indices), "strength": request.strength,
    }  # fmt: skip
    return finish(request, found, known=subject.about, about=about, began=began)


def _open(spec: str, count: int | None, size: tuple[int, int]) -> "Side":
    """Images whose labels cannot be read are named and left out."""
    import torch

    from otherview.data.objects import check_pixels, pixels_named
    from otherview.data.spec import open_source
    from otherview.errors import BrokenImage
    from otherview.evaluation.features import first_of, name_once
    from otherview.evaluation.frozen import Side
    from otherview.evaluation.segment import centre_labels

    source = open_source(spec)
    check_pixels(source, spec)
    indices, labels = [], []
    for index in first_of(source, images_used(count)):
        try:
            labels.append(centre_labels(pixels_named(source, int(index)), size))
            indices.append(index)
        except BrokenImage as error:
            name_once(str(error))
    if not labels:
        raise WrongRequest(f"{spec} has no pixel labels that can be read")
    return Side(source, np.asarray(indices), torch.stack(labels))


def _judge(subject: "Subject", sides: "tuple[Side, Side]", *, request: LinearSegment) -> dict[str, list[Score]]:
    """mIoU and accuracy of every module's tokens."""
    from otherview.evaluation.features import Asked
    from otherview.evaluation.frozen import Seen, features_of
    from otherview.evaluation.segment import fit_head, segment
    from otherview.training.console import RunProgress

    grid = subject.grid
    seen = Seen(subject.look, Asked(subject.patch_size, request.block), cache_of(request), request.workers)
    images, speak = sum(len(side.indices) for side in sides), launched_rank() == 0
    with RunProgress(total=images, title="features", speak=speak) as progress:
        train, test = features_of({**subject.modules, "pixels": None}, sides, seen, advance=progress.advance)
    found: dict[str, list[Score]] = {}
    with RunProgress(total=len(train.tokens), title="heads", speak=speak) as progress:
        for name, tokens in train.tokens.items():
            head = fit_head(tokens["patches"], train.labels, grid, strength=request.strength)
            result = segment(head, test.tokens[name]["patches"], test.labels, grid=grid)
            n, spreads = len(test.labels), result.spreads
            found[name] = [
                Score(f"linear_segment_{name}_miou", result.miou, "mIoU", n, spreads[0]),
                Score(f"linear_segment_{name}_accuracy", result.accuracy, "accuracy", n, spreads[1]),
            ]
            progress.advance(1)
    return found


show = show_scores
