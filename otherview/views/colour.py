"""The two colour branches: how jitter, gray, blur and solarise are drawn, and what they do to uint8 pixels (specification 1.1).

Same operations and distributions as torchvision on PIL images, done by OpenCV, several times cheaper. Every function maps
uint8 [H, W, C] to uint8 [H, W, C]; saturation, hue and gray need three channels.
"""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

import cv2
import numpy as np

from otherview.views.settings import ColourSettings

LUMA = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue, by ITU-R 601."""
_COLOUR, _GRAY = np.eye(3, 4), np.tile(np.append(LUMA, 0), (3, 1))
"""Affine maps of a pixel: to itself, to its luma in all channels."""
_TRUNCATE = -0.499
"""Added before OpenCV rounds: Pillow's blends cut the fraction off, which makes images darker by half a level."""


def brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: 0 black, 1 unchanged."""
    return cv2.convertScaleAbs(pixels, alpha=factor, beta=_TRUNCATE)


def contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean gray level of the image, rounded."""
    mean = int(mean_level(pixels) + 0.5)
    shift = mean * (1 - factor) + _TRUNCATE
    if shift > -0.5:
        return cv2.convertScaleAbs(pixels, alpha=factor, beta=shift)
    return cv2.addWeighted(pixels, factor, pixels, 0, shift)  # below zero an absolute value would be wrong


def mean_level(pixels: np.ndarray) -> float:
    """The mean gray level of an image."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return float(LUMA @ cv2.mean(pixels)[:3])
    return float(pixels.mean())


def gray(pixels: np.ndarray) -> np.ndarray:
    """The luma of ITU-R 601 in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the gray image: 0 gray, 1 unchanged."""
    matrix = saturation_matrix(factor)
    matrix[:, 3] = _TRUNCATE
    return cv2.transform(pixels, matrix)


def saturation_matrix(factor: float) -> np.ndarray:
    """The affine map [3, 4] of a pixel that is blended with its luma."""
    return factor * _COLOUR + (1 - factor) * _GRAY


def hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of the full circle, in [-0.5, 0.5]."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    turn = np.zeros(hsv.shape[1] * 3, np.uint8)
    turn[::3] = int(shift * 255) % 256
    hsv.reshape(len(hsv), -1)[:] += turn  # wraps around, as the circle does; by whole rows, which is quick
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with standard deviation `sigma` in pixels, as Pillow approximates it."""
    kernel = _blur_kernel(sigma)
    return cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


BOXES = 3


def _blur_kernel(sigma: float) -> np.ndarray:
    """Three extended box filters, one after another: Pillow's Gaussian (Gwosdek and others, SSVM 2011).

    A box of 2·reach + 1 ones has at both ends one more weight, chosen so that the variance is sigma² / 3 exactly.
    """
    variance = sigma * sigma / BOXES
    reach = int((math.sqrt(12 * variance + 1) - 1) / 2)
    size = 2 * reach + 1
    end = size * (reach * (reach + 1) - 3 * variance) / (6 * (variance - (reach + 1) ** 2))
    box = np.array([end, *[1.0] * size, end]) / (size + 2 * end)
    kernel = np.convolve(np.convolve(box, box), box)
    return (kernel + kernel[::-1]) / 2  # OpenCV's quick path wants it symmetric to the last bit


def solarise(pixels: np.ndarray) -> np.ndarray:
    """Invert every level at or above 128: the lesser of a level and its inverse."""
    return cv2.min(pixels, cv2.bitwise_not(pixels))


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue,
    "gray": gray, "blur": blur, "solarise": solarise,
}  # fmt: skip
JITTER = "brightness", "contrast", "saturation", "hue"


class ColourDraw(NamedTuple):
    """One draw of a colour branch; the defaults change nothing."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: Sequence[str] = ()
    """Of the four above; what is missing is not done."""
    gray: bool = False
    sigma: float = 0.0
    """Of the blur, in pixels; 0: none."""
    solarise: bool = False
    gamma: float = 1.0
    """Exponent of levels in [0, 1]."""
    noise: float = 0.0
    """Standard deviation, as a share of the range."""
    noise_seed: int = 0

    @property
    def conditioning(self) -> list[float]:
        """As numbers around 0, for a predictor that is conditioned on them; order, gamma and noise are left out."""
        factors = (self.brightness - 1, self.contrast - 1, self.saturation - 1, self.hue)
        return [*factors, float(self.gray), self.sigma, float(self.solarise)]

    @property
    def slots(self) -> list[int]:
        """The order as numbers: one more than an operation's place in JITTER, 0 for none."""
        places = [JITTER.index(name) + 1 for name in self.order]
        return places + [0] * (len(JITTER) - len(places))


COLOUR_NUMBERS = len(ColourDraw().conditioning)


def draw_colour(settings: ColourSettings, rng: Random) -> ColourDraw:
    """Draw jitter in random order, then gray, blur and solarise, each with its probability; gamma and noise where asked for."""
    drawn = ColourDraw()
    if rng.random() < settings.jitter_probability:
        drawn = _draw_jitter(settings, rng)
    gray = rng.random() < settings.gray_probability
    sigma = rng.uniform(*settings.blur_sigma) if rng.random() < settings.blur_probability else 0.0
    drawn = drawn._replace(gray=gray, sigma=sigma, solarise=rng.random() < settings.solarise_probability)
    if settings.gamma > 0:
        drawn = drawn._replace(gamma=(1 + settings.gamma) ** rng.uniform(-1, 1))
    if settings.noise > 0:
        drawn = drawn._replace(noise=rng.uniform(0, settings.noise), noise_seed=rng.getrandbits(32))
    return drawn


def _draw_jitter(settings: ColourSettings, rng: Random) -> ColourDraw:
    strengths = {name: getattr(settings, name) for name in JITTER}
    around_one = [rng.uniform(max(0.0, 1 - strengths[name]), 1 + strengths[name]) for name in JITTER[:3]]
    shift = rng.uniform(-settings.hue, settings.hue)
    order = [name for name in rng.sample(JITTER, len(JITTER)) if strengths[name] > 0]
    return ColourDraw(*around_one, hue=shift, order=order)
