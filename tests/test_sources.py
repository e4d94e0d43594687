import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from otherview.data import folder as files
from otherview.data.archives import MOST_OPEN
from otherview.data.coco import CocoImages
from otherview.data.hub import TorchvisionImages
from otherview.data.index_cache import cache_folder
from otherview.data.picture import picture_of
from otherview.data.pixels import LabelledPixels
from otherview.data.source import labels_of
from otherview.data.spec import open_source
from otherview.errors import BrokenImage, WrongRequest


def picture(value: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8))


def encoded(value: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(value).save(buffer, kind)
    return buffer.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def values(spec: str | Path) -> list[int]:
    source = open_source(str(spec))
    return [int(picture_of(source, index).decode()[5, 5, 0]) for index in range(len(source))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("b/1.png", "a/deep/2.JPG", "a/3.bmp", "c/notes.txt")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(10 * number, "BMP" if name.endswith("bmp") else "PNG"))
    return tmp_path / "images"


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def table(path: Path, rows: list[int], labels: bool = True) -> Path:
    columns = {"image": [{"bytes": encoded(value), "path": f"{value}.png"} for value in rows]}
    if labels:
        columns["label"] = [value // 10 for value in rows]  # pyright: ignore[reportArgumentType]
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


def test_folder_in_order_of_paths_with_labels_of_the_first_level(folder: Path) -> None:
    assert values(folder) == [20, 10, 0]
    assert labels_of(open_source(str(folder)), "it").tolist() == [0, 0, 1]
    source = open_source(str(folder))
    assert source.name(1) == str(Path("a") / "deep" / "2.JPG")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(1))
    with pytest.raises(WrongRequest, match="no labels"):
        labels_of(open_source(str(tmp_path)), str(tmp_path))


def test_tar_shards_by_pattern_and_folder(tmp_path: Path) -> None:
    shard(tmp_path / "t-000.tar", {"x/0.png": encoded(7), "x/0.cls": b"3\n", "1.png": encoded(8), "1.cls": b"1"})
    shard(tmp_path / "t-001.tar", {"2.cls": b"0", "2.jpg": encoded(9)})
    for spec in (tmp_path, tmp_path / "t-*.tar", tmp_path / "t-00[01].tar"):
        assert values(spec) == [7, 8, 9]
    assert labels_of(open_source(str(tmp_path)), "").tolist() == [3, 1, 0]


def test_parquet_across_row_groups_and_files(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", list(range(0, 110, 10)))
    table(tmp_path / "b.parquet", [200])
    assert values(tmp_path) == [*range(0, 110, 10), 200]
    assert labels_of(open_source(str(tmp_path / "a.parquet")), "").tolist() == list(range(11))
    table(tmp_path / "c.parquet", [5], labels=False)
    assert open_source(str(tmp_path / "c.parquet")).label(0) is None


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", [10, 20])
    assert values(path) == [10, 20]
    table(path, [30, 40, 50])
    assert values(path) == [30, 40, 50]


def test_joined(tmp_path: Path, folder: Path) -> None:
    path = table(tmp_path / "a.parquet", [10, 20])
    assert values(f"{path}, {folder},{path}") == [10, 20, 20, 10, 0, 10, 20]
    assert open_source(f"{path},{folder}").label(1) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "nowhere", "does not exist"),
        (lambda p: p, "holds no images"),
        (lambda p: p / "*.tar", "no file matches"),
        (lambda p: written(p / "x.mp4", b""), "no kind of data"),
        (lambda p: written(p / "x.tar", b"junk" * 999), "no readable tar"),
        (lambda p: shard(p / "e.tar", {"a.cls": b"1"}), "holds no images"),
        (lambda p: written(p / "x.parquet", b"junk"), "no readable parquet"),
        (
            lambda p: (pq.write_table(pa.table({"a": [1]}), p / "n.parquet"), p / "n.parquet")[1],
            "no column of images: .* are a ",
        ),
        (lambda p: f"{p},", "empty name"),
        (lambda p: written(p / "x.zip", b"junk"), "no readable zip"),
        (lambda p: zipped(p / "e.zip", {"a.txt": b"1"}), "holds no images"),
        (lambda p: written(p / "e.txt", b"\n\n"), "names no images"),
        (lambda p: written(p / "e.csv", b"colour,shape\n"), "header must be path,label"),
        (lambda p: written(p / "r.txt", b"# rows of shapes:5\n0\n5\n"), "rows that shapes:5 does not have"),
        (lambda p: written(p / "w.txt", b"# rows of shapes:5\nfive\n"), "something else than row numbers"),
        (lambda p: "coco:nothing", "names no images: write coco:"),
        (lambda p: f"coco:{p / 'x.json'}@{p}", "does not exist"),
        (lambda p: f"coco:{written(p / 'c.json', b'[1]')}@{p}", "no COCO or LVIS"),
        (lambda p: f"coco:{written(p / 'j.json', b'{')}@{p}", "no readable JSON"),
    ],
)
def test_wrong_requests_are_named(tmp_path: Path, make, said: str) -> None:
    with pytest.raises(WrongRequest, match=said):
        open_source(str(make(tmp_path)))


