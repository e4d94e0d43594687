"""What is in this data, what is broken, and what run fits images and machine: a recipe with the flags that change."""

import shlex
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from otherview.config import RunConfig
from otherview.data.agreement import described
from otherview.data.doctor import Findings, Stored, examine, write_good_list
from otherview.data.first_images import LEAST_SPREAD
from otherview.data.foreign import left_out, told_of
from otherview.data.image import Preprocessing
from otherview.data.objects import IGNORED
from otherview.data.ranges import with_ranges
from otherview.data.settings import Words, check_levels, keeps_eight_bits, said
from otherview.data.source import Selected, Source
from otherview.data.spec import open_source, words_of
from otherview.data.workers import usable_cores
from otherview.errors import BrokenImage, WrongRequest
from otherview.evaluation.grouping import folders_on_both_sides
from otherview.files import make_folder, write_atomically
from otherview.launch import shortened
from otherview.recipes.registry import find
from otherview.recipes.scaling import rule
from otherview.report import pictures
from otherview.report.view_pictures import grid_of, pair_maker
from otherview.runs.cost import dry_run
from otherview.runs.settings import DoctorSettings, PretrainSettings
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import resolve_device
from otherview.training.settings import DeviceName

SHOWN = 10
"""Faults named on standard output; the files have them all."""
SHOWN_VIEWS = 4
SHORTENED_IMAGES = 200
GOOD_LISTS = ("good.csv", "good.txt")


TINY, SMALL = 48, 160
"""Pixels of the median shorter side up to which images are treated as 32 px, and as 64 px, even on a GPU."""
LEAST_STD = 1 / 255
"""A channel that never changes must not be divided by zero."""


def suggest(
    found: Findings, data: Path | str, *, preprocessing: Preprocessing, device: DeviceName
) -> tuple[RunConfig, str]:
    """A run that fits images and machine, as a config and as a command."""
    side = float(np.median(np.minimum(found.heights, found.widths)))
    large = side > SMALL and resolve_device(device).type == "cuda"
    name = "siamese_im_vit_b16" if large else "siamese_im_pico_32"
    config = find(name).make()
    flags: dict[str, str] = {}
    encoder: dict[str, Any] = {}
    if not large and side > TINY:
        encoder = {"image_size": (64, 64), "patch_size": 8}
        flags |= {"--encoder.image-size": "64 64", "--encoder.patch-size": "8"}
    if preprocessing.channels != 3:
        encoder["channels"] = preprocessing.channels
        flags["--encoder.channels"] = str(preprocessing.channels)
    views: dict[str, Any] = {
        "levels": levels_in_use(found, preprocessing),
        "mean": tuple(map(float, found.mean)),
        "std": tuple(max(LEAST_STD, float(value)) for value in found.std),
        "ranges": dict(preprocessing.ranges),
    }
    flags["--views.levels"] = said(views["levels"])
    flags |= {f"--views.{part}": " ".join(f"{value:.4f}" for value in views[part]) for part in ("mean", "std")}
    batch, training = config.batch, config.training
    if found.readable < 4 * batch:
        batch = max(2, 2 ** int(np.log2(max(2, found.readable / 4))))
        rate = rule(batch=batch, steps=config.steps or 1, width=config.encoder.width).lr_per_256
        training = config.training.model_copy(update={"lr_per_256": rate})
        flags |= {"--batch": str(batch), "--training.lr-per-256": f"{rate:g}"}
    config = config.model_copy(
        update={
            "batch": batch,
            "training": training,
            "encoder": config.encoder.model_copy(update=encoder),
            "views": config.views.model_copy(update=views),
        }
    )
    words = [f"--recipe {name} --data {shlex.quote(str(data))}", *(f"{flag} {value}" for flag, value in flags.items())]
    return config, " ".join(["otherview pretrain", *words, "--out runs/first"])


def levels_in_use(found: Findings, preprocessing: Preprocessing) -> Words:
    """What was asked for; instead of auto the range that it found, where all images have one."""
    ranges = {one for kind in found.stored for one in preprocessing.ranges.get(kind, (None,))}
    only = ranges.pop() if len(ranges) == 1 else None
    return only if only and preprocessing.levels == "auto" else preprocessing.levels


@takes(DoctorSettings)
def doctor(settings: DoctorSettings) -> dict[str, Any]:
    """What is in the data, what is broken, and a run that fits; writes a list of good images into a folder."""
    began = time.monotonic()
    if settings.channels < 1:
        raise WrongRequest(f"--channels {settings.channels} is no number of channels: give 1 or more")
    check_levels(settings.levels, "--levels")
    _check_out(settings)
    source = open_source(settings.data)
    if shortened():
        source = Selected(source, np.arange(min(len(source), SHORTENED_IMAGES)))
    make_folder(settings.out)
    preprocessing = with_ranges(source, Preprocessing(channels=settings.channels, levels=settings.levels))
    workers = usable_cores() if settings.workers is None else settings.workers
    with RunProgress(total=len(source), title="images") as progress:
        found = examine(source, preprocessing=preprocessing, workers=workers, advance=progress.advance)
    lines = [f"{source.name(index)}\t{reason}" for index, reason in found.unreadable.items()]
    write_atomically(settings.out / "broken.txt", "\n".join([*lines, ""]).encode(errors="replace"))
    result = _report(found, source, preprocessing)
    if found.readable < 2:
        return {**result, "recipe": None, "command": None, "seconds_per_epoch": None}
    good = write_good_list(source, settings.data, bad=set(found.unreadable), folder=settings.out)
    config, command = suggest(
        found,
        good if found.unreadable else settings.data,
        preprocessing=preprocessing,
        device=settings.device,
    )
    return {
        **result,
        "good": str(good),
        "recipe": config.recipe,
        "command": command,
        **_measured(config, str(good), settings),
        **_picture(config, source, found, settings.out / "views.png"),
        "seconds": round(time.monotonic() - began, 1),
    }


