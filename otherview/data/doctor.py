"""What is in this data: every image decoded once, in parallel, and what was found about each of them.

findings = examine(source, workers=2)
findings.unreadable, findings.repeats, findings.mean
"""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from otherview.data import tiff
from otherview.data.agreement import counts_of, disagreement, pixels_read
from otherview.data.decode import ARRAY_START, FORMATS
from otherview.data.folder import Files
from otherview.data.image import RGB, Preprocessing, eight_bits
from otherview.data.lists import ROWS_OF
from otherview.data.objects import IGNORED
from otherview.data.picture import JpegPicture, open_picture
from otherview.data.source import Joined, Selected, Source
from otherview.data.spec import absolute
from otherview.data.values import PACKED, Values, extremes
from otherview.data.workers import Batches
from otherview.errors import BrokenImage
from otherview.files import atomically, write_atomically

BATCH = 64


BINS = 16
"""Of a histogram of levels."""


class Checkup(NamedTuple):
    """One image: why it cannot be read (empty: it can), its kind, size, digest, moments per channel and values."""

    fault: str
    kind: str = ""
    size: tuple[int, int] = (0, 0)
    digest: int = 0
    mean: np.ndarray = np.zeros(0)
    square: np.ndarray = np.zeros(0)
    stored: str = ""
    """What its values are: 'TIFF uint16'."""
    extremes: tuple[float, float] = (0.0, 0.0)
    histogram: np.ndarray = np.zeros(0)
    labels: np.ndarray | None = None
    """How often each class occurs among its pixels, where they have classes."""


@dataclass
class Stored:
    """What the values of one kind of file are like."""

    images: int = 0
    low: float = np.inf
    high: float = -np.inf
    """Least and largest value in any of the files."""
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    """Share of the pixels in each sixteenth from black to white, every image with the same weight."""
    moments: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def add(self, checkup: Checkup) -> None:
        """One more image."""
        self.images += 1
        self.low, self.high = min(self.low, checkup.extremes[0]), max(self.high, checkup.extremes[1])
        self.histogram = self.histogram + (checkup.histogram - self.histogram) / self.images
        self.moments = self.moments + ((checkup.mean.mean(), checkup.square.mean()) - self.moments) / self.images

    @property
    def spread(self) -> float:
        """Standard deviation of its levels in [0, 1]."""
        return float(np.sqrt(max(0.0, self.moments[1] - self.moments[0] ** 2)))


@dataclass
class Findings:
    """What was found. Means and deviations are of levels in [0, 1], every image with the same weight."""

    images: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    """Index → reason, the name in front."""
    kinds: Counter[str] = field(default_factory=Counter)
    """'JPEG RGB', 'PNG RGBA', 'array uint16 ×4' …"""
    stored: dict[str, Stored] = field(default_factory=dict)
    """'PNG uint16' → what its values are like."""
    repeats: dict[int, int] = field(default_factory=dict)
    """Index of an image whose bytes stood before → index of the first."""
    heights: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    std: np.ndarray = field(default_factory=lambda: np.zeros(0))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(IGNORED + 1, np.int64))
    """How often each class occurs among the pixels, where they have classes."""

    @property
    def readable(self) -> int:
        return self.images - len(self.unreadable)


class _Checkups(Dataset[Checkup]):
    def __init__(self, source: Source, preprocessing: Preprocessing) -> None:
        self.source, self.preprocessing = source, preprocessing

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Checkup:
        try:
            data = self.source.read(index)
            picture = open_picture(data, self.source.name(index), self.preprocessing)
            pixels = picture.decode()
        except BrokenImage as error:
            return Checkup(str(error))
        labels = pixels_read(self.source, index)
        if fault := disagreement(self.source, index, pixels.shape[:2], labels=labels):
            return Checkup(f"{self.source.name(index)}: {fault}")
        jpeg = isinstance(picture, JpegPicture)
        values = Values(eight_bits(pixels), "JPEG") if jpeg or picture.values is None else picture.values
        digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
        mean, square, histogram = _moments(pixels)
        own = values.format in ("DICOM", "NIfTI") or data.startswith(PACKED)
        kind = values.kind if own else _kind(data, self.preprocessing.channels)
        return Checkup(
            "", kind, pixels.shape[:2], digest, mean, square, values.kind, extremes(values.array), histogram,
            None if labels is None else counts_of(labels),
        )  # fmt: skip


