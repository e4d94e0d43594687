"""What a segmenter says of whole images: windows slide over each, their scores are averaged.

Axes: B images, C channels, K classes, H and W pixels.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from otherview.data.image import Preprocessing
from otherview.data.loader import settle_worker
from otherview.data.picture import picture_of
from otherview.data.source import Source, name_once
from otherview.dense.jitter import resized as resized_pixels
from otherview.dense.pixels import classes_of, shown_size
from otherview.dense.settings import SegmentConfig
from otherview.dense.upernet import UPerNet, resized
from otherview.distributed import rank, ranks
from otherview.errors import BrokenImage
from otherview.files import atomically
from otherview.views.view import normalise


class Prediction(NamedTuple):
    """What is said of one image, at its own size."""

    number: int
    name: str
    pixels: np.ndarray
    """uint8 [H, W, C]"""
    truth: np.ndarray
    """uint8 [H, W]"""
    predicted: np.ndarray
    """uint8 [H, W]"""

    def save(self, folder: Path) -> None:
        """Write the classes as a picture under the image's index and name; characters that lead elsewhere are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^\w.-]+", "_", str(Path(self.name).with_suffix("")))
        stem = f"{self.number:07d}-{stem}"
        atomically(folder / f"{stem}.png", lambda path: Image.fromarray(self.predicted).save(path, format="PNG"))


@dataclass(frozen=True)
class _Wholes(Dataset[tuple[Any, ...]]):
    """An image, what of it is shown to the net and the classes of its pixels; or why there is none."""

    source: Source
    indices: np.ndarray
    preprocessing: Preprocessing
    config: SegmentConfig

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Any, ...]:
        index = int(self.indices[place])
        name = self.source.name(index)
        try:
            image = picture_of(self.source, index, self.preprocessing)
            truth = classes_of(image, zero_is_ignored=self.config.zero_is_ignored)
            return index, name, image.decode(), resized_pixels(image, shown_size(image, self.config)), truth, ""
        except BrokenImage as error:
            return index, name, None, None, None, f"{name}: {error}"


@torch.no_grad()
def predictions(
    net: UPerNet,
    source: Source,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    config: SegmentConfig,
    *,
    workers: int = 1,
) -> Iterator[Prediction | None]:
    """This rank's share of the images, one by one; None for one that cannot be read, which is named."""
    mine = np.array_split(indices, ranks())[rank()]
    loader = DataLoader(
        _Wholes(source, mine, preprocessing, config), batch_size=None, num_workers=workers, worker_init_fn=settle_worker,
        collate_fn=None,
    )  # fmt: skip
    net.eval()
    device = next(net.parameters()).device
    for index, name, pixels, shown, truth, fault in loader:
        if fault:
            name_once(fault)
            yield None
            continue
        planes = torch.from_numpy(np.ascontiguousarray(np.asarray(shown).transpose(2, 0, 1))).to(device)
        image = normalise(planes[None], preprocessing.mean, preprocessing.std)[0]
        scores = scores_of(net, image, size=config.size, stride=config.stride)
        whole = F.interpolate(scores[None], np.asarray(truth).shape, mode="bilinear", align_corners=False)[0]
        predicted = whole.argmax(dim=0).to(torch.uint8).cpu().numpy()
        yield Prediction(index, name, np.asarray(pixels), np.asarray(truth), predicted)


@torch.no_grad()
def scores_of(net: UPerNet, image: Float[Tensor, "C H W"], *, size: int, stride: int) -> Float[Tensor, "K H W"]:
    """Scores of every pixel of one normalised image: the mean over square windows, `stride` apart, the last ones at the edge.

    An image smaller than a window is filled up on the right and below.
    """
    height, width = image.shape[1:]
    filled = F.pad(image, (0, max(0, size - width), 0, max(0, size - height)))
    total, count = filled.new_zeros(()), filled.new_zeros(filled.shape[1:])
    for top in starts(filled.shape[1], size=size, stride=stride):
        for left in starts(filled.shape[2], size=size, stride=stride):
            window = filled[None, :, top : top + size, left : left + size]
            found = resized(net(window)[0].float(), like=window)[0]
            if total.ndim == 0:
                total = filled.new_zeros((len(found), *filled.shape[1:]))
            total[:, top : top + size, left : left + size] += found
            count[top : top + size, left : left + size] += 1
    return (total / count)[:, :height, :width]


def starts(length: int, *, size: int, stride: int) -> list[int]:
    """Where windows begin along a side, so that all of it is seen."""
    last = max(0, length - size)
    return [min(last, step * stride) for step in range(-(-last // stride) + 1)]
