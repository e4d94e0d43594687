"""What the predictor knows of the target view: where it lies relative to the online one, and perhaps its colours.

    conditioning = Conditioning(relative_position(online.crop, target.crop, grid), colours)
    position(conditioning)               # what is added to the mask token of every predicted patch

Axes: B images, L patches, P width of the heads, K numbers of a view's colours.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from otherview.geometry import Crop, PatchGrid, Placement, place
from otherview.nn.initialise import initialise_linears

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
