"""The settings of detection and segmentation, torch-free. Defaults are the published ones for ViT-B/16 (specification 2)."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from otherview.errors import WrongRequest
from otherview.evaluation.settings import JudgeSettings
from otherview.training.settings import TrainingSettings
from otherview.views.settings import ColourSettings


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WindowSettings(_Settings):
    """How an encoder becomes a backbone for large images (ViTDet)."""

    window: int = Field(default=14, ge=0)
    """Patches along a side of the windows that most blocks attend within; 0: all blocks attend to everything."""
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    """Blocks that attend to everything all the same, counted from 0."""
    relative_positions: bool = True
    """Learned relative positions in every block, from zero on."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)


class BoxSettings(_Settings):
    """Mask R-CNN on a simple feature pyramid."""

    channels: int = Field(default=256, ge=1)
    """Of the pyramid and the convolutions of all heads."""
    hidden: int = Field(default=1024, ge=1)
    """Width of the box head's last layer."""
    box_convolutions: int = Field(default=4, ge=0)
    mask_convolutions: int = Field(default=4, ge=1)
    anchor_patches: float = Field(default=2.0, gt=0)
    """Side of the anchors on the finest level of the pyramid, in patches; every further level doubles it."""
    proposals_before: tuple[int, int] = (2000, 1000)
    """Per level before suppression, in training and in testing."""
    proposals: int = Field(default=1000, ge=1)
    """Kept per image."""
    anchors_sampled: int = Field(default=256, ge=1)
    """Per image, for the proposal loss."""
    regions_sampled: int = Field(default=512, ge=1)
    """Per image, for the box loss; at most a quarter show an object."""
    least_score: float = Field(default=0.05, ge=0, le=1)
    """Lowest score of a kept detection."""
    suppression: float = Field(default=0.5, gt=0, le=1)
    """Overlap at which the weaker of two detections of a class is dropped."""
    detections: int = Field(default=100, ge=1)
    """Kept per image."""
    classification: Literal["softmax", "federated"] = "softmax"
    """federated: sigmoids, and the loss of an image's step over a sample of classes (LVIS)."""
    federated_classes: int = Field(default=50, ge=1)
    federated_power: float = 0.5
    """Classes are drawn with the number of their images to this power."""


class DetectConfig(_Settings):
    """Everything that decides the outcome of a detection run, apart from the images and the encoder."""

    recipe: str = ""
    size: int = Field(default=1024, ge=8)
    """Side of the square that images are fitted into, in pixels."""
    jitter: tuple[float, float] = (0.1, 2.0)
    """Range of the factor by which an image is scaled in training, before a square of it is cut out or filled up."""
    flip: float = Field(default=0.5, ge=0, le=1)
    repeat_threshold: float | None = Field(default=None, gt=0)
    """Show images more often if one of their classes is in less than this share of images (LVIS: .001); none: all alike."""
    batch: int = Field(default=64, ge=1)
    steps: int = Field(default=184_375, ge=1)
    warmup_steps: int = Field(default=250, ge=0)
    milestones: tuple[float, ...] = (163_889 / 184_375, 177_546 / 184_375)
    """Shares of the run at which the rate is divided by ten."""
    layer_decay: float = Field(default=0.7, gt=0, le=1)
    windows: WindowSettings = WindowSettings()
    boxes: BoxSettings = BoxSettings()
    training: TrainingSettings = TrainingSettings(
        lr_per_256=4e-4, weight_decay=0.1, betas=(0.9, 0.999), clip_norm=None, warmup=0.0
    )
    """The rate is 1e-4 for the batch of 64; warmup and min_lr in here are not used."""

    def check(self, *, patch_size: int, depth: int) -> None:
        """Raise WrongRequest where settings do not fit the encoder."""
        unit = 4 * patch_size
        if self.size % unit:
            raise WrongRequest(
                f"size {self.size} is not divisible by {unit} (4 patches of {patch_size}): use --size "
                f"{max(1, round(self.size / unit)) * unit}"
            )
        if wrong := [block for block in self.windows.global_blocks if not 0 <= block < depth]:
            raise WrongRequest(
                f"windows.global_blocks {wrong[0]}: this encoder has blocks 0 … {depth - 1}; give "
                f"--windows.global-blocks {depth - 1}"
            )
        _check_range("jitter", self.jitter)


