"""A whole image at an encoder's size: its centre, all of it stretched, or all of it in a frame; and its pixel labels likewise.

    pixels = prepared(image, preprocessing)          # [C, H, W], of preprocessing.size
    where = shown(image.height, image.width, preprocessing)

Sizes are rounded as torchvision and timm round them, so that an exported preprocessing shows the same pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from otherview.data.image import Image, Preprocessing, level
from otherview.data.objects import IGNORED
from otherview.data.settings import ShownSettings
from otherview.errors import WrongRequest
from otherview.geometry import Crop
from otherview.views.crop import planes, take
from otherview.weights.formats import check_size

OVERSAMPLED = 2.0
"""With 1, levels differ by half a level from those of a JPEG that other libraries decode in full; with 2, by a tenth."""


class Shown(NamedTuple):
    """Which part of an image is seen, at which size (height, width), and where in the frame it lies (top, left)."""

    crop: Crop
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)


def shown(height: int, width: int, preprocessing: Preprocessing) -> Shown:
    """What of an image of `height` × `width` pixels is seen, and where."""
    size, whole = preprocessing.size, Crop(0.0, 0.0, float(height), float(width), False)
    if preprocessing.fit == "squash":
        return Shown(whole, size)
    ratios = height / size[0], width / size[1]
    if preprocessing.fit == "pad":
        inner = max(1, round(height / max(ratios))), max(1, round(width / max(ratios)))
        return Shown(whole, inner, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    rounded = int if size[0] == size[1] else round
    full = (max(want, rounded(have / min(ratios) + 1e-6)) for want, have in zip(size, (height, width), strict=True))
    rows, columns = full
    down, across = height / rows, width / columns
    top, left = round((rows - size[0]) / 2), round((columns - size[1]) / 2)
    return Shown(Crop(top * down, left * across, size[0] * down, size[1] * across, False), size)


def as_asked(preprocessing: Preprocessing, settings: ShownSettings, *, patch_size: int | None) -> Preprocessing:
    """The preprocessing with the size and the fit that were asked for; raises WrongRequest for a size that does not fit."""
    if settings.size is not None:
        if patch_size is None:
            raise WrongRequest(
                f"--size {settings.size[0]} {settings.size[1]}: this module takes images of its own size alone"
            )
        check_size(patch_size, settings.size)
    return preprocessing._replace(size=settings.size or preprocessing.size, fit=settings.fit or preprocessing.fit)


def prepared(image: Image, preprocessing: Preprocessing) -> np.ndarray:
    """An image as an encoder is to see it: [C, H, W]."""
    published = preprocessing.crop_pct < 1 or preprocessing.interpolation != "bicubic"
    if preprocessing.fit == "crop" and published:
        return _resized_then_cut(image.decode(), preprocessing)
    where = shown(image.height, image.width, preprocessing)
    pixels = planes(take(image, [where.crop], size=where.size, oversampled=OVERSAMPLED)[0], flipped=False)
    if where.size == preprocessing.size:
        return pixels
    frame = np.empty((len(pixels), *preprocessing.size), pixels.dtype)
    frame[:] = np.reshape([level(round(255 * mean), pixels.dtype) for mean in preprocessing.mean], (-1, 1, 1))
    (top, left), (rows, columns) = where.corner, where.size
    frame[:, top : top + rows, left : left + columns] = pixels
    return frame


def prepared_labels(labels: np.ndarray, preprocessing: Preprocessing) -> Int[Tensor, "H W"]:
    """The classes [H, W] of the pixels that `prepared` shows, nearest neighbours; what frames them is ignored."""
    crop, size, corner = shown(labels.shape[0], labels.shape[1], preprocessing)
    rows, columns = (
        np.minimum((first + (np.arange(new) + 0.5) * length / new).astype(int), most - 1)
        for first, length, new, most in zip(
            (crop.top, crop.left), (crop.height, crop.width), size, labels.shape, strict=True
        )
    )
    found = torch.full(preprocessing.size, IGNORED, dtype=torch.int64)
    inside = torch.from_numpy(labels[rows[:, None], columns].astype(np.int64))
    found[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = inside
    return found


def _resized_then_cut(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The published order: the shorter side to size / crop_pct, antialiased, then the centre (specification 2)."""
    height, width = pixels.shape[:2]
    scale = max(preprocessing.size[0] / height, preprocessing.size[1] / width) / preprocessing.crop_pct
    whole = (
        max(preprocessing.size[0], int(height * scale + 1e-6)),
        max(preprocessing.size[1], int(width * scale + 1e-6)),
    )
    levels = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
    if pixels.dtype == np.uint16:  # which torch resizes in floats alone
        floats = F.interpolate(levels.float(), whole, mode=preprocessing.interpolation, antialias=True)
        resized = floats.round().clamp(0, 65535).to(torch.uint16)[0]
    else:
        resized = F.interpolate(levels, whole, mode=preprocessing.interpolation, antialias=True)[0]
    top, left = (round((have - want) / 2) for have, want in zip(whole, preprocessing.size, strict=True))
    return resized[:, top : top + preprocessing.size[0], left : left + preprocessing.size[1]].contiguous().numpy()
