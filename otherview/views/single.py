"""One view of an image, with the crop, the colour branch and the mask of the seen one; and the same with its class."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

from otherview.geometry import Crop, PatchGrid
from otherview.learner import Image
from otherview.views.colour import draw_colour
from otherview.views.crop import draw_crop, take, view_of
from otherview.views.masks import draw_mask
from otherview.views.settings import ViewSettings
from otherview.views.view import View


class LabelledView(NamedTuple):
    """A view and the class of its image."""

    view: View
    label: int | Int[Tensor, " B"]


@dataclass(frozen=True)
class SingleView:
    """Makes a View. `size` is (height, width) in pixels, `grid` its patches, `draw` draws its crop."""

    settings: ViewSettings
    size: tuple[int, int]
    grid: PatchGrid
    draw: Callable[[Image, ViewSettings, Random], Crop] = draw_crop

    def __call__(self, image: Image, rng: Random) -> View:
        crop = self.draw(image, self.settings, rng)
        pixels = take(image, [crop], size=self.size)[0]
        drawn = draw_colour(self.settings.seen_colour, rng)
        return view_of(pixels, crop, draw_mask(self.grid, self.settings.mask, rng), drawn)


@dataclass(frozen=True)
class LabelledViews:
    """Makes a LabelledView of an image that has a class."""

    make: SingleView

    def __call__(self, image: Image, rng: Random) -> LabelledView:
        label = image.label()
        assert label is not None, "labels are looked for before a run begins"
        return LabelledView(self.make(image, rng), label)
