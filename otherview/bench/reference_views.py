"""The reference input path: torchvision on PIL images, one operation at a time, floats out of the worker.

This is what the published pipelines do; `views/` makes the same draws and operations in less time (specification 1.1).
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# torchvision declares tensors where its functions take PIL images as well

import io

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import Dataset
from torchvision import transforms as tv

from otherview.data.decode import FORMATS
from otherview.data.source import Source
from otherview.views.settings import ColourSettings, ViewSettings


class PillowBlur(torch.nn.Module):
    """Pillow's Gaussian blur of random radius."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(np.random.uniform(*self.sigma))))


def reference_branch(views: ViewSettings, colour: ColourSettings, size: tuple[int, int]) -> tv.Compose:
    """One view: PIL image in, normalised float tensor out."""
    jitter = tv.ColorJitter(colour.brightness, colour.contrast, colour.saturation, colour.hue)
    return tv.Compose([
        tv.RandomHorizontalFlip(views.flip_probability),
        tv.RandomResizedCrop(size, views.crop_share, views.crop_aspect, interpolation=tv.InterpolationMode.BICUBIC),
        tv.RandomApply([jitter], colour.jitter_probability),
        tv.RandomGrayscale(colour.gray_probability),
        tv.RandomApply([PillowBlur(colour.blur_sigma)], colour.blur_probability),
        tv.RandomSolarize(128, colour.solarise_probability),
        tv.ToTensor(),
        tv.Normalize(views.mean, views.std),
    ])  # fmt: skip


class ReferenceViews(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Two views of every image of a source."""

    def __init__(self, source: Source, views: ViewSettings, size: tuple[int, int]) -> None:
        self.source = source
        self.seen = reference_branch(views, views.seen_colour, size)
        self.other = reference_branch(views, views.other_colour, size)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(io.BytesIO(self.source.read(index)), formats=FORMATS).convert("RGB")
        return self.seen(image), self.other(image)
