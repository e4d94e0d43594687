"""The settings of the benches: torch-free."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class LossSettings:
    """Memory and time of UniGrad at several sizes, beside what a square similarity matrix alone would take."""

    threads: int | None = None
    """CPU threads; default: all cores."""


@dataclass(kw_only=True)
class LoaderSettings:
    """Images per second of one core for two views at 224 px: decoding alone, torchvision on PIL images, and ours."""

    data: str | None = None
    """Images (a data SPEC), up to 256 of them; default: drawn photos of 500×375 px."""
    operations: int = 0
    """Also compare every operation with the reference's over so many images: mean, spread, quantiles."""


@dataclass(kw_only=True)
class StepSettings:
    """Images per second of a step of SiameseIM at ViT-S/16, 224 px, fp32, beside a naive twin, and its peak memory."""

    batch: int = 32
    """Images per step."""
    threads: int | None = None
    """CPU threads; default: all cores."""
    growth: Path | None = None
    """Also measure how time and memory grow with batch, tokens and width, and draw it here: *.png or *.svg."""
