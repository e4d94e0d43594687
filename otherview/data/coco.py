"""Images whose objects are annotated: boxes and outlines, from COCO's form or another that is brought into it.

coco:ANNOTATIONS.json@IMAGES/       COCO, LVIS or Label Studio; crowds, run-length masks and category ids are kept
voc:ANNOTATIONS/@IMAGES/            an XML file per image
yolo:LABELS/@IMAGES/                a text file per image
yolo:data.yaml@val                  the images that such a file names, and the labels beside them

Every pixel has a class, too: that of the smallest object over it, counted from 1; 0 is everything else.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from otherview.data.annotations import NEEDED, Content, coco_of, voc_of
from otherview.data.decode import MOST_PIXELS, seen_size, stored_size
from otherview.data.folder import Files
from otherview.data.index import NO_LABEL, Table, TableWriter
from otherview.data.index_cache import cached
from otherview.data.objects import Category, Objects, fault, objects_of, outline_of
from otherview.data.source import spread
from otherview.data.turned import Turn, turned
from otherview.data.yolo import split_of, yolo_of
from otherview.errors import BrokenImage, WrongRequest

READERS: dict[str, Callable[[Path, Path], Content]] = {"coco": coco_of, "voc": voc_of, "yolo": yolo_of}
FORMS = {
    "coco": "ANNOTATIONS.json@IMAGES/",
    "voc": "ANNOTATIONS/@IMAGES/",
    "yolo": "LABELS/@IMAGES/ or yolo:data.yaml@train",
}
CATEGORIES, ANNOTATIONS, TURN = "categories.json", "annotations.bin", "turn.json"
LOOKED_AT = 64
"""Images whose sizes are compared with what the annotations say."""


class CocoImages(Files):
    """The images that annotations list, and what they say of each."""

    def __init__(self, root: Path, table: Table, annotations: Path, kind: str = "coco") -> None:
        super().__init__(root, table)
        self.file, self.kind = annotations, kind
        self.categories = [Category(*row) for row in json.loads((table.folder / CATEGORIES).read_text())]
        self._numbers = {category.id: number for number, category in enumerate(self.categories)}
        self._turn: Turn = json.loads((table.folder / TURN).read_text())

    def image_id(self, index: int) -> int:
        """The id that results have to name."""
        return self.table.number("image_id", index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width as the annotations have them, upright; 0 × 0 where they do not say."""
        return self._seen(index, look=False)[0]

    def fingerprint(self) -> str:
        """Names what the annotations say."""
        parts = (self.table.folder / name for name in (CATEGORIES, ANNOTATIONS))
        return blake2b(b"".join(part.read_bytes() for part in parts), digest_size=8).hexdigest()

    def seen_size(self, index: int) -> tuple[int, int]:
        """The same, with a look at the image's header."""
        return self._seen(index, look=True)[0]

    def _seen(self, index: int, *, look: bool) -> tuple[tuple[int, int], list[dict[str, Any]]]:
        """Size and annotations as the image is seen. `look`: at the image's header, even where none of some was turned."""
        stated = self.table.number("height", index), self.table.number("width", index)
        found = self._listed(index)
        if stated == (0, 0) or (self._turn == "none" and not look):
            return stated, found
        try:
            stored, orientation = stored_size(self.path(index))
        except (BrokenImage, OSError):
            return stated, found
        swaps = orientation >= 5
        if orientation == 1 or stored != stated[::-1] or (self._turn != "stored" and not swaps):
            return stated, found
        turn = self._turn if self._turn != "none" else "stored"
        size = (stated[1], stated[0]) if swaps else stated
        return size, [turned(one, stated, orientation, as_=turn) for one in found]

    def _listed(self, index: int) -> list[dict[str, Any]]:
        start = self.table.number("annotations_end", index - 1) if index else 0
        with (self.table.folder / ANNOTATIONS).open("rb") as file:
            file.seek(start)
            return json.loads(file.read(self.table.number("annotations_end", index) - start))

    def annotations(self, index: int) -> list[dict[str, Any]]:
        """The annotations of an image, upright."""
        return self._seen(index, look=True)[1]

    def objects(self, index: int) -> Objects:
        """What is to be learned from; where the annotations tell no size, that of the picture."""
        size, annotations = self._seen(index, look=True)
        if size == (0, 0):
            size = seen_size(self.path(index))
        try:
            return objects_of(annotations, size=size, known=self._numbers)
        except BrokenImage as error:
            raise BrokenImage(f"{self.name(index)}: {error}") from error

    def pixel_labels(self, index: int) -> np.ndarray:
        """The class of every pixel: uint16 [H, W], the smallest object in front; 0 where there is none."""
        objects = self.objects(index)
        found = np.zeros(objects.masks.shape[1:], np.uint16)
        for number in np.argsort(-objects.masks.sum(axis=(1, 2), dtype=np.int64), kind="stable"):
            found[objects.masks[number] > 0] = objects.classes[number] + 1
        return found

    def kinds(self, index: int) -> list[int]:
        """The classes of an image's objects, each once."""
        size, annotations = self._seen(index, look=False)
        return sorted({
            self._numbers[one["category_id"]]
            for one in annotations
            if not one.get("iscrowd") and fault(one, size=size, known=self._numbers) is None
        })  # fmt: skip

    def faults(self) -> Iterator[str]:
        """Annotations that are left out, a line each."""
        for index in range(len(self)):
            size, annotations = self._seen(index, look=False)
            for one in annotations:
                if reason := fault(one, size=size, known=self._numbers):
                    which = f"annotation {one['id']!r}" if "id" in one else "an annotation"
                    yield f"{which} of {self.name(index)} is left out: {reason}"

    def truth(self) -> dict[str, Any]:
        """The content without the annotations that are left out; what COCO asks for and a file may lack is filled in."""
        content = READERS[self.kind](self.file, self.root)
        images, kept = [], []
        for index, image in enumerate(content["images"]):
            size, annotations = self._seen(index, look=True)
            if size == (0, 0):
                raise WrongRequest(f"{self.file} lists images without height and width: masks cannot be judged without")
            images.append({**image, "height": size[0], "width": size[1]})
            kept += [
                {"iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3], **one, "segmentation": outline_of(one)}
                for one in annotations
                if fault(one, size=size, known=self._numbers) is None
            ]
        numbered = [{**one, "id": number} for number, one in enumerate(kept, start=1)]  # 0 means "unmatched" there
        outlined = any(outline for one in content["annotations"] if (outline := one.get("segmentation")))
        return {**content, "images": images, "annotations": numbered, "outlined": outlined}


def open_annotated(kind: str, words: str) -> CocoImages:
    """ANNOTATIONS@IMAGES of a kind that READERS has."""
    if kind == "yolo" and (stated := split_of(words)):
        words = stated
    first, second = two_paths(kind, words, FORMS[kind])
    table = Table(cached(f"{kind}:{second.absolute()}", first, lambda place: _index(kind, first, second, place)))
    if not len(table):
        raise WrongRequest(f"{first} lists no images: it needs an entry 'images' with file names")
    return CocoImages(second, table, first, kind)


def _index(kind: str, file: Path, root: Path, place: Path) -> list[Path]:
    """A row per image; annotations lie in one file, image after image, so that no worker holds them all."""
    content = READERS[kind](file, root)
    writer = TableWriter(place, "label", "image_id", "height", "width", "annotations_end")
    by_image: dict[int, list[dict[str, Any]]] = {}
    try:
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        with (place / ANNOTATIONS).open("wb") as blob:
            for image in content["images"]:
                size = _stated_size(image, file)
                blob.write(json.dumps(by_image.get(image["id"], [])).encode())
                writer.add(
                    image["file_name"], label=NO_LABEL, image_id=image["id"], annotations_end=blob.tell(), **size
                )
        (place / CATEGORIES).write_text(json.dumps(_categories(content, by_image)))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise WrongRequest(f"{file} is no COCO or LVIS annotation file: {NEEDED}") from error
    turn, said = _turn_of(content, by_image, root)
    (place / TURN).write_text(json.dumps(turn))
    for line in [*content["notes"], *filter(None, [said])]:
        writer.note(f"{file.name}: {line}")
    writer.close()
    return [file, *content["depends"]]


def _turn_of(content: Content, by_image: dict[int, list[dict[str, Any]]], root: Path) -> tuple[Turn, str]:
    """Whether sizes are those of files that EXIF turns, and whether boxes are upright all the same: as fewer leave the image."""
    images = content["images"]
    lying = []
    for place in spread(len(images), LOOKED_AT).tolist():
        stated = images[place].get("width") or 0, images[place].get("height") or 0
        try:
            stored, orientation = stored_size(root / images[place]["file_name"])
        except (BrokenImage, OSError, ValueError):
            continue
        if orientation >= 5 and stored == stated and stored[0] != stored[1]:
            lying.append(images[place])
    if not lying:
        return "none", ""
    boxes = [(one, image) for image in lying for one in by_image.get(image["id"], [])]
    outside = [
        sum(_leaves(one.get("bbox"), *((image["height"], image["width"])[::step])) for one, image in boxes)
        for step in (1, -1)
    ]
    upright = outside[0] < outside[1]
    said = "upright, as viewers show the image" if upright else "on the pixels as they are stored"
    return (
        "upright" if upright else "stored",
        f"EXIF turns {len(lying)} of {min(len(images), LOOKED_AT)} images that were looked at; boxes are taken as drawn {said}",
    )


def _leaves(box: Any, width: int, height: int) -> bool:
    """Whether a box reaches out of an image by more than a pixel."""
    try:
        return box[0] + box[2] > width + 1 or box[1] + box[3] > height + 1
    except (TypeError, IndexError):
        return False


def _stated_size(image: dict[str, Any], file: Path) -> dict[str, int]:
    """Height and width as the file has them, 0 and 0 where it has none; raises WrongRequest for what is no size."""
    size = {side: int(image.get(side) or 0) for side in ("height", "width")}
    height, width = size.values()
    if 0 in (height, width):
        return {"height": 0, "width": 0}
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise WrongRequest(
            f"{file} says that image {image.get('id')!r} has {width}×{height} pixels: that is no image's size"
        )
    return size


def _categories(content: Content, by_image: dict[int, list[dict[str, Any]]]) -> list[Category]:
    """In the order of their ids, with the number of images that show each."""
    shown = Counter(kind for some in by_image.values() for kind in {one.get("category_id") for one in some})
    listed = sorted(content["categories"], key=lambda one: one["id"])
    return [Category(one["id"], one["name"], shown[one["id"]], str(one.get("frequency", ""))) for one in listed]


def two_paths(kind: str, words: str, form: str) -> tuple[Path, Path]:
    """The two sides of FIRST@SECOND; raises WrongRequest where one is missing or does not exist."""
    first, at, second = words.rpartition("@")
    if not at:
        raise WrongRequest(f"{kind}:{words} names no images: write {kind}:{form}")
    paths = Path(first).expanduser(), Path(second).expanduser()
    for path in paths:
        if not path.exists():
            raise WrongRequest(f"{path} of {kind}:{words} does not exist: write {kind}:{form}")
    return paths
