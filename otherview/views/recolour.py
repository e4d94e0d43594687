"""A drawn colour change done to pixels, of eight bits or of sixteen.

recolour(pixels, draw_colour(settings, rng))      # [H, W, C], of the type that it was
"""

from collections.abc import Callable, Mapping

import numpy as np

from otherview.data.image import PER_LEVEL, is_repeated
from otherview.views import colour, deep_colour
from otherview.views.colour import ColourDraw


def recolour(pixels: np.ndarray, drawn: ColourDraw) -> np.ndarray:
    """Gamma and noise, then the drawn changes in their order; saturation, hue and gray for images of three channels only.

    Gray that is repeated stays so: the changes that matter to it are made once.
    """
    if is_repeated(pixels):
        return np.broadcast_to(recolour(np.ascontiguousarray(pixels[..., :1]), drawn), pixels.shape)
    pixels = recorded(pixels, drawn)
    if pixels.dtype == np.uint8:
        return _recoloured(pixels, drawn, colour.OPERATIONS)
    if not drawn.order and not drawn.gray and not drawn.sigma and not drawn.solarise:
        return pixels
    levels = _recoloured(pixels.astype(np.float32) / PER_LEVEL, drawn, deep_colour.OPERATIONS)
    return np.rint(levels * PER_LEVEL).astype(np.uint16)


def recorded(pixels: np.ndarray, drawn: ColourDraw) -> np.ndarray:
    """As a detector of another response and with more noise would have recorded it: before everything else, on any channels."""
    if is_repeated(pixels):
        return np.broadcast_to(recorded(np.ascontiguousarray(pixels[..., :1]), drawn), pixels.shape)
    white = np.iinfo(pixels.dtype).max
    if drawn.gamma != 1:
        pixels = _curve(white, drawn.gamma).astype(pixels.dtype)[pixels]
    if drawn.noise > 0:
        grain = np.random.default_rng(drawn.noise_seed).standard_normal(pixels.shape, np.float32)
        pixels = np.clip(np.rint(pixels + (white * drawn.noise) * grain), 0, white).astype(pixels.dtype)
    return pixels


def _curve(white: int, gamma: float) -> np.ndarray:
    """The new level of every level."""
    return np.rint(white * (np.arange(white + 1) / white) ** gamma)


def _recoloured(
    pixels: np.ndarray, drawn: ColourDraw, operations: Mapping[str, Callable[..., np.ndarray]]
) -> np.ndarray:
    colourful = pixels.shape[2] == 3
    for name in drawn.order:
        if colourful or name in ("brightness", "contrast"):
            pixels = operations[name](pixels, getattr(drawn, name))
    if drawn.gray and colourful:
        pixels = operations["gray"](pixels)
    if drawn.sigma > 0:
        pixels = operations["blur"](pixels, drawn.sigma)
    if drawn.solarise:
        pixels = operations["solarise"](pixels)
    return pixels if pixels.ndim == 3 else pixels[..., None]  # OpenCV drops a single channel's axis
