"""Where a view lies: crops in pixels of the source image, and any view written in the frame of another.

    image ──▶ Crop ──▶ [place] ──▶ positions of one view's patches in units of the other's

The predictor of SiameseIM is told nothing about the second view but this (arXiv 2206.01204, section 3.2; our
specification 1.6). Everything here is computed in float64, or float32 where a device has no other, whatever the autocast.

    online, target = Crop(0., 0., 32., 32., False), Crop(8., 8., 16., 16., True)
    place(target, within=online, grid=PatchGrid(8, 8)).rows        # [8]: 1.75, 2.25, ... 5.25

Axes: B images of a batch, H rows and W columns of patches.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
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
    """The rectangle a view was cut from, in pixels of the source image as a person sees it, then turned and mirrored or not.

    The cut is turned by quarters, counter-clockwise, and after that mirrored left to right; upside down is half a turn and a
    mirror. The rectangle of a view that is turned by one or three quarters lies across it: the view's rows are its columns.
    One crop holds floats and a bool; a batch of crops holds tensors of shape [B]. Because the coordinates are those
    of the image before mirroring, the image's own width never enters the relation of two views.
    """

    top: float | Float[Tensor, " B"]
    left: float | Float[Tensor, " B"]
    height: float | Float[Tensor, " B"]
    width: float | Float[Tensor, " B"]
    flipped: bool | Bool[Tensor, " B"]
    turns: int | Int[Tensor, " B"] = 0
    """0 … 3; a plain 0 for a batch of views that are never turned, so that the device need not be asked."""

    def each(self, change: Callable[[Tensor], Tensor]) -> "Crop":
        """A batch of crops whose tensors are changed alike."""
        return Crop(*(change(side) if isinstance(side, Tensor) else side for side in self))  # pyright: ignore


class Placement(NamedTuple):
    """Patch centres of one view in units of another view's patches; the origin is that view's first patch centre."""

    rows: Float[Tensor, "*B H"]
    columns: Float[Tensor, "*B W"]
    row_scale: Float[Tensor, "*B"]
    column_scale: Float[Tensor, "*B"]
    crossed: Bool[Tensor, "*C"]
    """Where one view is turned by a quarter against the other: `rows` has then, for each row of patches, a place along the other
    view's columns, and `columns` one along its rows. A single False for a batch of views that are never turned."""

    @property
    def never_crossed(self) -> bool:
        """Whether this is known without asking the device."""
        return self.crossed.ndim < self.rows.ndim - 1

    @property
    def everywhere(self) -> tuple[Float[Tensor, "*B H W"], Float[Tensor, "*B H W"]]:
        """Row and column of every patch."""
        by_row, by_column = torch.broadcast_tensors(self.rows[..., :, None], self.columns[..., None, :])
        if self.never_crossed:
            return by_row, by_column
        crossed = self.crossed[..., None, None]
        return torch.where(crossed, by_column, by_row), torch.where(crossed, by_row, by_column)


def crop_from_mirrored(
    top: Tensor, left: Tensor, *, height: Tensor, width: Tensor, flipped: Tensor, image_width: Tensor
) -> Crop:
    """A crop whose `left` was measured in the mirrored image where `flipped`, as torchvision pipelines report it.

    Mirroring first and cropping then takes the same pixels as cropping at `image_width - left - width` and mirroring.
    """
    return Crop(
        top, left=torch.where(flipped, image_width - left - width, left), height=height, width=width, flipped=flipped
    )


