"""The settings of views: torch-free, validated, and the defaults are the paper's (specification 1.1 and 1.2)."""

import math
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from otherview.data.settings import Levels, Range, check_levels
from otherview.errors import WrongRequest


class ColourSettings(BaseModel):
    """One colour branch. Strengths as in torchvision's ColorJitter; probabilities in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jitter_probability: float = Field(default=0.8, ge=0, le=1)
    brightness: float = Field(default=0.4, ge=0)
    contrast: float = Field(default=0.4, ge=0)
    saturation: float = Field(default=0.2, ge=0)
    hue: float = Field(default=0.1, ge=0, le=0.5)
    gray_probability: float = Field(default=0.2, ge=0, le=1)
    blur_probability: float = Field(default=1.0, ge=0, le=1)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the Gaussian's standard deviation, in pixels of the view."""
    solarise_probability: float = Field(default=0.0, ge=0, le=1)
    gamma: float = Field(default=0.0, ge=0)
    """For any number of channels: strength of a random gamma curve, whose exponent is between 1 / (1 + gamma) and 1 + gamma."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """For any number of channels: largest deviation of Gaussian noise, as a share of the range from black to white."""


PLAIN = ColourSettings(jitter_probability=0, gray_probability=0, blur_probability=0)
"""No colour is changed."""


class MaskSettings(BaseModel):
    """Which patches the online encoder does not see (specification 1.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["blockwise", "random", "uniform", "none"] = "blockwise"
    """blockwise: BEiT-style (the paper); random: single patches; uniform: blocks, every patch equally often; none: no mask."""
    ratio: float = Field(default=118 / 196, ge=0, lt=1)
    """Share of the patches that are masked; the number of patches is rounded."""
    count: int | None = None
    """Number of patches that are masked; replaces the ratio."""
    minimum_block: int | None = Field(default=None, ge=1)
    """Smallest block in patches; default: round(16/196 of all patches), at least 4."""

    def masked_of(self, patches: int) -> int:
        """The number of masked patches on a grid of `patches`."""
        if self.kind == "none":
            return 0
        return round(self.ratio * patches) if self.count is None else self.count

    def minimum_block_of(self, patches: int) -> int:
        """The smallest block on a grid of `patches`."""
        return max(4, round(16 / 196 * patches)) if self.minimum_block is None else self.minimum_block


class ViewSettings(BaseModel):
    """How two views are made from one image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop_share: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image area."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width over height, drawn log-uniformly."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    vertical_flip_probability: float = Field(default=0.0, ge=0, le=1)
    """For images without an up and a down: microscopy, satellites."""
    quarter_turns: bool = False
    """Turn every view by 0, 90, 180 or 270 degrees, for images without an up and a down."""
    target_crop: Literal["own", "same"] = "own"
    """own: the target view has its own crop (the paper); same: the crop of the online view, with its own colours."""
    predict_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the target view's patches that are predicted, drawn at random; at least one is."""
    masks_per_image: int = Field(default=1, ge=1)
    """The online encoder sees the online view under this many masks, all with the same target."""
    online_colour: ColourSettings = ColourSettings()
    """The colour branch of the online view."""
    target_colour: ColourSettings = ColourSettings(blur_probability=0.1, solarise_probability=0.2)
    """The colour branch of the target view."""
    colour_on: Literal["workers", "device"] = "workers"
    """Where colour augmentation runs: in the loader's workers, or per batch on the device, for GPUs with few CPU cores."""
    mask: MaskSettings = MaskSettings()
    levels: Levels = "auto"
    """What becomes black and white: auto (by kind of file), LOW HIGH, percentile P Q (per image), or the range of the type."""
    ranges: Annotated[dict[str, tuple[Range, ...]], tyro.conf.Suppress] = {}
    """What auto found in the images, by kind of file with more than eight bits; written into a run's config.yaml."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of every channel, of levels in [0, 1]; `otherview doctor` measures yours."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # ranges are a dictionary

    @property
    def turned(self) -> bool:
        """Whether views may be turned or put upside down."""
        return self.quarter_turns or self.vertical_flip_probability > 0

    def check(self, *, channels: int, grid: tuple[int, int]) -> None:
        """Raise WrongRequest for ranges that are none, and for what does not fit images of so many channels and patches."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise WrongRequest(
                    f"views.{name} has {len(values)} values for {channels} channels: "
                    f"give --views.{name} one per channel; otherview doctor measures them"
                )
        if min(self.std) <= 0:
            raise WrongRequest(f"views.std {min(self.std)} is not above 0: pixels are divided by it")
        check_levels(self.levels, "views.levels")
        self._check_ranges()
        self._check_mask(*grid)

    def _check_ranges(self) -> None:
        """The smaller first, above 0; of a crop's share of the image, up to 1."""
        for name, (low, high), most in (
            ("crop_share", self.crop_share, 1.0),
            ("crop_aspect", self.crop_aspect, math.inf),
            ("online_colour.blur_sigma", self.online_colour.blur_sigma, math.inf),
            ("target_colour.blur_sigma", self.target_colour.blur_sigma, math.inf),
        ):
            if not 0 < low <= high <= most:
                raise WrongRequest(
                    f"views.{name} {low:g} {high:g} must be two numbers above 0{' and up to 1' * (most == 1)}, the smaller first"
                )

    def _check_mask(self, rows: int, columns: int) -> None:
        masked, block = self.mask.masked_of(rows * columns), self.mask.minimum_block_of(rows * columns)
        if not 0 <= masked < rows * columns:
            raise WrongRequest(
                f"views.mask.count {masked} does not fit {rows}×{columns} patches: give 0 … {rows * columns - 1}, "
                "so that the encoder sees at least one patch"
            )
        if (
            self.mask.kind in ("blockwise", "uniform")
            and self.mask.minimum_block
            and block > (rows - 1) * (columns - 1)
        ):
            raise WrongRequest(
                f"views.mask.minimum_block {block} is more than a block of {rows}×{columns} patches can have: "
                f"give 1 … {(rows - 1) * (columns - 1)}"
            )
        if self.mask.kind == "none" and self.masks_per_image > 1:
            raise WrongRequest(
                f"views.masks_per_image {self.masks_per_image} with views.mask.kind none makes copies of one view: give 1"
            )

    def unpredicted_of(self, patches: int) -> int:
        """How many of the target view's patches are not predicted."""
        return patches - max(1, round(self.predict_ratio * patches))
