"""What the verbs that evaluate share: which images, what stands beside the score, where it is written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores, append_result
from otherview.training.launch import launched_rank
from otherview.verbs.request import Computing, resolve_device, shortened

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Side
    from otherview.weights.pretrained import Card

SHORTENED_IMAGES = 200
"""Images per side where a shortened run is asked for."""


@dataclass(kw_only=True)
class Judging(Computing):
    """What every evaluation is told."""

    weights: str
    """A run folder, an encoder file, or random:RECIPE for the untrained control."""
    out: Path | None = None
    """Folder whose results.jsonl gets a line; default: the run folder, where --weights is one."""
    workers: int = 1
    """Processes that read images."""


@dataclass(kw_only=True)
class Evaluate(Judging):
    """Flags of every evaluation with labelled images to learn from."""

    train: str
    """Labelled images to learn from (a data SPEC)."""
    test: str
    """Labelled images to be judged on (a data SPEC)."""
    train_images: int | None = None
    """Use only so many training images, spread evenly; default: all."""
    test_images: int | None = None
    """Use only so many test images, spread evenly; default: all."""
    allow_shared: bool = False
    """Judge although --train and --test share images."""


def options_of(request: Computing) -> dict[str, Any]:
    """A request's flags as the keyword arguments of the function of its verb."""
    return {name: value for name, value in vars(request).items() if name not in ("weights", "json", "debug")}


def images_used(count: int | None) -> int | None:
    """So many images of a side, or fewer where a shortened run is asked for; raises WrongRequest for none."""
    if count is not None and count < 1:
        raise WrongRequest(f"--train-images or --test-images {count} is too few: give 1 or more, or leave it out")
    return min(count or SHORTENED_IMAGES, SHORTENED_IMAGES) if shortened() else count


def open_sides(train: str, test: str, options: Evaluate) -> "tuple[Side, Side]":
    """Both sides with labels in the numbers of the training images."""
    from otherview.data.source import labels_of, same_numbers
    from otherview.data.spec import open_source

    sources = open_source(train), open_source(test)
    labels = [labels_of(source, spec) for source, spec in zip(sources, (train, test), strict=True)]
    labels[1] = same_numbers(labels[1], of=sources[1].classes, like=sources[0].classes)
    import numpy as np
    import torch

    from otherview.evaluation.features import first_of
    from otherview.evaluation.frozen import Side

    counts = images_used(options.train_images), images_used(options.test_images)
    indices = [first_of(source, count) for source, count in zip(sources, counts, strict=True)]
    train_labels, test_labels = (known[chosen] for known, chosen in zip(labels, indices, strict=True))
    present, dense = np.unique(train_labels, return_inverse=True)
    if unknown := sorted(set(test_labels.tolist()) - set(present.tolist())):
        raise WrongRequest(f"--test has classes that --train lacks ({unknown[:5]}): use the same classes in both")
    named = sources[0].classes
    names = [str(named[kind]) if named else str(kind) for kind in present.tolist()]
    both = dense, np.searchsorted(present, test_labels)
    return tuple(
        Side(source, chosen, torch.from_numpy(known.astype(np.int64)), names)
        for source, chosen, known in zip(sources, indices, both, strict=True)
    )  # pyright: ignore[reportReturnType]


def finish(
    request: Judging,
    scores: Sequence[Score],
    control: Sequence[Score],
    *,
    card: "Card",
    about: dict[str, Any],
    began: float,
) -> Scores:
    """The result with what it is about; rank 0 adds one line to results.jsonl, where there is a folder for it."""
    weights = Path(request.weights)
    known = {"recipe": card.recipe, "config_hash": card.config_hash, "seed": card.seed, "steps": card.steps}
    shared = {"allow_shared": True} if getattr(request, "allow_shared", False) else {}
    asked = {"weights": str(weights), **about, **shared, "device": str(resolve_device(request.device))}
    found = Scores(scores, control, time.monotonic() - began, {**asked, **known})
    folder = request.out or (weights if weights.is_dir() else None)
    if folder is not None and launched_rank() == 0:
        append_result(folder, found)
    return found


def show_scores(result: dict[str, Any]) -> list[str]:
    """Scores and controls, one a line."""
    rows = [*result["scores"], *result["control"]]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{width}}  {row['value']:.4f} ± {row['spread']:.4f}  (n = {row['n']})" for row in rows]
    learned = [f"{result['train_images']:,} training images"] if "train_images" in result else []
    return [*lines, " · ".join([*learned, f"{result['seconds']:.0f} s", f"config {result['config_hash']}"])]
