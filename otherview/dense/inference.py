"""What a detector finds in images, in COCO's form, and what a segmenter says of whole images.

Boxes and run-length masks are in pixels of each image. For the classes of pixels, windows slide over each image and their
scores are averaged.

Axes: B images, C channels, K classes, H and W pixels, S side of the square.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from otherview.data.image import Preprocessing
from otherview.data.loader import KINDS
from otherview.data.objects import Placing, mask_tools, placed_in
from otherview.data.picture import picture_of
from otherview.data.source import Source, behind, name_once
from otherview.data.workers import Batches
from otherview.dense.detector import Detector, Found
from otherview.dense.samples import check_size, classes_of, fitted, shown_size
from otherview.dense.samples import resized as resized_pixels
from otherview.dense.settings import SegmentConfig
from otherview.dense.upernet import UPerNet, resized
from otherview.distributed import on_first, rank, ranks
from otherview.errors import BrokenImage
from otherview.files import atomically
from otherview.views.view import normalise

Detection = dict[str, Any]
"""image_id, category_id, bbox [left, top, width, height], score, segmentation: a line of a results file."""
BATCH = 8
LONGEST_NAME = 60
"""Characters of an image's name in that of its picture; four bytes each still fit a file system."""


@dataclass(frozen=True)
class _Squares(Dataset[tuple[Tensor, Any, Any, str]]):
    """An image in a square, what of it shows the image, the image's own size; or nothing, and why."""

    source: Source
    indices: np.ndarray
    preprocessing: Preprocessing
    side: int
    annotated: bool
    """Whether images that do not fit their annotations are broken; else annotations are not looked at."""

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Tensor, Any, Any, str]:
        try:
            image = picture_of(self.source, int(self.indices[place]), self.preprocessing)
            if self.annotated:
                check_size(image.objects(), image)
            square = fitted(image, self.side)
            return square.pixels, torch.tensor(square.size), torch.tensor((image.height, image.width)), ""
        except BrokenImage as error:
            blank = np.zeros(
                (self.preprocessing.channels, self.side, self.side), np.uint16 if self.preprocessing.deep else np.uint8
            )
            nothing = torch.ones(2, dtype=torch.int64)
            return torch.from_numpy(blank), nothing, nothing, f"{self.source.name(int(self.indices[place]))}: {error}"


class ReadImage(NamedTuple):
    """An image that could be read: its place in the source, its id in results, its size in pixels."""

    place: int
    id: int
    height: int
    width: int


def image_id_of(source: Source, index: int) -> int:
    """What results call an image."""
    return placed_in(source, index) if isinstance(behind(source, index)[0], Placing) else index + 1


@torch.no_grad()
def detections(
    detector: Detector,
    source: Source,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    *,
    side: int,
    category_ids: Sequence[int],
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
    annotated: bool = True,
) -> tuple[list[Detection], list[ReadImage]]:
    """Detections of all ranks and the images that could be read, on rank 0; others are named and left out.

    Images are known by the ids of their annotations, where they have such, else by their index and 1.
    """
    mine = np.array_split(indices, ranks())[rank()]
    device = next(detector.parameters()).device
    squares = _Squares(source, mine, preprocessing, side, annotated)
    loader = Batches(squares, workers=workers, batch_size=BATCH, kinds=KINDS)
    detector.eval()
    found, read = list[Detection](), list[ReadImage]()
    places = iter(mine.tolist())
    for pixels, sizes, wholes, faults in loader:
        images = normalise(pixels.to(device), preprocessing.mean, preprocessing.std)
        results, _ = detector(images, [(height, width) for height, width in sizes.tolist()])
        for result, size, whole, fault in zip(results, sizes.tolist(), wholes.tolist(), faults, strict=True):
            index = next(places)
            image_id = image_id_of(source, index)
            if fault:
                name_once(fault)
                continue
            read.append(ReadImage(index, image_id, whole[0], whole[1]))
            found += in_image(result, size=size, whole=whole, image_id=image_id, category_ids=category_ids)
        advance(len(faults) * ranks())
    everyone = on_first((found, read)) or []
    return [one for part, _ in everyone for one in part], [one for _, part in everyone for one in part]


