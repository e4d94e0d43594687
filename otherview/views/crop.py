"""Random resized crops that tell what they took (specification 1.1).

The flip comes first in the paper's pipeline; here the crop is kept in pixels of the unflipped image and the small
result is mirrored, which takes the same pixels for less work.
"""

import math
from collections.abc import Sequence
from random import Random

import cv2
import numpy as np
import torch
from PIL import Image

from otherview.data.image import Image as Picture
from otherview.data.image import Reduced, is_repeated
from otherview.geometry import Crop
from otherview.views.colour import ColourDraw
from otherview.views.recolour import recolour, recorded
from otherview.views.settings import ViewSettings
from otherview.views.view import View

_bicubic = torch.ops.aten._upsample_bicubic2d_aa.out
"""What F.interpolate calls with antialias; it alone would give planes, and weaving them again costs as much."""


def sample_crop(
    height: int,
    width: int,
    *,
    rng: Random,
    share: tuple[float, float],
    aspect: tuple[float, float],
    flip_probability: float,
) -> Crop:
    """Draw a crop of an image of `height` × `width` pixels.

    Area share uniform in `share`, width over height log-uniform in `aspect`, up to ten tries, then the largest
    centred crop whose aspect lies in the range.
    """
    flipped = rng.random() < flip_probability
    for _ in range(10):
        area = height * width * rng.uniform(*share)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            return Crop(float(top), float(left), float(h), float(w), flipped)
    return _centre_crop(height, width, aspect=aspect, flipped=flipped)


def draw_crop(image: Picture, settings: ViewSettings, rng: Random) -> Crop:
    """One crop of an image as the settings say, turned and put upside down where they ask for it."""
    crop = sample_crop(
        image.height,
        image.width,
        rng=rng,
        share=settings.crop_share,
        aspect=settings.crop_aspect,
        flip_probability=settings.flip_probability,
    )
    if not settings.turned:
        return crop
    turns = rng.randrange(4) if settings.quarter_turns else 0
    if rng.random() < settings.vertical_flip_probability:  # half a turn and a mirror
        return crop._replace(turns=(turns + 2) % 4, flipped=not crop.flipped)
    return crop._replace(turns=turns)


def one_try_crop(image: Picture, settings: ViewSettings, rng: Random) -> Crop:
    """The crop of the published linear probe: area and aspect drawn once, sides cut to the image's (specification 2)."""
    flipped = rng.random() < settings.flip_probability
    area = image.height * image.width * rng.uniform(*settings.crop_share)
    ratio = math.exp(rng.uniform(*map(math.log, settings.crop_aspect)))
    width = max(1, min(round(math.sqrt(area * ratio)), image.width))
    height = max(1, min(round(math.sqrt(area / ratio)), image.height))
    top, left = rng.randint(0, image.height - height), rng.randint(0, image.width - width)
    return Crop(float(top), float(left), float(height), float(width), flipped)


