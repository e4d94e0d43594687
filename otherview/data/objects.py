"""What is where in an image: boxes, classes and masks of its objects, from annotations in COCO's form.

    source = open_source("coco:ANNOTATIONS.json@IMAGES/")       # or shapes:N
    placed(source, 3)                                           # Objects; raises WrongRequest where nothing is placed

Annotations are taken by stated rules: a box is cut to its image; an object is left out, and named by `fault`, where its
category is unknown, where nothing of its box lies within the image, where its mask is of another size than the image or is
no mask. An object without an outline has its box as its mask. Crowds are no objects to learn from.

Axes: n objects, H and W pixels.
"""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from otherview.data.source import Source, behind
from otherview.errors import BrokenImage, WrongRequest

Annotation = Mapping[str, Any]
IGNORED = 255
"""Pixels with this label count nowhere."""


class Objects(NamedTuple):
    """The objects of one image, upright, at full resolution."""

    boxes: np.ndarray
    """float32 [n, 4]: left, top, right, bottom in pixels"""
    classes: np.ndarray
    """int64 [n], counted from 0 in the order of the source's categories"""
    masks: np.ndarray
    """uint8 [n, H, W], 1 inside"""


class Category(NamedTuple):
    """A class of objects: its id in annotations and results, its name, and in how many images it is rare, common or frequent."""

    id: int
    name: str
    images: int = 0
    """That show it; what repeat-factor sampling and the federated loss go by."""
    frequency: str = ""
    """LVIS: r, c or f."""


@runtime_checkable
class Placing(Protocol):
    """A source that knows what is where."""

    @property
    def categories(self) -> Sequence[Category]: ...

    def image_id(self, index: int) -> int:
        """The id that results have to name."""
        ...

    def objects(self, index: int) -> Objects: ...

    def kinds(self, index: int) -> Sequence[int]:
        """The classes of an image's objects, each once, without looking at the image."""
        ...

    def truth(self) -> dict[str, Any]:
        """What is judged by, in COCO's form: crowds included, annotations that are left out by rule not."""
        ...


def placing(source: Source, spec: str) -> Placing:
    """The source as one that knows what is where; raises WrongRequest where it does not."""
    if not isinstance(source, Placing):
        raise WrongRequest(
            f"{spec} does not say what is where: give coco:ANNOTATIONS.json@IMAGES/ or shapes:N, one of them"
        )
    return source


def placed(source: Source, index: int) -> Objects:
    """The objects of an image of any source that knows them."""
    source, index = behind(source, index)
    assert isinstance(source, Placing)
    return source.objects(index)


def placed_in(source: Source, index: int) -> int:
    """The id of an image in annotations and results."""
    source, index = behind(source, index)
    assert isinstance(source, Placing)
    return source.image_id(index)


@runtime_checkable
class PixelLabelled(Protocol):
    """A source that knows the class of every pixel."""

    def pixel_labels(self, index: int) -> np.ndarray:
        """uint [H, W]"""
        ...


def pixels_named(source: Source, index: int) -> np.ndarray:
    """The classes of the pixels of an image of any source that knows them: uint [H, W]."""
    source, index = behind(source, index)
    assert isinstance(source, PixelLabelled)
    return source.pixel_labels(index)


def check_pixels(source: Source, spec: str) -> None:
    """Raise WrongRequest where the pixels of an image have no classes."""
    if not isinstance(behind(source, 0)[0], PixelLabelled):
        raise WrongRequest(f"{spec} has no pixel labels: give shapes:N or pixels:IMAGES/@LABELS/")


def nothing_placed() -> Any:
    """What a picture that comes from no source says of its objects and pixels."""
    raise AssertionError("pictures of a source know what is where; this one has none")


def fault(annotation: Annotation, *, size: tuple[int, int], known: Mapping[int, int]) -> str | None:
    """Why an annotation is no object to learn from, or None; `size` is (height, width), `known` numbers categories by id.

    A size of 0 × 0 is one that the file does not tell: then boxes are not compared with it.
    """
    if annotation.get("category_id") not in known:
        return f"its category {annotation.get('category_id')!r} is unknown"
    box = annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(side) for side in box)):
        return f"its box {box!r} is no list of four numbers"
    left, top, right, bottom = _cut(box, size)
    if right <= left or bottom <= top:
        return f"its box {box} has no part within the {size[1]}×{size[0]} pixels of its image"
    return _mask_fault(annotation.get("segmentation"), size)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mask_fault(outline: Any, size: tuple[int, int]) -> str | None:
    if outline is None or outline == []:
        return None
    if isinstance(outline, dict):
        if list(outline.get("size", ())) != list(size) and size != (0, 0):
            return f"its mask is of {outline.get('size')} pixels, its image of {list(size)}"
        return _counts_fault(outline.get("counts"), size)
    if not isinstance(outline, list) or not any(_is_polygon(part) for part in outline):
        return "its outline has no polygon of three corners or more"
    return None


def _counts_fault(counts: Any, size: tuple[int, int]) -> str | None:
    if isinstance(counts, str):
        return _packed_fault(counts, size)
    if not (isinstance(counts, list) and all(isinstance(run, int) and run >= 0 for run in counts)):
        return "its mask has no counts"
    if sum(counts) != size[0] * size[1] and size != (0, 0):
        return f"its mask has runs over {sum(counts)} pixels, not {size[0] * size[1]}"
    return None


def _packed_fault(counts: str, size: tuple[int, int]) -> str | None:
    if find_spec("faster_coco_eval") is None or size == (0, 0):
        return None
    try:
        mask_tools().decode({"size": list(size), "counts": counts})
    except Exception as error:  # foreign code, fed with anything
        return f"its mask cannot be decoded ({error})"
    return None


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and all(map(_is_number, part))


def _cut(box: Sequence[int | float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    left, top, width, height = map(float, box)
    if size == (0, 0):
        return left, top, left + width, top + height
    return max(0.0, left), max(0.0, top), min(float(size[1]), left + width), min(float(size[0]), top + height)


def objects_of(annotations: Sequence[Annotation], *, size: tuple[int, int], known: Mapping[int, int]) -> Objects:
    """The objects of an image of `size` (height, width) by the rules above; raises BrokenImage for a mask that is none."""
    used = [one for one in annotations if not one.get("iscrowd") and fault(one, size=size, known=known) is None]
    boxes = np.array([_cut(one["bbox"], size) for one in used], np.float32).reshape(-1, 4)
    classes = np.array([known[one["category_id"]] for one in used], np.int64)
    masks = [_bitmap(outline_of(one), size) for one in used]
    return Objects(boxes, classes, np.stack(masks) if masks else np.zeros((0, *size), np.uint8))


def outline_of(annotation: Annotation) -> Any:
    """The mask as the file has it; where there is none, the box as a polygon."""
    if outline := annotation.get("segmentation"):
        return outline
    left, top, width, height = annotation["bbox"]
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def _bitmap(outline: Any, size: tuple[int, int]) -> np.ndarray:
    masks = mask_tools()
    try:
        if isinstance(outline, list):
            parts = masks.frPyObjects([part for part in outline if _is_polygon(part)], *size)
            return masks.decode(masks.merge(parts))
        return masks.decode(masks.frPyObjects(outline, *size) if isinstance(outline["counts"], list) else outline)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise BrokenImage(f"a mask cannot be read: {error}") from error


def mask_tools() -> Any:
    """COCO's run-length masks; raises WrongRequest where the package is missing."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise WrongRequest("masks need a package: pip install 'otherview[detection]'") from error
    return mask
