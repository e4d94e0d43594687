"""The settings of what writes and draws tokens: torch-free."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from otherview.data.settings import ShownSettings
from otherview.training.settings import ComputeSettings


@dataclass(kw_only=True)
class EmbedSettings(ShownSettings, ComputeSettings):
    """Features of every image as parquet, npy or safetensors; the same command continues what was stopped."""

    weights: str = field(kw_only=False)
    """A run folder, RUN@STEP or RUN@last, an encoder file, reference:demo (ships with otherview) or random:RECIPE (untrained)."""
    data: str
    """Images (a data SPEC)."""
    out: Path
    """*.parquet (name, features), *.npy (names lie beside, in *.names.json) or *.safetensors (names in its metadata)."""
    tokens: Literal["cls", "mean", "patches"] = "mean"
    """Which tokens of the last block."""
    workers: int = 1
    """Processes that read images."""


@dataclass(kw_only=True)
class TokenPictureSettings:
    """Settings common to pictures of tokens."""

    weights: str = field(kw_only=False)
    """A run folder, RUN@STEP or RUN@last, an encoder file, reference:demo (ships with otherview) or random:RECIPE (untrained)."""
    data: str = "shapes:100@64"
    """Images: a data SPEC."""
    out: Path = Path("tokens.png")
    """The picture: *.png or *.svg."""
    first: int = 0
    """Index of the first image in the picture."""
    count: int = 6
    """How many images are in the picture."""


@dataclass(kw_only=True)
class AttentionSettings(TokenPictureSettings):
    """What the cls token attends to in the last block, head by head."""

    out: Path = Path("attention.png")
    """The picture: *.png or *.svg."""
    count: int = 4
    """How many images are in the picture."""


@dataclass(kw_only=True)
class ComponentsSettings(TokenPictureSettings):
    """The first three principal components of patch tokens as red, green and blue, beside the untrained encoder's."""

    out: Path = Path("components.png")
    """The picture: *.png or *.svg."""


@dataclass(kw_only=True)
class MatchesSettings(TokenPictureSettings):
    """Patches of one view and what is most like them in another, against where they truly lie; and the share that is right."""

    out: Path = Path("matches.png")
    """The picture: *.png or *.svg."""
    count: int = 3
    """How many images are in the picture."""
    judged: int = 200
    """How many images the share is taken over."""
    seed: int = 0
    """Seed of the crops."""


@dataclass(kw_only=True)
class NeighboursSettings:
    """Images beside those that lie nearest to them, by a file of `otherview embed` (cosine of mean or cls tokens)."""

    embedding: Path
    """A file of `otherview embed`."""
    data: str
    """The images that it was made of: the same data SPEC."""
    out: Path = Path("neighbours.png")
    """The picture: *.png or *.svg."""
    first: int = 0
    """Row of the first query image."""
    count: int = 5
    """Number of query images."""
    nearest: int = 6
    """How many neighbours of each are in the picture."""
