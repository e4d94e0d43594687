import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from otherview.data.picture import picture_of
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
        (lambda p: (pq.write_table(pa.table({"a": [1]}), p / "n.parquet"), p / "n.parquet")[1], "no column 'image'"),
        (lambda p: f"{p},", "empty name"),
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
