"""Small inputs as other programs write them, for tests/test_reports.py: each writes into a folder and returns a SPEC."""

import io
import json
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

LITTER = ("._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini")
EXIF = 0x0112


def drawn(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A picture of its own for every seed; `size` is width and height."""
    levels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(levels).resize(size)


def encoded(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    held = io.BytesIO()
    drawn(seed).save(held, kind, **options)
    return held.getvalue()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def images(folder: Path, names: Iterable[str]) -> Path:
    """Pictures of these names, each another one."""
    for seed, name in enumerate(names):
        put(folder / name, encoded(seed, "JPEG" if name.lower().endswith((".jpg", ".jpeg")) else "PNG"))
    return folder


def tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            content = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, members: Mapping[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def listed(folder: Path, name: str, text: str | bytes, pictures: Sequence[str] = ("a.jpg", "b.jpg", "c.jpg")) -> Path:
    """A list beside pictures."""
    images(folder, pictures)
    return put(folder / name, text)


def rows(path: Path, *, metadata: Mapping[str, Any] | None = None, **columns: Any) -> Path:
    """A parquet file of these columns."""
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
    pq.write_table(table, path)
    return path


def held(count: int = 4) -> list[dict[str, Any]]:
    """Images as the hub has them in a row."""
    return [{"bytes": encoded(seed), "path": f"{seed}.png"} for seed in range(count)]


def saved(folder: Path, table: pa.Table, *, stream: bool = True) -> Path:
    """What datasets' save_to_disk writes."""
    folder.mkdir(parents=True)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(file, table.schema) as writer:
            writer.write_table(table)
    put(folder / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    put(folder / "dataset_info.json", "{}")
    return folder


def coco(folder: Path, *, names: Sequence[str], shown: Sequence[str] | None = None, **more: Any) -> str:
    """Three photos of 24 × 20 with a box each; `shown` are their names in the file, `more` replaces entries of it."""
    images(folder / "images", names)
    listed_images = [
        {"id": number, "file_name": name, "width": 24, "height": 20}
        for number, name in enumerate(shown or names, start=1)
    ]
    boxes = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": [2, 2, 10, 8], "area": 80, "iscrowd": 0,
         "segmentation": [[2, 2, 12, 2, 12, 10, 2, 10]]}
        for number in range(1, len(names) + 1)
    ]  # fmt: skip
    content = {"images": listed_images, "annotations": boxes, "categories": [{"id": 1, "name": "box"}], **more}
    put(folder / "a.json", json.dumps(content))
    return f"coco:{folder / 'a.json'}@{folder / 'images'}"


def lying(folder: Path, *, boxes: str) -> str:
    """Photos that EXIF turns, with the size that is stored; boxes `upright` or as `stored`, at one side of the photo."""
    spec = coco(folder, names=["a.jpg", "b.jpg", "c.jpg"])
    content = json.loads((folder / "a.json").read_text())
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture = drawn(1)  # upright it is 24 wide; stored 20 wide
        exif = Image.Exif()
        exif[EXIF] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / name, exif=exif.tobytes())
    for image in content["images"]:
        image |= {"width": 20, "height": 24}
    for one in content["annotations"]:
        # the right edge upright, which is stored at the upper edge
        one |= {"bbox": [14, 4, 10, 6] if boxes == "upright" else [4, 0, 6, 10], "segmentation": []}
        if boxes == "stored":
            one["bbox"] = [4, 0, 6, 10]
    if boxes == "stored":  # one that reaches beyond 20 rows, as only the stored pixels have
        content["annotations"].append({**content["annotations"][0], "id": 9, "bbox": [1, 15, 4, 9]})
    put(folder / "a.json", json.dumps(content))
    return spec


def masks(folder: Path, pairs: Mapping[str, str], picture: Image.Image) -> str:
    """Photos and pictures of labels, by name."""
    images(folder / "images", pairs)
    for name in filter(None, pairs.values()):
        (folder / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / "labels" / name)
    return f"pixels:{folder / 'images'}@{folder / 'labels'}"


def levels(*values: int, dtype: Any = np.uint8) -> Image.Image:
    """A picture of labels of 24 × 20: stripes of these values."""
    return Image.fromarray(np.repeat(np.array(values, dtype), 24 // len(values))[None].repeat(20, 0))


def colours(*values: tuple[int, int, int]) -> Image.Image:
    """Stripes of these colours."""
    return Image.fromarray(np.repeat(np.array(values, np.uint8)[None], 24 // len(values), 1).repeat(20, 0))


def nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def png_with_text(seed: int) -> bytes:
    """With a comment, as screenshots have it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "café")
    return encoded(seed, pnginfo=info)
