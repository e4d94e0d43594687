"""From an image to a sample: the pure functions that run in the worker. A pair of views, one view, a view with its class.

make = PairViews(settings, size=(224, 224), grid=PatchGrid(14, 14))
pair = make(image, rng)        # ViewPair of uint8 pixels, crops and masks
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

from otherview.data.image import Image, Preprocessing
from otherview.geometry import Crop, PatchGrid
from otherview.views.colour import draw_colour
from otherview.views.crop import draw_crop, take, view_of
from otherview.views.masks import draw_mask, draw_masks, random_mask
from otherview.views.settings import PLAIN, MaskSettings, ViewSettings
from otherview.views.view import View, ViewPair


@dataclass(frozen=True)
class PairViews:
    """Makes a ViewPair: the online view is masked, the target whole; colours are drawn independently, crops by default too.

    `size` is (height, width) of both views in pixels, `grid` their patches.
    """

    settings: ViewSettings
    size: tuple[int, int]
    grid: PatchGrid

    def __call__(self, image: Image, rng: Random) -> ViewPair:
        first = draw_crop(image, self.settings, rng)
        crops = first, first if self.settings.target_crop == "same" else draw_crop(image, self.settings, rng)
        online, target = take(image, crops, size=self.size)
        colours = [draw_colour(branch, rng) for branch in (self.settings.online_colour, self.settings.target_colour)]
        masked = draw_masks(self.grid, self.settings, rng)
        unpredicted = random_mask(self.grid, count=self.settings.unpredicted_of(self.grid.patches), rng=rng)
        return ViewPair(
            view_of(online, crops[0], masked, colours[0]), view_of(target, crops[1], unpredicted, colours[1])
        )


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
        drawn = draw_colour(self.settings.online_colour, rng)
        return view_of(pixels, crop, draw_mask(self.grid, self.settings.mask, rng), drawn)


@dataclass(frozen=True)
class LabelledViews:
    """Makes a LabelledView of an image that has a class."""

    make: SingleView

    def __call__(self, image: Image, rng: Random) -> LabelledView:
        label = image.label()
        assert label is not None, "labels are looked for before a run begins"
        return LabelledView(self.make(image, rng), label)


def plain_view(preprocessing: Preprocessing, grid: PatchGrid, *, draw: Callable[..., Crop]) -> SingleView:
    """Crops and mirroring alone, as an encoder wants its images."""
    settings = ViewSettings(
        mean=tuple(preprocessing.mean), std=tuple(preprocessing.std), levels=preprocessing.levels, online_colour=PLAIN,
        mask=MaskSettings(kind="none"),
    )  # fmt: skip
    return SingleView(settings, preprocessing.size, grid, draw=draw)
