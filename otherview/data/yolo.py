"""YOLO's annotations in COCO's form: a text file per image, a line per object.

    yolo_of(Path("labels/"), Path("images/"))

A line is a class and four numbers, centre and size of a box, or a class and the corners of an outline, all as shares of
the image.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from otherview.data.annotations import Content, outlined
from otherview.data.decode import seen_size
from otherview.data.folder import walk
from otherview.data.foreign import ENDINGS, ending_of
from otherview.errors import BrokenImage, WrongRequest

MOST_CLASSES = 65_535
LARGEST = 2**20
"""Bytes of a file with names."""
NAMES = ("classes.txt", "obj.names", "_darknet.labels")


def yolo_of(folder: Path, root: Path) -> Content:
    """Of a folder of text files, one per image; class names from data.yaml or classes.txt near them."""
    walked: list[Path] = []
    images = sorted(name for names in walk(root, walked) for name in names if ending_of(name) in ENDINGS)
    content: Content = {"images": [], "annotations": []}
    most, without, files = -1, 0, []
    named, source, pose = _yolo_names(folder)
    faults: list[str] = []
    for number, name in enumerate(images, start=1):
        file = (folder / name).with_suffix(".txt")
        width, height = _seen_size(root / name)
        content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        if not file.is_file():
            without += 1
            continue
        files.append(file)
        for one in _yolo_lines(file, (width, height), pose=pose, faults=faults):
            most = max(most, one["category_id"])
            content["annotations"].append({**one, "image_id": number})
    if not files:
        raise WrongRequest(
            f"{folder} has no *.txt file for any of {len(images):,} images in {root}: check the two folders"
        )
    for _ in walk(folder, walked):  # files that are added below it count
        pass
    if faults and not content["annotations"]:
        raise WrongRequest(faults[0])
    names = {number: named.get(number, str(number)) for number in range(max(most + 1, len(named)))}
    content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
    notes = [f"{without:,} of {len(images):,} images have no file and count as empty"] if without else []
    notes += [] if source else [f"no data.yaml or classes.txt is near {folder}: classes are called by their numbers"]
    notes += [f"{len(faults):,} lines are left out: {faults[0]}"] if faults else []
    return {**content, "notes": notes, "depends": [*files, *(root / name for name in images), *walked, *_near(folder)]}


def split_of(words: str) -> str:
    """LABELS@IMAGES for `data.yaml` or `data.yaml@val`; empty for other words. Folders are those beside the file."""
    first, _, split = words.partition("@")
    file = Path(first).expanduser()
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        return ""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8-sig")) if file.stat().st_size < LARGEST else {}
        stated = str(found[split or "train"])
        base = str(found.get("path") or "")
    except (OSError, UnicodeError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WrongRequest(f"{file} names no images for {split or 'train'}: write yolo:LABELS/@IMAGES/") from error
    below = "/".join(level for level in f"{base}/{stated}".split("/") if level not in ("", ".", ".."))
    for images in (
        file.parent / below,
        file.parent / "/".join(level for level in stated.split("/") if level not in ("", ".", "..")),
    ):
        labels = Path(*("labels" if level == "images" else level for level in images.parts))
        if images.is_dir() and labels.is_dir() and labels != images:
            return f"{labels}@{images}"
    raise WrongRequest(
        f"{file} names {stated} for {split or 'train'}, which does not lie beside it: write yolo:LABELS/@IMAGES/"
    )


def _near(folder: Path) -> list[Path]:
    """Where names of classes are looked for."""
    return [folder, *folder.absolute().parents[:3]]


def _seen_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is seen; 0 and 0 for one that cannot be read."""
    try:
        height, width = seen_size(path)
    except (BrokenImage, OSError):
        return 0, 0
    return width, height


def _yolo_lines(file: Path, size: tuple[int, int], *, pose: bool, faults: list[str]) -> Iterator[dict[str, Any]]:
    """Boxes (five numbers; of a `pose` the first five) and outlines (class, then corners); other lines go to `faults`."""
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            kind, places = int(float(words[0])), [float(word) for word in words[1:]]
            if not 0 <= kind <= MOST_CLASSES:
                raise ValueError(f"its class {words[0]} is not between 0 and {MOST_CLASSES}")
            places = places[:4] if pose else places
            if len(places) < 4 or (len(places) > 5 and len(places) % 2):
                raise ValueError(f"it has {len(places)} numbers behind the class")
        except (ValueError, OverflowError) as error:
            faults.append(f"line {number} of {file} is no box and no outline: {error}")
            continue
        if len(places) > 5:
            corners = [share * side for share, side in zip(places, size * (len(places) // 2), strict=True)]
            yield outlined(corners, 0, kind, box_only=False)
        else:
            x, y, width, height = places[:4]
            box = [(x - width / 2) * size[0], (y - height / 2) * size[1], width * size[0], height * size[1]]
            yield {"category_id": kind, "bbox": box, "segmentation": [], "image_id": 0}


def _yolo_names(folder: Path) -> tuple[dict[int, str], Path | None, bool]:
    """Names by number, the file that has them (in the folder or one of the three above it), and whether it is of poses."""
    for place in _near(folder):
        for file in (*sorted(place.glob("*.yaml")), *(place / name for name in NAMES)):
            if not file.is_file():
                continue
            text = file.read_text(encoding="utf-8-sig", errors="replace") if file.stat().st_size < LARGEST else ""
            if file.suffix != ".yaml":
                return dict(enumerate(filter(None, map(str.strip, text.splitlines())))), file, False
            try:
                found = yaml.safe_load(text)
                names = found.get("names") if isinstance(found, dict) else None
                pairs = names.items() if isinstance(names, dict) else enumerate(names or ())
                numbered = {int(number): str(name) for number, name in pairs}
            except (yaml.YAMLError, ValueError, TypeError, RecursionError):
                continue
            if numbered:
                return numbered, file, "kpt_shape" in found
    return {}, None, False
