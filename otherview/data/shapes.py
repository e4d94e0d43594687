"""Images drawn on the fly: deterministic per index, disjoint splits, with class, boxes, masks and pixel labels.

    shapes:N[:train|val|test][@SIZE]

Every image shows up to seven bright objects of one class on a dark, cloudy ground. The class is the outline alone:
brightness, tint, places, turns, sizes and grounds are drawn without looking at it, and all outlines have the same area.
What the images share beyond the outline is kept small on purpose: whatever varies most between images is learned first,
and where that was brightness or colour nothing else was learned in demo time (docs/log.md).
"""

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from otherview.data.objects import Category, Objects, mask_tools
from otherview.errors import WrongRequest

SPLITS = ("train", "val", "test")
FINE = 4
"""Outlines are filled on a grid this many times finer than the pixels."""
GROUND, CLOUDS, CONTRAST, TINT = 90.0, 10.0, 110.0, 20.0
"""Levels of 255: the ground's mean and standard deviation, what objects are brighter by, and the range of their tint."""


def _regular(corners: int, *, inner: float | None = None) -> np.ndarray:
    """A regular polygon, or a star whose inner corners lie at the radius `inner`."""
    count = corners if inner is None else 2 * corners
    radius = np.ones(count)
    if inner is not None:
        radius[1::2] = inner
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cross(arm: float) -> np.ndarray:
    quarter = np.array([(arm, arm), (arm, 1), (-arm, 1)])
    turns = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in np.pi / 2 * np.arange(4)]
    return np.concatenate([quarter @ turn.T for turn in turns])


def _ring() -> np.ndarray:
    """One closed line round the outside and back round the hole."""
    outer, hole = _regular(32), 0.62 * _regular(32)[::-1]
    return np.concatenate([outer, outer[:1], hole[-1:], hole])


def _corners(*points: tuple[int | float, int | float]) -> np.ndarray:
    return np.array(points, float)


def _unit_area(outline: np.ndarray) -> np.ndarray:
    x, y = outline.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    return (outline - outline.mean(axis=0)) / np.sqrt(area)


OUTLINES: dict[str, np.ndarray] = {
    name: _unit_area(outline)
    for name, outline in {
        "disc": _regular(32),
        "triangle": _regular(3),
        "star": _regular(5, inner=0.38),
        "cross": _cross(0.22),
        "ring": _ring(),
        "bar": _corners((-1, -5), (1, -5), (1, 5), (-1, 5)),
        "angle": _corners((0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)),
        "bracket": _corners((0, 0), (3.4, 0), (3.4, 3), (2.6, 3), (2.6, 0.8), (0.8, 0.8), (0.8, 3), (0, 3)),
    }.items()
}
CLASSES = tuple(OUTLINES)


class Drawing(NamedTuple):
    """One image with everything that is known about it."""

    pixels: np.ndarray
    """uint8 [S, S, 3]"""
    background: np.ndarray
    """uint8 [S, S, 3], the ground without its objects"""
    label: int
    boxes: np.ndarray
    """float32 [objects, 4]: left, top, right, bottom in pixels, of the visible part"""
    masks: np.ndarray
    """bool [objects, S, S], the visible part of each object"""

    @property
    def pixel_labels(self) -> np.ndarray:
        """uint8 [S, S]: 0 ground, else class + 1."""
        return np.where(self.masks.any(axis=0), self.label + 1, 0).astype(np.uint8)


