"""Annotations of photos that are stored lying and shown upright, by their EXIF orientation.

    turned(annotation, (48, 64), 6, as_="stored")     # box, outline and mask on the upright image of 64 × 48

Some programs write down the size that is stored and draw boxes on the image as it is shown, others do both on the pixels as
they are stored. data/coco.py decides which a file does.
"""

from typing import Any, Literal

import numpy as np

from otherview.data.decode import upright
from otherview.data.objects import mask_tools

Turn = Literal["none", "upright", "stored"]


def turned(annotation: dict[str, Any], size: tuple[int, int], orientation: int, *, as_: Turn) -> dict[str, Any]:
    """The annotation on the upright image; `size` is (height, width) as stored. Masks by runs say themselves how they lie."""
    outline = annotation.get("segmentation")
    found = dict(annotation)
    turns = as_ == "stored" or size[0] != size[1]
    if turns and isinstance(outline, dict) and list(outline.get("size", ())) == list(size):
        found["segmentation"] = _turned_mask(outline, orientation)
    if as_ == "stored":
        box = annotation.get("bbox")
        if isinstance(box, list) and len(box) == 4:
            left, top, width, height = box
            xs, ys = zip(
                *(_place(x, y, size, orientation) for x, y in ((left, top), (left + width, top + height))), strict=True
            )
            found["bbox"] = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        if isinstance(outline, list):
            found["segmentation"] = [_turned_polygon(part, size, orientation) for part in outline]
    return found


def _place(x: int | float, y: int | float, size: tuple[int, int], orientation: int) -> tuple[int | float, int | float]:
    """Where a place of the stored pixels lies on the upright image, for the orientations 2 … 8."""
    height, width = size
    mirrored = {2: (width - x, y), 3: (width - x, height - y), 4: (x, height - y)}
    return (
        mirrored.get(orientation)
        or {5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x)}[orientation]
    )


def _turned_polygon(part: Any, size: tuple[int, int], orientation: int) -> Any:
    if not isinstance(part, list) or len(part) % 2:
        return part
    corners = [_place(x, y, size, orientation) for x, y in zip(part[::2], part[1::2], strict=True)]
    return [place for corner in corners for place in corner]


def _turned_mask(outline: dict[str, Any], orientation: int) -> dict[str, Any]:
    masks = mask_tools()
    height, width = outline["size"]
    packed = masks.frPyObjects(outline, height, width) if isinstance(outline["counts"], list) else outline
    found = masks.encode(np.asfortranarray(upright(masks.decode(packed), orientation)))
    counts = found["counts"]
    return {"size": list(found["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}
