"""The settings of detection and segmentation, torch-free. Defaults are the published ones for ViT-B/16 (specification 2)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from otherview.errors import WrongRequest
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
    """Kept of an image."""
    anchors_sampled: int = Field(default=256, ge=1)
    """Of an image, for the loss of proposals."""
    regions_sampled: int = Field(default=512, ge=1)
    """Of an image, for the loss of boxes; a quarter of them may show an object."""
    least_score: float = Field(default=0.05, ge=0, le=1)
    """Of a detection that is kept."""
    suppression: float = Field(default=0.5, gt=0, le=1)
    """Overlap at which the lower of two detections of a class goes."""
    detections: int = Field(default=100, ge=1)
    """Kept of an image."""
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
    """Images with classes that fewer than this share of images show are seen more often (LVIS: .001); none: all alike."""
    batch: int = Field(default=64, ge=1)
    steps: int = Field(default=184_375, ge=1)
    warmup_steps: int = Field(default=250, ge=0)
    falls: tuple[float, ...] = (163_889 / 184_375, 177_546 / 184_375)
    """Shares of the run at which the rate falls to a tenth."""
    layer_decay: float = Field(default=0.7, gt=0, le=1)
    windows: WindowSettings = WindowSettings()
    boxes: BoxSettings = BoxSettings()
    training: TrainingSettings = TrainingSettings(
        lr_per_256=4e-4, weight_decay=0.1, betas=(0.9, 0.999), clip_norm=None, warmup=0.0
    )
    """The rate is 1e-4 for the batch of 64; of the schedule above, nothing in here is used."""

    def check(self, *, patch_size: int, depth: int) -> None:
        """Raise WrongRequest where settings do not fit the encoder."""
        unit = 4 * patch_size
        if self.size % unit:
            raise WrongRequest(
                f"size {self.size} is not divided by {unit} (4 patches of {patch_size}): take --size "
                f"{max(1, round(self.size / unit)) * unit}"
            )
        if wrong := [block for block in self.windows.global_blocks if not 0 <= block < depth]:
            raise WrongRequest(
                f"windows.global_blocks {wrong[0]} is no block of this encoder, which has 0 … {depth - 1}: give "
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
    """The rate is 1e-4 for the batch of 16; of the schedule above, nothing in here is used."""

    def check(self, *, patch_size: int, depth: int) -> None:
        """Raise WrongRequest where settings do not fit the encoder."""
        unit = 2 * patch_size
        if self.size % unit:
            raise WrongRequest(
                f"size {self.size} is not divided by {unit} (2 patches of {patch_size}): take --size "
                f"{max(1, round(self.size / unit)) * unit}"
            )
        if len(self.taps) != 4 or not all(1 <= tap <= depth for tap in self.taps):
            raise WrongRequest(f"taps {self.taps} must be four blocks of this encoder, which has 1 … {depth}")
        if self.stride > self.size:
            raise WrongRequest(f"stride {self.stride} leaves gaps between windows of {self.size}: give at most that")
        _check_range("jitter", self.jitter)


def _check_range(name: str, values: tuple[float, float]) -> None:
    if not 0 < values[0] <= values[1]:
        raise WrongRequest(f"{name} {values[0]} {values[1]} must rise, from above 0")
