"""How images are read and shown, as it is asked for. Torch-free. The words of `--views.levels`, how values become levels:

auto              8 bits stay as they are; what deeper files mean is found in the images, by kind of file (data/ranges.py)
LOW HIGH          these values become black and white
percentile P Q    of each image, these percentiles of its own values become black and white
type              the whole range of the type: 0 … 65535 for 16 bits, [0, 1] for floats
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from otherview.errors import WrongRequest


def _as_it_was(levels: Any) -> Any:
    """Files that were written before there were words have null, which meant the type's range."""
    return "type" if levels is None else levels


Range = tuple[float, float]
"""Values that become black and white."""
Words = Literal["auto", "type"] | Range | tuple[Literal["percentile"], float, float]
Levels = Annotated[Words, BeforeValidator(_as_it_was)]
Ranges = Mapping[str, tuple[Range, ...]]
"""By kind of file with more than eight bits ("TIFF uint16"), the ranges in use: an image has the first that holds its values."""


Fit = Literal["crop", "squash", "pad"]
"""How a whole image becomes a square, or another given shape: its centre, all of it stretched, or all of it in a frame."""


def keeps_eight_bits(levels: Words) -> bool:
    """Whether images of eight bits keep their levels: a range that goes beyond 0 … 255 is meant for deeper ones."""
    return isinstance(levels, str) or (len(levels) == 2 and not 0 <= levels[0] < levels[1] <= 255)


@dataclass(kw_only=True)
class ShownSettings:
    """How whole images are shown."""

    fit: Fit | None = None
    """crop: the centre of an image; squash: all of it, stretched; pad: all of it, framed by the mean. Default: the encoder's."""
    size: tuple[int, int] | None = None
    """Height and width that images are resized to, divisible by the patch size; default: the training size."""


def check_levels(levels: Words, flag: str) -> None:
    """Raise WrongRequest for a range that is none."""
    if isinstance(levels, str):
        return
    low, high = levels[-2:]
    if len(levels) == 3 and not 0 <= low < high <= 100:
        raise WrongRequest(f"{flag} percentile {low:g} {high:g} must be two numbers from 0 to 100, the smaller first")
    if low >= high:
        raise WrongRequest(f"{flag} {low} {high} must be increasing: black first, then white")


def said(levels: Words) -> str:
    """As it is written on the command line."""
    return (
        levels
        if isinstance(levels, str)
        else " ".join(word if isinstance(word, str) else f"{word:g}" for word in levels)
    )
