"""Images with places: boxes and outlines in COCO's form (LVIS too), or a label for every pixel.

coco:ANNOTATIONS.json@IMAGES/       the annotations as given: crowds, run-length masks and category ids are kept
pixels:IMAGES/@LABELS/              LABELS holds one picture per image, of the same name, whose levels are classes
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from otherview.data.archives import leads_outside
from otherview.data.decode import FORMATS, MOST_PIXELS
from otherview.data.folder import Files, open_folder
from otherview.data.index import NO_LABEL, Table, TableWriter, cached
from otherview.data.objects import Category, Objects, fault, objects_of, outline_of
from otherview.data.picture import open_picture
from otherview.errors import BrokenImage, WrongRequest


class CocoImages(Files):
    """The images that an annotation file lists, and what the file says of each."""

    def __init__(self, root: Path, table: Table, annotations: Path) -> None:
        super().__init__(root, table)
        self.file = annotations
        self.categories = [Category(*row) for row in json.loads((table.folder / CATEGORIES).read_text())]
        self._numbers = {category.id: number for number, category in enumerate(self.categories)}

    def image_id(self, index: int) -> int:
        """The id that results have to name."""
        return self.table.number("image_id", index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width as the file has them; 0 × 0 where it does not say."""
        return self.table.number("height", index), self.table.number("width", index)

    def annotations(self, index: int) -> list[dict[str, Any]]:
        """The annotations of an image, as the file has them."""
        start = self.table.number("annotations_end", index - 1) if index else 0
        with (self.table.folder / ANNOTATIONS).open("rb") as file:
            file.seek(start)
            return json.loads(file.read(self.table.number("annotations_end", index) - start))

    def objects(self, index: int) -> Objects:
        """What is to be learned from; where the file tells no size, that of the picture."""
        size = self.size(index)
        if size == (0, 0):
            picture = open_picture(self.read(index), self.name(index))
            size = picture.height, picture.width
        try:
            return objects_of(self.annotations(index), size=size, known=self._numbers)
        except BrokenImage as error:
            raise BrokenImage(f"{self.name(index)}: {error}") from error

    def kinds(self, index: int) -> list[int]:
        """The classes of an image's objects, each once."""
        usable = (one for one in self.annotations(index) if not one.get("iscrowd"))
        return sorted({
            self._numbers[one["category_id"]]
            for one in usable
            if fault(one, size=self.size(index), known=self._numbers) is None
        })  # fmt: skip

    def faults(self) -> Iterator[str]:
        """Annotations that are left out, a line each."""
        for index in range(len(self)):
            for one in self.annotations(index):
                if reason := fault(one, size=self.size(index), known=self._numbers):
                    yield f"annotation {one.get('id')!r} of {self.name(index)} is left out: {reason}"

    def truth(self) -> dict[str, Any]:
        """The file's content without the annotations that are left out; what COCO asks for and a file may lack is filled in."""
        content = _read_json(self.file)
        sizes = {image["id"]: (image.get("height") or 0, image.get("width") or 0) for image in content["images"]}
        if (0, 0) in sizes.values():
            raise WrongRequest(f"{self.file} lists images without height and width: masks cannot be judged without")
        kept = [
            {
                "iscrowd": 0,
                "area": one["bbox"][2] * one["bbox"][3],
                **one,
                "id": number,  # a file's may be 0, which means "unmatched" where they are judged
                "segmentation": outline_of(one),
            }
            for number, one in enumerate(content.get("annotations", []), start=1)
            if one["image_id"] in sizes and fault(one, size=sizes[one["image_id"]], known=self._numbers) is None
        ]
        return {**content, "annotations": kept}


CATEGORIES, ANNOTATIONS = "categories.json", "annotations.bin"


def open_coco(words: str) -> CocoImages:
    """ANNOTATIONS.json@IMAGES/."""
    first, second = _two_paths("coco", words, "ANNOTATIONS.json@IMAGES/")
    table = Table(cached("coco", first, lambda place: _index_coco(first, place)))
    if not len(table):
        raise WrongRequest(f"{first} lists no images: it needs an entry 'images' with file names")
    return CocoImages(second, table, first)


