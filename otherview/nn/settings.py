"""The settings of the encoder: torch-free. Defaults are ViT-B/16 at 224 px (specification 1.3)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from otherview.errors import WrongRequest

SIZES_OF_WEIGHTS = "width", "depth", "heads", "patch_size", "registers", "layer_scale", "class_token"
"""Settings of an encoder that its weights decide."""


class EncoderSettings(BaseModel):
    """Sizes of a plain pre-norm vision transformer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: tuple[int, int] = (224, 224)
    """Height and width in pixels."""
    patch_size: int = Field(default=16, ge=1)
    channels: int = Field(default=3, ge=1)
    """Image channels: 3 for ordinary images, other numbers for arrays (*.npy) and TIFF with several channels."""
    width: int = Field(default=768, ge=4)
    depth: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    class_token: bool = True
    """Off for weights of I-JEPA, which have none: then the mean of the patches stands for the image."""
    registers: int = Field(default=0, ge=0)
    """Extra learned tokens beside cls."""
    layer_scale: float | None = None
    """Initial value of LayerScale after attention and MLP; none by default."""
    train_patch_embedding: bool = False
    """The paper keeps the patch embedding at its random initial value while pre-training."""
    final_norm: bool = False
    """SiameseIM has no norm after the last block."""

    start: Literal["siamese_im", "moco_v3"] = "siamese_im"
    """The initial weights. moco_v3: cls nearly zero, query, key and value as three matrices, no bias of the patches."""
    positions: Literal["sincos", "learned"] = "sincos"
    """learned: a table that comes with weights from elsewhere; resampled for other sizes."""
    column_first: bool = False
    """MAE's order of the position code: the column's half before the row's. Weights of MAE need it."""

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along height and width."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    def check(self) -> None:
        """Raise WrongRequest where sizes do not fit each other."""
        height, width = self.image_size
        size = self.patch_size
        if height % size or width % size or min(height, width) < size:
            near = " ".join(str(max(1, round(side / size)) * size) for side in (height, width))
            raise WrongRequest(
                f"encoder.image_size {height} {width} is not divisible by encoder.patch_size {size}: "
                f"use --encoder.image-size {near}, or another patch size"
            )
        if self.registers and not self.class_token:
            raise WrongRequest(f"encoder.registers {self.registers} need encoder.class_token")
        if self.width % self.heads or self.width % 4:
            raise WrongRequest(
                f"encoder.width {self.width} must be divisible by encoder.heads {self.heads} and by 4 (sin-cos positions)"
            )
