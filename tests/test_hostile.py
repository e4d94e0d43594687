"""Hostile, damaged and odd containers: a clear line, nothing hangs, nothing is written outside, nothing is lost unsaid."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from otherview.data.index_cache import cache_folder
from otherview.data.picture import picture_of
from otherview.data.source import labels_of, same_numbers
from otherview.data.spec import open_source
from otherview.errors import BrokenImage, WrongRequest
from tests.test_sources import encoded, folder, shard, table, values, written, zipped

__all__ = ["folder"]  # a fixture


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png"])
def test_archives_that_would_leave_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    for path in (shard(tmp_path / "s.tar", {name: encoded(1)}), zipped(tmp_path / "s.zip", {name: encoded(1)})):
        with pytest.raises(WrongRequest, match="names a file outside itself"):
            open_source(str(path))
    annotations = written(tmp_path / "a.json", json.dumps({"images": [{"id": 1, "file_name": name}]}).encode())
    with pytest.raises(WrongRequest, match="outside its folder"):
        open_source(f"coco:{annotations}@{tmp_path}")


def test_links_are_followed_once_and_loops_end(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "9.png").write_bytes(encoded(90))
    (folder / "d").symlink_to(outside)  # a class kept elsewhere
    (folder / "a/loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    assert values(folder) == [20, 10, 0, 90]
    assert labels_of(open_source(str(folder)), "").tolist() == [0, 0, 1, 2]


def test_a_zip_bomb_is_a_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = b"P5 3000 3000 255\n" + bytes(9_000_000)  # an image like any other, if one may be that large
    path = zipped(tmp_path / "bomb.zip", {"a.ppm": flat})
    assert path.stat().st_size < 100_000
    assert picture_of(open_source(str(path)), 0).height == 3000
    monkeypatch.setattr("otherview.data.archives.LARGEST_IMAGE", 1_000_000)
    with pytest.raises(BrokenImage, match=r"a\.ppm: 9,000,017 bytes for one image"):
        picture_of(open_source(str(path)), 0)


def test_a_shard_cut_short_names_its_image(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"0.png": encoded(1), "1.png": encoded(2)})
    source = open_source(str(path))
    with path.open("r+b") as file:
        file.truncate(1200)
    with pytest.raises(BrokenImage, match=r"s\.tar/1\.png"):
        source.read(1)


def test_a_pipe_and_a_giant_do_not_hang(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(1))
    os.mkfifo(tmp_path / "1.png")
    with (tmp_path / "2.png").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    source = open_source(str(tmp_path))
    for index in (1, 2):
        with pytest.raises(BrokenImage, match=rf"{index}\.png: no file, or too large"):
            source.read(index)


def test_names_in_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xff\n.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).write_bytes(encoded(42))
    assert values(tmp_path / "images") == [42]
    open_source(str(tmp_path / "images")).name(0).encode()


def test_a_side_file_does_not_take_the_image_s_place(tmp_path: Path) -> None:
    array = written(tmp_path / "x.npy", b"")
    np.save(array, np.zeros(512))
    side = array.read_bytes()
    members = {"0.jpg": encoded(7), "0.npy": side, "0.png": encoded(9), "1.npy": side, "0.cls": b"1"}
    assert values(shard(tmp_path / "s.tar", members)) == [7, 9]
    pairs = {**members, "1.jpg": encoded(8), "1.png": encoded(9)}  # a picture of every image, of its mask perhaps
    assert values(shard(tmp_path / "p.tar", pairs)) == [7, 8]
    assert values(zipped(tmp_path / "s.zip", {"a/0.png": encoded(7), "a/0.npy": side})) == [7]
    pixels = tmp_path / "pixels.npy"
    np.save(pixels, np.full((10, 12, 3), 5, np.uint8))
    assert values(shard(tmp_path / "n.tar", {"0.npy": pixels.read_bytes()})) == [5]


def test_damaged_shards_are_refused_not_cut_short(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"0.png": encoded(1), "1.png": encoded(2), "2.png": encoded(3)})
    content = bytearray(path.read_bytes())
    second = content.index(b"1.png")
    for damage, said in (
        (lambda c: c.__setitem__(slice(second + 148, second + 156), b"99999999"), "damaged header"),
        (lambda c: backwards(c, second), "damaged"),
    ):
        broken = bytearray(content)
        damage(broken)
        with pytest.raises(WrongRequest, match=f"no readable tar shard .*{said}"):
            open_source(str(written(tmp_path / f"{said.split()[-1]}.tar", bytes(broken))))


def backwards(content: bytearray, header: int) -> None:
    """A size of −512, which tarfile follows back for ever."""
    content[header + 124 : header + 136] = b"\xff" * 10 + b"\xfe\x00"
    content[header + 148 : header + 156] = b" " * 8
    content[header + 148 : header + 156] = f"{sum(content[header : header + 512]):06o}\0 ".encode()


def test_a_flipped_byte_in_a_zip_is_noticed(tmp_path: Path) -> None:
    ppm = b"P6 4 4 255\n" + bytes(48)
    path = zipped(tmp_path / "z.zip", {"a.ppm": ppm}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(ppm) + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenImage, match="not what the archive says"):
        open_source(str(path)).read(0)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.csv", b"path,label\nx.png,99999999999999999999\n", None),
        ("h.csv", b"path, label\nimages/b/1.png, 3\n", [3]),
        ("f.csv", b"path,label\na,10.0\nb,2.0\n", [10, 2]),
        ("m.csv", b"path,label\na,-1\nb,10\nc,2\n", [None, 10, 2]),
        ("r.csv", b"path,label\r\na,1\r\n,2\r\nb\r\n", [1, 2, None]),
    ],
)
def test_odd_csv_files(tmp_path: Path, name: str, content: bytes, said: list[int | None] | None) -> None:
    source = open_source(str(written(tmp_path / name, content)))
    found = [source.label(index) for index in range(len(source))]
    assert found == (said if said is not None else [0])


def test_a_row_without_a_path_is_a_broken_image(tmp_path: Path) -> None:
    source = open_source(str(written(tmp_path / "l.csv", b"path,label\n,2\n")))
    with pytest.raises(BrokenImage, match="row 0 without a path"):
        source.read(0)


def test_classes_of_joined_sources_are_joined_by_name(tmp_path: Path) -> None:
    for place, value in (("one/cat/1", 1), ("one/dog/2", 2), ("two/ant/3", 3), ("two/dog/4", 4)):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(value))
    both = open_source(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert both.classes == ["ant", "cat", "dog"]
    assert labels_of(both, "").tolist() == [1, 2, 0, 2]
    one, two = open_source(str(tmp_path / "one")), open_source(str(tmp_path / "two"))
    assert same_numbers(np.array([1]), of=two.classes, like=one.classes).tolist() == [1]  # dog is class 1 in both
    with pytest.raises(WrongRequest, match="ant"):
        same_numbers(np.array([0]), of=two.classes, like=one.classes)


def test_a_folder_that_may_be_shards_or_images_is_asked_about(tmp_path: Path) -> None:
    shard(tmp_path / "backup.tar", {"0.png": encoded(1)})
    (tmp_path / "1.png").write_bytes(encoded(2))
    with pytest.raises(WrongRequest, match=r"holds shards \(backup\.tar\) and images or folders \(1\.png\)"):
        open_source(str(tmp_path))
    assert values(tmp_path / "*.tar") == [1]


def test_a_comma_in_a_name(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b/1.png").write_bytes(encoded(2))
    assert values(tmp_path / "a,b") == [2]


def test_the_same_data_by_two_names_is_not_indexed_over_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = table(folder.parent / "t.parquet", [10, 20])
    source = open_source(str(parquet))
    monkeypatch.chdir(folder.parent)
    assert values("t.parquet") == [10, 20]
    monkeypatch.chdir("/")
    assert values(parquet) == [10, 20]
    assert source.read(1) == encoded(20)


def test_several_processes_build_an_index_once(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", list(range(0, 250, 10)))
    code = "import sys; from otherview.data.spec import open_source; s = open_source(sys.argv[1]); print(len(s), len(s.read(24)))"
    before = set(cache_folder().iterdir())
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert {process.communicate(timeout=120)[0] for process in running} == {f"25 {len(encoded(240))}\n"}
    (place,) = set(cache_folder().iterdir()) - before
    assert len(list(place.glob("index-*"))) == 1 and not list(place.glob("tmp-*"))


def test_a_folder_that_becomes_readable_is_seen(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (folder / "far").symlink_to(disk)
    assert values(folder) == [20, 10, 0]
    disk.mkdir()
    (disk / "5.png").write_bytes(encoded(50))
    assert values(folder) == [20, 10, 0, 50]


def test_a_cache_that_cannot_be_written_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("OTHERVIEW_CACHE", str(folder / "file/cache"))
    with pytest.raises(WrongRequest, match="set OTHERVIEW_CACHE"):
        open_source(str(folder))


def test_names_do_not_speak_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    (tmp_path / "i/a\x1b]0;x\x07\n.png").write_bytes(b"")
    with pytest.raises(BrokenImage) as caught:
        picture_of(open_source(str(tmp_path / "i")), 0)
    assert str(caught.value).isprintable()


def test_shards_with_labels_that_are_no_numbers(tmp_path: Path) -> None:
    for label in (b"cat", b"99999999999999999999"):
        source = open_source(str(shard(tmp_path / "s.tar", {"0.png": encoded(1), "0.cls": label})))
        assert (source.label(0), source.classes) == (0, [label.decode()])


def test_a_list_with_null_bytes_in_its_folders(tmp_path: Path) -> None:
    written(tmp_path / "l.txt", b"a\0b/1.jpg\na\0b/2.jpg\n")
    source = open_source(str(tmp_path / "l.txt"))
    for _ in range(2):  # made, and looked up
        with pytest.raises(BrokenImage):
            open_source(str(tmp_path / "l.txt")).read(0)
    assert len(source) == 2
