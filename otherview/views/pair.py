"""Two views of one image: the pure function that runs in the worker.

make = PairViews(settings, size=(224, 224), grid=PatchGrid(14, 14))
pair = make(image, rng)        # ViewPair of uint8 pixels, crops and masks
"""

from dataclasses import dataclass

import numpy as np
import torch

from otherview.geometry import Crop, PatchGrid
from otherview.learner import Image
from otherview.views.colour import recolour
from otherview.views.crop import planes, sample_crop, take
from otherview.views.masks import draw_mask
from otherview.views.settings import ViewSettings
from otherview.views.view import View, ViewPair


@dataclass(frozen=True)
class PairViews:
    """Makes a ViewPair: the seen view is masked, the other whole; crops and colours are drawn independently.

    `size` is (height, width) of both views in pixels, `grid` their patches.
    """

    settings: ViewSettings
    size: tuple[int, int]
    grid: PatchGrid

    def __call__(self, image: Image, rng: np.random.Generator) -> ViewPair:
        crops = self.crop(image, rng), self.crop(image, rng)
        cuts = take(image, crops, size=self.size)
        seen = recolour(cuts[0], self.settings.seen_colour, rng)
        other = recolour(cuts[1], self.settings.other_colour, rng)
        hidden = draw_mask(self.grid, self.settings.mask, rng)
        return ViewPair(
            seen=_view(seen, crops[0], hidden),
            other=_view(other, crops[1], np.zeros(self.grid, dtype=bool)),
        )

    def crop(self, image: Image, rng: np.random.Generator) -> Crop:
        """One crop of an image, drawn as the settings say."""
        return sample_crop(
            image.height,
            image.width,
            rng=rng,
            share=self.settings.crop_share,
            aspect=self.settings.crop_aspect,
            flip_probability=self.settings.flip_probability,
        )


def _view(pixels: np.ndarray, crop: Crop, hidden: np.ndarray) -> View:
    return View(
        torch.from_numpy(planes(pixels, flipped=bool(crop.flipped))), crop, torch.from_numpy(hidden.reshape(-1))
    )