def _moments(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and mean square per channel of levels in [0, 1], and the histogram of all: exact, from how often each occurs."""
    count = np.iinfo(pixels.dtype).max + 1
    levels = np.arange(count) / (count - 1)
    counts = np.stack([np.bincount(channel.ravel(), minlength=count) for channel in np.moveaxis(pixels, 2, 0)])
    share = counts / (pixels.shape[0] * pixels.shape[1])
    return share @ levels, share @ np.square(levels), share.mean(axis=0).reshape(BINS, -1).sum(axis=1)


def _kind(data: bytes, channels: int) -> str:
    """What a file is, in words."""
    if data.startswith(ARRAY_START):
        return f"array {np.load(io.BytesIO(data), allow_pickle=False).dtype} ×{channels}"
    try:
        if data.startswith(tiff.STARTS) and tiff.INSTALLED:
            return tiff.kind_of(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return f"{opened.format} {opened.mode}"
    except Exception:  # its values could be read, though
        return "of an unknown kind"


def examine(
    source: Source,
    *,
    preprocessing: Preprocessing = RGB,
    workers: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> Findings:
    """Decode everything once; memory is a few numbers per image."""
    found = Findings()
    digests = np.zeros(len(source), np.int64)
    sums = np.zeros((2, preprocessing.channels))
    loader = Batches(_Checkups(source, preprocessing), workers=workers, batch_size=BATCH, collate_fn=list)
    for checkups in loader:
        for index, checkup in enumerate(checkups, found.images):
            if checkup.fault:
                found.unreadable[index] = checkup.fault
                continue
            found.kinds[checkup.kind] += 1
            found.heights.append(checkup.size[0])
            found.widths.append(checkup.size[1])
            digests[index] = checkup.digest
            found.stored.setdefault(checkup.stored, Stored()).add(checkup)
            sums += checkup.mean, checkup.square
            found.labels += 0 if checkup.labels is None else checkup.labels
        found.images += len(checkups)
        advance(len(checkups))
    found.repeats = _repeats(digests, found.unreadable)
    found.mean, square = sums / max(1, found.readable)
    found.std = np.sqrt(np.maximum(square - found.mean**2, 0))
    return found


def _repeats(digests: np.ndarray, unreadable: dict[int, str]) -> dict[int, int]:
    """Images whose content stood before, each with the first that had it."""
    good = np.setdiff1d(np.arange(len(digests)), np.fromiter(unreadable, np.int64, len(unreadable)))
    _, first, which = np.unique(digests[good], return_index=True, return_inverse=True)
    firsts = first[which]
    again = np.flatnonzero(firsts != np.arange(len(good)))
    return {int(good[place]): int(good[firsts[place]]) for place in again}


def write_good_list(source: Source, spec: str, *, bad: set[int], folder: Path) -> Path:
    """Write good.csv (paths and labels) or good.txt (row numbers); returns its path."""
    good = [index for index in range(len(source)) if index not in bad]
    files = list(_files(source, good))
    if len(files) == len(good):
        path = folder / "good.csv"
        atomically(path, lambda temporary: _write_csv(temporary, files, source))
    else:
        path = folder / "good.txt"
        write_atomically(path, "\n".join([f"{ROWS_OF}{absolute(spec)}", *map(str, good), ""]).encode())
    return path


def _write_csv(path: Path, files: list[tuple[str, int | None]], source: Source) -> None:
    labelled = any(label is not None for _, label in files)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"] if labelled else ["path"])
        rows.writerows([name, _word(label, source)] if labelled else [name] for name, label in files)


def _word(label: int | None, source: Source) -> str:
    """A label as it is written: the name of the class, where it has one."""
    return "" if label is None else str(label) if source.classes is None else source.classes[label]


def _files(source: Source, indices: list[int]) -> Iterator[tuple[str, int | None]]:
    """Path and label of every image that is a file; labels in the numbers or names of the whole source."""
    for index in indices:
        part, inner = source, index
        while isinstance(part, (Joined, Selected)):
            part, inner = part.locate(inner)
        if isinstance(part, Files):
            yield os.path.abspath(part.path(inner)), source.label(index)  # noqa: PTH100 (links stay as they are)
