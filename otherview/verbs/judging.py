"""What the verbs that evaluate share: which images, what stands beside the score, where it is written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.evaluation.scores import Score, Scores, append_result
from otherview.verbs.request import Computing, shortened

if TYPE_CHECKING:
    from otherview.evaluation.frozen import Side
    from otherview.weights.pretrained import Card

SHORTENED_IMAGES = 200
"""Images per side where a shortened run is asked for."""


@dataclass(kw_only=True)
class Options(Computing):
    """What every evaluation of frozen features may be told."""

    out: Path | None = None
    """Folder whose results.jsonl gets a line; default: the run folder, where --weights is one."""
    train_images: int | None = None
    """Use only so many training images, spread evenly; default: all."""
    test_images: int | None = None
    """Use only so many test images, spread evenly; default: all."""
    workers: int = 1
    """Processes that read images."""
    allow_shared: bool = False
    """Judge although --train and --test share images."""


@dataclass(kw_only=True)
class Evaluate(Options):
    """Flags of every evaluation of frozen features."""

    weights: str
    """A run folder, an encoder file, or random:RECIPE for the untrained control."""
    train: str
    """Labelled images to learn from (a data SPEC)."""
    test: str
    """Labelled images to be judged on (a data SPEC)."""


def options_of(request: Computing) -> dict[str, Any]:
    """A request's flags as the keyword arguments of the function of its verb."""
    return {name: value for name, value in vars(request).items() if name not in ("weights", "json", "debug")}


def images_used(count: int | None) -> int | None:
    """So many images of a side, or fewer where a shortened run is asked for."""
    return min(count or SHORTENED_IMAGES, SHORTENED_IMAGES) if shortened() else count


def open_sides(train: str, test: str, options: Options) -> "tuple[Side, Side]":
    """Both sides with labels in the numbers of the training images."""
    from otherview.data.source import labels_of, same_numbers
    from otherview.data.spec import open_source

    sources = open_source(train), open_source(test)
    labels = [labels_of(source, spec) for source, spec in zip(sources, (train, test), strict=True)]
    labels[1] = same_numbers(labels[1], of=sources[1].classes, like=sources[0].classes)
    import torch

    from otherview.evaluation.features import first_of
    from otherview.evaluation.frozen import Side

    sides = []
    for source, known, count in zip(sources, labels, (options.train_images, options.test_images), strict=True):
        indices = first_of(source, images_used(count))
        sides.append(Side(source, indices, torch.from_numpy(known[indices])))
    return sides[0], sides[1]


def class_names(side: "Side") -> list[str]:
    """The names of a side's classes, or their numbers."""
    known = side.source.classes
    return list(known) if known else [str(kind) for kind in range(int(side.labels.max()) + 1)]


def finish(
    weights: str | Path,
    scores: Sequence[Score],
    control: Sequence[Score],
    *,
    card: "Card",
    about: dict[str, Any],
    began: float,
    out: Path | None,
) -> Scores:
    """The result with what it is about; one line in results.jsonl, where there is a folder for it."""
    known = {"recipe": card.recipe, "config_hash": card.config_hash, "seed": card.seed, "steps": card.steps}
    found = Scores(scores, control, time.monotonic() - began, {"weights": str(weights), **about, **known})
    folder = out or (Path(weights) if Path(weights).is_dir() else None)
    if folder is not None:
        append_result(folder, found)
    return found


def show_scores(result: dict[str, Any]) -> list[str]:
    """Scores and controls, one a line."""
    rows = [*result["scores"], *result["control"]]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{width}}  {row['value']:.4f} ± {row['spread']:.4f}  (n = {row['n']})" for row in rows]
    learned = [f"{result['train_images']:,} training images"] if "train_images" in result else []
    return [*lines, " · ".join([*learned, f"{result['seconds']:.0f} s", f"config {result['config_hash']}"])]