@dataclass(frozen=True)
class Shapes:
    """`count` drawings of one split, `size` pixels wide and high."""

    count: int
    split: str = "train"
    size: int = 32

    @classmethod
    def from_spec(cls, spec: str) -> "Shapes":
        """Read `shapes:N[:split][@SIZE]`."""
        match = re.fullmatch(r"shapes:(\d+)(?::(\w+))?(?:@(\d+))?", spec)
        if not match or int(match[1]) == 0 or (match[2] or "train") not in SPLITS or int(match[3] or 32) < 16:
            raise WrongRequest(
                f"{spec} names no drawn images: write shapes:N[:train|val|test][@SIZE], N from 1, SIZE from 16"
            )
        return cls(int(match[1]), match[2] or "train", int(match[3] or 32))

    def __len__(self) -> int:
        return self.count

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((SPLITS.index(self.split), index))))

    @property
    def classes(self) -> tuple[str, ...]:
        """The outlines."""
        return CLASSES

    def label(self, index: int) -> int:
        """The class: the outline's number in CLASSES."""
        return int(self._rng(index).integers(len(CLASSES)))

    def name(self, index: int) -> str:
        """Split and index."""
        return f"shapes:{self.split}[{index}]"

    def read(self, index: int) -> bytes:
        """The drawn image as a PPM file: a line of text and the pixels."""
        return f"P6 {self.size} {self.size} 255\n".encode() + self.drawing(index).pixels.tobytes()

    def pixel_labels(self, index: int) -> np.ndarray:
        """uint8 [S, S]: 0 ground, else class + 1."""
        return self.drawing(index).pixel_labels

    @property
    def categories(self) -> list[Category]:
        """The outlines, with ids from 1 on."""
        return [Category(number + 1, name) for number, name in enumerate(CLASSES)]

    def image_id(self, index: int) -> int:
        """Counted from 1."""
        return index + 1

    def kinds(self, index: int) -> list[int]:
        """All objects of an image are of its class."""
        return [self.label(index)]

    def objects(self, index: int) -> Objects:
        """The visible parts of the objects."""
        drawn = self.drawing(index)
        return Objects(drawn.boxes, np.full(len(drawn.boxes), drawn.label), drawn.masks.astype(np.uint8))

    def truth(self) -> dict[str, Any]:
        """Every object with its mask in run lengths."""
        masks, annotations = mask_tools(), list[dict[str, Any]]()
        for index in range(self.count):
            boxes, classes, bitmaps = self.objects(index)
            for box, kind, bitmap in zip(boxes.tolist(), classes.tolist(), bitmaps, strict=True):
                runs = masks.encode(np.asfortranarray(bitmap))
                place = {"image_id": self.image_id(index), "category_id": kind + 1, "iscrowd": 0}
                sides = [*box[:2], box[2] - box[0], box[3] - box[1]]
                shape = {"bbox": sides, "area": int(bitmap.sum()), "segmentation": runs}
                annotations.append({"id": len(annotations) + 1, **place, **shape})
        images = [{"id": self.image_id(index), "height": self.size, "width": self.size} for index in range(self.count)]
        return {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": kind.id, "name": kind.name} for kind in self.categories],
        }

    def drawing(self, index: int) -> Drawing:
        """The image with boxes, masks and ground."""
        rng = self._rng(index)
        label = int(rng.integers(len(CLASSES)))
        ground = _ground(self.size, rng)
        canvas, masks = ground.copy(), []
        for outline in _scatter(OUTLINES[CLASSES[label]], self.size, rng):
            mask = _fill(outline, self.size)
            canvas[mask] = ground[mask] + CONTRAST + rng.uniform(-TINT, TINT, 3)
            masks.append(mask)
        visible = _visible(masks)
        pixels, background = (np.clip(np.round(image), 0, 255).astype(np.uint8) for image in (canvas, ground))
        return Drawing(pixels, background, label, _boxes(visible), visible)


def _scatter(outline: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Up to seven turned copies of an outline whose centres keep apart, in pixels of the image."""
    placed: list[tuple[np.ndarray, float]] = []
    outlines = []
    for _ in range(int(rng.integers(5, 8))):
        extent = size * rng.uniform(0.18, 0.22)
        turn = rng.uniform(0, 2 * np.pi)
        for _ in range(10):
            centre = rng.uniform(0.02 * size, 0.98 * size, 2)
            if all(math.dist(centre, other) > 0.9 * (extent + reach) for other, reach in placed):
                placed.append((centre, extent))
                rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
                outlines.append(extent * outline @ rotation.T + centre)
                break
    return outlines


def _ground(size: int, rng: np.random.Generator) -> np.ndarray:
    """Clouds of a fixed mean and strength: float32 [S, S, 3]."""
    clouds = rng.random((4, 4), np.float32)
    clouds = CLOUDS * (clouds - clouds.mean()) / clouds.std()
    return (GROUND + cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC))[..., None].repeat(3, axis=2)


def _fill(outline: np.ndarray, size: int) -> np.ndarray:
    """The pixels that lie inside by more than half: bool [S, S]. Soft edges would tell an outline's length by colour."""
    layer = np.zeros((size * FINE, size * FINE), np.uint8)
    cv2.fillPoly(layer, [np.round(outline * FINE - 0.5).astype(np.int32)], 255)
    return cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA) > 127


def _visible(masks: list[np.ndarray]) -> np.ndarray:
    """The visible part of every object, those wholly hidden left out; the last drawn lies on top."""
    covered = np.zeros_like(masks[0])
    parts = []
    for mask in reversed(masks):
        parts.append(mask & ~covered)
        covered |= mask
    return np.stack([part for part in reversed(parts) if part.any()])


def _boxes(masks: np.ndarray) -> np.ndarray:
    """float32 [objects, 4]: left, top, right, bottom."""
    found = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        found.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.asarray(found, np.float32)
