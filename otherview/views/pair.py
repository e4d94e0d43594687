"""Two views of one image: the pure function that runs in the worker.

make = PairViews(settings, size=(224, 224), grid=PatchGrid(14, 14))
pair = make(image, rng)        # ViewPair of uint8 pixels, crops and masks
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from otherview.geometry import PatchGrid
from otherview.learner import Image
from otherview.views.colour import recolour
from otherview.views.crop import draw_crop, take, view_of
from otherview.views.masks import draw_mask
from otherview.views.settings import ViewSettings
from otherview.views.view import ViewPair


@dataclass(frozen=True)
class PairViews:
    """Makes a ViewPair: the seen view is masked, the other whole; crops and colours are drawn independently.

    `size` is (height, width) of both views in pixels, `grid` their patches.
    """

    settings: ViewSettings
    size: tuple[int, int]
    grid: PatchGrid

    def __call__(self, image: Image, rng: Random) -> ViewPair:
        crops = draw_crop(image, self.settings, rng), draw_crop(image, self.settings, rng)
        cuts = take(image, crops, size=self.size)
        seen = recolour(cuts[0], self.settings.seen_colour, rng)
        other = recolour(cuts[1], self.settings.other_colour, rng)
        hidden = draw_mask(self.grid, self.settings.mask, rng)
        return ViewPair(
            seen=view_of(seen, crops[0], hidden),
            other=view_of(other, crops[1], np.zeros(self.grid, dtype=bool)),
        )
