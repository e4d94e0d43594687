"""Pictures straight from a recipe, before any training: views, masks, correspondence.

views(config=find("siamese_im_vit_b16").make(), data="photos/", out=Path("views.png"))
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from otherview.config import RunConfig
from otherview.data.first_images import settled
from otherview.data.image import Image
from otherview.data.picture import picture_of
from otherview.data.source import Source, name_once
from otherview.data.spec import open_source
from otherview.errors import BrokenImage, WrongRequest
from otherview.files import check_picture
from otherview.geometry import PatchGrid
from otherview.report import pictures
from otherview.report.settings import CorrespondenceSettings, MasksSettings, PictureSettings, ViewsSettings
from otherview.seeding import sample_rng
from otherview.signature import takes
from otherview.views.masks import draw_mask
from otherview.views.transforms import PairViews
from otherview.views.view import ViewPair

Made = TypeVar("Made")
MASKS_COUNTED = 5000
PASSED_OVER, NAMED = 100, 5
"""So many broken images are passed over, then a picture shows fewer; so many of them are named."""


@takes(ViewsSettings)
def views(settings: ViewsSettings) -> dict[str, str]:
    """Draw the two views of some images; returns where the picture is."""
    grid = _check(settings)
    return pictures.save_picture(pictures.draw_views(*pairs_of(*_seeing(settings)), grid), settings.out)


@takes(MasksSettings)
def masks(settings: MasksSettings) -> dict[str, str]:
    """Draw some masks and how often each patch is masked; returns where the picture is."""
    grid = _check(settings)
    drawn = _masks(settings.config, grid, max(MASKS_COUNTED, settings.count))
    figure = pictures.draw_masks(list(drawn[: settings.count]), drawn.mean(axis=0), count=len(drawn))
    return pictures.save_picture(figure, settings.out)


@takes(CorrespondenceSettings)
def correspondence(settings: CorrespondenceSettings) -> dict[str, str]:
    """Draw the patches of one view where they fall in the other; returns where the picture is."""
    grid = _check(settings)
    pairs = pairs_of(*_seeing(settings))[1]
    return pictures.save_picture(pictures.draw_correspondence(pairs, grid), settings.out)


def _check(settings: PictureSettings) -> PatchGrid:
    settings.config.check()
    check_drawn(settings.out, settings.count)
    return grid_of(settings.config)


def check_drawn(out: Path, count: int) -> None:
    """Raise WrongRequest where nothing would be drawn or the picture could not be written."""
    check_picture(out)
    if count < 1:
        raise WrongRequest(f"--count {count} shows nothing: give 1 or more")


def check_first(first: int, source: Source, data: str) -> None:
    """Raise WrongRequest where the first image to draw is not one of the source's, which `data` names."""
    if not 0 <= first < len(source):
        raise WrongRequest(f"--first {first} is not in {data}: it has images 0 … {len(source) - 1}")


def grid_of(config: RunConfig) -> PatchGrid:
    """The patches of a run's views."""
    return PatchGrid(*config.encoder.grid)


def _masks(config: RunConfig, grid: PatchGrid, count: int) -> Any:
    return np.stack(
        [draw_mask(grid, config.views.mask, sample_rng(seed=config.seed, epoch=0, index=i)) for i in range(count)]
    )


def _seeing(settings: PictureSettings) -> tuple[PictureSettings, Source]:
    """The settings with what the images' values mean, and the images."""
    source = open_source(settings.data)
    config = settings.config.seeing(settled(source, settings.config.preprocessing, flag="--data"))
    return replace(settings, config=config), source


def pairs_of(settings: PictureSettings, source: Source) -> tuple[Sequence[Image], list[ViewPair]]:
    """The images, and their views as epoch 0 of a run would draw them."""
    check_first(settings.first, source, settings.data)
    made = readable(source, settings.first, settings.count, pair_maker(settings.config, source))
    images, pairs = zip(*made, strict=True)
    return images, list(pairs)


def pair_maker(config: RunConfig, source: Source) -> Callable[[int], tuple[Image, ViewPair]]:
    """index → an image and its views as epoch 0 of a run would draw them."""
    views = PairViews(config.views, config.encoder.image_size, grid_of(config))
    preprocessing = config.preprocessing

    def pair_of(index: int) -> tuple[Image, ViewPair]:
        image = picture_of(source, index, preprocessing)
        return image, views(image, sample_rng(seed=config.seed, epoch=0, index=index))

    return pair_of


def readable(source: Source, first: int, count: int, make: Callable[[int], Made]) -> list[Made]:
    """What `make` makes of `count` images from `first` on; broken ones are named and passed over, as in training.

    Raises BrokenImage where none of them can be read.
    """
    made: list[Made] = []
    broken: list[BrokenImage] = []
    for index in range(first, len(source)):
        if len(made) == count or len(broken) > PASSED_OVER:
            break
        try:
            made.append(make(index))
        except BrokenImage as error:
            broken.append(error)
    if not made:
        raise broken[0]
    for error in broken[:NAMED]:
        name_once(str(error), "not shown")
    if len(broken) > NAMED:
        name_once(f"{len(broken) - NAMED} more images", "not shown")
    return made
