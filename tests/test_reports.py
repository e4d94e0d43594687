"""What people who do this job reported of this and of other programs: input, and what is right. A report is five lines here.

Where a name stands before a colon, somebody reported it in public: project#number.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from otherview.data.agreement import check_agreement, described
from otherview.data.foreign import told_of
from otherview.data.objects import pixels_named, placed
from otherview.data.picture import picture_of
from otherview.data.source import same_numbers
from otherview.data.spec import absolute, open_source
from otherview.errors import WrongRequest
from tests import inputs as made
from tests.conftest import Run
from tests.inputs import LITTER, coco, encoded, held, images, levels, listed, masks, nfd, put, rows, saved, tar, zipped

ABC = ("a.jpg", "b.jpg", "c.jpg")
TWO = {"cat/a.jpg": encoded(1), "dog/b.jpg": encoded(2)}
CAT_DOG = {"cat": 1, "dog": 1}


class Right(NamedTuple):
    """What is right: how many images, of which classes, and what is said."""

    images: int
    classes: Mapping[str, int] = {}
    told: str = ""


def _litter(folder: Path) -> Path:
    for name in (
        *LITTER,
        "cat/._a.jpg",
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "__MACOSX/cat/._a.jpg",
        "@eaDir/a.jpg/x.jpg",
    ):
        put(folder / name, encoded(9))
    for name, data in TWO.items():
        put(folder / name, data)
    return folder


def _brace(folder: Path) -> str:
    for number in range(3):
        tar(folder / f"s-{number:03}.tar", {"a.jpg": encoded(number)})
    return f"{folder}/s-{{000..002}}.tar"


BOMB = '<!DOCTYPE a [<!ENTITY b "' + "x" * 99 + '">]><annotation><filename>&b;</filename></annotation>'
ELSEWHERE = "<annotation><filename>../out.jpg</filename></annotation>"


def _words_and_numbers(folder: Path) -> str:
    first = tar(folder / "a.tar", {"0.jpg": encoded(0), "0.cls": "cat", "1.jpg": encoded(1), "1.cls": "dog"})
    second = tar(folder / "b.tar", {"2.jpg": encoded(2), "2.cls": "dog", "3.jpg": encoded(3), "3.cls": "fox"})
    third = tar(folder / "c.tar", {"4.jpg": encoded(4), "4.cls": "1"})
    return f"{first},{second},{third},{tar(folder / 'd.tar', {'5.jpg': encoded(5)})}"


LISTS: dict[str, tuple[Callable[[Path], object], Right]] = {
    "vision#109: .DS_Store in a folder of classes": (_litter, Right(2, CAT_DOG)),
    "udacity dog project#217: __MACOSX in a zip": (
        lambda p: zipped(p / "a.zip", {**TWO, "__MACOSX/cat/._a.jpg": b"", "cat/.DS_Store": b""}), Right(2, CAT_DOG)),
    "vision#2831: .ipynb_checkpoints in a tar": (
        lambda p: tar(p / "a.tar", {**TWO, ".ipynb_checkpoints/a-checkpoint.jpg": encoded(3)}), Right(2, CAT_DOG)),
    "deeplearning4j#8080: companions in a list": (lambda p: listed(p, "l.txt", "a.jpg\n._a.jpg\nb.jpg\n"), Right(2)),
    "Synology's @eaDir in a zip": (
        lambda p: zipped(p / "a.zip", {**TWO, "@eaDir/a.jpg/SYNO.jpg": encoded(3)}), Right(2, CAT_DOG)),
    "Thumbs.db and desktop.ini in a tar": (
        lambda p: tar(p / "a.tar", {**TWO, "cat/Thumbs.db": b"", "desktop.ini": b""}), Right(2, CAT_DOG)),
    "a zip of a folder, with that folder in front": (
        lambda p: zipped(p / "photos.zip", {f"photos/{name}": data for name, data in TWO.items()}),
        Right(2, CAT_DOG, "folders below photos are the classes")),
    "letters and accents apart": (
        lambda p: images(p / "d", [f"{nfd('kätz')}/a.jpg", "dog/b.jpg"]), Right(2, {"kätz": 1, "dog": 1})),
    "dreambooth#23: photos of a phone": (
        lambda p: put(p / "d/cat/a.HEIC", (Path(__file__).parent / "data/photo.heic").read_bytes()).parents[1],
        Right(1, {"cat": 1})),
    "a folder around everything": (
        lambda p: put(put(p / "d/x/cat/a.jpg", encoded(1)).parents[1] / "dog/b.jpg", encoded(2)).parents[2],
        Right(2, CAT_DOG, "folders below x are the classes")),
    "parts of the data as folders": (
        lambda p: images(p / "d", ["train/a.jpg", "test/b.jpg"]),
        Right(2, {"train": 1, "test": 1}, "give one of these folders")),
    "an image beside the folders": (
        lambda p: images(p / "d", ["cat/a.jpg", "b.jpg"]), Right(2, {}, "images lie beside the folders")),
    "a Windows zip": (lambda p: zipped(p / "a.zip", {"cat\\a.jpg": encoded(1), "dog\\b.jpg": encoded(2)}), Right(2, CAT_DOG)),
    "Windows' dustbin": (lambda p: zipped(p / "a.zip", {**TWO, "$RECYCLE.BIN/a.jpg": encoded(3)}), Right(2, CAT_DOG)),
    "tar of a folder with ./ in front": (
        lambda p: tar(p / "a.tar", {f"./{name}": data for name, data in TWO.items()}), Right(2, CAT_DOG)),
    "mmpretrain: path and number": (lambda p: listed(p, "l.txt", "a.jpg 0\nb.jpg 1\nc.jpg 1\n"), Right(3, {"0": 1, "1": 2})),
    "SlowFast#750: path and word, by tabs": (
        lambda p: listed(p, "l.txt", "a.jpg\tcat\nb.jpg\tgolden dog\nc.jpg\tcat\n"), Right(3, {"cat": 2, "golden dog": 1})),
    "path and word, by commas": (lambda p: listed(p, "l.txt", "a.jpg,cat\nb.jpg, dog\n"), Right(2, CAT_DOG)),
    "blanks in names, and behind them": (
        lambda p: listed(p, "l.txt", "my photo.jpg  \nb 2.jpg\n", ["my photo.jpg", "b 2.jpg"]), Right(2)),
    "a comment and empty lines": (lambda p: listed(p, "l.txt", "# mine\n\na.jpg\n\n"), Right(1)),
    "Excel's mark and line ends": (lambda p: listed(p, "l.txt", b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n"), Right(2)),
    "Excel's semicolons": (
        lambda p: listed(p, "l.csv", b"\xef\xbb\xbfpath;label\r\na.jpg;cat\r\nb.jpg;dog\r\n"), Right(2, CAT_DOG)),
    "fastai#2236: tabs": (lambda p: listed(p, "l.tsv", "path\tlabel\na.jpg\tcat\nb.jpg\tdog\n"), Right(2, CAT_DOG)),
    "UTF-16": (lambda p: listed(p, "l.csv", "path,label\na.jpg,cat\nb.jpg,dog\n".encode("utf-16")), Right(2, CAT_DOG)),
    "Kaggle: id without ending, diagnosis": (
        lambda p: listed(p, "l.csv", "id_code,diagnosis\na,2\nb,0\n"),
        Right(2, {"0": 1, "2": 1}, "the column diagnosis is the label")),
    "ISIC: a column for each class": (
        lambda p: listed(p, "l.csv", "image,MEL,NV,BCC\na,1.0,0.0,0.0\nb,0.0,0.0,1.0\nc,1.0,0.0,0.0\n"),
        Right(3, {"MEL": 2, "BCC": 1}, "a 1 in 3 columns is the label")),
    "headings in capitals, whole numbers as floats": (
        lambda p: listed(p, "l.csv", "Image_Path,Label\na.jpg,1.0\nb.jpg,0.0\n"), Right(2, {"1": 1, "0": 1})),
    "no headings": (lambda p: listed(p, "l.csv", "a.jpg,cat\nb.jpg,dog\n"), Right(2, CAT_DOG)),
    "01 is not 1": (lambda p: listed(p, "l.csv", "path,label\na.jpg,01\nb.jpg,1\n"), Right(2, {"01": 1, "1": 1})),
    "missing labels": (
        lambda p: listed(p, "l.csv", "path,label\na.jpg,cat\nb.jpg,\nc.jpg,NaN\n"), Right(3, {"cat": 1, "": 2})),
    "a column by its name": (
        lambda p: str(listed(p, "l.csv", "path,label,site\na.jpg,cat,north\nb.jpg,cat,south\n")) + "::site",
        Right(2, {"north": 1, "south": 1})),
    "columns that are not read": (
        lambda p: listed(p, "l.csv", "path,age,site\na.jpg,3,north\nb.jpg,4,south\n"), Right(2, {}, "columns age, site are not")),
    "a line per image, in JSON": (
        lambda p: listed(p, "l.jsonl", '{"file_name": "a.jpg", "label": "cat"}\n{"file_name": "b.jpg", "label": "dog"}\n'),
        Right(2, CAT_DOG)),
    "datasets#6442: metadata.jsonl in a folder of images": (
        lambda p: listed(p, "metadata.jsonl", '{"file_name": "a.jpg", "label": 1}\n{"file_name": "b.jpg", "label": 0}\n').parent,
        Right(2, {"1": 1, "0": 1})),
    "backslashes": (
        lambda p: listed(p, "l.csv", "path,label\ncat\\a.jpg,cat\n", ["cat/a.jpg"]), Right(1, {"cat": 1}, "written otherwise")),
    "another computer's folders": (
        lambda p: listed(p, "l.txt", "C:\\data\\in\\a.jpg\nC:\\data\\in\\b.jpg\n", ["in/a.jpg", "in/b.jpg"]), Right(2)),
    "the folder is left out": (lambda p: listed(p, "l.txt", "a.jpg\nb.jpg\n", ["in/a.jpg", "in/b.jpg"]), Right(2)),
    "the folder is said twice": (lambda p: listed(p, "l.txt", f"{p.name}/a.jpg\n{p.name}/b.jpg\n"), Right(2)),
    "another case": (lambda p: listed(p, "l.txt", "A.JPG\nb.jpg\n"), Right(2)),
    "another Unicode form": (lambda p: listed(p, "l.txt", "café.jpg\n", [nfd("café.jpg")]), Right(1)),
    "escapes of a URL": (lambda p: listed(p, "l.txt", "my%20photo.jpg\n", ["my photo.jpg"]), Right(1)),
    "a Western Windows' bytes": (lambda p: listed(p, "l.txt", "caf\xe9.jpg\n".encode("cp1252"), ["café.jpg"]), Right(1)),
    "webdataset#237: dots in names": (
        lambda p: tar(p / "a.tar", {"21.06.2023_1.jpg": encoded(1), "21.06.2023_1.cls": "1", "t.v2.jpg": encoded(2),
                                    "t.v2.cls": "0"}), Right(2, {"1": 1, "0": 1}, "dots belong to the names of 2 images")),
    "webdataset: stereo pairs": (
        lambda p: tar(p / "a.tar", {"0.left.jpg": encoded(1), "0.right.jpg": encoded(2), "0.cls": "3"}), Right(2, {"3": 2})),
    "webdataset: a mask beside its image": (
        lambda p: tar(p / "a.tar", {"0.jpg": encoded(1), "0.seg.png": encoded(2), "0.cls": "3"}),
        Right(1, {"3": 1}, r"1 \*\.seg\.png")),
    "datasets#6880: a word in .cls": (
        lambda p: tar(p / "a.tar", {"0.jpg": encoded(1), "0.cls": "cat\n", "1.jpg": encoded(2), "1.cls": "dog"}),
        Right(2, CAT_DOG)),
    "a label in .json": (
        lambda p: tar(p / "a.tar", {"0.jpg": encoded(1), "0.json": '{"label": 1}', "1.jpg": encoded(2), "1.json": "{"}),
        Right(2, {"1": 1, "": 1}, r"1 \*\.json")),
    "ray#65044: members of a key that are not adjacent": (
        lambda p: tar(p / "a.tar", {"0.jpg": encoded(1), "1.jpg": encoded(2), "0.cls": "5", "1.cls": "6"}),
        Right(2, {"5": 1, "6": 1})),
    "clip-retrieval#245: a range of shards": (_brace, Right(3)),
    "uoft-cs/cifar10: the column img": (
        lambda p: rows(p / "a.parquet", img=held(), label=[0, 1, 1, 1],
                       metadata={"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}),
        Right(4, {"cat": 1, "dog": 3})),
    "cifar100: two columns of labels": (
        lambda p: rows(p / "a.parquet", img=held(), fine_label=[0, 1, 2, 2], coarse_label=[0, 0, 0, 1],
                       metadata={"img": {"_type": "Image"}, "fine_label": {"_type": "ClassLabel", "names": list("abc")},
                                 "coarse_label": {"_type": "ClassLabel", "names": list("xy")}}),
        Right(4, {"a": 1, "b": 1, "c": 2}, "the labels are fine_label, not coarse_label")),
    "cifar100: the other column": (
        lambda p: f"{rows(p / 'a.parquet', img=held(), fine_label=[0, 1, 2, 2], coarse_label=[0, 0, 0, 1])}:img:coarse_label",
        Right(4, {"0": 3, "1": 1})),
    "plain bytes and words": (
        lambda p: rows(p / "a.parquet", image=[one["bytes"] for one in held()], label=["cat", "dog", "dog", None]),
        Right(4, {"cat": 1, "dog": 2, "": 1})),
    "datasets#2839: large binaries": (
        lambda p: rows(p / "a.parquet", image=pa.array([one["bytes"] for one in held()], pa.large_binary())), Right(4)),
    "shards of words, of numbers and without labels": (
        _words_and_numbers, Right(6, {"cat": 1, "dog": 2, "fox": 1, "1": 1, "": 1})),
    "a column for each class, without headings": (
        lambda p: listed(p, "l.csv", "a.jpg,0,1,0\nb.jpg,1,0,0\nc.jpg,0,0,1\n"), Right(3, {"0": 1, "1": 1, "2": 1})),
    "a column for each class, in lines of JSON": (
        lambda p: listed(p, "l.jsonl", '{"path": "a.jpg", "id": 7, "cat": 0, "dog": 1}\n{"path": "b.jpg", "cat": 1, "dog": 0}\n'),
        Right(2, {}, "columns id, cat, dog are not read")),
    "some rows of two classes": (
        lambda p: listed(p, "l.csv", "image,cat,dog\n" + "a,1,0\n" * 60 + "b,1,1\n"),
        Right(61, {"cat": 60, "": 1}, "1 labels name no single class")),
    "nobody's label, and one that is no number": (
        lambda p: rows(p / "a.parquet", image=held(3), label=[[float("nan")], [1.0], [-1.0]]),
        Right(3, {"1": 1, "": 2}, "negative")),
    "metadata.jsonl that names a part": (
        lambda p: listed(p, "metadata.jsonl", '{"file_name": "a.jpg", "label": 1}\n').parent,
        Right(1, {"1": 1}, "2 images of the folder are not named")),
    "the same image in two spellings": (
        lambda p: listed(p, "l.txt", "in\\a.jpg\nin/a.jpg\nin\\b.jpg\n", ["in/a.jpg", "in/b.jpg"]), Right(3, {}, "otherwise")),
    "side files of the same name": (
        lambda p: listed(put(p / "a.json", "{}").parent, "l.csv", "id,label\na,cat\nb,dog\n"), Right(2, CAT_DOG)),
    "one-hot labels": (
        lambda p: rows(p / "a.parquet", image=held(2), label=[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), Right(2, {"1": 1, "0": 1})),
    "several labels an image": (
        lambda p: rows(p / "a.parquet", image=held(2), label=[[0, 2], [1]]), Right(2, {"1": 1, "": 1}, "name no single class")),
    "labels as floats and dictionaries": (
        lambda p: rows(p / "a.parquet", image=held(2), target=pa.array(["cat", "dog"]).dictionary_encode()), Right(2, CAT_DOG)),
    "rows without an image": (
        lambda p: rows(p / "a.parquet", image=[*held(2), None, {"bytes": None, "path": "gone.png"}]),
        Right(2, {}, "2 rows of a.parquet are left out: there are no bytes, and gone.png")),
    "paths instead of bytes": (
        lambda p: rows(images(p, ["x/a.png", "b.png"]) / "a.parquet",
                       image=[{"bytes": None, "path": "x/a.png"}, {"bytes": None, "path": "/home/ann/b.png"}]), Right(2)),
    "oumi#559: save_to_disk": (lambda p: saved(p / "s", pa.table({"image": held(), "label": ["a", "b", "b", "b"]})),
                              Right(4, {"a": 1, "b": 3})),
    "datasets#5044: an Arrow file": (
        lambda p: saved(p / "s", pa.table({"image": held()}), stream=False) / "data-00000-of-00001.arrow", Right(4)),
}  # fmt: skip


@pytest.mark.parametrize("report", LISTS)
def test_images_and_classes(report: str, tmp_path: Path) -> None:
    make, right = LISTS[report]
    source = open_source(str(make(tmp_path)))
    labels = [source.label(index) for index in range(len(source))]
    names = source.classes
    found = Counter("" if label is None else names[label] if names else str(label) for label in labels)
    assert len(source) == right.images
    assert dict(found) == (right.classes or {"": right.images})
    for index in range(len(source)):
        picture_of(source, index).decode()
    told = "\n".join(told_of(source))
    assert re.search(right.told, told), told


GRAY, VOC_RED, VOC_GREEN, CVAT = (0, 0, 0), (128, 0, 0), (0, 128, 0), (250, 50, 83)
PAIRED = {"a.jpg": "a.png", "b.jpg": "b.png"}


def _with_map(folder: Path, name: str, text: str) -> str:
    spec = masks(folder, PAIRED, made.colours(GRAY, CVAT))
    put(folder / name, text)
    return spec


def _blurred() -> Image.Image:
    """A mask that was resized as photos are: a twentieth of its pixels lies between."""
    mask = np.zeros((20, 24), np.uint8)
    mask[:, 12:], mask[:4, 11], mask[4:8, 11], mask[8:12, 11], mask[12:16, 11] = 255, 40, 90, 150, 220
    return Image.fromarray(mask)


PIXELS: dict[str, tuple[Callable[[Path], str], set[int]]] = {
    "mmsegmentation#1609, transformers#27224: 0 and 255": (lambda p: masks(p, PAIRED, levels(0, 255)), {0, 1}),
    "Endoscapes#5: 255 counts nowhere": (lambda p: masks(p, PAIRED, levels(0, 1, 255)), {0, 1, 255}),
    "black and white of one bit": (lambda p: masks(p, PAIRED, levels(0, 255).convert("1")), {0, 1}),
    "mmsegmentation#1572: Pascal VOC's colours": (
        lambda p: masks(p, PAIRED, made.colours(GRAY, VOC_RED, VOC_GREEN, (224, 224, 192))), {0, 1, 2, 255}),
    "atlantis#14: CVAT's colours and label map": (
        lambda p: _with_map(p, "labelmap.txt", "# label:color_rgb\nbackground:0,0,0::\ncell:250,50,83::\n"), {0, 1}),
    "CamVid's colours in a table": (
        lambda p: _with_map(p, "class_dict.csv", "name,r,g,b\nbackground,0,0,0\ncell,250,50,83\n"), {0, 1}),
    "edges that were blurred": (lambda p: masks(p, PAIRED, _blurred()), {0, 1}),
    "gray as colours": (lambda p: masks(p, PAIRED, made.colours((0, 0, 0), (2, 2, 2))), {0, 2}),
    "classes of 16 bits": (lambda p: masks(p, PAIRED, levels(0, 7, 65535, dtype=np.uint16)), {0, 7, 255}),
    "carvana: a_mask": (lambda p: masks(p, {"a.jpg": "a_mask.png", "b.jpg": "b_mask.png"}, levels(0, 1)), {0, 1}),
    "Cityscapes: several pictures for each": (
        lambda p: _cityscapes(p), {0, 3}),
    "in folders of cities": (
        lambda p: masks(p, {"x/a_rgb.png": "x/a_gt.png", "y/b_rgb.png": "y/b_gt.png"}, levels(0, 1)), {0, 1}),
    "polygons of COCO": (lambda p: coco(p, names=ABC), {0, 1}),
}  # fmt: skip


def _cityscapes(folder: Path) -> str:
    masks(
        folder,
        {"a_leftImg8bit.png": "a_gtFine_instanceIds.png", "b_leftImg8bit.png": "b_gtFine_instanceIds.png"},
        levels(9, 9),
    )
    return masks(
        folder,
        {"a_leftImg8bit.png": "a_gtFine_labelIds.png", "b_leftImg8bit.png": "b_gtFine_labelIds.png"},
        levels(0, 3),
    )


@pytest.mark.parametrize("report", PIXELS)
def test_classes_of_pixels(report: str, tmp_path: Path) -> None:
    make, right = PIXELS[report]
    source = open_source(make(tmp_path))
    for index in range(len(source)):
        labels, picture = pixels_named(source, index), picture_of(source, index)
        assert set(np.unique(labels).tolist()) == right
        assert labels.shape == (picture.height, picture.width)


def _strings(folder: Path) -> str:
    spec = coco(folder, names=ABC)
    content = json.loads((folder / "a.json").read_text())
    for one in content["images"]:
        one["id"] = f"img-{one['id']}"
    for one in content["annotations"]:
        one |= {"id": f"ann-{one['id']}", "image_id": f"img-{one['image_id']}", "category_id": "box"}
    content["categories"] = [{"id": "box", "name": "box"}]
    put(folder / "a.json", json.dumps(content))
    return spec


def _label_studio(folder: Path) -> str:
    images(folder / "images", ABC)
    value = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["box"]}
    result = [{"type": "rectanglelabels", "original_width": 24, "original_height": 20, "value": value}]
    tasks = [{"id": n, "data": {"image": f"/data/upload/1/1a2b3c4d-{name}"}, "annotations": [{"result": result}]}
             for n, name in enumerate(ABC)]  # fmt: skip
    return f"coco:{put(folder / 'a.json', json.dumps(tasks))}@{folder / 'images'}"


def _voc(folder: Path) -> str:
    images(folder / "JPEGImages", ABC)
    for name in ABC:
        put(
            folder / "Annotations" / f"{name[0]}.xml",
            f"<annotation><filename>{name}</filename><size><width>24</width><height>20</height><depth>3</depth></size>"
            "<object><name>box</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>12</xmax><ymax>10</ymax></bndbox></object>"
            "</annotation>",
        )
    return f"voc:{folder / 'Annotations'}@{folder / 'JPEGImages'}"


def _yolo(folder: Path, line: str) -> str:
    images(folder / "images", ABC)
    for name in ABC:
        put(folder / "labels" / f"{name[0]}.txt", f"{line}\n")
    put(folder / "data.yaml", "names: [box, disc]\n")
    return f"yolo:{folder / 'labels'}@{folder / 'images'}"


def _ultralytics(folder: Path) -> str:
    images(folder / "set/images/val", ABC)
    for name in ABC:
        put(folder / "set/labels/val" / f"{name[0]}.txt", "0 0.29166667 0.3 0.41666667 0.4\n")
    file = put(folder / "data.yaml", "path: ../set\ntrain: images/train\nval: images/val\nnames: {0: box}\n")
    return f"yolo:{file}@val"


BOX = (2.0, 2.0, 12.0, 10.0)
BOXES: dict[str, tuple[Callable[[Path], str], tuple[float, ...], str]] = {
    "label-studio#7294: backslashes": (lambda p: coco(p, names=ABC, shown=[f"images\\{name}" for name in ABC]), BOX, "otherwise"),
    "label-studio-converter#172: escapes": (
        lambda p: coco(p, names=["a 1.jpg", "b 1.jpg"], shown=["a%201.jpg", "b%201.jpg"]), BOX, "otherwise"),
    "macOS's names": (lambda p: coco(p, names=[nfd("é.jpg")], shown=["é.jpg"]), BOX, "otherwise"),
    "the folder given twice": (lambda p: coco(p, names=ABC, shown=[f"images/{name}" for name in ABC]), BOX, "otherwise"),
    "the folder one level off": (lambda p: coco(p, names=[f"x/{name}" for name in ABC], shown=ABC), BOX, "otherwise"),
    "another computer's folders": (lambda p: coco(p, names=ABC, shown=[f"/home/ann/{name}" for name in ABC]), BOX, "otherwise"),
    "faster_coco_eval#58: ids that are words": (_strings, BOX, "no whole numbers"),
    "label-studio#6608: stored sizes, upright boxes": (
        lambda p: made.lying(p, boxes="upright"), (14, 4, 24, 10), "drawn upright"),
    "coco-annotator#228: stored sizes and boxes": (
        lambda p: made.lying(p, boxes="stored"), (14, 4, 24, 10), "as they are stored"),
    "Label Studio's own JSON": (_label_studio, (2.4, 2.0, 14.4, 12.0), ""),
    "Pascal VOC": (_voc, BOX, ""),
    "YOLO's boxes": (lambda p: _yolo(p, "0 0.29166667 0.3 0.41666667 0.4"), BOX, ""),
    "ultralytics: data.yaml": (lambda p: _ultralytics(p), BOX, ""),
    "YOLO's outlines": (lambda p: _yolo(p, "0 0.0833333 0.1 0.5 0.1 0.5 0.5 0.0833333 0.5"), BOX, ""),
}  # fmt: skip


@pytest.mark.parametrize("report", BOXES)
def test_boxes(report: str, tmp_path: Path) -> None:
    make, box, told = BOXES[report]
    source = open_source(make(tmp_path))
    for index in range(len(source)):
        objects, picture = placed(source, index), picture_of(source, index)
        assert objects.boxes[0] == pytest.approx(box, abs=0.01)
        assert objects.masks.shape[1:] == (picture.height, picture.width)
        assert source.categories[objects.classes[0]].name == "box"  # pyright: ignore[reportAttributeAccessIssue]
    assert told in "\n".join(told_of(source))


def _colours_without_a_map(folder: Path) -> str:
    return masks(folder, PAIRED, made.colours(GRAY, CVAT))


def test_boxes_of_photos_on_their_heads(tmp_path: Path) -> None:
    """Where boxes are as stored, all of EXIF's eight orientations count; those that keep the sides say nothing of it."""
    spec = made.lying(tmp_path, boxes="stored")
    content = json.loads((tmp_path / "a.json").read_text())
    exif = Image.Exif()
    exif[made.EXIF] = 3
    made.drawn(1).transpose(Image.Transpose.ROTATE_180).save(tmp_path / "images/b.jpg", exif=exif.tobytes())
    content["images"][1] |= {"width": 24, "height": 20}
    content["annotations"][1] |= {"bbox": [0, 0, 10, 6]}
    put(tmp_path / "a.json", json.dumps(content))
    assert placed(open_source(spec), 1).boxes.tolist() == [[14, 14, 24, 20]]


