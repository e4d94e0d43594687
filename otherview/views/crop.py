"""Random resized crops that tell what they took (specification 1.1).

The flip comes first in the paper's pipeline; here the crop is kept in pixels of the unflipped image and the small
result is mirrored, which takes the same pixels for less work.
"""

import math

import numpy as np
from PIL import Image

from otherview.geometry import Crop


def sample_crop(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    share: tuple[float, float],
    aspect: tuple[float, float],
    flip_probability: float,
) -> Crop:
    """Draw a crop of an image of `height` × `width` pixels.

    Area share uniform in `share`, width over height log-uniform in `aspect`, up to ten tries, then the largest
    centred crop whose aspect lies in the range.
    """
    flipped = bool(rng.random() < flip_probability)
    for _ in range(10):
        area = height * width * rng.uniform(*share)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            return Crop(float(top), float(left), float(h), float(w), flipped)
    return _centre_crop(height, width, aspect=aspect, flipped=flipped)


def _centre_crop(height: int, width: int, *, aspect: tuple[float, float], flipped: bool) -> Crop:
    h, w = height, width
    if width / height < aspect[0]:
        h = max(1, round(width / aspect[0]))
    elif width / height > aspect[1]:
        w = max(1, round(height * aspect[1]))
    return Crop(float((height - h) // 2), float((width - w) // 2), float(h), float(w), flipped)


def cut(image: Image.Image, crop: Crop, *, size: tuple[int, int]) -> np.ndarray:
    """The crop's pixels resized to `size` (height, width) by antialiased bicubic: uint8 [H, W, C]."""
    top, left, height, width = (round(float(side)) for side in crop[:4])
    patch = image.crop((left, top, left + width, top + height))
    if patch.size != (size[1], size[0]):
        patch = patch.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(patch)
    return np.ascontiguousarray(pixels[:, ::-1]) if crop.flipped else pixels
