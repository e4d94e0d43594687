"""The settings of pictures that need no encoder: torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from otherview.config import RunConfig


@dataclass(kw_only=True)
class PictureSettings:
    """Settings common to pictures of a recipe's views; the recipe's settings follow."""

    out: Path = Path("views.png")
    """The picture: *.png or *.svg."""
    data: str = "shapes:100"
    """Images: a data SPEC."""
    first: int = 0
    """Index of the first image in the picture."""
    count: int = 4
    """How many images, pairs or masks are in the picture."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """Every setting of the run; the values in brackets are the recipe's."""


@dataclass(kw_only=True)
class ViewsSettings(PictureSettings):
    """The two views of some images, with their crops and the mask, as the learner sees them."""


@dataclass(kw_only=True)
class MasksSettings(PictureSettings):
    """Some masks, and how often each patch is masked."""

    out: Path = Path("masks.png")
    """The picture: *.png or *.svg."""
    count: int = 12
    """How many masks are in the picture."""


@dataclass(kw_only=True)
class CorrespondenceSettings(PictureSettings):
    """Two views side by side, the patches of one drawn where they fall in the other."""

    out: Path = Path("correspondence.png")
    """The picture: *.png or *.svg."""
    count: int = 3
    """How many pairs are in the picture."""
