"""View and ViewPair: pixels that remember where they were cut and what is masked.

A view leaves the worker as uint8, or as uint16 where the source has more than eight bits; it is normalised on the device.
Axes: B images, C channels, H and W pixels, M masks, L patches of the grid in row order, V visible patches, K numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt, UInt8
from torch import Tensor

from otherview.geometry import Crop


class View(NamedTuple):
    """One view of a batch of images."""

    pixels: UInt[Tensor, "*B C H W"]
    crop: Crop
    masked: Bool[Tensor, "*B L"]
    """True where the patch is masked; [*B, M, L] where a view has several masks."""
    colour: Float[Tensor, "*B K"] = torch.zeros(0)
    """What was done to its colours (colour.ColourDraw.conditioning)."""
    pending: UInt8[Tensor, "*B slots"] = torch.zeros(0, dtype=torch.uint8)
    """The order of the operations, where the colours are still to be done (device_colour.py)."""


class ViewPair(NamedTuple):
    """`online` goes to the online encoder, masked; `target` is what has to be predicted, where it is not masked."""

    online: View
    target: View


def under_each_mask(pair: ViewPair) -> ViewPair:
    """A batch whose online views have several masks [B, M, L] as M·B pairs with one mask each, neighbours alike.

    A batch under one mask [B, L] stays as it is. The target view's pixels stay B: nobody looks at them twice.
    """
    if pair.online.masked.ndim == 2:
        return pair
    masks = pair.online.masked.shape[1]

    def repeated(part: Tensor) -> Tensor:
        return part.repeat_interleave(masks, dim=0)

    online, target = (view._replace(crop=view.crop.each(repeated), colour=repeated(view.colour)) for view in pair)
    return ViewPair(
        online._replace(
            pixels=repeated(online.pixels), masked=online.masked.flatten(0, 1), pending=repeated(online.pending)
        ),
        target._replace(masked=repeated(target.masked)),
    )


def normalise(
    pixels: Shaped[Tensor, "B C H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "B C H W"]:
    """Levels in 0 … 255 (uint8 or float) or 0 … 65535 (uint16) to float32 by mean and standard deviation, both for [0, 1]."""
    levels = pixels.float() / (65535 if pixels.dtype == torch.uint16 else 255)
    for channel, shift, scale in zip(levels.unbind(1), mean, std, strict=True):  # a tensor of them would be waited for
        channel.sub_(shift).div_(scale)
    return levels


def visible_indices(masked: Bool[Tensor, "B L"], *, visible: int) -> Int[Tensor, "B V"]:
    """Indices of the visible patches in grid order. `visible` is known beforehand, so the device is never asked."""
    return masked.to(torch.uint8).argsort(dim=1, stable=True)[:, :visible]
