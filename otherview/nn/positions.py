"""Sine-cosine positions, absolute and relative, computed for any grid, and what the predictor knows of the target view.

sincos_grid(PatchGrid(14, 14), width=768)                      # [196, 768]
relative_code(place(target, within=online, grid=grid), width=768)   # [B, 196, 1536]

    conditioning = Conditioning(relative_position(online.crop, target.crop, grid), colours)
    position(conditioning)               # what is added to the mask token of every predicted patch

Source: specification 1.3 and 1.6.
Axes: B images, L patches, P width of the heads, K numbers of a view's colours.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.geometry import Crop, PatchGrid, Placement, place, widest
from otherview.nn.initialise import initialise_linears

SCALE_FACTOR = 10.0
"""The logarithm of a scale is multiplied by this before it is encoded."""


def sincos(positions: Float[Tensor, "*shape"], *, length: int) -> Float[Tensor, "*shape length"]:
    """[sin(p·w_k), cos(p·w_k)] with w_k = 10000^(−k/n), n = length / 2 frequencies."""
    assert length % 2 == 0, length
    count = length // 2
    dtype = widest(positions.device)
    frequencies = 10000.0 ** (-torch.arange(count, dtype=dtype, device=positions.device) / count)
    angles = positions.to(dtype)[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _both_axes(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Row codes [*B, H, C] and column codes [*B, W, C] as codes of all H·W patches in row order."""
    h, w = rows.shape[-2], columns.shape[-2]
    by_row = rows[..., :, None, :].expand(*rows.shape[:-1], w, rows.shape[-1])
    by_column = columns[..., None, :, :].expand(*columns.shape[:-2], h, *columns.shape[-2:])
    return by_row.flatten(-3, -2), by_column.flatten(-3, -2)


def sincos_grid(
    grid: PatchGrid, *, width: int, trained_on: PatchGrid | None = None, device: torch.device | None = None
) -> Float[Tensor, "L D"]:
    """The position table of a grid, float32: [e(row), e(column)] for every patch in row order.

    On another grid than the one `trained_on`, patch centres keep their place in the image:
    u' = (u + .5)·G_trained/G − .5.
    """
    old = trained_on or grid
    rows, columns = (
        sincos((torch.arange(new, dtype=widest(device), device=device) + 0.5) * before / new - 0.5, length=width // 2)
        for new, before in zip(grid, old, strict=True)
    )
    return torch.cat(_both_axes(rows, columns), dim=-1).float()


def relative_code(placement: Placement, *, width: int) -> Float[Tensor, "*B L twice_D"]:
    """PE_rel, float32 and without gradient: codes of row, column, row scale and column scale, width / 2 long each."""
    half = width // 2
    turned = not placement.never_crossed
    along = [part.flatten(-2) for part in placement.everywhere] if turned else [placement.rows, placement.columns]
    scales = [SCALE_FACTOR * scale.log() for scale in (placement.row_scale, placement.column_scale)]
    by_row, by_column, row_scale, column_scale = (sincos(part, length=half).float() for part in (*along, *scales))
    # in doubles up to here and, where views are never turned, per axis: the large table never is
    rows, columns = (by_row, by_column) if turned else _both_axes(by_row, by_column)
    sizes = torch.cat([row_scale, column_scale], dim=-1)
    return torch.cat([rows, columns, sizes[..., None, :].expand(*rows.shape[:-1], sizes.shape[-1])], dim=-1).detach()


def resampled(table: Float[Tensor, "L D"], had: PatchGrid, wanted: PatchGrid) -> Float[Tensor, "M D"]:
    """A learned table on another grid: bicubic, corners not aligned, no antialiasing (specification 1.3)."""
    if had == wanted:
        return table
    picture = table.T.unflatten(1, had)[None]
    return F.interpolate(picture, tuple(wanted), mode="bicubic", align_corners=False)[0].flatten(1).T


def halves_swapped(table: Float[Tensor, "L D"]) -> Float[Tensor, "L D"]:
    """The same positions in MAE's order: the column's half of the code before the row's."""
    return table.roll(table.shape[-1] // 2, dims=-1)


RelativePosition = Callable[[Crop, Crop, PatchGrid], Placement]
"""(online, target, grid) → the patches of the target view in the frame of the online one."""


def position_and_scale(online: Crop, target: Crop, grid: PatchGrid) -> Placement:
    """Position and scale: the paper's."""
    return place(target, within=online, grid=grid)


def position_only(online: Crop, target: Crop, grid: PatchGrid) -> Placement:
    """The patches' places alone. Their size is not said, though the places of all of them together tell it."""
    placement = place(target, within=online, grid=grid)
    one = torch.ones_like(placement.row_scale)
    return placement._replace(row_scale=one, column_scale=one)


def no_position(online: Crop, target: Crop, grid: PatchGrid) -> Placement:
    """Nothing: every patch's place in its own view."""
    return place(target, within=target, grid=grid)


class Conditioning(NamedTuple):
    """What the predictor is conditioned on."""

    code: Float[Tensor, "B L twice_P"]
    """The relative code of every predicted patch."""
    colours: Float[Tensor, "B twice_K"]
    """The colours of the online view and of the target."""


class Position(nn.Module):
    """psi: the relative code through one Linear (specification 1.6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * width, width)
        initialise_linears(self)

    def forward(self, conditioning: Conditioning) -> Float[Tensor, "B L P"]:
        return self.project(conditioning.code)


class PositionAndColour(Position):
    """psi and, for all patches of a view alike, the colours of both views through a Linear (image world models)."""

    def __init__(self, width: int, *, numbers: int) -> None:
        super().__init__(width)
        self.colour = nn.Linear(2 * numbers, width)
        initialise_linears(self)

    def forward(self, conditioning: Conditioning) -> Float[Tensor, "B L P"]:
        return super().forward(conditioning) + self.colour(conditioning.colours)[:, None]
