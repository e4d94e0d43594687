"""The two colour branches: jitter, gray, blur, solarise on uint8 pixels (specification 1.1).

Same operations and distributions as torchvision on PIL images, done by OpenCV and look-up tables, which are several
times cheaper. Every function maps uint8 [H, W, 3] to uint8 [H, W, 3].
"""

import cv2
import numpy as np

from otherview.views.settings import ColourSettings

_LEVELS = np.arange(256, dtype=np.float32)


def _look_up(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(pixels, np.clip(table, 0, 255).astype(np.uint8))


def brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: 0 black, 1 unchanged."""
    return _look_up(pixels, _LEVELS * factor)


def contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean gray level of the image, rounded."""
    mean = int(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _look_up(pixels, mean + (_LEVELS - mean) * factor)


def gray(pixels: np.ndarray) -> np.ndarray:
    """The luma of ITU-R 601 in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the gray image: 0 gray, 1 unchanged."""
    return cv2.addWeighted(pixels, factor, gray(pixels), 1 - factor, 0)


def hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of the full circle, in [-0.5, 0.5]."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)  # wraps around, as the circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with standard deviation `sigma` in pixels."""
    return cv2.GaussianBlur(pixels, (0, 0), sigmaX=sigma, borderType=cv2.BORDER_REPLICATE)


def solarise(pixels: np.ndarray, threshold: int = 128) -> np.ndarray:
    """Invert every level at or above `threshold`."""
    return _look_up(pixels, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def recolour(pixels: np.ndarray, settings: ColourSettings, rng: np.random.Generator) -> np.ndarray:
    """One draw of a colour branch: jitter in random order, then gray, blur and solarise, each with its probability."""
    if rng.random() < settings.jitter_probability:
        pixels = _jitter(pixels, settings, rng)
    if rng.random() < settings.gray_probability:
        pixels = gray(pixels)
    if rng.random() < settings.blur_probability:
        pixels = blur(pixels, rng.uniform(*settings.blur_sigma))
    if rng.random() < settings.solarise_probability:
        pixels = solarise(pixels)
    return pixels


def _jitter(pixels: np.ndarray, settings: ColourSettings, rng: np.random.Generator) -> np.ndarray:
    around_one = (settings.brightness, settings.contrast, settings.saturation)
    factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in around_one] + [rng.uniform(-settings.hue, settings.hue)]
    operations = (brightness, contrast, saturation, hue)
    strengths = (*around_one, settings.hue)
    for which in rng.permutation(4):
        if strengths[which] > 0:
            pixels = operations[which](pixels, factors[which])
    return pixels
