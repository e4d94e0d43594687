"""Two views of one image: the pure function that runs in the worker.

make = PairViews(settings, size=(224, 224), grid=PatchGrid(14, 14))
pair = make(image, rng)        # ViewPair of uint8 pixels, crops and masks
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from otherview.geometry import PatchGrid
from otherview.views.colour import recolour
from otherview.views.crop import cut, sample_crop
from otherview.views.masks import draw_mask
from otherview.views.settings import ColourSettings, ViewSettings
from otherview.views.view import View, ViewPair


@dataclass(frozen=True)
class PairViews:
    """Makes a ViewPair: the seen view is masked, the other whole; crops and colours are drawn independently.

    `size` is (height, width) of both views in pixels, `grid` their patches.
    """

    settings: ViewSettings
    size: tuple[int, int]
    grid: PatchGrid

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> ViewPair:
        hidden = draw_mask(self.grid, self.settings.mask, rng)
        nothing = np.zeros(self.grid, dtype=bool)
        return ViewPair(
            seen=self._view(image, self.settings.seen_colour, hidden, rng),
            other=self._view(image, self.settings.other_colour, nothing, rng),
        )

    def _view(self, image: Image.Image, colour: ColourSettings, hidden: np.ndarray, rng: np.random.Generator) -> View:
        crop = sample_crop(
            image.height,
            image.width,
            rng=rng,
            share=self.settings.crop_share,
            aspect=self.settings.crop_aspect,
            flip_probability=self.settings.flip_probability,
        )
        pixels = recolour(cut(image, crop, size=self.size), colour, rng)
        return View(
            pixels=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            crop=crop,
            hidden=torch.from_numpy(hidden.reshape(-1)),
        )
