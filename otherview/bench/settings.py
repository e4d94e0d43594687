"""The settings of the benches: torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from otherview.training.settings import DeviceName


@dataclass(kw_only=True)
class LossSettings:
    """Memory and time of UniGrad at several sizes, beside what a square similarity matrix alone would take."""

    device: DeviceName = "cpu"
    """Where: cpu, cuda, mps, xpu, or auto for what is there."""
    threads: int | None = None
    """CPU threads; default: all cores."""


@dataclass(kw_only=True)
class LoaderSettings:
    """Images per second of one core for two views at 224 px: decoding alone, torchvision on PIL images, and ours."""

    data: str | None = None
    """Images (a data SPEC), up to 256 of them; default: drawn photos of 500×375 px."""
    colour_on: Literal["workers", "device"] = "workers"
    """Where colour augmentation runs, as --views.colour-on; with device, this measurement leaves it out."""
    workers: int = 0
    """Also measure the whole machine with this many worker processes."""
    kinds: bool = False
    """Also measure drawn images as 16-bit PNG and TIFF, DICOM and tiles, each beside the plain library that decodes it."""
    operations: int = 0
    """Also compare every operation with the reference's over so many images: mean, spread, quantiles."""


@dataclass(kw_only=True)
class StepSettings:
    """Images per second of a training step, its share of the device's matrix-multiply peak and its memory.

    On a CPU beside a naive twin of SiameseIM, on a GPU beside a masked autoencoder of timm's parts.
    """

    recipe: str | None = None
    """Whose model; default: SiameseIM at ViT-S/16, 224 px."""
    device: DeviceName = "cpu"
    """Where: cpu, cuda, mps, xpu, or auto for what is there."""
    batch: int | None = None
    """Images per step; default: 32 on a CPU, 256 on a GPU."""
    precision: Literal["fp32", "bf16"] | None = None
    """Default: fp32 on a CPU, bf16 on a GPU."""
    compile: Literal["off", "blocks", "whole"] = "off"
    """What torch.compile compiles, as --training.compile."""
    colour_on: Literal["workers", "device"] = "workers"
    """Where colour augmentation runs, as --views.colour-on; with device, it is part of the step."""
    reference: bool = True
    """Also measure what ours is compared with; without it, the bench takes half as long."""
    trace: Path | None = None
    """Also write a profiler trace of our step here (*.json.gz) and show its ten costliest operations."""
    threads: int | None = None
    """CPU threads; default: all cores."""
    growth: Path | None = None
    """On a CPU: also measure how time and memory grow with batch, tokens and width, and draw it here: *.png or *.svg."""
