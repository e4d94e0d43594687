"""What annotation files of several programs say, in COCO's form: images, annotations, categories.

    coco_of(Path("instances.json"), root)     # COCO, LVIS, or what Label Studio exports as JSON
    voc_of(Path("Annotations/"), root)        # an XML file per image, as Pascal VOC and LabelImg have it

Ids become whole numbers; names of files are as people mean them (data/spelling.py). `root` is the folder of the images.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers import expat

from otherview.data.archives import leads_outside
from otherview.data.spelling import meant
from otherview.errors import WrongRequest

Content = dict[str, Any]
"""COCO's form; `notes` are lines for a person, and `depends` paths beside the annotations that it was made from."""
NEEDED = "it needs an object with lists of images, annotations and categories, each with its ids"
LARGEST_XML = 2**23
"""Bytes."""


def coco_of(file: Path, root: Path) -> Content:
    """Of a JSON file; raises WrongRequest for one that is neither COCO's, LVIS's nor Label Studio's."""
    content = read_json(file)
    notes: list[str] = []
    try:
        if _is_label_studio(content):
            content = _from_label_studio(content, notes)
        images = [{**image, "file_name": _name_of(image)} for image in content["images"]]
        categories = sorted(content.get("categories", []), key=lambda one: str(one["id"]).zfill(20))
        annotations = content.get("annotations", [])
        image_ids, kinds = _numbers(images, "images", notes), _numbers(categories, "categories", notes)
        found = {
            **content,
            "images": [{**image, "id": image_ids[image["id"]]} for image in images],
            "annotations": [
                {
                    **one,
                    "image_id": image_ids[one["image_id"]],
                    "category_id": kinds.get(kind := one.get("category_id"), kind),
                }
                for one in annotations
                if one["image_id"] in image_ids
            ],
            "categories": [{**one, "id": kinds[one["id"]], "name": str(one["name"])} for one in categories],
        }
        if len(kinds) < len(categories):
            raise WrongRequest(f"{file} has several categories with one id: give each its own")
        if lost := len(annotations) - len(found["annotations"]):
            notes.append(f"{lost:,} annotations are of images that the file does not list")
        return _named(found, file, root, notes)
    except WrongRequest:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise WrongRequest(f"{file} is no COCO or LVIS annotation file: {NEEDED}") from error


def read_json(file: Path) -> Any:
    """A file's content; raises WrongRequest for what is no JSON."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WrongRequest(f"{file} is no readable JSON file: {error}") from error


def _name_of(image: dict[str, Any]) -> str:
    return str(image["file_name"] if "file_name" in image else "/".join(image["coco_url"].split("/")[-2:]))


def _numbers(entries: list[dict[str, Any]], what: str, notes: list[str]) -> dict[Any, int]:
    """Whole numbers for ids: those that they are, else 1, 2, 3 in the order of the file."""
    ids = [entry["id"] for entry in entries]
    if all(isinstance(one, int) for one in ids):
        return {one: one for one in ids}
    if all(re.fullmatch(r"\d{1,18}", str(one)) for one in ids) and len({int(one) for one in ids}) == len(set(ids)):
        return {one: int(one) for one in ids}
    notes.append(
        f"ids of {what} are no whole numbers, {ids[0]!r} for one: they are numbered from 1 in the file's order"
    )
    return {one: number for number, one in enumerate(dict.fromkeys(ids), start=1)}


def _named(content: Content, file: Path, root: Path, notes: list[str]) -> Content:
    """With the names that the files have; raises WrongRequest for one that leads out of the folder."""
    images = content["images"]
    names = meant(root, [image["file_name"] for image in images])
    for name in names.names:
        if leads_outside(name):
            raise WrongRequest(f"{file} names an image outside its folder ({name!r}): such files are not read")
    if names.said:
        notes.append(names.said)
    listed = [{**image, "file_name": name} for image, name in zip(images, names.names, strict=True)]
    return {**content, "images": listed, "notes": notes, "depends": names.depends}


def _is_label_studio(content: Any) -> bool:
    tasks = content if isinstance(content, list) else []
    return bool(tasks) and all(isinstance(task, dict) and ("annotations" in task or "image" in task) for task in tasks)


OF_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of a file that was uploaded."""
SHAPES = "rectanglelabels", "polygonlabels"


def _from_label_studio(tasks: list[dict[str, Any]], notes: list[str]) -> Content:
    """Rectangles and polygons in percent of the image; other shapes are counted."""
    content: Content = {"images": [], "annotations": []}
    kinds: dict[str, int] = {}
    others = 0
    for number, task in enumerate(tasks, start=1):
        where = str(task.get("data", {}).get("image") or task.get("image") or "")
        entry: dict[str, Any] = {"id": number, "file_name": _uploaded(where or str(task["file_upload"]))}
        results = [one for some in task.get("annotations", []) for one in some.get("result", [])]
        results += [{"value": one, **one} for one in task.get("label", [])]
        for one in results:
            value = one.get("value", {})
            shape = next((shape for shape in SHAPES if value.get(shape)), None)
            if shape is None or not one.get("original_width"):
                others += 1
                continue
            size = int(one["original_width"]), int(one["original_height"])
            entry |= {"width": size[0], "height": size[1]}
            kind = kinds.setdefault(str(value[shape][0]), len(kinds) + 1)
            corners = _corners(value, size)
            content["annotations"].append(outlined(corners, number, kind, box_only=shape == "rectanglelabels"))
        content["images"].append(entry)
    if others:
        notes.append(f"{others:,} results are neither rectangles nor polygons with labels and are left out")
    return {**content, "categories": [{"id": number, "name": name} for name, number in kinds.items()]}


