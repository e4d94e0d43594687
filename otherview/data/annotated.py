"""Images with places: boxes and outlines in COCO's form (LVIS too), or a label for every pixel.

coco:ANNOTATIONS.json@IMAGES/       the annotations as given: crowds, run-length masks and category ids are kept
pixels:IMAGES/@LABELS/              LABELS holds one picture per image, of the same name, whose levels are classes
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from otherview.data.files import Files, open_folder
from otherview.data.index import NO_LABEL, Table, TableWriter, cached
from otherview.data.packed import leads_outside
from otherview.errors import BrokenImage, WrongRequest


class CocoImages(Files):
    """The images that an annotation file lists."""

    def __init__(self, root: Path, table: Table, annotations: Path) -> None:
        super().__init__(root, table)
        self.annotations = annotations
        self._by_image: dict[int, list[dict[str, Any]]] | None = None

    def image_id(self, index: int) -> int:
        """The id that results have to name."""
        return self.table.number("image_id", index)

    def objects(self, index: int) -> list[dict[str, Any]]:
        """The annotations of an image, as the file has them; the file is read at the first call."""
        if self._by_image is None:
            self._by_image = {}
            for annotation in _read_json(self.annotations).get("annotations", []):
                self._by_image.setdefault(annotation["image_id"], []).append(annotation)
        return self._by_image.get(self.image_id(index), [])


def open_coco(words: str) -> CocoImages:
    """ANNOTATIONS.json@IMAGES/."""
    first, second = _two_paths("coco", words, "ANNOTATIONS.json@IMAGES/")
    table = Table(cached("coco", first, lambda place: _index_coco(first, place)))
    if not len(table):
        raise WrongRequest(f"{first} lists no images: it needs an entry 'images' with file names")
    return CocoImages(second, table, first)


def _index_coco(file: Path, place: Path) -> list[Path]:
    writer = TableWriter(place, "label", "image_id")
    try:
        for image in _read_json(file)["images"]:
            name = str(image["file_name"] if "file_name" in image else "/".join(image["coco_url"].split("/")[-2:]))
            if leads_outside(name):
                raise WrongRequest(f"{file} names an image outside its folder ({name!r}): such files are not read")
            writer.add(name, label=NO_LABEL, image_id=int(image["id"]))
    except WrongRequest:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise WrongRequest(f"{file} is no COCO or LVIS annotation file: {error!r} in its images") from error
    writer.close()
    return [file]


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
        from PIL import Image

        from otherview.data.decode import FORMATS

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