def place(view: Crop, *, within: Crop, grid: PatchGrid, within_grid: PatchGrid | None = None) -> Placement:
    """Write the patch centres of `view` (on `grid`) in the frame of `within` (on `within_grid`, default the same).

    Returns rows [*B, H], columns [*B, W] in units of `within`'s patches, and the size of `view`'s patches
    relative to `within`'s along both sides [*B]. Mirrored and turned views are undone and redone, so that an index always
    points at the same content. Source: specification 1.6; turns are ours.
    """
    inner = within_grid or grid
    v, w = (_as_tensors(crop) for crop in (view, within))
    (rows, columns), (lines, posts) = _sides(v), _sides(w)
    row_cells, column_cells = (torch.as_tensor(cells, dtype=v.top.dtype, device=v.top.device) for cells in inner)
    crossed = torch.zeros((), dtype=torch.bool, device=v.top.device)
    turned = v.turns is not None or w.turns is not None
    if turned:
        crossed = (_odd(v) != _odd(w)).expand(torch.broadcast_shapes(v.top.shape, w.top.shape))
        lines, posts = _chosen(crossed, posts, lines), _chosen(crossed, lines, posts)
        row_cells, column_cells = (
            torch.where(crossed, column_cells, row_cells), torch.where(crossed, row_cells, column_cells),
        )  # fmt: skip
    scales = (
        (rows.extent / grid.rows) / (lines.extent / row_cells),
        (columns.extent / grid.columns) / (posts.extent / column_cells),
    )
    if turned:
        scales = torch.where(crossed, scales[1], scales[0]), torch.where(crossed, scales[0], scales[1])
    return Placement(
        _in_frame(_along(rows, grid.rows), lines, row_cells), _in_frame(_along(columns, grid.columns), posts, column_cells),
        *scales, crossed,
    )  # fmt: skip


class _Side(NamedTuple):
    """One side of a view, on the axis of the source that it lies along: [*B] each."""

    start: Tensor
    extent: Tensor
    backwards: Tensor


def _sides(crop: "_Crops") -> tuple[_Side, _Side]:
    """Along a view's rows, and along its columns."""
    down = _Side(crop.top, crop.height, torch.zeros_like(crop.flipped))
    across = _Side(crop.left, crop.width, crop.flipped)
    if crop.turns is None:
        return down, across
    rows = _chosen(_odd(crop), across, down)._replace(backwards=(crop.turns == 1) | (crop.turns == 2))
    columns = _chosen(_odd(crop), down, across)._replace(backwards=crop.flipped ^ (crop.turns >= 2))
    return rows, columns


def _odd(crop: "_Crops") -> Tensor:
    return torch.zeros_like(crop.flipped) if crop.turns is None else crop.turns % 2 == 1


def _chosen(which: Tensor, one: _Side, other: _Side) -> _Side:
    return _Side(*(torch.where(which, a, b) for a, b in zip(one, other, strict=True)))


def _along(side: _Side, cells: int) -> Tensor:
    """Cell centres of a view along one side, in pixels of the source: [*B, cells]."""
    share = (torch.arange(cells, dtype=side.start.dtype, device=side.start.device) + 0.5) / cells
    share = torch.where(side.backwards[..., None], 1 - share, share)
    return side.start[..., None] + side.extent[..., None] * share


def _in_frame(pixels: Tensor, side: _Side, cells: Tensor) -> Tensor:
    """Source pixels in a view's own cell units, its first cell centre being 0: [*B, any]."""
    share = (pixels - side.start[..., None]) / side.extent[..., None]
    share = torch.where(side.backwards[..., None], 1 - share, share)
    return cells[..., None] * share - 0.5


def inside(placement: Placement, grid: PatchGrid) -> Tensor:
    """Whether each placed patch has its centre within the frame of `grid` patches: bool [*B, L] in row order."""
    rows, columns = placement.everywhere
    within = (rows > -0.5) & (rows < grid.rows - 0.5) & (columns > -0.5) & (columns < grid.columns - 0.5)
    return within.flatten(-2)


class _Crops(NamedTuple):
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flipped: Tensor
    turns: Tensor | None


def _as_tensors(crop: Crop) -> _Crops:
    device = crop.top.device if isinstance(crop.top, Tensor) else None
    top, left, height, width = (torch.as_tensor(side, dtype=widest(device)) for side in crop[:4])
    flipped = torch.as_tensor(crop.flipped, dtype=torch.bool, device=top.device)
    never = isinstance(crop.turns, int) and crop.turns == 0
    turns = None if never else torch.as_tensor(crop.turns, device=top.device).expand(top.shape)
    return _Crops(top, left, height, width, flipped, turns)