def _index_coco(file: Path, place: Path) -> list[Path]:
    """A row per image; annotations lie in one file, image after image, so that no worker holds them all."""
    writer = TableWriter(place, "label", "image_id", "height", "width", "annotations_end")
    try:
        content = _read_json(file)
        by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in content.get("annotations", []):
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        with (place / ANNOTATIONS).open("wb") as blob:
            for image in content["images"]:
                name = str(image["file_name"] if "file_name" in image else "/".join(image["coco_url"].split("/")[-2:]))
                if leads_outside(name):
                    raise WrongRequest(f"{file} names an image outside its folder ({name!r}): such files are not read")
                size = _stated_size(image, file)
                blob.write(json.dumps(by_image.get(image["id"], [])).encode())
                writer.add(name, label=NO_LABEL, image_id=int(image["id"]), annotations_end=blob.tell(), **size)
        (place / CATEGORIES).write_text(json.dumps(_categories(content, by_image)))
    except WrongRequest:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise WrongRequest(f"{file} is no COCO or LVIS annotation file: {error!r}") from error
    writer.close()
    return [file]


def _stated_size(image: dict[str, Any], file: Path) -> dict[str, int]:
    """Height and width as the file has them, 0 and 0 where it has none; raises WrongRequest for what is no size."""
    size = {side: int(image.get(side) or 0) for side in ("height", "width")}
    height, width = size.values()
    if (height, width) != (0, 0) and (min(height, width) < 1 or height * width > MOST_PIXELS):
        raise WrongRequest(
            f"{file} says that image {image.get('id')!r} has {width}×{height} pixels: that is no image's size"
        )
    return size


def _categories(content: dict[str, Any], by_image: dict[int, list[dict[str, Any]]]) -> list[Category]:
    """In the order of their ids, with the number of images that show each."""
    shown = Counter(kind for some in by_image.values() for kind in {one.get("category_id") for one in some})
    listed = sorted(content.get("categories", []), key=lambda one: one["id"])
    return [
        Category(int(one["id"]), str(one["name"]), shown[one["id"]], str(one.get("frequency", ""))) for one in listed
    ]


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise WrongRequest(f"{file} is no readable JSON file: {error}") from error


class LabelledPixels(Files):
    """Images of a folder, each with a picture of classes beside it."""

    def __init__(self, images: Files, labels: Path, endings: dict[str, str]) -> None:
        super().__init__(images.root, images.table)
        self.labels, self.endings = labels, endings

    def pixel_labels(self, index: int) -> np.ndarray:
        """The class of every pixel: uint8 or uint16 [H, W]."""
        stem = str(Path(self.table.name(index)).with_suffix(""))
        try:
            with Image.open(self.labels / (stem + self.endings[stem]), formats=FORMATS) as opened:
                found = np.asarray(opened)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BrokenImage(f"{self.labels / stem}: {error}") from error
        if found.ndim != 2:
            raise BrokenImage(f"{self.labels / stem}: pixel labels are gray or palette pictures, not {found.shape}")
        return found


def open_pixels(words: str) -> LabelledPixels:
    """IMAGES/@LABELS/."""
    first, second = _two_paths("pixels", words, "IMAGES/@LABELS/")
    images, labels = open_folder(first), open_folder(second)
    names = [Path(labels.table.name(index)) for index in range(len(labels))]
    endings = {str(name.with_suffix("")): name.suffix for name in names}
    for index in range(len(images)):
        if str(Path(images.table.name(index)).with_suffix("")) not in endings:
            raise WrongRequest(f"{second} has no labels for {images.name(index)}: it needs a picture of the same name")
    return LabelledPixels(images, second, endings)


def _two_paths(kind: str, words: str, form: str) -> tuple[Path, Path]:
    first, at, second = words.rpartition("@")
    if not at:
        raise WrongRequest(f"{kind}:{words} names no images: write {kind}:{form}")
    paths = Path(first).expanduser(), Path(second).expanduser()
    for path in paths:
        if not path.exists():
            raise WrongRequest(f"{path} of {kind}:{words} does not exist: write {kind}:{form}")
    return paths