def _uploaded(where: str) -> str:
    """The name of a file: below the folder that is served, or of an upload, whose id is taken off."""
    _, served, below = where.partition("?d=")
    if served:
        return unquote(below)
    name = unquote(where.rpartition("/")[2])
    return OF_UPLOAD.sub("", name, count=1) if "upload" in where or "/" not in where else name


def _corners(value: dict[str, Any], size: tuple[int, int]) -> list[float]:
    """x and y in pixels, one corner after another; a rectangle is turned around its upper left corner."""
    width, height = size
    if "points" in value:
        return [share / 100 * side for point in value["points"] for share, side in zip(point, size, strict=True)]
    left, top = value["x"] / 100 * width, value["y"] / 100 * height
    across, down = value["width"] / 100 * width, value["height"] / 100 * height
    angle = math.radians(value.get("rotation") or 0)
    cos, sin = math.cos(angle), math.sin(angle)
    steps = ((0, 0), (across, 0), (across, down), (0, down))
    return [place for x, y in steps for place in (left + x * cos - y * sin, top + x * sin + y * cos)]


def outlined(corners: list[float], image: int, kind: int, *, box_only: bool) -> dict[str, Any]:
    """An annotation with these corners, x and y one after another; a box that is upright has no outline."""
    xs, ys = corners[::2], corners[1::2]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    upright = box_only and len(set(xs)) == len(set(ys)) == 2
    return {"image_id": image, "category_id": kind, "bbox": box, "segmentation": [] if upright else [corners]}


def voc_of(folder: Path, root: Path) -> Content:
    """Of a folder of XML files; objects that are called difficult are crowds, which are neither learned nor judged."""
    files = sorted(folder.rglob("*.xml"))
    if not files:
        raise WrongRequest(f"{folder} holds no *.xml files: an annotation is one XML file per image")
    content: Content = {"images": [], "annotations": []}
    kinds: dict[str, int] = {}
    broken: list[str] = []
    for number, file in enumerate(files, start=1):
        try:
            tree = _xml(file)
        except WrongRequest as error:
            broken.append(str(error))
            continue
        name = file.relative_to(folder).with_suffix("").as_posix()
        sides = {side: _whole(tree.findtext(f"size/{side}")) for side in ("width", "height")}
        stated = (tree.findtext("filename") or "").strip()
        content["images"].append({"id": number, "file_name": name, "stated": stated, **sides})
        for one in tree.iter("object"):
            kind = kinds.setdefault((one.findtext("name") or "").strip(), len(kinds) + 1)
            try:
                left, top, right, bottom = (
                    float(one.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")
                )
            except ValueError:
                left = top = right = bottom = math.nan
            content["annotations"].append({
                "image_id": number, "category_id": kind, "bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1],
                "segmentation": [], "iscrowd": int((one.findtext("difficult") or "0").strip() == "1"),
            })  # fmt: skip
    if len(broken) == len(files):
        raise WrongRequest(broken[0])
    names = sorted(kinds)
    order = {kinds[name]: place for place, name in enumerate(names, start=1)}
    for one in content["annotations"]:
        one["category_id"] = order[one["category_id"]]
    content["categories"] = [{"id": place, "name": name} for place, name in enumerate(names, start=1)]
    found = _found_by_stem(content, folder, root, files)
    if broken:
        found["notes"].append(f"{len(broken):,} of {len(files):,} annotation files are left out: {broken[0]}")
    return found


def _xml(file: Path) -> ElementTree.Element:
    try:
        if file.stat().st_size > LARGEST_XML:
            raise WrongRequest(f"{file} has {file.stat().st_size:,} bytes: that is no annotation of one image")
        content = file.read_bytes()
        first = expat.ParserCreate()
        first.EntityDeclHandler = _no_entities
        first.Parse(content, True)
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, expat.ExpatError, OSError, ValueError, LookupError) as error:
        raise WrongRequest(f"{file} is no readable XML file: {error}") from error


def _no_entities(*_: object) -> None:
    """Entities may stand for gigabytes, and no annotation needs them."""
    raise ValueError("it declares entities")


def _whole(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except ValueError:
        return 0


def _existing(root: Path, name: str, stated: str) -> str:
    """The image called like the annotation file, else the one that the file names; neither leads out of the root."""
    for one in (name, stated):
        if one and not leads_outside(one) and os.path.isfile(root / one):  # noqa: PTH113 (a name may be too long for a path)
            return one
    return ""


def _found_by_stem(content: Content, folder: Path, root: Path, files: list[Path]) -> Content:
    """Names without an ending become those of the images; raises WrongRequest where none is found."""
    notes: list[str] = []
    names = meant(root, [image["file_name"] for image in content["images"]], endings=True)
    pairs = [
        (image, _existing(root, name, image.pop("stated")))
        for image, name in zip(content["images"], names.names, strict=True)
    ]
    kept = [(image, name) for image, name in pairs if name]
    if len({name for _, name in kept}) < len(kept):
        notes.append("several annotation files are of one image")
    if not kept:
        raise WrongRequest(f"{root} holds no image for {files[0].name} or any other of {folder}: check the two folders")
    if lost := len(pairs) - len(kept):
        notes.append(f"{lost:,} of {len(files):,} annotation files have no image")
    known = {image["id"] for image, _ in kept}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in known]
    content["images"] = [{**image, "file_name": name} for image, name in kept]
    return {**content, "notes": notes, "depends": [*files, *{file.parent for file in files}, folder, *names.depends]}
