"""From an image to a sample: the pure functions that run in the worker. A pair of views, one view, a view with its class.

make = PairViews(settings, size=(224, 224), grid=PatchGrid(14, 14))
pair = make(image, rng)        # ViewPair of uint8 pixels, crops and masks

Fine-tuning sees a labelled view under RandAugment (specification 2); the operations are timm's.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image as Pillow
from PIL import ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from otherview.data.image import Image, Preprocessing, eight_bits
from otherview.errors import WrongRequest
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
        later = self.settings.colour_on == "device"
        return ViewPair(
            view_of(online, crops[0], masked, colours[0], later=later),
            view_of(target, crops[1], unpredicted, colours[1], later=later),
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
        masked = draw_mask(self.grid, self.settings.mask, rng)
        return view_of(pixels, crop, masked, drawn, later=self.settings.colour_on == "device")


@dataclass(frozen=True)
class LabelledViews:
    """Makes a LabelledView of an image that has a class."""

    make: SingleView

    def __call__(self, image: Image, rng: Random) -> LabelledView:
        label = image.label()
        assert label is not None, "labels are looked for before a run begins"
        return LabelledView(self.make(image, rng), label)


def plain_view(
    preprocessing: Preprocessing,
    grid: PatchGrid,
    *,
    draw: Callable[..., Crop],
    share: tuple[float, float] = (0.08, 1.0),
) -> SingleView:
    """Crops with this `share` of the area and mirroring alone, as an encoder wants its images."""
    settings = ViewSettings(
        crop_share=share,
        mean=tuple(preprocessing.mean), std=tuple(preprocessing.std), levels=preprocessing.levels,
        ranges=dict(preprocessing.ranges), online_colour=PLAIN,
        mask=MaskSettings(kind="none"),
    )  # fmt: skip
    return SingleView(settings, preprocessing.size, grid, draw=draw)


@dataclass(frozen=True)
class AugmentedViews:
    """Makes a LabelledView: crop and mirroring of `make`, then what `policy` says, in timm's words."""

    make: SingleView
    policy: str = "rand-m9-mstd0.5-inc1"

    def __call__(self, image: Image, rng: Random) -> LabelledView:
        label = image.label()
        assert label is not None, "labels are looked for before a run begins"
        view = self.make(image, rng)
        picture = Pillow.fromarray(eight_bits(view.pixels.permute(1, 2, 0).numpy()))
        transform = _transform(self.policy, min(self.make.size), self.make.settings.mean)
        with drawn_from(rng):
            changed = transform(picture)
        return LabelledView(
            view._replace(pixels=torch.from_numpy(np.array(changed)).permute(2, 0, 1).contiguous()), label
        )


def check_policy(policy: str) -> None:
    """Raise WrongRequest for words that are no RandAugment of timm's."""
    try:
        _transform(policy, 224, (0.5, 0.5, 0.5))
    except (AssertionError, KeyError, ValueError, TypeError) as error:
        raise WrongRequest(f"--augment {policy} is no RandAugment: give rand-m9-mstd0.5-inc1, say, or none") from error


@cache
def _transform(policy: str, side: int, mean: tuple[float, ...]) -> Any:
    fill = tuple(min(255, round(255 * channel)) for channel in mean)
    options = {"translate_const": int(side * 0.45), "img_mean": fill, "interpolation": Pillow.Resampling.BICUBIC}
    transform = rand_augment_transform(policy, options)
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterise
    return transform


def _posterise(image: Pillow.Image, bits: int, **_: Any) -> Pillow.Image:
    """timm asks for 0 bits where noise makes it strongest, which Pillow refuses: one is the fewest that shows anything."""
    return ImageOps.posterize(image, max(1, bits)) if bits < 8 else image


@contextmanager
def drawn_from(rng: Random) -> Iterator[None]:
    """Within, what draws from Python's and NumPy's global generators draws from `rng`; afterwards they are as before."""
    before = random.getstate(), np.random.get_state()
    random.seed(rng.getrandbits(64))
    np.random.seed(rng.getrandbits(32))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
