"""What is in this data, what is broken, what size of run fits, how long it will take."""

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.verbs.request import Computing, DeviceName

if TYPE_CHECKING:
    from otherview.data.doctor import Findings
    from otherview.data.levels import Decoding
    from otherview.data.source import Source

SHOWN = 10
"""Faults named on standard output; the files have them all."""
TINY, SMALL = 48, 160
"""Pixels of the median shorter side up to which images are treated as 32 px, and as 64 px, even on a GPU."""


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
    from otherview.data.doctor import examine
    from otherview.data.good_list import write_good_list
    from otherview.data.levels import Decoding
    from otherview.data.spec import open_source
    from otherview.training.console import RunProgress

    source = open_source(request.data)
    _make_folder(request.out)
    decoding = Decoding(request.channels, request.levels)
    workers = (os.cpu_count() or 1) if request.workers is None else request.workers
    with RunProgress(total=len(source), title="images") as progress:
        found = examine(source, decoding=decoding, workers=workers, advance=progress.advance)
    lines = [f"{source.name(index)}\t{reason}" for index, reason in found.unreadable.items()]
    (request.out / "broken.txt").write_text("\n".join([*lines, ""]), encoding="utf-8", errors="replace")
    result = _report(found, source)
    if not found.readable:
        return {**result, "recipe": None, "command": None, "seconds_per_epoch": None}
    good = write_good_list(source, request.data, bad=set(found.unreadable), folder=request.out)
    config, command = _suggest(found, request, good if found.unreadable else request.data)
    return {
        **result,
        "good": str(good),
        "recipe": config.recipe,
        "command": command,
        "seconds_per_epoch": _seconds_per_epoch(config, str(good), device=request.device, threads=request.threads),
        "picture": _picture(config, source, found, decoding, request.out / "views.png"),
        "seconds": round(time.monotonic() - began, 1),
    }


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
        "sizes": {"height": spread(found.heights), "width": spread(found.widths)},
        "mean": [round(float(value), 4) for value in found.mean],
        "std": [round(float(value), 4) for value in found.std],
    }


def _suggest(found: "Findings", request: Doctor, data: Path | str) -> tuple[RunConfig, str]:
    """A run that fits images and machine, as a config and as a command."""
    import numpy as np

    from otherview.recipes.registry import find
    from otherview.verbs.request import resolve_device

    side = float(np.median(np.minimum(found.heights, found.widths)))
    large = side > SMALL and resolve_device(request.device).type == "cuda"
    name = "siamese_im_vit_b16" if large else "siamese_im_pico_32"
    config = find(name).make()
    flags: dict[str, str] = {}
    encoder: dict[str, Any] = {}
    if not large and side > TINY:
        encoder = {"image_size": (64, 64), "patch_size": 8}
        flags |= {"--encoder.image-size": "64 64", "--encoder.patch-size": "8"}
    if request.channels != 3:
        encoder["channels"] = request.channels
        flags["--encoder.channels"] = str(request.channels)
    views: dict[str, Any] = {}
    if request.channels != 3 or request.levels:
        views = {"mean": tuple(map(float, found.mean)), "std": tuple(map(float, found.std)), "levels": request.levels}
        flags |= {f"--views.{part}": " ".join(f"{value:.4f}" for value in views[part]) for part in ("mean", "std")}
    if request.levels:
        flags["--views.levels"] = " ".join(f"{value:g}" for value in request.levels)
    batch = config.batch
    if found.readable < 4 * batch:
        batch = max(2, 2 ** int(np.log2(max(2, found.readable / 4))))
        flags["--batch"] = str(batch)
    config = config.model_copy(
        update={
            "batch": batch,
            "encoder": config.encoder.model_copy(update=encoder),
            "views": config.views.model_copy(update=views),
        }
    )
    words = " ".join(f"{flag} {value}" for flag, value in flags.items())
    return (
        config,
        f"otherview pretrain --recipe {name} --data {shlex.quote(str(data))} {words} --out runs/first".replace(
            "  ", " "
        ),
    )


def _seconds_per_epoch(config: RunConfig, data: str, *, device: DeviceName, threads: int | None) -> float:
    """Measured: a few real steps on this machine."""
    from otherview.verbs.dry_run import dry_run

    timed = dry_run(config, data, device=device, threads=threads)
    return round(timed["seconds_per_epoch"], 1)


def _picture(config: RunConfig, source: "Source", found: "Findings", decoding: "Decoding", path: Path) -> str:
    from otherview.data.picture import picture_of
    from otherview.geometry import PatchGrid
    from otherview.report import pictures
    from otherview.seeding import sample_rng
    from otherview.views.pair import PairViews

    chosen = [index for index in range(min(found.images, 1000)) if index not in found.unreadable][:4]
    grid = PatchGrid(*config.encoder.grid)
    views = PairViews(config.views, config.encoder.image_size, grid)
    images = [picture_of(source, index, decoding) for index in chosen]
    pairs = [
        views(image, sample_rng(seed=0, epoch=0, index=index)) for image, index in zip(images, chosen, strict=True)
    ]
    pictures.draw_views(images, pairs, grid).savefig(path, dpi=150)
    return str(path)


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
        return [*lines, "nothing here can be read, so there is nothing to suggest"]
    return [
        *lines,
        f"good images  {result['good']}  (a SPEC: give it to --data)",
        f"views        {result['picture']}",
        f"an epoch of {result['recipe']} takes about {result['seconds_per_epoch']:,.0f} s here; try",
        f"  {result['command']}",
    ]
