"""Predict pixels: patches, normalised each by itself, and the mean square over those that were masked.

Source: MAE, arXiv 2111.06377; our specification 4.
Axes: B images, C channels, H and W pixels, L patches in row order, K = size · size · C values of a patch.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

VARIANCE_FLOOR = 1e-6


def patchify(images: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B L K"]:
    """Every patch as its values in the order (row, column, channel)."""
    batch, channels, height, width = images.shape
    parts = images.view(batch, channels, height // size, size, width // size, size)
    return parts.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


def normalise_patches(patches: Float[Tensor, "B L K"]) -> Float[Tensor, "B L K"]:
    """Every patch less its mean, over its standard deviation: unbiased, with a floor for flat patches."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + VARIANCE_FLOOR).sqrt()


def masked_mean_square(
    prediction: Float[Tensor, "B L K"], target: Float[Tensor, "B L K"], masked: Bool[Tensor, "B L"]
) -> Float[Tensor, ""]:
    """The mean square of the masked patches; what was seen does not count. float32 throughout."""
    squares = (prediction.float() - target.float()).square().mean(dim=-1)
    return (squares * masked).sum() / masked.sum()
