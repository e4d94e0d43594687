"""What the predictor is told of the other view: where it lies relative to the seen one, and perhaps its colours.

    told = Told(relation(seen.crop, other.crop, grid), colours)
    questions = position(told)           # what is added to the mask token of every patch that is asked for

Axes: B images, L patches, P width of the heads, K numbers of a view's colours.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from otherview.geometry import Crop, PatchGrid, Placement, place
from otherview.nn.initialise import initialise_linears

Relation = Callable[[Crop, Crop, PatchGrid], Placement]
"""(seen, other, grid) → the patches of the other view in the frame of the seen one."""


def relative(seen: Crop, other: Crop, grid: PatchGrid) -> Placement:
    """Place and scale: the paper's."""
    return place(other, within=seen, grid=grid)


def without_scale(seen: Crop, other: Crop, grid: PatchGrid) -> Placement:
    """The patches' places alone. Their size is not said, though the places of all of them together tell it."""
    placement = place(other, within=seen, grid=grid)
    one = torch.ones_like(placement.row_scale)
    return placement._replace(row_scale=one, column_scale=one)


def untold(seen: Crop, other: Crop, grid: PatchGrid) -> Placement:
    """Nothing: every patch's place in its own view."""
    return place(other, within=other, grid=grid)


class Told(NamedTuple):
    """What is known of the other view."""

    code: Float[Tensor, "B L twice_P"]
    """The relative code of every patch that is asked for."""
    colours: Float[Tensor, "B twice_K"]
    """The colours of the seen view and of the other."""


class Position(nn.Module):
    """psi: the relative code through one Linear (specification 1.6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * width, width)
        initialise_linears(self)

    def forward(self, told: Told) -> Float[Tensor, "B L P"]:
        return self.project(told.code)


class PositionAndColour(Position):
    """psi and, for all patches of a view alike, the colours of both views through a Linear (image world models)."""

    def __init__(self, width: int, *, numbers: int) -> None:
        super().__init__(width)
        self.colour = nn.Linear(2 * numbers, width)
        initialise_linears(self)

    def forward(self, told: Told) -> Float[Tensor, "B L P"]:
        return super().forward(told) + self.colour(told.colours)[:, None]
