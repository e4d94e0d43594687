"""Where a view lies: crops in pixels of the source image, and any view written in the frame of another.

    image ──▶ Crop ──▶ [place] ──▶ positions of one view's patches in units of the other's

The predictor of SiameseIM is told nothing about the second view but this (arXiv 2206.01204, section 3.2; our
specification 1.6). Everything here is computed in float64, or float32 where a device has no other, whatever the autocast.

    online, target = Crop(0., 0., 32., 32., False), Crop(8., 8., 16., 16., True)
    place(target, within=online, grid=PatchGrid(8, 8)).rows        # [8]: 1.75, 2.25, ... 5.25

Axes: B images of a batch, H rows and W columns of patches.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WITHOUT_DOUBLES = {"mps", "xpu"}
"""Kinds of device that have no float64, or not on every card."""


def widest(device: torch.device | None) -> torch.dtype:
    """The widest float of a device; `None` stands for the CPU."""
    return torch.float32 if device is not None and device.type in WITHOUT_DOUBLES else torch.float64


class PatchGrid(NamedTuple):
    """How many patches a view has along each side."""

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        return self.rows * self.columns


class Crop(NamedTuple):
    """The rectangle a view was cut from, in pixels of the source image as a person sees it, then mirrored or not.

    One crop holds floats and a bool; a batch of crops holds tensors of shape [B]. Because the coordinates are those
    of the image before mirroring, the image's own width never enters the relation of two views.
    """

    top: float | Float[Tensor, " B"]
    left: float | Float[Tensor, " B"]
    height: float | Float[Tensor, " B"]
    width: float | Float[Tensor, " B"]
    flipped: bool | Bool[Tensor, " B"]


class Placement(NamedTuple):
    """Patch centres of one view in units of another view's patches; the origin is that view's first patch centre."""

    rows: Float[Tensor, "*B H"]
    columns: Float[Tensor, "*B W"]
    row_scale: Float[Tensor, "*B"]
    column_scale: Float[Tensor, "*B"]


def crop_from_mirrored(
    top: Tensor, left: Tensor, *, height: Tensor, width: Tensor, flipped: Tensor, image_width: Tensor
) -> Crop:
    """A crop whose `left` was measured in the mirrored image where `flipped`, as torchvision pipelines report it.

    Mirroring first and cropping then takes the same pixels as cropping at `image_width - left - width` and mirroring.
    """
    return Crop(
        top, left=torch.where(flipped, image_width - left - width, left), height=height, width=width, flipped=flipped
    )


def _along_one_side(start: Tensor, extent: Tensor, mirrored: Tensor, *, cells: int) -> Tensor:
    """Cell centres of a view along one side, in pixels of the source: [*B, cells]."""
    share = (torch.arange(cells, dtype=start.dtype, device=start.device) + 0.5) / cells
    share = torch.where(mirrored[..., None], 1 - share, share)
    return start[..., None] + extent[..., None] * share


def _in_frame(pixels: Tensor, start: Tensor, extent: Tensor, mirrored: Tensor, *, cells: int) -> Tensor:
    """Source pixels in a view's own cell units, its first cell centre being 0: [*B, any]."""
    share = (pixels - start[..., None]) / extent[..., None]
    share = torch.where(mirrored[..., None], 1 - share, share)
    return cells * share - 0.5


def place(view: Crop, *, within: Crop, grid: PatchGrid, within_grid: PatchGrid | None = None) -> Placement:
    """Write the patch centres of `view` (on `grid`) in the frame of `within` (on `within_grid`, default the same).

    Returns rows [*B, H], columns [*B, W] in units of `within`'s patches, and the size of `view`'s patches
    relative to `within`'s along both sides [*B]. Mirrored views are undone and redone, so that a column index always
    points at the same content. Source: specification 1.6.
    """
    inner = within_grid or grid
    v, w = (_as_tensors(crop) for crop in (view, within))
    upright = torch.zeros_like(v.flipped)
    row_pixels = _along_one_side(v.top, v.height, upright, cells=grid.rows)
    column_pixels = _along_one_side(v.left, v.width, v.flipped, cells=grid.columns)
    return Placement(
        rows=_in_frame(row_pixels, w.top, w.height, upright, cells=inner.rows),
        columns=_in_frame(column_pixels, w.left, w.width, w.flipped, cells=inner.columns),
        row_scale=(v.height / grid.rows) / (w.height / inner.rows),
        column_scale=(v.width / grid.columns) / (w.width / inner.columns),
    )


def inside(placement: Placement, grid: PatchGrid) -> Tensor:
    """Whether each placed patch has its centre within the frame of `grid` patches: bool [*B, L] in row order."""
    rows, columns = (
        (centres > -0.5) & (centres < cells - 0.5)
        for centres, cells in zip((placement.rows, placement.columns), grid, strict=True)
    )
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2)


class _Crops(NamedTuple):
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flipped: Tensor


def _as_tensors(crop: Crop) -> _Crops:
    device = crop.top.device if isinstance(crop.top, Tensor) else None
    top, left, height, width = (torch.as_tensor(side, dtype=widest(device)) for side in crop[:4])
    return _Crops(top, left, height, width, torch.as_tensor(crop.flipped, dtype=torch.bool, device=top.device))