def in_image(
    found: Found, *, size: Sequence[int], whole: Sequence[int], image_id: int, category_ids: Sequence[int]
) -> list[Detection]:
    """Detections of a square that shows an image at `size`, in pixels of the image, which is `whole` (height, width)."""
    scale = torch.tensor([whole[1] / size[1], whole[0] / size[0]] * 2)
    boxes = found["boxes"].float().cpu() * scale
    masks, tools = found["masks"].float().cpu(), mask_tools()
    lines: list[Detection] = []
    for box, score, label, mask in zip(boxes, found["scores"].tolist(), found["labels"].tolist(), masks, strict=True):
        left, top, right, bottom = box.tolist()
        runs = tools.encode(np.asfortranarray(pasted(mask[0], box, (whole[0], whole[1]))))
        counts = runs["counts"].decode() if isinstance(runs["counts"], bytes) else runs["counts"]
        lines.append({
            "image_id": image_id, "category_id": category_ids[label - 1], "score": score,
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": {"size": list(whole), "counts": counts},
        })  # fmt: skip
    return lines


def pasted(mask: Float[Tensor, "M M"], box: Float[Tensor, "4"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """A mask of shares within its box, as pixels of an image: 1 where it is at least a half (bilinear, at pixel centres)."""
    out = np.zeros(size, np.uint8)
    left, top, right, bottom = box.tolist()
    first = max(0, int(np.floor(top))), max(0, int(np.floor(left)))
    last = min(size[0], int(np.ceil(bottom))), min(size[1], int(np.ceil(right)))
    if last[0] <= first[0] or last[1] <= first[1] or right <= left or bottom <= top:
        return out
    rows, columns = (
        (torch.arange(start, end) + 0.5 - low) / (high - low) * 2 - 1
        for start, end, low, high in zip(first, last, (top, left), (bottom, right), strict=True)
    )
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]
    shares = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
    out[first[0] : last[0], first[1] : last[1]] = (shares >= 0.5).numpy()
    return out


class Prediction(NamedTuple):
    """What is said of one image, at its own size."""

    number: int
    name: str
    pixels: np.ndarray
    """uint8 [H, W, C]"""
    truth: np.ndarray | None
    """uint8 [H, W], where it was asked for"""
    predicted: np.ndarray
    """uint8 [H, W]"""

    def save(self, folder: Path) -> None:
        """Write the classes as a picture under the image's index and name; characters that lead elsewhere are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / picture_name(self.number, self.name)
        atomically(picture, lambda path: Image.fromarray(self.predicted).save(path, format="PNG"))


def picture_name(number: int, name: str) -> str:
    """Of the picture of an image's classes: its index and its name, without characters that lead elsewhere."""
    stem = re.sub(r"[^\w.-]+", "_", re.sub(r"\.\w+$", "", name))[-LONGEST_NAME:]
    return f"{number:07d}-{stem}.png"


@dataclass(frozen=True)
class _Wholes(Dataset[tuple[Any, ...]]):
    """An image, what of it is shown to the net and the classes of its pixels; or why there is none."""

    source: Source
    indices: np.ndarray
    preprocessing: Preprocessing
    config: SegmentConfig
    annotated: bool

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Any, ...]:
        index = int(self.indices[place])
        name = self.source.name(index)
        try:
            image = picture_of(self.source, index, self.preprocessing)
            truth = classes_of(image, zero_is_ignored=self.config.zero_is_ignored) if self.annotated else None
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
    annotated: bool = True,
) -> Iterator[Prediction | None]:
    """This rank's share of the images, one by one; None for one that cannot be read, which is named."""
    mine = np.array_split(indices, ranks())[rank()]
    loader = Batches(_Wholes(source, mine, preprocessing, config, annotated), workers=workers, batch_size=None)
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
        whole = F.interpolate(scores[None], np.asarray(pixels).shape[:2], mode="bilinear", align_corners=False)[0]
        predicted = whole.argmax(dim=0).to(torch.uint8).cpu().numpy()
        yield Prediction(index, name, np.asarray(pixels), None if truth is None else np.asarray(truth), predicted)


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
