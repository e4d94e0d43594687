"""What is in this data, what is broken, and what run fits images and machine: a recipe with the flags that change."""

import shlex
import time
from collections import Counter
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
from otherview.data.settings import check_levels, keeps_eight_bits, said
from otherview.data.source import Selected, Source
from otherview.data.spec import open_source, words_of
from otherview.data.survey import channels_of
from otherview.data.workers import usable_cores
from otherview.errors import BrokenImage, WrongRequest
from otherview.evaluation.grouping import folders_on_both_sides
from otherview.files import make_folder, write_atomically
from otherview.launch import shortened
from otherview.report import pictures
from otherview.report.view_pictures import grid_of, pair_maker
from otherview.runs.cost import Opened, cost_of, opened
from otherview.runs.settings import DoctorSettings, PretrainSettings
from otherview.signature import takes
from otherview.training.console import RunProgress
from otherview.training.device import compute_on

SHOWN = 10
"""Faults named on standard output; the files have them all."""
SHOWN_VIEWS = 4
SHORTENED_IMAGES = 200
GOOD_LISTS = ("good.csv", "good.txt")


def suggest(data: str, settings: DoctorSettings) -> tuple[RunConfig, str]:
    """What is asked for, besides the data: the config, of which only this is set, and the command."""
    found: dict[str, Any] = {}
    words = f"otherview pretrain --data {shlex.quote(data)}"
    if settings.channels is not None:
        found["encoder"] = {"channels": settings.channels}
        words += f" --encoder.channels {settings.channels}"
    if settings.levels != "auto":
        found["views"] = {"levels": settings.levels}
        words += f" --views.levels {said(settings.levels)}"
    return RunConfig.model_validate(found), f"{words} --out runs/first"


@takes(DoctorSettings)
def doctor(settings: DoctorSettings) -> dict[str, Any]:
    """What is in the data, what is broken, and a run that fits; writes a list of good images into a folder."""
    began = time.monotonic()
    if settings.channels is not None and settings.channels < 1:
        raise WrongRequest(f"--channels {settings.channels} is no number of channels: give 1 or more")
    check_levels(settings.levels, "--levels")
    _check_out(settings)
    source = open_source(settings.data)
    if shortened():
        source = Selected(source, np.arange(min(len(source), SHORTENED_IMAGES)))
    make_folder(settings.out)
    wanted = Preprocessing(channels=settings.channels or 3, levels=settings.levels)
    channels = settings.channels or channels_of(source, wanted)
    preprocessing = with_ranges(source, wanted._replace(channels=channels))
    workers = usable_cores() if settings.workers is None else settings.workers
    with RunProgress(total=len(source), title="images") as progress:
        found = examine(source, preprocessing=preprocessing, workers=workers, advance=progress.advance)
    lines = [f"{source.name(index)}\t{reason}" for index, reason in found.unreadable.items()]
    write_atomically(settings.out / "broken.txt", "\n".join([*lines, ""]).encode(errors="replace"))
    result = _report(found, source, preprocessing)
    if found.readable < 2:
        return {**result, "recipe": None, "chosen": [], "command": None, "seconds_per_epoch": None}
    good = write_good_list(source, settings.data, bad=set(found.unreadable), folder=settings.out)
    asked, command = suggest(str(good) if found.unreadable else settings.data, settings)
    return {
        **result,
        "good": str(good),
        "command": command,
        **_run_of(asked, str(good), settings),
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


def _run_of(asked: RunConfig, data: str, settings: DoctorSettings) -> dict[str, Any]:
    """What would be run, a few real steps of it and a picture of its views; what the data has is said even if they fail."""
    run = PretrainSettings(
        config=asked, data=data, out=settings.out, fresh=True, device=settings.device, threads=settings.threads
    )  # whatever run --out may hold
    try:
        compute_on(run)
        ready = opened(run)
        timed = cost_of(ready, run)
    except (WrongRequest, BrokenImage, OSError) as error:
        none = dict.fromkeys(("recipe", "seconds_per_epoch", "picture"))
        return {**none, "chosen": [], "not_measured": str(error), "not_drawn": str(error)}
    pace = {"seconds_per_epoch": timed["seconds_per_epoch"], "hours_expected": timed["hours_expected"]}
    return {
        "recipe": ready.config.recipe,
        "chosen": ready.chosen,
        **pace,
        **_picture(ready, settings.out / "views.png"),
    }


def _picture(run: Opened, path: Path) -> dict[str, Any]:
    """Views of some images, none of which is broken."""
    try:
        shown = range(min(SHOWN_VIEWS, len(run.source)))
        images, pairs = zip(*map(pair_maker(run.config, run.source), shown), strict=True)
        pictures.draw_views(images, pairs, grid_of(run.config)).savefig(path, dpi=150)
    except (BrokenImage, OSError) as error:
        return {"picture": None, "not_drawn": str(error)}
    return {"picture": str(path)}
