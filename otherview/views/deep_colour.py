"""The operations of views/colour.py on levels in 0 … 255 with their fractions, float32 [H, W, C], for images of 16 bits.

Nothing is rounded, so adjacent levels of a 16-bit image stay apart.
"""

import cv2
import numpy as np

from otherview.views.colour import blur, gray, mean_level, saturation_matrix


def brightness(levels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: 0 black, 1 unchanged."""
    return np.minimum(levels * factor, 255)


def contrast(levels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean gray level of the image."""
    mean = mean_level(levels)
    return np.clip(levels * factor + mean * (1 - factor), 0, 255)


def saturation(levels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the gray image: 0 gray, 1 unchanged."""
    return np.clip(cv2.transform(levels, saturation_matrix(factor)), 0, 255)


def hue(levels: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of the full circle, in [-0.5, 0.5]."""
    hsv = cv2.cvtColor(levels / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] += 360 * (shift % 1)  # OpenCV itself goes around the circle, forwards alone
    return np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255, 0, 255)


def solarise(levels: np.ndarray) -> np.ndarray:
    """The lesser of a level and its inverse."""
    return np.minimum(levels, 255 - levels)


OPERATIONS = {
    "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue,
    "gray": gray, "blur": blur, "solarise": solarise,
}  # fmt: skip
