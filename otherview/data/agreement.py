"""Whether annotations are of the images that they come with: sizes, and the classes of pixels.

check_agreement(source, flag="--train")         # some images, before any work; raises WrongRequest
disagreement(source, 3, (480, 640))             # of one image, which doctor asks of every one; "" where there is none
"""

import numpy as np

from otherview.data.coco import CocoImages
from otherview.data.decode import seen_size
from otherview.data.first_images import LOOKED_AT
from otherview.data.objects import IGNORED, PixelLabelled
from otherview.data.picture import open_picture
from otherview.data.pixels import LabelledPixels
from otherview.data.source import Source, behind, first_of, path_of
from otherview.errors import BrokenImage, WrongRequest


def disagreement(source: Source, index: int, size: tuple[int, int], *, labels: np.ndarray | None = None) -> str:
    """Why annotations cannot be of an image of this size (height, width); "" where they can, or where there are none.

    `labels` are the classes of its pixels, where they have been read.
    """
    there, inner = behind(source, index)
    if isinstance(there, CocoImages):
        had, what = there.seen_size(inner), "annotations are"
    elif isinstance(there, LabelledPixels):
        try:
            had, what = (there.pixel_labels(inner) if labels is None else labels).shape, "picture of labels is"
        except BrokenImage as error:
            return str(error)
    else:
        return ""
    if had in (size, (0, 0)):
        return ""
    return f"its {what} for {had[1]}×{had[0]} pixels, it has {size[1]}×{size[0]}"


def size_in_header(source: Source, index: int) -> tuple[int, int] | None:
    """Height and width of an image as it is seen; None for one that is no file of its own, or has no header."""
    if (path := path_of(source, index)) is None:
        return None
    try:
        return seen_size(path)
    except (BrokenImage, OSError):
        return None


def check_agreement(source: Source, *, flag: str) -> None:
    """Raise WrongRequest where the annotations of none of some images, spread over the source, fit the image."""
    faults = []
    for index in first_of(source, LOOKED_AT).tolist():
        try:
            picture = open_picture(source.read(index), source.name(index))
        except BrokenImage:
            continue
        if not (fault := disagreement(source, index, (picture.height, picture.width))):
            return
        faults.append(f"{source.name(index)}: {fault}")
    if faults:
        raise WrongRequest(
            f"the annotations of {flag} fit none of {len(faults)} images that were looked at ({faults[0]}): give the images "
            "that were annotated, at the size they had then"
        )


def check_classes(counts: np.ndarray, *, flag: str) -> None:
    """Raise WrongRequest where pixels are of one class alone; `counts` holds how often each level from 0 to 255 occurs."""
    found = np.flatnonzero(counts[:IGNORED])
    if len(found) < 2:
        ignored = counts[IGNORED] / max(1, counts.sum())
        only = f"the class {found[0]} alone" if len(found) else "no class"
        raise WrongRequest(
            f"{flag} has {only} ({ignored:.0%} of the pixels are {IGNORED}, which counts nowhere): segmentation needs two "
            "classes or more"
        )


def pixels_read(source: Source, index: int) -> np.ndarray | None:
    """The classes of an image's pixels from a picture of them; None where there is none that can be read."""
    there, inner = behind(source, index)
    if not isinstance(there, PixelLabelled) or isinstance(there, CocoImages):
        return None
    try:
        return there.pixel_labels(inner)
    except BrokenImage:
        return None


def counts_of(labels: np.ndarray) -> np.ndarray:
    """How often each level from 0 to 255 occurs."""
    return np.bincount(labels.ravel(), minlength=IGNORED + 1)[: IGNORED + 1]


def described(source: Source) -> list[str]:
    """Lines on the objects of a source and on annotations that are left out; none where there are no objects."""
    parts = {id(part): part for index in range(len(source)) if isinstance(part := behind(source, index)[0], CocoImages)}
    lines = []
    for part in parts.values():
        counts = np.zeros(len(part.categories), int)
        empty = 0
        for index in range(len(part)):
            kinds = part.kinds(index)
            counts[kinds] += 1
            empty += not kinds
        shown = ", ".join(f"{one.name} {count:,}" for one, count in zip(part.categories, counts, strict=True))
        lines.append(f"images by class in {part.file.name}: {shown}; {empty:,} show no object")
        faults = list(part.faults())
        lines += [f"{len(faults):,} annotations are left out: {faults[0]}"] if faults else []
    return lines
