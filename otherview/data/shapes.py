"""Images drawn on the fly: deterministic per index, disjoint splits, with class, boxes, masks and pixel labels.

    shapes:N[:train|val|test][@SIZE]

Every image shows one to three objects of one class on a textured ground. The class is the outline alone: colours,
places, turns, sizes and grounds are drawn without looking at it, and all outlines have the same area.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from otherview.errors import WrongRequest

SPLITS = ("train", "val", "test")
FINE = 4
"""Images are drawn this many times larger and averaged down."""


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


def _crescent() -> np.ndarray:
    outer = np.linspace(0.35, 2 * np.pi - 0.35, 28)
    inner = outer[::-1]
    shift = np.array([0.42, 0.0])
    return np.concatenate([
        np.stack([np.cos(outer), np.sin(outer)], axis=1),
        0.72 * np.stack([np.cos(inner), np.sin(inner)], axis=1) + shift,
    ])  # fmt: skip


def _ring() -> np.ndarray:
    """One closed line round the outside and back round the hole."""
    outer, hole = _regular(32), 0.62 * _regular(32)[::-1]
    return np.concatenate([outer, outer[:1], hole[-1:], hole])


def _unit_area(outline: np.ndarray) -> np.ndarray:
    x, y = outline.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    return (outline - outline.mean(axis=0)) / np.sqrt(area)


OUTLINES: dict[str, np.ndarray] = {
    name: _unit_area(outline)
    for name, outline in {
        "disc": _regular(32),
        "triangle": _regular(3),
        "square": _regular(4),
        "star": _regular(5, inner=0.42),
        "cross": _cross(0.3),
        "ring": _ring(),
        "crescent": _crescent(),
        "burst": _regular(10, inner=0.6),
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

    def label(self, index: int) -> int:
        """The class: the outline's number in CLASSES."""
        return int(self._rng(index).integers(len(CLASSES)))

    def name(self, index: int) -> str:
        """Split and index."""
        return f"shapes:{self.split}[{index}]"

    def image(self, index: int) -> Image.Image:
        """The drawn image."""
        return Image.fromarray(self.drawing(index).pixels)

    def drawing(self, index: int) -> Drawing:
        """The image with boxes, masks and ground."""
        rng = self._rng(index)
        label = int(rng.integers(len(CLASSES)))
        ground = _ground(self.size, rng)
        outlines = _scatter(OUTLINES[CLASSES[label]], self.size, rng)
        canvas, layers = ground.copy(), []
        for outline in outlines:
            layer = np.zeros(canvas.shape[:2], np.uint8)
            cv2.fillPoly(layer, [np.round(outline * FINE).astype(np.int32)], 255)
            canvas[layer > 0] = _colour_against(ground, layer > 0, rng)
            layers.append(layer)
        return _finish(canvas, ground, layers, label=label, size=self.size)


def _scatter(outline: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One to three turned copies of an outline whose centres keep apart, in pixels of the image."""
    placed: list[tuple[np.ndarray, float]] = []
    outlines = []
    for _ in range(int(rng.integers(1, 4))):
        extent = size * rng.uniform(0.24, 0.36)
        turn = rng.uniform(0, 2 * np.pi)
        for _ in range(10):
            centre = rng.uniform(0.2 * size, 0.8 * size, 2)
            if all(np.hypot(*(centre - other)) > 0.8 * (extent + reach) for other, reach in placed):
                placed.append((centre, extent))
                rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
                outlines.append(extent * outline @ rotation.T + centre)
                break
    return outlines


def _ground(size: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth field of two colours: float32 [fine, fine, 3]."""
    fine = size * FINE
    field = cv2.resize(rng.random((4, 4), np.float32), (fine, fine), interpolation=cv2.INTER_CUBIC)[..., None]
    first, second = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    return first + (0.5 * (second - first)) * np.clip(field, 0, 1)


def _colour_against(ground: np.ndarray, where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour that a person can tell from the ground it lies on."""
    behind = ground[where].mean(axis=0) if where.any() else np.zeros(3)
    colours = rng.uniform(0, 255, (8, 3)).astype(np.float32)
    far = np.abs(colours - behind).sum(axis=1) > 200
    return colours[int(np.argmax(far))]


def _finish(canvas: np.ndarray, ground: np.ndarray, layers: list[np.ndarray], *, label: int, size: int) -> Drawing:
    def shrink(image: np.ndarray) -> np.ndarray:
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)

    covered = np.zeros((size, size), bool)
    masks = []
    for layer in reversed(layers):  # the last drawn lies on top
        mask = (shrink(layer) > 127) & ~covered
        covered |= mask
        masks.append(mask)
    visible = np.stack([mask for mask in reversed(masks) if mask.any()])
    boxes = []
    for mask in visible:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    pixels, background = (np.clip(np.round(shrink(image)), 0, 255).astype(np.uint8) for image in (canvas, ground))
    return Drawing(pixels, background, label, np.asarray(boxes, np.float32), visible)