def _check_out(settings: DoctorSettings) -> None:
    """What is written must not lie in what is read, or be it."""
    out = settings.out.expanduser().resolve()
    for word in words_of(settings.data):
        path = Path(word).expanduser().resolve()
        if path == out or path in out.parents or (path.parent == out and path.name in GOOD_LISTS):
            raise WrongRequest(f"--out {settings.out} lies in the data or holds it ({word}): choose another folder")


def _images_by_class(source: Source) -> dict[str, int]:
    """How many images each class has, the most frequent first; "" counts images without a class."""
    counts = Counter(source.label(index) for index in range(len(source)))
    names = source.classes

    def name(label: int | None) -> str:
        return "" if label is None else str(label) if names is None else names[label]

    found = {name(label): count for label, count in counts.most_common()}
    return {} if set(found) == {""} else found


def _pixel_shares(counts: np.ndarray) -> list[str]:
    """A line on the classes of pixels, where they have some."""
    if not counts.sum():
        return []
    shares = [f"{level} {counts[level] / counts.sum():.1%}" for level in np.flatnonzero(counts[:IGNORED])]
    more = f" and {len(shares) - SHOWN} others" if len(shares) > SHOWN else ""
    return [f"pixels by class: {', '.join(shares[:SHOWN])}{more}; {counts[IGNORED] / counts.sum():.1%} count nowhere"]


def _report(found: Findings, source: Source, preprocessing: Preprocessing) -> dict[str, Any]:
    def spread(values: list[int]) -> dict[str, int] | None:
        low, median, high = (
            (int(np.quantile(values, share, method="nearest")) for share in (0, 0.5, 1)) if values else (0, 0, 0)
        )
        return {"least": low, "median": median, "largest": high}

    return {
        "images": found.images,
        "unreadable": len(found.unreadable),
        "faults": list(found.unreadable.values())[:SHOWN],
        "duplicates": len(found.repeats),
        "repeated": [f"{source.name(again)} = {source.name(first)}" for again, first in found.repeats.items()][:SHOWN],
        "kinds": dict(found.kinds.most_common(SHOWN)),
        "left_out": dict(left_out(source)),
        "beside": [*told_of(source), *filter(None, [folders_on_both_sides(source)])],
        "classes": _images_by_class(source),
        "annotated": [*described(source), *_pixel_shares(found.labels)],
        "channels": len(found.mean),
        "sizes": {"height": spread(found.heights), "width": spread(found.widths)},
        "levels": {kind: _of_kind(kind, stored, preprocessing) for kind, stored in sorted(found.stored.items())},
        "mean": [round(float(value), 4) for value in found.mean],
        "std": [round(float(value), 4) for value in found.std],
    }


def _of_kind(kind: str, stored: Stored, preprocessing: Preprocessing) -> dict[str, Any]:
    """What the values of a kind of file are, how they are read and how the levels are spread."""
    dtype = np.dtype(kind.rpartition(" ")[2])
    whole = [float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)] if dtype.kind in "ui" else None
    as_they_are = [whole] if dtype.itemsize == 1 and keeps_eight_bits(preprocessing.levels) else []
    return {
        "images": stored.images,
        "values": [stored.low, stored.high],
        "type": whole,
        "read_as": [list(one) for one in preprocessing.ranges.get(kind, ())]
        or as_they_are
        or _unstated(kind, preprocessing),
        "histogram": [round(float(share), 4) for share in stored.histogram],
        "std": round(stored.spread, 4),
        "hardly_used": stored.spread < LEAST_SPREAD,
    }


def _unstated(kind: str, preprocessing: Preprocessing) -> str:
    """How values are read where no range of their kind was found."""
    by_file = preprocessing.levels == "auto" and kind in preprocessing.ranges
    return "each file says" if by_file else said(preprocessing.levels)


def _measured(config: RunConfig, data: str, settings: DoctorSettings) -> dict[str, Any]:
    """A few real steps on this machine; what was found in the data is said even where they fail."""
    try:
        timed = dry_run(
            PretrainSettings(
                config=config, data=data, out=settings.out, device=settings.device, threads=settings.threads
            )
        )
    except (WrongRequest, BrokenImage, OSError) as error:
        return {"seconds_per_epoch": None, "not_measured": str(error)}
    return {"seconds_per_epoch": round(timed["seconds_per_epoch"], 1)}


def _picture(config: RunConfig, source: Source, found: Findings, path: Path) -> dict[str, Any]:
    chosen = islice((index for index in range(found.images) if index not in found.unreadable), SHOWN_VIEWS)
    try:
        images, pairs = zip(*map(pair_maker(config, source), chosen), strict=True)
        pictures.draw_views(images, pairs, grid_of(config)).savefig(path, dpi=150)
    except (BrokenImage, OSError) as error:
        return {"picture": None, "not_drawn": str(error)}
    return {"picture": str(path)}
