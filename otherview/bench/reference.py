"""The naive twins: written plainly, as the formulas read, to be tested and measured against.

The reference input path is torchvision on PIL images, one operation at a time, floats out of the worker, as in published
pipelines; `views/` makes the same draws and operations in less time (specification 1.1).

Axes: B images, L patches, N tokens, D width.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# torchvision declares tensors where its functions take PIL images as well

import copy
import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFilter
from timm.layers import Attention  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as tv

from otherview.data.decode import FORMATS
from otherview.data.source import Source
from otherview.geometry import PatchGrid
from otherview.losses.objectives import StepLoss
from otherview.losses.unigrad import spectrum_metrics
from otherview.methods.siamese_im import Context, SiameseIM
from otherview.methods.target import EMATarget
from otherview.views.masks import BLOCK_ASPECT
from otherview.views.settings import ColourSettings, ViewSettings
from otherview.views.view import ViewPair


def unigrad_by_similarities(
    y: Float[Tensor, "N D"], z: Float[Tensor, "N D"], *, weight: float, negatives: Float[Tensor, "M D"] | None = None
) -> Float[Tensor, ""]:
    """UniGrad's value through the similarities of all pairs: mean yᵀ·C·y is their mean square (negatives: z)."""
    width = y.shape[1]
    negatives = z if negatives is None else negatives
    positive = (y - z).square().sum(dim=1).mean()
    negative = (y @ negatives.T).square().sum(dim=1).mean() / len(negatives)
    return (positive + weight * negative) / width


@dataclass(frozen=True)
class DenseBySquare:
    """The dense objective as yᵀ·C·y reads for all tokens at once: the diagonal of a square matrix that is formed whole."""

    negative_weight: float

    def statistics(self, targets: Sequence[Float[Tensor, "B L D"]]) -> Any:
        z = torch.cat([target.flatten(0, 1) for target in targets])
        return (z.T @ z / len(z),)

    def __call__(self, y: Float[Tensor, "B L D"], z: Float[Tensor, "B L D"], statistics: Any) -> StepLoss:
        y, z = y.flatten(0, 1), z.flatten(0, 1)
        positive = (y - z).square().sum(dim=1).mean()
        negative = (y @ statistics[0] @ y.T).diagonal().mean()
        return StepLoss((positive + self.negative_weight * negative) / y.shape[1], {})

    def metrics(self, statistics: Any) -> Mapping[str, Tensor]:
        return spectrum_metrics(statistics[0], weight=self.negative_weight)


class NaiveSiameseIM(SiameseIM):
    """The method as one would first write it: unfused attention, the square negative term, the average moved one
    parameter at a time. Same parameters, same names, same numbers."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.objective = DenseBySquare(self.objective.negative_weight)  # pyright: ignore
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused_attn = False

    @torch.no_grad()
    def prepare(self, micro_batches: Sequence[ViewPair], progress: float) -> Context:
        assert isinstance(self.target, EMATarget)
        momentum = self.target.momentum(progress)
        for mine, theirs in zip(self.target.parameters(), self.online.parameters(), strict=True):
            mine.data = mine.data * momentum + theirs.data * (1 - momentum)
        targets = [
            self.target(self._normalised(batch.target, self.views.settings.target_colour)) for batch in micro_batches
        ]
        return Context(targets, self.objective.statistics(targets), None)


def naive_twin(learner: SiameseIM) -> NaiveSiameseIM:
    """The naive twin of a learner, with the same weights."""
    parts = copy.deepcopy(learner)
    return NaiveSiameseIM(
        online=parts.online,
        target=parts.target,
        predictor=parts.predictor,
        objective=parts.objective,
        views=parts.views,
    )


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


def reference_mask(rows: int, columns: int, *, masked: int, minimum_block: int) -> np.ndarray:
    """A block-wise mask (specification 1.2), cell by cell: bool [rows, columns], True = masked."""
    board = np.zeros((rows, columns), dtype=bool)
    while board.sum() < masked:
        if not _add_block(board, room=masked - int(board.sum()), minimum_block=minimum_block):
            break
    free = np.flatnonzero(~board)
    board.flat[np.random.permutation(free)[: masked - board.sum()]] = True
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
        masked, minimum = self.mask.masked_of(patches), self.mask.minimum_block_of(patches)
        mask = reference_mask(*self.grid, masked=masked, minimum_block=minimum)
        return self.online(image), self.target(image), mask
