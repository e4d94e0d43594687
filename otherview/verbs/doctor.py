"""What is in this data, what is broken, what size of run fits, how long it will take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.atomic import write_atomically
from otherview.config import RunConfig
from otherview.errors import BrokenImage, WrongRequest
from otherview.verbs.request import Computing, shortened
from otherview.verbs.suggestion import suggest

if TYPE_CHECKING:
    from otherview.data.doctor import Findings
    from otherview.data.source import Source

SHOWN = 10
"""Faults named on standard output; the files have them all."""
SHOWN_VIEWS = 4
SHORTENED_IMAGES = 200
GOOD_LISTS = ("good.csv", "good.txt")


@dataclass(kw_only=True)
class Doctor(Computing):
    """Decode every image once; report what is there and what is broken, and suggest a run."""

    data: str
    """Images: a data SPEC, as for pretrain."""
    out: Path = Path("doctor")
    """Folder for the list of good images (itself a SPEC), the broken ones with reasons, and a picture of views."""
    channels: int = 3
    """Of the images; others than 3 for arrays (*.npy) and TIFF with several channels."""
    levels: tuple[float, float] | None = None
    """Values that become black and white; default: the range of 8 or 16 bits, or [0, 1] for floats."""
    workers: int | None = None
    """Processes that decode; default: one per core."""


def run(request: Doctor) -> dict[str, Any]:
    """The verb."""
    began = time.monotonic()
    if request.channels < 1:
        raise WrongRequest(f"--channels {request.channels} is no number of channels: give 1 or more")
    if request.levels and request.levels[0] >= request.levels[1]:
        raise WrongRequest(f"--levels {request.levels[0]} {request.levels[1]} must rise: black first, then white")
    import numpy as np

    from otherview.data.doctor import examine
    from otherview.data.good_list import write_good_list
    from otherview.data.levels import Decoding
    from otherview.data.loader import usable_cores
    from otherview.data.source import Selected
    from otherview.data.spec import open_source
    from otherview.training.console import RunProgress

    _check_out(request)
    source = open_source(request.data)
    if shortened():
        source = Selected(source, np.arange(min(len(source), SHORTENED_IMAGES)))
    _make_folder(request.out)
    decoding = Decoding(request.channels, request.levels)
    workers = usable_cores() if request.workers is None else request.workers
    with RunProgress(total=len(source), title="images") as progress:
        found = examine(source, decoding=decoding, workers=workers, advance=progress.advance)
    lines = [f"{source.name(index)}\t{reason}" for index, reason in found.unreadable.items()]
    write_atomically(request.out / "broken.txt", "\n".join([*lines, ""]).encode(errors="replace"))
    result = _report(found, source)
    if found.readable < 2:
        return {**result, "recipe": None, "command": None, "seconds_per_epoch": None}
    good = write_good_list(source, request.data, bad=set(found.unreadable), folder=request.out)
    config, command = suggest(
        found,
        good if found.unreadable else request.data,
        channels=request.channels,
        levels=request.levels,
        device=request.device,
    )
    return {
        **result,
        "good": str(good),
        "recipe": config.recipe,
        "command": command,
        **_measured(config, str(good), request),
        **_picture(config, source, found, request.out / "views.png"),
        "seconds": round(time.monotonic() - began, 1),
    }


def _check_out(request: Doctor) -> None:
    """What is written must not lie in what is read, or be it."""
    from otherview.data.spec import words_of

    out = request.out.expanduser().resolve()
    for word in words_of(request.data):
        path = Path(word).expanduser().resolve()
        if path == out or path in out.parents or (path.parent == out and path.name in GOOD_LISTS):
            raise WrongRequest(f"--out {request.out} lies in the data or holds it ({word}): choose another folder")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "broken.txt").touch()
    except OSError as error:
        raise WrongRequest(f"--out {out} cannot be written ({error.strerror}): choose a folder that you own") from error


def _report(found: "Findings", source: "Source") -> dict[str, Any]:
    import numpy as np

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
        "channels": len(found.mean),
        "sizes": {"height": spread(found.heights), "width": spread(found.widths)},
        "mean": [round(float(value), 4) for value in found.mean],
        "std": [round(float(value), 4) for value in found.std],
    }


def _measured(config: RunConfig, data: str, request: Doctor) -> dict[str, Any]:
    """A few real steps on this machine; what was found in the data is said even where they fail."""
    from otherview.verbs.dry_run import dry_run

    try:
        timed = dry_run(config, data, device=request.device, threads=request.threads)
    except (WrongRequest, BrokenImage, OSError) as error:
        return {"seconds_per_epoch": None, "not_measured": str(error)}
    return {"seconds_per_epoch": round(timed["seconds_per_epoch"], 1)}


def _picture(config: RunConfig, source: "Source", found: "Findings", path: Path) -> dict[str, Any]:
    from otherview.report import pictures
    from otherview.verbs.show import grid_of, pair_maker

    chosen = islice((index for index in range(found.images) if index not in found.unreadable), SHOWN_VIEWS)
    try:
        images, pairs = zip(*map(pair_maker(config, source), chosen), strict=True)
        pictures.draw_views(images, pairs, grid_of(config)).savefig(path, dpi=150)
    except (BrokenImage, OSError) as error:
        return {"picture": None, "not_drawn": str(error)}
    return {"picture": str(path)}


def show(result: dict[str, Any]) -> Sequence[str]:
    """What a person wants to know, the worst first."""
    height, width = (result["sizes"][side] for side in ("height", "width"))
    lines = [
        f"{result['images']:,} images, {result['unreadable']:,} unreadable, {result['duplicates']:,} duplicates",
        *(f"  broken  {fault}" for fault in result["faults"]),
        *(f"  again   {pair}" for pair in result["repeated"]),
        "kinds   " + ", ".join(f"{kind} {count:,}" for kind, count in result["kinds"].items()),
        f"height  {height['least']} to {height['largest']} px, median {height['median']}",
        f"width   {width['least']} to {width['largest']} px, median {width['median']}",
        f"mean    {' '.join(f'{value:.4f}' for value in result['mean'])}",
        f"std     {' '.join(f'{value:.4f}' for value in result['std'])}",
    ]
    if result["command"] is None:
        return [*lines, "too few images can be read, so there is nothing to suggest"]
    pace = result["seconds_per_epoch"]
    return [
        *lines,
        f"good images  {result['good']}  (a SPEC: give it to --data)",
        f"views        {result['picture'] or result['not_drawn']}",
        f"an epoch of {result['recipe']} "
        + (f"could not be timed: {result['not_measured']}" if pace is None else f"takes about {pace:,.0f} s here"),
        f"try  {result['command']}",
    ]
