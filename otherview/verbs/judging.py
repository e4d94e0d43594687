"""What the verbs that evaluate share: which images, what stands beside the score, where it is written."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.errors import WrongRequest
from otherview.evaluation.scores import Score, Scores, append_result
from otherview.training.launch import adopt_slurm, launched_rank, launched_ranks
from otherview.verbs.pages import refresh_page
from otherview.verbs.request import Computing, resolve_device, set_threads, shortened

if TYPE_CHECKING:
    import torch

    from otherview.evaluation.cache import FeatureCache
    from otherview.evaluation.frozen import Side

SHORTENED_IMAGES = 200
"""Images per side where a shortened run is asked for."""


@dataclass(kw_only=True)
class Judging(Computing):
    """What every evaluation is told."""

    weights: str
    """A run folder, an encoder file, reference:demo (ships with the package), or random:RECIPE, the untrained control."""
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


@dataclass(kw_only=True)
class Frozen(Judging):
    """Flags of evaluations of frozen features."""

    block: int | None = None
    """Judge the tokens after this block, counted from 1; default: the last."""
    cache: bool = True
    """Keep features in the cache folder (OTHERVIEW_CACHE), for the next evaluation of these weights on these images."""


def options_of(request: Computing) -> dict[str, Any]:
    """A request's flags as the keyword arguments of the function of its verb."""
    return {name: value for name, value in vars(request).items() if name not in ("weights", "json", "debug")}


def compute_on(request: Computing) -> "torch.device":
    """The device that was asked for; sets the threads, and lets the processes of one job find each other."""
    adopt_slurm()
    device = resolve_device(request.device)
    if launched_ranks() > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")
    set_threads(request.threads)
    return device


def check_shown(shown: float) -> None:
    """Raise WrongRequest for what is no share of an image's side."""
    if not 0 < shown <= 1:
        raise WrongRequest(f"--shown {shown:g} must be above 0 and up to 1")


def images_used(count: int | None, *, few: int = SHORTENED_IMAGES) -> int | None:
    """So many images of a side, or `few` at most where a shortened run is asked for; raises WrongRequest for none."""
    if count is not None and count < 1:
        raise WrongRequest(f"--train-images or --test-images {count} is too few: give 1 or more, or leave it out")
    return min(count or few, few) if shortened() else count


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
    from otherview.evaluation.frozen import Side, check_classes, refuse_unknown

    counts = images_used(options.train_images), images_used(options.test_images)
    indices = [first_of(source, count) for source, count in zip(sources, counts, strict=True)]
    train_labels, test_labels = (known[chosen] for known, chosen in zip(labels, indices, strict=True))
    present, dense = np.unique(train_labels, return_inverse=True)
    refuse_unknown(test_labels.tolist(), present.tolist())
    named = sources[0].classes
    names = [str(named[kind]) if named else str(kind) for kind in present.tolist()]
    both = dense, np.searchsorted(present, test_labels)
    one, two = (
        Side(source, chosen, torch.from_numpy(known.astype(np.int64)), names)
        for source, chosen, known in zip(sources, indices, both, strict=True)
    )
    check_classes(one, two)
    return one, two


def read_contents(sides: "tuple[Side, Side]", *, workers: int, allow_shared: bool) -> "tuple[Side, Side]":
    """Both sides with the digests of their images; raises WrongRequest where they share some, unless that is allowed."""
    from otherview.evaluation.content import digests_of, refuse_shared
    from otherview.training.console import RunProgress

    total = sum(len(side.indices) for side in sides)
    with RunProgress(total=total, title="comparing images", speak=launched_rank() == 0) as progress:
        train, test = (
            replace(side, contents=digests_of(side.source, side.indices, workers=workers, advance=progress.advance))
            for side in sides
        )
    if not allow_shared:
        refuse_shared(train.contents, test.contents, name_of=lambda place: test.source.name(int(test.indices[place])))
    return train, test


def cache_of(request: Frozen) -> "FeatureCache":
    """Where features are kept, if they are."""
    from otherview.data.index import cache_folder
    from otherview.evaluation.cache import FeatureCache

    return FeatureCache(cache_folder() / "features" if request.cache else None)


def finish(
    request: Judging,
    found: "Mapping[str, Sequence[Score]]",
    *,
    known: Mapping[str, Any],
    about: Mapping[str, Any],
    began: float,
) -> Scores:
    """The result with what it is about; rank 0 adds one line to results.jsonl, where there is a folder for it.

    `found` has the scores of "encoder" and, after it, of what stands beside; `known` is what the weights say of themselves.
    """
    weights = Path(request.weights)
    unusual = _unusual(request)
    found = {name: [score._replace(name=score.name + unusual) for score in scores] for name, scores in found.items()}
    named = {name: getattr(request, name) for name in ("allow_shared", "block") if getattr(request, name, None)}
    asked = {"weights": str(weights), **about, **named, "device": str(resolve_device(request.device))}
    control = [score for name, scores in found.items() if name != "encoder" for score in scores]
    result = Scores(found["encoder"], control, time.monotonic() - began, {**asked, **known})
    folder = request.out or (weights if weights.is_dir() else None)
    if folder is not None and launched_rank() == 0:
        append_result(folder, result)
        refresh_page(folder)
    return result


NAMED = (
    "block", "train_images", "test_images", "k", "temperature", "strength", "shown", "draws", "seed", "epochs", "batch", "rate",
)  # fmt: skip
"""Flags that stand in the names of scores where they are not the defaults, so that one name is one protocol."""


def _unusual(request: Judging) -> str:
    """Words for what a protocol has otherwise than by default."""
    words: list[str] = []
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name in NAMED and value not in (None, field.default):
            values = value if isinstance(value, tuple) else (value,)
            if len(values) == 1:  # scores of several values are named by each
                word = f"{values[0]:{',' if isinstance(values[0], int) else 'g'}}"
                words.append(f"{field.name.replace('_', ' ')} {word}")
    return f" ({', '.join(words)})" if words else ""


def show_scores(result: dict[str, Any]) -> list[str]:
    """Scores and controls, one a line; a table that can be pasted."""
    rows = [*result["scores"], *result["control"]]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{width}}  {row['value']:.4f} ± {row['spread']:.4f}  (n = {row['n']})" for row in rows]
    learned = [f"{result['train_images']:,} training images"] if "train_images" in result else []
    config = [f"config {result['config_hash']}"] if "config_hash" in result else []
    return [*lines, " · ".join([*learned, f"{result['seconds']:.0f} s", *config])]
