"""What run fits the images and the machine: a recipe with the flags that change, as a config and as a command."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.config import RunConfig
from otherview.verbs.request import DeviceName, resolve_device

if TYPE_CHECKING:
    from otherview.data.doctor import Findings

TINY, SMALL = 48, 160
"""Pixels of the median shorter side up to which images are treated as 32 px, and as 64 px, even on a GPU."""
LEAST_STD = 1 / 255
"""A channel that never changes must not be divided by zero."""


def suggest(
    found: "Findings", data: Path | str, *, channels: int, levels: tuple[float, float] | None, device: DeviceName
) -> tuple[RunConfig, str]:
    """A run that fits images and machine, as a config and as a command."""
    import numpy as np

    from otherview.recipes.registry import find
    from otherview.recipes.scaling import rule

    side = float(np.median(np.minimum(found.heights, found.widths)))
    large = side > SMALL and resolve_device(device).type == "cuda"
    name = "siamese_im_vit_b16" if large else "siamese_im_pico_32"
    config = find(name).make()
    flags: dict[str, str] = {}
    encoder: dict[str, Any] = {}
    if not large and side > TINY:
        encoder = {"image_size": (64, 64), "patch_size": 8}
        flags |= {"--encoder.image-size": "64 64", "--encoder.patch-size": "8"}
    if channels != 3:
        encoder["channels"] = channels
        flags["--encoder.channels"] = str(channels)
    views: dict[str, Any] = {}
    if channels != 3 or levels:
        views = {
            "mean": tuple(map(float, found.mean)),
            "std": tuple(max(LEAST_STD, float(value)) for value in found.std),
            "levels": levels,
        }
        flags |= {f"--views.{part}": " ".join(f"{value:.4f}" for value in views[part]) for part in ("mean", "std")}
    if levels:
        flags["--views.levels"] = " ".join(f"{value:g}" for value in levels)
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
