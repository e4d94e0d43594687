"""Pictures straight from a recipe, before any training: views, masks, correspondence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from otherview.config import RunConfig
from otherview.errors import BrokenImage, WrongRequest
from otherview.verbs.request import Request, check_picture

if TYPE_CHECKING:
    from otherview.data.source import Source
    from otherview.geometry import PatchGrid
    from otherview.learner import Image
    from otherview.views.view import ViewPair


@dataclass(kw_only=True)
class Show(Request):
    """Flags of every picture; the recipe's settings follow."""

    out: Path = Path("views.png")
    """The picture: *.png or *.svg."""
    data: str = "shapes:100"
    """Images: a data SPEC."""
    first: int = 0
    """Index of the first image shown."""
    count: int = 4
    """How many images, pairs or masks are shown."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")]


@dataclass(kw_only=True)
class ShowViews(Show):
    """The two views of some images, with their crops and the mask, as the learner sees them."""


@dataclass(kw_only=True)
class ShowMasks(Show):
    """Some masks, and how often each patch is hidden."""

    out: Path = Path("masks.png")
    """The picture: *.png or *.svg."""
    count: int = 12
    """How many masks are shown."""


@dataclass(kw_only=True)
class ShowCorrespondence(Show):
    """Two views side by side, the patches of one drawn where they fall in the other."""

    out: Path = Path("correspondence.png")
    """The picture: *.png or *.svg."""
    count: int = 3
    """How many pairs are shown."""


Made = TypeVar("Made")

MASKS_COUNTED = 5000
PASSED_OVER = 100
"""So many broken images are passed over, then a picture shows fewer."""


def run(request: Show) -> dict[str, Any]:
    """The verb."""
    request.config.check()
    check_picture(request.out, flag="--out")
    if request.count < 1:
        raise WrongRequest(f"--count {request.count} shows nothing: give 1 or more")
    from otherview.data.spec import open_source
    from otherview.report import pictures

    grid = grid_of(request.config)
    match request:
        case ShowMasks():
            masks = _masks(request.config, grid, max(MASKS_COUNTED, request.count))
            figure = pictures.draw_masks(list(masks[: request.count]), masks.mean(axis=0), count=len(masks))
        case ShowCorrespondence():
            figure = pictures.draw_correspondence(pairs_of(request, open_source(request.data))[1], grid)
        case _:
            figure = pictures.draw_views(*pairs_of(request, open_source(request.data)), grid)
    figure.savefig(request.out, dpi=150)
    return {"picture": str(request.out)}


def show(result: dict[str, Any]) -> Sequence[str]:
    """Where the picture is."""
    return [result["picture"]]


def grid_of(config: RunConfig) -> "PatchGrid":
    """The patches of a run's views."""
    from otherview.geometry import PatchGrid

    return PatchGrid(*config.encoder.grid)


def _masks(config: RunConfig, grid: "PatchGrid", count: int) -> Any:
    import numpy as np

    from otherview.seeding import sample_rng
    from otherview.views.masks import draw_mask

    return np.stack(
        [draw_mask(grid, config.views.mask, sample_rng(seed=config.seed, epoch=0, index=i)) for i in range(count)]
    )


def pairs_of(request: Show, source: "Source") -> "tuple[Sequence[Image], list[ViewPair]]":
    """The images, and their views as epoch 0 of a run would draw them."""
    if not 0 <= request.first < len(source):
        raise WrongRequest(f"--first {request.first} is not in {request.data}: it has images 0 … {len(source) - 1}")
    made = readable(source, request.first, request.count, pair_maker(request.config, source))
    images, pairs = zip(*made, strict=True)
    return images, list(pairs)


def pair_maker(config: RunConfig, source: "Source") -> "Callable[[int], tuple[Image, ViewPair]]":
    """index → an image and its views as epoch 0 of a run would draw them."""
    from otherview.data.picture import picture_of
    from otherview.seeding import sample_rng
    from otherview.verbs.weights import decoding_of
    from otherview.views.pair import PairViews

    views = PairViews(config.views, config.encoder.image_size, grid_of(config))
    decoding = decoding_of(config)

    def pair_of(index: int) -> "tuple[Image, ViewPair]":
        image = picture_of(source, index, decoding)
        return image, views(image, sample_rng(seed=config.seed, epoch=0, index=index))

    return pair_of


def readable(source: "Source", first: int, count: int, make: Callable[[int], Made]) -> list[Made]:
    """What `make` makes of `count` images from `first` on; broken ones are named and passed over, as in training.

    Raises BrokenImage where none of them can be read.
    """
    from otherview.evaluation.features import name_once

    made: list[Made] = []
    broken: list[BrokenImage] = []
    for index in range(first, len(source)):
        if len(made) == count or len(broken) > PASSED_OVER:
            break
        try:
            made.append(make(index))
        except BrokenImage as error:
            name_once(str(error), "not shown")
            broken.append(error)
    if not made:
        raise broken[0]
    return made
