"""A linear head on frozen patch tokens, judged by mIoU beside the untrained encoder's tokens and raw patches.

otherview evaluate segment --weights DIR --train shapes:2000 --test shapes:500:test
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores
from otherview.verbs.judging import Evaluate, finish, images_used, options_of, show_scores
from otherview.verbs.request import resolve_device, set_threads
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from torch import Tensor

    from otherview.data.source import Source
    from otherview.nn.encoder import Encoder
    from otherview.weights.pretrained import Card


@dataclass(kw_only=True)
class Segment(Evaluate):
    """A linear head on frozen patch tokens names the class of every pixel: mIoU and accuracy."""

    strength: float = 1e-4
    """Half of this times the squared weights is added to the mean cross-entropy; features are standardised."""


def run(request: Segment) -> dict[str, Any]:
    """The verb."""
    return segment(request.weights, **options_of(request)).as_json()


def segment(weights: str | Path, *, train: str, test: str, **options: Any) -> Scores:
    """mIoU and accuracy over pixels of the encoder, of the untrained one and of raw patches; options: fields of Segment."""
    request = Segment(weights=str(weights), train=train, test=test, **options)
    began = time.monotonic()
    check_weights(weights)
    from otherview.nn.encoder import Encoder
    from otherview.training.console import RunProgress
    from otherview.verbs.weights import load_encoder

    set_threads(request.threads)
    chosen = resolve_device(request.device)
    subject = load_encoder(weights).to(chosen)
    card = subject.card
    asked = (train, request.train_images), (test, request.test_images)
    sides = [_open(spec, count, card.encoder.image_size) for spec, count in asked]
    control = Encoder(card.encoder, seed=card.seed).to(chosen)
    modules = {"encoder": subject.encoder, "untrained": control, "pixels": None}
    with RunProgress(total=sum(len(indices) for _, indices, _ in sides), title="features") as progress:
        scores = _judge(modules, card, sides=sides, request=request, advance=progress.advance)
    about = {
        "train": train, "test": test, "train_images": len(sides[0][1]), "strength": request.strength,
    }  # fmt: skip
    return finish(request, scores[:2], scores[2:], card=card, about=about, began=began)


Side = tuple["Source", Any, "Tensor"]
"""The source, the indices of its images that are used, and the labels of their pixels."""


def _open(spec: str, count: int | None, size: tuple[int, int]) -> Side:
    """Images whose labels cannot be read are named and left out."""
    import torch

    from otherview.data.spec import open_source
    from otherview.errors import BrokenImage
    from otherview.evaluation.features import first_of, name_once
    from otherview.evaluation.segment import centre_labels, pixel_labels

    source = open_source(spec)
    indices, labels = [], []
    for index in first_of(source, images_used(count)):
        try:
            labels.append(centre_labels(pixel_labels(source, int(index), spec=spec), size))
            indices.append(index)
        except BrokenImage as error:
            name_once(str(error))
    if not labels:
        raise WrongRequest(f"{spec} has no pixel labels that can be read")
    return source, np.asarray(indices), torch.stack(labels)


def _judge(
    modules: "Mapping[str, Encoder | None]",
    card: "Card",
    *,
    sides: Sequence[Side],
    request: Segment,
    advance: Any,
) -> list[Score]:
    """mIoU and accuracy of every module's tokens."""
    from otherview.evaluation.features import Features, extract_all
    from otherview.evaluation.segment import fit_head
    from otherview.evaluation.segment import segment as judged_by
    from otherview.geometry import PatchGrid

    grid, patch_size = PatchGrid(*card.encoder.grid), card.encoder.patch_size
    found: list[dict[str, Features]] = []
    for source, indices, _ in reversed(sides):  # the test images first: the first training image among them ends it
        seen = found[0]["encoder"].contents if found and not request.allow_shared else ()
        found.append(
            extract_all(
                modules, source, card.look, indices=indices, workers=request.workers, advance=advance,
                patch_size=patch_size, apart_from=seen,
            )
        )  # fmt: skip
    test, train = found
    scores: list[Score] = []
    for name in modules:
        known, truth = (labels[of[name].kept] for (_, _, labels), of in zip(sides, (train, test), strict=True))
        head = fit_head(train[name].tokens["patches"], known, grid, strength=request.strength)
        result = judged_by(head, test[name].tokens["patches"], truth, grid=grid)
        scores += [
            Score(f"segment_{name}_{figure}", value, unit, len(truth), spread)
            for figure, value, unit, spread in zip(
                ("miou", "accuracy"), (result.miou, result.accuracy), ("mIoU", "accuracy"), result.spreads, strict=True
            )
        ]
    return scores


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return show_scores(result)
