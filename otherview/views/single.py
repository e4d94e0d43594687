"""One view of an image, with the crop, the colour branch and the mask of the seen one: what MAE looks at."""

from dataclasses import dataclass
from random import Random

from otherview.geometry import PatchGrid
from otherview.learner import Image
from otherview.views.colour import recolour
from otherview.views.crop import draw_crop, take, view_of
from otherview.views.masks import draw_mask
from otherview.views.settings import ViewSettings
from otherview.views.view import View


@dataclass(frozen=True)
class SingleView:
    """Makes a View. `size` is (height, width) in pixels, `grid` its patches."""

    settings: ViewSettings
    size: tuple[int, int]
    grid: PatchGrid

    def __call__(self, image: Image, rng: Random) -> View:
        crop = draw_crop(image, self.settings, rng)
        pixels = recolour(take(image, [crop], size=self.size)[0], self.settings.seen_colour, rng)
        return view_of(pixels, crop, draw_mask(self.grid, self.settings.mask, rng))