def test_a_file_deleted_meanwhile_is_a_broken_image(folder: Path) -> None:
    source = open_source(str(folder))
    (folder / "b/1.png").unlink()
    with pytest.raises(BrokenImage, match=r"1\.png"):
        source.read(2)


def test_real_data(real_data: Path) -> None:
    source = open_source(str(real_data / "cifar10/train.parquet"))
    assert len(source) == 50_000
    assert np.bincount(labels_of(source, "")).tolist() == [5000] * 10
    assert picture_of(source, 49_999).width == 32
    shards = open_source(str(real_data / "imagenette128/train-*.tar"))
    assert (len(shards), picture_of(shards, 9468).height) == (9469, 128)


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_lists_are_relative_to_their_file(folder: Path, tmp_path: Path) -> None:
    listed = written(tmp_path / "some.txt", b"images/b/1.png\r\n\nimages/a/3.bmp\n")
    assert values(listed) == [0, 20]
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    assert values(written(elsewhere / "x.txt", f"../images/a/3.bmp\n{folder / 'b/1.png'}".encode())) == [20, 0]
    assert open_source(str(listed)).label(0) is None


def test_csv_with_and_without_labels(folder: Path, tmp_path: Path) -> None:
    rows = 'label,path\nfrog,images/b/1.png\n"cat","images/a/3.bmp"\nfrog,images/a/deep/2.JPG\n'
    source = open_source(str(written(tmp_path / "l.csv", rows.encode())))
    assert labels_of(source, "").tolist() == [1, 0, 1]
    assert values(tmp_path / "l.csv") == [0, 20, 10]
    numbers = written(tmp_path / "n.csv", b"path,label\nimages/b/1.png,7\nimages/a/3.bmp,\n")
    assert [open_source(str(numbers)).label(index) for index in (0, 1)] == [7, None]
    assert values(written(tmp_path / "p.csv", b"path\nimages/b/1.png\n")) == [0]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_stored_and_deflated(tmp_path: Path, method: int) -> None:
    members = {"dog/9.png": encoded(5), "cat/1.png": encoded(6), "notes.txt": b"x", "__MACOSX/dog/._9.png": b"junk"}
    path = zipped(tmp_path / "z.zip", members, method)
    assert values(path) == [6, 5]
    assert labels_of(open_source(str(path)), "").tolist() == [0, 1]
    assert open_source(str(path)).name(1) == "z.zip/dog/9.png"
    flat = zipped(tmp_path / "flat.zip", {"1.png": encoded(5), "cat/1.png": encoded(6)}, method)
    assert open_source(str(flat)).label(1) is None


def test_more_shards_than_open_files(tmp_path: Path) -> None:
    for number in range(MOST_OPEN + 20):
        shard(tmp_path / f"{number:03}.tar", {"0.png": encoded(number)})
    assert values(tmp_path) == list(range(MOST_OPEN + 20))
    assert values(tmp_path) == list(range(MOST_OPEN + 20))  # from the kept indexes, over closed files
    assert len(list(Path("/proc/self/fd").iterdir())) < 3 * MOST_OPEN


def test_coco_and_lvis(tmp_path: Path) -> None:
    (tmp_path / "pics/val2017").mkdir(parents=True)
    (tmp_path / "pics/val2017/1.png").write_bytes(encoded(9))
    crowd = {"image_id": 77, "category_id": 90, "bbox": [0, 1, 2, 3], "iscrowd": 1, "segmentation": {"counts": "x"}}
    content = {
        "images": [
            {"id": 77, "file_name": "val2017/1.png"},
            {"id": 5, "coco_url": "http://images.cocodataset.org/val2017/1.png"},  # as LVIS names them
        ],
        "annotations": [crowd],
    }
    annotations = written(tmp_path / "a.json", json.dumps(content).encode())
    source = open_source(f"coco:{annotations}@{tmp_path / 'pics'}")
    assert isinstance(source, CocoImages)
    assert [int(picture_of(source, index).decode()[0, 0, 0]) for index in range(2)] == [9, 9]
    assert (source.annotations(0), source.annotations(1)) == ([crowd], [])
    assert (source.image_id(1), source.label(0)) == (5, None)


