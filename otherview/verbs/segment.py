"""A linear head on frozen patch tokens, judged by mIoU beside the untrained encoder's tokens and raw patches.

otherview evaluate segment --weights DIR --train shapes:2000 --test shapes:500:test
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.evaluation.scores import Score, Scores, append_result
from otherview.verbs.evaluate import SHORTENED_IMAGES, Evaluate, show_scores
from otherview.verbs.request import resolve_device, set_threads, shortened
from otherview.verbs.weights import check_weights

if TYPE_CHECKING:
    from torch import Tensor

    from otherview.data.source import Source
    from otherview.evaluation.features import Features
    from otherview.weights.pretrained import PretrainedEncoder


@dataclass(kw_only=True)
class Segment(Evaluate):
    """A linear head on frozen patch tokens names the class of every pixel: mIoU and accuracy."""

    strength: float = 1e-4
    """Half of this times the squared weights is added to the mean cross-entropy; features are standardised."""


def run(request: Segment) -> dict[str, Any]:
    """The verb."""
    flags = {name: value for name, value in vars(request).items() if name not in ("weights", "json", "debug")}
    return segment(request.weights, **flags).as_json()


def segment(
    weights: str | Path,
    *,
    train: str,
    test: str,
    strength: float = 1e-4,
    out: Path | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    workers: int = 1,
    device: Any = "auto",
    threads: int | None = None,
) -> Scores:
    """mIoU and accuracy over pixels of the encoder, of the untrained one and of raw patches."""
    began = time.monotonic()
    check_weights(weights)
    sides = [_open(train, train_images), _open(test, test_images)]
    from otherview.nn.encoder import Encoder
    from otherview.training.console import RunProgress
    from otherview.verbs.weights import load_encoder

    set_threads(threads)
    chosen = resolve_device(device)
    subject = load_encoder(weights).to(chosen)
    card = subject.card
    control = Encoder(card.encoder, seed=card.seed).to(chosen)
    scores: list[Score] = []
    with RunProgress(total=3 * sum(len(indices) for _, _, indices in sides), title="features") as progress:
        for name, module in (("encoder", subject.encoder), ("untrained", control), ("pixels", None)):
            scores += _judge(name, module, subject, sides, strength, workers, progress.advance)
    about = {
        "weights": str(weights), "train": train, "test": test, "train_images": len(sides[0][2]), "strength": strength,
        "recipe": card.recipe, "config_hash": card.config_hash, "seed": card.seed, "steps": card.steps, "device": str(chosen),
    }  # fmt: skip
    found = Scores(scores[:2], scores[2:], time.monotonic() - began, about)
    folder = out or (Path(weights) if Path(weights).is_dir() else None)
    if folder is not None:
        append_result(folder, found)
    return found


Side = tuple[str, "Source", Any]
"""The SPEC, the source and the indices of its images that are used."""


def _open(spec: str, count: int | None) -> Side:
    from otherview.data.spec import open_source
    from otherview.evaluation.features import first_of
    from otherview.evaluation.segment import pixel_labels

    source = open_source(spec)
    pixel_labels(source, 0, spec=spec)
    return spec, source, first_of(source, min(count or SHORTENED_IMAGES, SHORTENED_IMAGES) if shortened() else count)


def _judge(
    name: str,
    module: Any,
    subject: "PretrainedEncoder",
    sides: Sequence[Side],
    strength: float,
    workers: int,
    advance: Any,
) -> list[Score]:
    """mIoU and accuracy of one kind of tokens."""
    from otherview.evaluation.features import extract
    from otherview.evaluation.segment import fit_head
    from otherview.evaluation.segment import segment as judged_by
    from otherview.geometry import PatchGrid

    look, grid = subject.card.look, PatchGrid(*subject.card.encoder.grid)
    features = [
        extract(
            module, source, look, indices=indices, workers=workers, advance=advance,
            patch_size=subject.card.encoder.patch_size,
        )
        for _, source, indices in sides
    ]  # fmt: skip
    labels = [_labels(side, of_side, look.size) for side, of_side in zip(sides, features, strict=True)]
    head = fit_head(features[0].tokens["patches"], labels[0], grid, strength=strength)
    result = judged_by(head, features[1].tokens["patches"], labels[1], grid)
    n, spreads = len(labels[1]), result.spreads
    return [
        Score(f"segment_{name}_miou", result.miou, "mIoU", n, spreads[0]),
        Score(f"segment_{name}_accuracy", result.accuracy, "accuracy", n, spreads[1]),
    ]


def _labels(side: Side, features: "Features", size: tuple[int, int]) -> "Tensor":
    import torch

    from otherview.evaluation.segment import centre_labels, pixel_labels

    spec, source, indices = side
    kept = indices[features.kept.numpy()]
    return torch.stack([centre_labels(pixel_labels(source, int(index), spec=spec), size) for index in kept])


def show(result: dict[str, Any]) -> Sequence[str]:
    """A table that can be pasted."""
    return show_scores(result)
