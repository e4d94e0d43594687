"""The settings of views: torch-free, validated, and the defaults are the paper's (specification 1.1 and 1.2)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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


PLAIN = ColourSettings(jitter_probability=0, gray_probability=0, blur_probability=0)
"""No colour is changed."""


class MaskSettings(BaseModel):
    """What is hidden from the online encoder (specification 1.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["blockwise", "random", "uniform", "none"] = "blockwise"
    """blockwise: BEiT-style blocks (the paper); random: single patches; uniform: blocks rolled so that every patch is
    hidden equally often; none: the online encoder sees everything."""
    hidden: int | None = None
    """How many patches are hidden; default: the paper's share, round(118/196 of all patches)."""
    count: int = Field(default=1, ge=1)
    """Masks per image: the seen view goes through the online encoder under each, against one and the same target."""
    minimum_block: int | None = None
    """Smallest block in patches; default: round(16/196 of all patches), at least 4."""

    def hidden_of(self, patches: int) -> int:
        """The number of hidden patches on a grid of `patches`."""
        if self.kind == "none":
            return 0
        return round(118 / 196 * patches) if self.hidden is None else self.hidden

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
    other_crop: Literal["own", "seen"] = "own"
    """own: the other view is a crop of its own (the paper); seen: the crop of the seen view, with colours of its own."""
    asked: float = Field(default=1.0, gt=0, le=1)
    """Share of the other view's patches that are predicted, drawn at random; at least one is."""
    seen_colour: ColourSettings = ColourSettings()
    """The colour branch of the online view."""
    other_colour: ColourSettings = ColourSettings(blur_probability=0.1, solarise_probability=0.2)
    """The colour branch of the target view."""
    mask: MaskSettings = MaskSettings()
    levels: tuple[float, float] | None = None
    """Values that become black and white (0 and 255); default: the range of 8 or 16 bits, or [0, 1] for floats."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of every channel, of levels in [0, 1]; `otherview doctor` measures yours."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def unasked_of(self, patches: int) -> int:
        """How many of the other view's patches are not predicted."""
        return patches - max(1, round(self.asked * patches))