def test_pixel_labels(tmp_path: Path) -> None:
    for name in ("deep/a", "b"):
        for kind, level in (("images", 200), ("labels", 3)):
            path = tmp_path / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if kind == "images" else "L", (6, 4), level if kind == "labels" else (level,) * 3).save(
                path
            )
    source = open_source(f"pixels:{tmp_path / 'images'}@{tmp_path / 'labels'}")
    assert isinstance(source, LabelledPixels)
    assert len(source) == 2 and (source.pixel_labels(1) == np.full((4, 6), 3)).all()
    (tmp_path / "labels/b.png").unlink()
    with pytest.raises(WrongRequest, match=r"no labels for 1 of 2 images, b\.png for one"):
        open_source(f"pixels:{tmp_path / 'images'}@{tmp_path / 'labels'}")


def test_hugging_face_from_a_local_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub's own client left in its cache is found without a network."""
    snapshot = tmp_path / "hub/datasets--some--cats/snapshots/abc123"
    (snapshot / "data").mkdir(parents=True)
    table(snapshot / "data/train-00000-of-00001.parquet", [10, 20])
    table(snapshot / "data/test-00000-of-00001.parquet", [30])
    refs = tmp_path / "hub/datasets--some--cats/refs"
    refs.mkdir()
    (refs / "main").write_text("abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert values("hf:some/cats") == [10, 20]
    assert values("hf:some/cats:test") == [30]
    with pytest.raises(WrongRequest, match="hf:some/dogs:train has no parquet files"):
        open_source("hf:some/dogs")


def test_torchvision_from_a_local_copy() -> None:
    raw = cache_folder() / "torchvision/MNIST/raw"
    raw.mkdir(parents=True)
    pixels, labels = np.zeros((3, 28, 28), np.uint8), np.array([4, 0, 9], np.uint8)
    pixels[:] = np.array([10, 20, 30])[:, None, None]
    for split in ("train", "t10k"):
        header = (0x803).to_bytes(4, "big") + b"".join(side.to_bytes(4, "big") for side in pixels.shape)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(
            (0x801).to_bytes(4, "big") + (3).to_bytes(4, "big") + labels.tobytes()
        )
    assert values("torchvision:MNIST") == [10, 20, 30]
    assert labels_of(open_source("torchvision:MNIST:test"), "").tolist() == [4, 0, 9]
    for wrong, said in (("Mnist", "no dataset 'Mnist'"), ("MNIST:val", "splits train and test")):
        with pytest.raises(WrongRequest, match=said):
            open_source(f"torchvision:{wrong}")


def test_torchvision_s_datasets_may_decode_late(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.new("CMYK", (4, 3)).save(whole, "JPEG")
    (tmp_path / "cmyk.jpg").write_bytes(whole.getvalue())
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "long.jpg")
    (tmp_path / "long.jpg").write_bytes((tmp_path / "long.jpg").read_bytes()[:-300])
    source = TorchvisionImages([(Image.open(tmp_path / name), 0) for name in ("cmyk.jpg", "long.jpg")], "Late:train")
    assert picture_of(source, 0).height == 3
    with pytest.raises(BrokenImage, match=r"Late:train\[1\]: image file is truncated"):
        source.read(1)


def test_an_index_is_made_once_and_again_after_a_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    walk = files.walk
    monkeypatch.setattr(files, "walk", lambda root, *rest: made.append(root) or walk(root, *rest))
    assert values(folder) == values(folder) == [20, 10, 0]
    assert len(made) == 1
    (folder / "a/deep/0.png").write_bytes(encoded(70))
    assert values(folder) == [20, 70, 10, 0]
    assert len(made) == 2
    assert len([path for path in cache_folder().iterdir() if path.name.startswith("tmp-")]) == 0


def test_sources_travel_to_workers_without_their_tables(folder: Path, tmp_path: Path) -> None:
    lines = "\n".join(["images/b/1.png"] * 50_000)
    source = open_source(f"{written(tmp_path / 'l.txt', lines.encode())},{folder}")
    sent = pickle.dumps(source)
    assert len(sent) < 5000
    again = pickle.loads(sent)
    assert len(again) == 50_003 and again.read(50_002) == source.read(50_002)