class SegmentConfig(_Settings):
    """Everything that decides the outcome of a segmentation run, apart from the images and the encoder."""

    recipe: str = ""
    size: int = Field(default=512, ge=8)
    """Side of the square that is cut out of an image, in training and under the sliding window, in pixels."""
    longest: int = Field(default=2048, ge=8)
    """An image is resized so that its shorter side is `size`, or its longer side this, whichever is smaller."""
    stride: int = Field(default=341, ge=1)
    """Of the sliding window, in pixels."""
    jitter: tuple[float, float] = (0.5, 2.0)
    """Range of the factor by which an image is scaled in training."""
    flip: float = Field(default=0.5, ge=0, le=1)
    most_of_one_class: float = Field(default=0.75, gt=0, le=1)
    """Share of a training crop that one class may have, tried ten times."""
    colour: ColourSettings = ColourSettings(
        jitter_probability=0.5, brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05, gray_probability=0,
        blur_probability=0,
    )  # fmt: skip
    zero_is_ignored: bool = False
    """ADE20k: level 0 of the label pictures counts nowhere, level 1 is the first class."""
    taps: tuple[int, ...] = (4, 6, 8, 12)
    """Blocks whose tokens the pyramid is made of, counted from 1: its levels at 4, 2, 1 and 1/2 times the patch grid."""
    channels: int = Field(default=768, ge=1)
    """Of the head."""
    auxiliary_channels: int = Field(default=256, ge=1)
    auxiliary_weight: float = Field(default=0.4, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    relative_positions: bool = True
    """Learned relative positions in every block, from zero on."""
    batch: int = Field(default=16, ge=1)
    steps: int = Field(default=160_000, ge=1)
    warmup_steps: int = Field(default=1500, ge=0)
    power: float = Field(default=1.0, gt=0)
    """The rate falls as (1 - progress) to this power."""
    layer_decay: float = Field(default=0.65, gt=0, le=1)
    training: TrainingSettings = TrainingSettings(
        lr_per_256=1.6e-3, weight_decay=0.05, betas=(0.9, 0.999), clip_norm=None, warmup=0.0
    )
    """The rate is 1e-4 for the batch of 16; warmup and min_lr in here are not used."""

    def check(self, *, patch_size: int, depth: int) -> None:
        """Raise WrongRequest where settings do not fit the encoder."""
        unit = 2 * patch_size
        if self.size % unit:
            raise WrongRequest(
                f"size {self.size} is not divisible by {unit} (2 patches of {patch_size}): use --size "
                f"{max(1, round(self.size / unit)) * unit}"
            )
        if len(self.taps) != 4 or not all(1 <= tap <= depth for tap in self.taps):
            raise WrongRequest(f"taps {self.taps} must be four blocks of this encoder, which has 1 … {depth}")
        if self.stride > self.size:
            raise WrongRequest(f"stride {self.stride} leaves gaps between windows of {self.size}: give at most that")
        _check_range("jitter", self.jitter)


def _check_range(name: str, values: tuple[float, float]) -> None:
    if not 0 < values[0] <= values[1]:
        raise WrongRequest(f"{name} {values[0]} {values[1]} must be two numbers above 0, the smaller first")


@dataclass(kw_only=True)
class DenseSettings(JudgeSettings):
    """Settings that detection and segmentation share."""

    train: str
    """Images to learn from, with what is where in them (a data SPEC)."""
    test: str
    """Images to be judged on (a data SPEC)."""
    train_images: int | None = None
    """Use only so many training images, spread evenly; default: all."""
    test_images: int | None = None
    """Use only so many test images, spread evenly; default: all."""
    allow_shared: bool = False
    """Judge although --train and --test share images."""
    control: bool = True
    """Also fit the untrained encoder and, where the run started from weights, those; each takes as long again."""
    pictures: int = 4
    """Test images that are drawn with what was predicted beside the truth."""
    seed: int = 0
    """Seed of the heads, the order of images and all random draws."""


@dataclass(kw_only=True)
class DetectSettings(DenseSettings):
    """Fine-tune an encoder as a detector: box and mask AP, by COCO's rules or, for LVIS files, by LVIS's. Resumes like any run.

    Without --recipe, settings that you do not give are chosen from the training images and the encoder, and printed.
    Beside the checkpoints lie predictions.json, in COCO's form, and pictures of predictions beside the truth.
    """

    config: Annotated[DetectConfig, tyro.conf.arg(name="")] = field(default_factory=DetectConfig)
    """Every setting of the fit. In a config without a recipe, settings that were not set are chosen."""


@dataclass(kw_only=True)
class SegmentSettings(DenseSettings):
    """Fine-tune an encoder with UPerNet: the class of every pixel, mIoU and accuracy. Resumes like any run.

    Without --recipe, settings that you do not give are chosen from the training images and the encoder, and printed.
    Beside the checkpoints lie a picture of classes for every test image and pictures of predictions beside the truth.
    """

    classes: int | None = None
    """How many classes there are; default: what the labels of the training images show."""
    config: Annotated[SegmentConfig, tyro.conf.arg(name="")] = field(default_factory=SegmentConfig)
    """Every setting of the fit. In a config without a recipe, settings that were not set are chosen."""
