"""The settings of encoders that travel: torch-free."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from otherview.data.settings import ShownSettings

OriginName = Literal["auto", "official-siamese-im", "mae", "moco-v3", "timm"]


@dataclass(kw_only=True)
class ExportSettings(ShownSettings):
    """Write an encoder as timm, Hugging Face transformers or ONNX want it; over a difference of 1e-4 it fails.

    timm and transformers get a table of positions for one --size of image; ONNX computes them for any size that the patch
    divides. All want images that are normalised with the mean and std of the card.
    """

    weights: str = field(kw_only=False)
    """A run folder, RUN@STEP or RUN@last, an encoder file, timm:NAME, hf:ORG/NAME, reference:demo, random:RECIPE (untrained)."""
    to: Literal["timm", "huggingface", "onnx", "safetensors"]
    out: Path
    """A folder for timm and huggingface, a file for onnx (*.onnx) and safetensors (*.safetensors)."""


@dataclass(kw_only=True)
class ConvertSettings:
    """Read the vision transformer in another program's checkpoint.

    Known are SiameseIM, MAE, MoCo-v3, DINO, iBOT, DINOv2, I-JEPA, solo-learn, Lightning, MMPretrain, torchvision, transformers
    and timm; in other files the encoder is found by its patch embedding.

    Nothing in a file is executed: a pickle that asks for more than tensors and settings is refused.
    """

    source: Annotated[str, tyro.conf.Positional] = field(kw_only=False)
    """The checkpoint's file, a folder of transformers, or timm:NAME for a pre-trained model of timm's."""
    origin: Annotated[OriginName, tyro.conf.arg(name="from")] = "auto"
    """Whose file it is; with auto, names tell. The others also state the licence of the official weights."""
    out: Path
    """The encoder file to write: *.safetensors."""
    branch: Literal["online", "target"] | None = None
    """The trained encoder, or its moving average; default: the moving average of DINO, iBOT and I-JEPA, else the trained one."""
    heads: int | None = None
    """Attention heads, if the file does not state them and the width is none of 192, 384, 768, 1024, 1280."""
    partial: bool = False
    """Leave out tensors that have no place in an encoder, instead of stopping; parts of the encoder are never left out."""