def test_a_mask_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    spec = coco(tmp_path, names=ABC)
    content = json.loads((tmp_path / "a.json").read_text())
    content["annotations"][1]["segmentation"] = {"size": [20, 24], "counts": "zzzz!"}
    put(tmp_path / "a.json", json.dumps(content))
    source = open_source(spec)
    assert len(placed(source, 1).boxes) == 0 and len(placed(source, 0).boxes) == 1
    assert "annotation 2 of b.jpg is left out: its mask cannot be decoded" in "\n".join(described(source))


def test_numbers_beside_names(tmp_path: Path) -> None:
    """Folders called 1, 2, 10 and a list with the numbers 1, 2, 10 are the same classes; of words, numbers are the places."""
    folders = open_source(str(images(tmp_path / "train", [f"{name}/a.png" for name in ("1", "2", "10")])))
    numbers = np.array([1, 2, 10, 10])
    assert same_numbers(numbers, of=None, like=folders.classes).tolist() == [0, 2, 1, 1]
    assert same_numbers(np.array([0, 1, 2]), of=folders.classes, like=None).tolist() == [1, 10, 2]
    assert same_numbers(np.array([0, 1]), of=None, like=["cat", "dog"]).tolist() == [0, 1]
    for wrong, like in (([2], ["cat", "dog"]), ([3], ["1", "2", "10"])):
        with pytest.raises(WrongRequest, match="class"):
            same_numbers(np.array(wrong), of=None, like=like)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_a_detector_learns_from_other_programs_annotations(kind: str, tmp_path: Path, otherview: Run) -> None:
    specs = []
    for side in ("train", "test"):
        make = _voc if kind == "voc" else (lambda folder: _yolo(folder, "0 0.3 0.3 0.4 0.4"))
        specs.append(make(tmp_path / side))
    done = otherview(
        "evaluate", "detect", "--weights", "random:siamese_im_cpu_adamw", "--train", specs[0], "--test", specs[1], "--steps", "2",
        "--batch", "2", "--size", "64", "--windows.global-blocks", "3", "--no-control", "--allow-shared", "--device", "cpu",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0 and "box_AP" in done.stdout, done.stderr


def test_some_masks_of_another_size_are_named(tmp_path: Path, otherview: Run) -> None:
    spec = masks(tmp_path, {f"{n}.png": f"{n}.png" for n in range(4)}, levels(0, 1))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "labels/2.png")
    done = otherview(
        "evaluate",
        "linear-segment",
        "--weights",
        "random:siamese_im_cpu_adamw",
        "--train",
        spec,
        "--test",
        spec,
        "--allow-shared",
    )
    assert done.returncode == 0 and "2.png: its picture of labels is for 9×9 pixels, it has 24×20" in done.stderr, (
        done.stderr
    )


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder of litter alone": (lambda p: put(p / "x/._a.jpg", b"").parent, "only what systems and programs leave"),
    "a folder of JPEG XL": (lambda p: put(p / "x/a.jxl", b"").parent, r"only 1 \*\.jxl"),
    "colours that nothing explains": (_colours_without_a_map, "250 50 83.*labelmap.txt"),
    "rows of paths whose files are elsewhere": (
        lambda p: rows(p / "a.parquet", image=[{"bytes": None, "path": "x.jpg"}]), "x.jpg does not lie beside the file"),
    "no column of images": (lambda p: rows(p / "a.parquet", text=["a"]), "no column of images"),
    "two columns of images": (
        lambda p: rows(p / "a.parquet", left=held(1), right=held(1)), "several columns of images, left, right"),
    "a column that is not there": (
        lambda p: f"{rows(p / 'a.parquet', image=held(1))}:photo", "no column 'photo': there are image"),
    "several splits": (
        lambda p: put(p / "d/dataset_dict.json", '{"splits": ["train", "test"]}').parent, "give one, .*train"),
    "a packed tar": (lambda p: put(p / "a.tar.gz", b""), "unpack it"),
    "most images without a mask": (
        lambda p: masks(p, {"a.jpg": "a.png", "b.jpg": "", "c.jpg": ""}, levels(0, 1)), "2 of 3 images"),
    "annotations that lead outside": (lambda p: coco(p, names=ABC, shown=["../a.jpg", "b.jpg", "c.jpg"]), "outside its folder"),
    "XML that is none": (lambda p: f"voc:{put(p / 'x/a.xml', '<a').parent}@{images(p / 'i', ABC)}", "no readable XML"),
    "XML that declares entities": (
        lambda p: f"voc:{put(p / 'x/a.xml', BOMB).parent}@{images(p / 'i', ABC)}", "it declares entities"),
    "XML that names a file elsewhere": (
        lambda p: f"voc:{put(p / 'x/z.xml', ELSEWHERE).parent}@{images(images(p, ['out.jpg']) / 'i', ABC)}",
        "holds no image for"),
    "YOLO with a billion classes": (lambda p: _yolo(p, "999999999 .5 .5 .5 .5"), "999999999 is not between 0 and 65535"),
    "YOLO with a class without end": (lambda p: _yolo(p, "inf .5 .5 .5 .5"), "no box and no outline"),
    "JSON in JSON in JSON": (lambda p: f"coco:{put(p / 'a.json', '[' * 99_999)}@{images(p / 'i', ABC)}", "no readable JSON"),
    "lines of JSON in JSON": (lambda p: put(p / "a.jsonl", "[" * 99_999), "no readable list"),
    "two masks for every image": (
        lambda p: masks(p, {"a.jpg": "a_mask_1.png", "b.jpg": "b_mask_1.png"}, levels(0, 1))
        and masks(p, {"a.jpg": "a_mask_2.png", "b.jpg": "b_mask_2.png"}, levels(0, 1)), "several pictures for every image"),
    "masks of other numbers": (
        lambda p: masks(p, {"s_1.jpg": "s_2.png", "s_3.jpg": "s_4.png"}, levels(0, 1)), "no labels for 2 of 2"),
    "a clone of a hub's repository": (
        lambda p: put(p / "r/data/train-0.parquet", b"").parents[1], "shards in .*data: give that folder"),
    "a data.yaml that names other folders": (lambda p: f"yolo:{put(p / 'd.yaml', 'train: elsewhere')}", "does not lie beside it"),
    "palettes that differ": (lambda p: _palettes(p), "different palettes"),
    "labels up to 2000": (lambda p: masks(p, PAIRED, levels(0, 1000, 2000, dtype=np.uint16)), "from 0 to 2000"),
    "two categories of one id": (
        lambda p: coco(p, names=ABC, categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
        "several categories with one id"),
    "a list of results for annotations": (
        lambda p: f"coco:{put(p / 'a.json', '[{}]')}@{images(p / 'i', ABC)}", "it needs an object with lists"),
    "a range that goes backwards": (lambda p: f"{p}/s-{{9..3}}.tar", "a range of -5 names"),
    "a SPEC without end": (lambda p: ",".join(["a.jpg"] * 99), "does not exist"),
    "rows of rows": (lambda p: put(p / "r.txt", f"# rows of {p}/r.txt\n0\n"), "rows of another list"),
    "a YOLO line of words": (lambda p: _yolo(p, "cat 1 2 3"), "line 1 of .*no box and no outline"),
}  # fmt: skip


