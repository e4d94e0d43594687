"""The reference input path: torchvision on PIL images, one operation at a time, floats out of the worker.

This is what the published pipelines do; `views/` makes the same draws and operations in less time (specification 1.1).
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# torchvision declares tensors where its functions take PIL images as well

import io
import math
import random

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import Dataset
from torchvision import transforms as tv

from otherview.data.decode import FORMATS
from otherview.data.source import Source
from otherview.geometry import PatchGrid
from otherview.views.masks import BLOCK_ASPECT
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


def reference_mask(rows: int, columns: int, *, hidden: int, minimum_block: int) -> np.ndarray:
    """A block-wise mask (specification 1.2), cell by cell: bool [rows, columns], True = hidden."""
    board = np.zeros((rows, columns), dtype=bool)
    while board.sum() < hidden:
        if not _add_block(board, room=hidden - int(board.sum()), minimum_block=minimum_block):
            break
    free = np.flatnonzero(~board)
    board.flat[np.random.permutation(free)[: hidden - board.sum()]] = True
    return board


def _add_block(board: np.ndarray, *, room: int, minimum_block: int) -> bool:
    rows, columns = board.shape
    for _ in range(10):
        area = random.uniform(minimum_block, room)
        aspect = math.exp(random.uniform(*map(math.log, BLOCK_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < rows and width < columns:
            top, left = random.randint(0, rows - height), random.randint(0, columns - width)
            new = [
                (row, column)
                for row in range(top, top + height)
                for column in range(left, left + width)
                if not board[row, column]
            ]
            if 0 < len(new) <= room:
                for row, column in new:
                    board[row, column] = True
                return True
    return False


class ReferenceViews(Dataset[tuple[torch.Tensor, torch.Tensor, np.ndarray]]):
    """Two views and a mask for every image of a source."""

    def __init__(self, source: Source, views: ViewSettings, size: tuple[int, int], grid: PatchGrid) -> None:
        self.source = source
        self.grid = grid
        self.mask = views.mask
        self.online = reference_branch(views, views.online_colour, size)
        self.target = reference_branch(views, views.target_colour, size)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        image = Image.open(io.BytesIO(self.source.read(index)), formats=FORMATS).convert("RGB")
        patches = self.grid.patches
        hidden, minimum = self.mask.masked_of(patches), self.mask.minimum_block_of(patches)
        mask = reference_mask(*self.grid, hidden=hidden, minimum_block=minimum)
        return self.online(image), self.target(image), mask
