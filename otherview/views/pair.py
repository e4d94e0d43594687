"""Two views of one image: the pure function that runs in the worker.

make = PairViews(settings, size=(224, 224), grid=PatchGrid(14, 14))
pair = make(image, rng)        # ViewPair of uint8 pixels, crops and masks
"""

from dataclasses import dataclass
from random import Random

from otherview.geometry import PatchGrid
from otherview.learner import Image
from otherview.views.colour import draw_colour
from otherview.views.crop import draw_crop, take, view_of
from otherview.views.masks import draw_masks, random_mask
from otherview.views.settings import ViewSettings
from otherview.views.view import ViewPair


@dataclass(frozen=True)
class PairViews:
    """Makes a ViewPair: the seen view is masked, the other whole; colours are drawn independently, crops by default too.

    `size` is (height, width) of both views in pixels, `grid` their patches.
    """

    settings: ViewSettings
    size: tuple[int, int]
    grid: PatchGrid

    def __call__(self, image: Image, rng: Random) -> ViewPair:
        first = draw_crop(image, self.settings, rng)
        crops = first, first if self.settings.other_crop == "seen" else draw_crop(image, self.settings, rng)
        seen, other = take(image, crops, size=self.size)
        colours = [draw_colour(branch, rng) for branch in (self.settings.seen_colour, self.settings.other_colour)]
        hidden = draw_masks(self.grid, self.settings.mask, rng)
        unasked = random_mask(self.grid, hidden=self.settings.unasked_of(self.grid.patches), rng=rng)
        return ViewPair(view_of(seen, crops[0], hidden, colours[0]), view_of(other, crops[1], unasked, colours[1]))
