"""Our operations beside the reference's, one at a time, on the same images with the same draws.

Of every result four statistics are taken (level, contrast, saturation, sharpness); over many images their mean, spread and
quantiles must agree, or a recipe would mean something else here than elsewhere. The two whole branches are compared too,
each with its own draws.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# torchvision declares tensors where its functions take PIL images as well

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import functional as tv

from otherview.bench.reference import reference_branch
from otherview.data.image import Image as View
from otherview.data.image import Reduced
from otherview.data.picture import picture_of
from otherview.data.source import Source
from otherview.geometry import Crop
from otherview.seeding import sample_rng
from otherview.views import colour
from otherview.views.colour import ColourDraw
from otherview.views.crop import cut, draw_crop, least_scale, planes, take, view_of
from otherview.views.device_colour import coloured_alone
from otherview.views.recolour import recolour
from otherview.views.settings import ViewSettings

SIZE = (128, 128)
LEAST_SPREAD = 2.0
"""Levels: a figure that varies less from image to image has no spread worth comparing."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Pair = tuple[np.ndarray, np.ndarray]


def statistics(pixels: np.ndarray) -> list[float]:
    """Mean level, its deviation, mean distance of the channels, mean step between neighbours; all in levels of 255."""
    levels = pixels.astype(np.float32)
    steps = np.abs(np.diff(levels, axis=1)).mean()
    return [float(value) for value in (levels.mean(), levels.std(), np.ptp(levels, axis=2).mean(), steps)]


def compare_operations(
    source: Source, *, count: int, advance: Callable[[int], None] = lambda _: None
) -> dict[str, dict[str, float]]:
    """By operation: the largest differences over the statistics, in levels of 255, and the spread as a ratio."""
    settings = ViewSettings()
    torch.manual_seed(0)
    np.random.seed(0)  # PillowBlur of the reference draws from it
    found: dict[str, list[Any]] = {}
    for place in range(count):
        index = place % len(source)
        rng = sample_rng(seed=0, epoch=place // len(source), index=index)
        for name, (ours, theirs) in _operations(picture_of(source, index), settings, rng).items():
            apart = np.abs(ours.astype(np.int16) - theirs).mean() if "branch" not in name else np.nan
            found.setdefault(name, []).append((statistics(ours), statistics(theirs), float(apart)))
        advance(1)
    return {name: _agreement(rows) for name, rows in found.items()}


def _operations(picture: View, settings: ViewSettings, rng: Random) -> dict[str, Pair]:
    pixels = picture.decode()
    crop = draw_crop(picture, settings, rng)
    view = cut(Reduced(pixels), crop, size=SIZE)
    reduced = picture.reduced(least_scale((crop,), size=SIZE))
    image = Image.fromarray(view)
    strength = settings.online_colour
    around_one = {
        name: rng.uniform(1 - getattr(strength, name), 1 + getattr(strength, name))
        for name in ("brightness", "contrast", "saturation")
    }
    shift, sigma = rng.uniform(-strength.hue, strength.hue), rng.uniform(*strength.blur_sigma)
    cropped = _reference_crop(pixels, crop)
    pairs = {"crop, flip, resize": (_mirrored(view, crop), cropped)}
    if reduced.factor > 1:
        pairs["the same, JPEG decoded smaller"] = _mirrored(cut(reduced, crop, size=SIZE), crop), cropped
    for name, factor in around_one.items():
        pairs[name] = getattr(colour, name)(view, factor), np.asarray(getattr(tv, f"adjust_{name}")(image, factor))
    pairs["hue"] = colour.hue(view, shift), np.asarray(tv.adjust_hue(image, shift))
    pairs["gray"] = colour.gray(view), np.asarray(tv.rgb_to_grayscale(image, 3))
    pairs["blur"] = colour.blur(view, sigma), np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)))
    pairs["solarise"] = colour.solarise(view), np.asarray(tv.solarize(image, 128))
    draws = {name: ColourDraw(**{name: factor}, order=[name]) for name, factor in around_one.items()}
    draws |= {
        "hue": ColourDraw(hue=shift, order=["hue"]),
        "gray": ColourDraw(gray=True),
        "blur": ColourDraw(sigma=sigma),
    }
    for name, drawn in {**draws, "solarise": ColourDraw(solarise=True)}.items():
        pairs[f"{name} on the device"] = _on_device(view, drawn), pairs[name][1]
    for name, branch in (("online branch", settings.online_colour), ("target branch", settings.target_colour)):
        whole = settings.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
        theirs = reference_branch(whole, branch, SIZE)(Image.fromarray(pixels)).permute(1, 2, 0).numpy() * 255
        ours = take(picture, [draw_crop(picture, settings, rng)], size=SIZE)[0]
        rows, drawn = np.rint(theirs).astype(np.uint8), colour.draw_colour(branch, rng)
        pairs[name] = recolour(ours, drawn), rows
        pairs[f"{name} on the device"] = _on_device(ours, drawn), rows
    return pairs


def _on_device(pixels: np.ndarray, drawn: ColourDraw) -> np.ndarray:
    """What `views.colour_on device` makes of an image."""
    view = view_of(pixels, Crop(0.0, 0.0, 1.0, 1.0, False), np.zeros((1, 1), bool), drawn, later=True)
    return coloured_alone(view).numpy().transpose(1, 2, 0)


def _mirrored(view: np.ndarray, crop: Crop) -> np.ndarray:
    return planes(view, flipped=bool(crop.flipped)).transpose(1, 2, 0)


def _reference_crop(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    top, left, height, width = (int(float(side)) for side in crop[:4])
    image = Image.fromarray(pixels)
    if crop.flipped:
        image, left = tv.hflip(image), pixels.shape[1] - left - width
    resized = tv.resized_crop(image, top, left, height, width, list(SIZE), tv.InterpolationMode.BICUBIC)
    return np.asarray(resized)


def _agreement(rows: list[Any]) -> dict[str, float]:
    ours, theirs = (np.array([row[side] for row in rows]) for side in (0, 1))
    varies = theirs.std(axis=0) > LEAST_SPREAD
    quantiles = np.quantile(ours, QUANTILES, axis=0) - np.quantile(theirs, QUANTILES, axis=0)
    spread = np.abs(np.log(ours.std(axis=0)[varies] / theirs.std(axis=0)[varies]))
    apart = float(np.mean([row[2] for row in rows]))
    return {
        "images": float(len(rows)),
        "mean_apart": round(float(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max()), 3),
        "spread_ratio": round(float(np.exp(spread.max(initial=0.0))), 4),
        "quantile_apart": round(float(np.abs(quantiles).max()), 3),
        "standard_error": round(float((theirs.std(axis=0) / math.sqrt(len(rows))).max()), 3),
        **({} if math.isnan(apart) else {"pixel_apart": round(apart, 3)}),
    }