def _centre_crop(height: int, width: int, *, aspect: tuple[float, float], flipped: bool) -> Crop:
    h, w = height, width
    if width / height < aspect[0]:
        h = max(1, round(width / aspect[0]))
    elif width / height > aspect[1]:
        w = max(1, round(height * aspect[1]))
    return Crop(float((height - h) // 2), float((width - w) // 2), float(h), float(w), flipped)


def least_scale(crops: Sequence[Crop], *, size: tuple[int, int]) -> float:
    """How much of the full resolution the crops need, so that none has fewer pixels than `size`; at most 1."""
    sizes = [across(crop, size) for crop in crops]
    return min(
        1.0, max(max(h / float(crop.height), w / float(crop.width)) for crop, (h, w) in zip(crops, sizes, strict=True))
    )


def across(crop: Crop, size: tuple[int, int]) -> tuple[int, int]:
    """The size of a crop's pixels before they are turned into a view of `size`."""
    return (size[1], size[0]) if int(crop.turns) % 2 else size


def take(image: Picture, crops: Sequence[Crop], *, size: tuple[int, int], oversampled: float = 1.0) -> list[np.ndarray]:
    """Several crops of an image, decoded once at the least resolution that suffices for all: each uint8 or uint16 [H, W, C].

    A JPEG that is decoded at `oversampled` times the resolution needed, or more, looks the more like one decoded in full.
    """
    reduced = image.reduced(min(1.0, oversampled * least_scale(crops, size=size)))
    return [cut(reduced, crop, size=size) for crop in crops]


def cut(image: Reduced, crop: Crop, *, size: tuple[int, int]) -> np.ndarray:
    """The crop's pixels resized to `size` (height, width) by antialiased bicubic: uint8 or uint16 [H, W, C].

    The crop is given at full resolution; in a reduced image its edges fall between pixels and are honoured there. Turned.
    Not mirrored yet: `planes` does that last, where it costs least; colour operations do not care.
    """
    if turns := int(crop.turns):
        return np.rot90(cut(image, crop._replace(turns=0), size=across(crop, size)), turns)
    top, left, height, width = (float(side) / image.factor for side in crop[:4])
    pixels = image.pixels
    if image.factor == 1 and all(float(side).is_integer() for side in crop[:4]):
        return _resized(pixels[int(top) : int(top + height), int(left) : int(left + width)], size)
    box = (left + image.left, top + image.top, left + image.left + width, top + image.top + height)
    within = (
        max(0.0, box[0]),
        max(0.0, box[1]),
        min(float(pixels.shape[1]), box[2]),
        min(float(pixels.shape[0]), box[3]),
    )
    return _boxed(pixels, within, size)


def _boxed(pixels: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """A part (left, top, right, bottom) whose edges fall between pixels, by Pillow."""
    if is_repeated(pixels):
        return np.broadcast_to(_boxed(pixels[..., :1], box, size), (*size, pixels.shape[2]))
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
    floats = pixels.dtype != np.uint8
    layers = [
        np.asarray(Image.fromarray(layer).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
        for layer in np.moveaxis(pixels.astype(np.float32) if floats else pixels, 2, 0)
    ]
    return _whole(np.stack(layers, axis=2)) if floats else np.stack(layers, axis=2)


def planes(pixels: np.ndarray, *, flipped: bool) -> np.ndarray:
    """[C, H, W] of [H, W, C], mirrored where asked for."""
    if is_repeated(pixels):
        return np.repeat(planes(pixels[..., :1], flipped=flipped), pixels.shape[2], axis=0)
    out = np.empty((pixels.shape[2], *pixels.shape[:2]), pixels.dtype)
    cv2.split(np.atleast_3d(cv2.flip(pixels, 1)) if flipped else pixels, list(out))  # pyright: ignore
    return out


def view_of(pixels: np.ndarray, crop: Crop, masked: np.ndarray, drawn: ColourDraw, *, later: bool = False) -> View:
    """A view from its pixels [H, W, C], not mirrored yet, its colours as drawn, and its masks [*masks, rows, columns].

    With `later` the colours are left to the device.
    """
    done = recorded(pixels, drawn) if later else recolour(pixels, drawn)
    planar = torch.from_numpy(planes(done, flipped=bool(crop.flipped)))
    slots = torch.tensor(drawn.slots if later else [], dtype=torch.uint8)
    return View(planar, crop, torch.from_numpy(masked).flatten(-2), torch.tensor(drawn.conditioning), slots)


def _resized(patch: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A patch of an image at another size; gray that is repeated by its strides alone is resized once."""
    if is_repeated(patch):
        return np.broadcast_to(_resized(patch[..., :1], size), (*size, patch.shape[2]))
    if patch.shape[:2] == size:
        return patch
    return _resize_bytes(patch, size) if patch.dtype == np.uint8 else _resize_deep(patch, size)


def _resize_bytes(patch: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Torch's antialiased bicubic on 8 bits: Pillow's filter, within rounding, at a fraction of its time."""
    image = torch.from_numpy(patch.copy()[None]).permute(0, 3, 1, 2)  # torch knows it as channels last
    out = torch.empty((1, patch.shape[2], *size), dtype=torch.uint8, memory_format=torch.channels_last)
    _bicubic(image, size, False, out=out)
    return out[0].permute(1, 2, 0).numpy()


def _resize_deep(patch: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same in floats, plane by plane; a patch of twice the size or more is first averaged, as JPEGs are when decoded."""
    factor = min(patch.shape[0] // size[0], patch.shape[1] // size[1])
    if factor > 1:
        smaller = -(-patch.shape[1] // factor), -(-patch.shape[0] // factor)
        patch = np.atleast_3d(cv2.resize(np.ascontiguousarray(patch), smaller, interpolation=cv2.INTER_AREA))
    image = torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)).astype(np.float32)[None])
    out = torch.empty((1, patch.shape[2], *size))
    _bicubic(image, size, False, out=out)
    return _whole(out[0].numpy().transpose(1, 2, 0))


def _whole(levels: np.ndarray) -> np.ndarray:
    """Levels of 16 bits from floats."""
    return np.clip(np.rint(levels), 0, 65535).astype(np.uint16)