def _palettes(folder: Path) -> str:
    spec = masks(folder, PAIRED, levels(0, 1))
    for name, colours in (("a.png", [0, 0, 0, 255, 0, 0]), ("b.png", [255, 0, 0, 0, 0, 0])):
        picture = levels(0, 1).convert("P")
        picture.putpalette(colours)
        picture.save(folder / "labels" / name)
    return spec


@pytest.mark.parametrize("report", REFUSED)
def test_what_cannot_be_meant_is_said_at_once(report: str, tmp_path: Path) -> None:
    make, said = REFUSED[report]
    with pytest.raises(WrongRequest, match=said):
        source = open_source(str(make(tmp_path)))
        check_agreement(source, flag="--train")


def test_commas_in_names(tmp_path: Path) -> None:
    """A SPEC's parts are joined by commas: names that hold some are found, or quoted."""
    for name in ("a,b", "c", "d,e"):
        images(tmp_path / name, ["1.png"])
    one, two, three = (str(tmp_path / name) for name in ("a,b", "c", "d,e"))
    for spec in (f"{one},{two},{three}", f'"{one}", {two},"{three}"', absolute(f"{two},{one},{three}")):
        assert len(open_source(spec)) == 3
    assert len(open_source(f'"{one}"')) == 1
    made = coco(tmp_path / "x,y", names=["1.png"])
    assert len(open_source(f'"{made}",{two}')) == 2 == len(open_source(absolute(f'"{made}",{two}')))


@pytest.mark.parametrize("report", BOXES)
def test_the_same_annotations_from_anywhere(report: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs keep SPECs by absolute names."""
    spec = BOXES[report][0](tmp_path).replace(f"{tmp_path}/", "")
    monkeypatch.chdir(tmp_path)
    known, count = absolute(spec), len(open_source(spec))
    monkeypatch.chdir("/")
    assert str(tmp_path) in known and len(open_source(known)) == count
