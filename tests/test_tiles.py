"""tiles: and slices:, images that are parts of files, against the whole file cut by hand."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from otherview.data.image import RGB, Preprocessing
from otherview.data.picture import open_picture, picture_of
from otherview.data.ranges import with_ranges
from otherview.data.source import Source
from otherview.data.spec import absolute, open_source
from otherview.data.tiff_windows import Canvas
from otherview.data.tiles import Grid
from otherview.data.values import Values, packed, unpacked
from otherview.errors import BrokenImage, WrongRequest

RNG = np.random.default_rng(0)


def scene(height: int, width: int, *, dtype: type = np.uint8, samples: int = 3) -> np.ndarray:
    most = np.iinfo(dtype).max
    return RNG.integers(0, most, (height, width, samples) if samples > 1 else (height, width), dtype, endpoint=True)


LAYOUTS: list[dict[str, Any]] = [
    {"tile": (64, 80), "photometric": "rgb", "compression": "deflate", "predictor": True},
    {"rowsperstrip": 7, "photometric": "rgb", "compression": "lzw"},
    {"tile": (32, 32), "photometric": "rgb", "planarconfig": "separate"},
    {"tile": (48, 64), "photometric": "rgb", "extrasamples": [0, 0]},
    {"tile": (64, 64), "photometric": "minisblack", "bigtiff": True},
    {"tile": (64, 64), "photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}},
    {"photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}, "compression": "deflate"},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_windows_are_the_whole_cut(layout: dict[str, Any], dtype: type, tmp_path: Path) -> None:
    pages = "metadata" in layout
    samples = 5 if "extrasamples" in layout else 4 if pages else 1 if layout["photometric"] == "minisblack" else 3
    whole = scene(150, 205, dtype=dtype, samples=samples)
    written = np.moveaxis(whole, -1, 0) if layout.get("planarconfig") == "separate" or pages else whole
    tifffile.imwrite(tmp_path / "a.tif", written, **layout)
    with Canvas(tmp_path / "a.tif") as canvas:
        assert canvas.sizes == [(150, 205)]
        for top, left, height, width in (
            (0, 0, 150, 205),
            (3, 5, 40, 50),
            (149, 204, 1, 1),
            (63, 79, 3, 3),
            (100, 0, 50, 205),
        ):
            found = canvas.window(0, top=top, left=left, height=height, width=width)
            assert (found.array == whole[top : top + height, left : left + width]).all() and found.format == "TIFF"


def test_a_window_reads_its_tiles_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", scene(640, 640), tile=(64, 64), photometric="rgb")
    with Canvas(tmp_path / "a.tif") as canvas:
        asked: list[int] = []
        read = tifffile.FileHandle.read
        monkeypatch.setattr(
            tifffile.FileHandle, "read", lambda self, size=-1: (asked.append(size), read(self, size))[1]
        )
        canvas.window(0, top=64, left=128, height=64, width=128)
        assert asked == [64 * 64 * 3] * 2


def pyramid(path: Path, whole: np.ndarray, levels: int = 3) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(whole, tile=(64, 64), photometric="rgb", subifds=levels - 1, compression="deflate")
        for level in range(1, levels):
            smaller = whole[:: 2**level, :: 2**level]
            writer.write(smaller, tile=(64, 64), photometric="rgb", subfiletype=1, compression="deflate")


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """White glass with two pieces of tissue; the noise of a camera everywhere."""
    whole = (235 + RNG.integers(0, 3, (512, 768, 3))).astype(np.uint8)
    whole[70:180, 140:300] = scene(110, 160)
    whole[400:500, 600:700] = scene(100, 100)
    pyramid(tmp_path / "slide.tif", whole)
    return tmp_path / "slide.tif"


def names(source: Source) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def test_glass_is_left_out(slide: Path) -> None:
    whole = tifffile.imread(slide)
    tiles = open_source(f"tiles:{slide.parent}@64")
    kept = {tuple(map(int, name.split("@")[1].split(","))) for name in names(tiles)}
    shown = {
        (top, left)
        for top in range(0, 512, 64)
        for left in range(0, 768, 64)
        if (whole[top : top + 64, left : left + 64] < 200).any()
    }
    assert kept == shown and len(shown) < 30
    for index in (0, len(tiles) // 2, len(tiles) - 1):
        top, left = map(int, tiles.name(index).split("@")[1].split(","))
        assert (picture_of(tiles, index).decode() == whole[top : top + 64, left : left + 64]).all()
    again = open_source(f"tiles:{slide.parent}@64")  # from the cache, and the same
    assert names(again) == names(tiles) and again.read(3) == tiles.read(3)


def test_strides_levels_and_edges(slide: Path, tmp_path: Path) -> None:
    whole = tifffile.imread(slide)
    second = open_source(f"tiles:{slide}@48:24:1") if slide.is_dir() else open_source(f"tiles:{slide.parent}@48:24:1")
    for index in range(len(second)):
        top, left = map(int, second.name(index).split("@")[1].split(","))
        assert top % 24 == 0 or top == 256 - 48
        assert (picture_of(second, index).decode() == whole[::2, ::2][top : top + 48, left : left + 48]).all()
    assert (
        Grid(64, 48).starts(200) == [0, 48, 96, 136]
        and Grid(64, 64).starts(50) == [0]
        and Grid(64, 64).starts(64) == [0]
    )
    assert Grid(64, 64).starts(128) == [0, 64]
    with pytest.raises(WrongRequest, match="levels are 0 … 2, and level 7"):
        len(open_source(f"tiles:{slide.parent}@64:64:7"))


def test_pictures_of_any_kind_are_cut(tmp_path: Path) -> None:
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/dog").mkdir()
    photo = scene(100, 130)
    Image.fromarray(photo).save(tmp_path / "photos/cat/a.png")
    Image.fromarray(photo[:40, :50]).save(tmp_path / "photos/dog/small.png")
    (tmp_path / "photos/dog/broken.png").write_bytes(b"\x89PNG nothing")
    tiles = open_source(f"tiles:{tmp_path}/photos@64")
    assert names(tiles)[:6] == [f"cat/a.png@{top},{left}" for top in (0, 36) for left in (0, 64, 66)]
    assert [tiles.label(index) for index in (0, 6, 7)] == [0, 1, 1] and list(tiles.classes or ()) == ["cat", "dog"]
    assert (picture_of(tiles, 4).decode() == photo[36:, 64:128]).all()
    with pytest.raises(BrokenImage, match=r"dog/broken\.png"):
        picture_of(tiles, 6)
    assert (picture_of(tiles, 7).decode() == photo[:40, :50]).all()  # smaller than a window: whole


def test_windows_without_values_are_ground(tmp_path: Path) -> None:
    scene_ = np.full((128, 192), np.nan, np.float32)
    scene_[:, 70:192] = RNG.random((128, 122)) * 3000
    tifffile.imwrite(tmp_path / "a.tif", scene_, tile=(64, 64))
    tiles = open_source(f"tiles:{tmp_path}@64")
    assert [name.split("@")[1] for name in names(tiles)] == ["0,64", "0,128", "64,64", "64,128"]
    found = with_ranges(tiles, RGB)
    assert found.ranges["TIFF float32"][0][1] == pytest.approx(3000, rel=0.05)
    assert picture_of(tiles, 1, found).decode().dtype == np.uint16


@pytest.mark.parametrize("words", ["tiles:x", "tiles:x@", "tiles:x@a", "tiles:x@0", "tiles:x@5:0", "tiles:x@1:2:3:4"])
def test_wrong_grids_are_named(words: str) -> None:
    with pytest.raises(WrongRequest, match="tiles:SPEC@SIZE"):
        open_source(words)


def test_a_spec_keeps_its_meaning_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("tiles:a/@64:32:1,slices:b,slices:c@0,tiles:shapes:5@32@16") == (
        f"tiles:{tmp_path}/a@64:32:1,slices:{tmp_path}/b,slices:{tmp_path}/c@0,tiles:shapes:5@32@16"
    )


def test_packed_values_come_back() -> None:
    for values in (
        Values(scene(3, 4, dtype=np.uint16), "TIFF", (0.0, 4095.0), (0.0, 65535.0)), Values(np.zeros((2, 2), ">i2"), "DICOM"),
    ):  # fmt: skip
        again = unpacked(packed(values))
        assert (
            (again.array == values.array).all() and again.array.dtype == values.array.dtype and again[1:] == values[1:]
        )


def test_a_corrupt_tile_costs_its_own_windows(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", scene(256, 256), tile=(64, 64), photometric="rgb", compression="deflate")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        where = file.pages[0].dataoffsets[5]  # pyright: ignore
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[where : where + 40] = bytes(40)
    (tmp_path / "a.tif").write_bytes(data)
    (tmp_path / "cut.tif").write_bytes(bytes(data[:30]))
    tiles = open_source(f"tiles:{tmp_path}@64")
    assert len(tiles) == 16 + 1
    bad = []
    for index in range(17):
        try:
            picture_of(tiles, index).decode()
        except BrokenImage as error:
            bad.append(str(error).partition(":")[0])
    assert bad == ["a.tif@64,64", "cut.tif@0,0"]


def test_an_image_is_a_spec(slide: Path) -> None:
    assert names(open_source(str(slide))) == ["slide.tif"]
    assert names(open_source(f"tiles:{slide}@64")) == names(open_source(f"tiles:{slide.parent}@64"))


def test_strips_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scene(200, 300, samples=1)
    tifffile.imwrite(tmp_path / "a.tif", whole, rowsperstrip=200, compression="deflate")
    with Canvas(tmp_path / "a.tif") as canvas:
        asked: list[int] = []
        read = tifffile.FileHandle.read
        monkeypatch.setattr(
            tifffile.FileHandle, "read", lambda self, size=-1: (asked.append(size), read(self, size))[1]
        )
        for left in range(0, 300, 50):
            assert (canvas.window(0, top=3, left=left, height=9, width=50).array == whole[3:12, left : left + 50]).all()
        assert len(asked) == 1
    monkeypatch.setattr("otherview.data.tiff_windows.MOST_SEGMENT", 1000)
    with pytest.raises(BrokenImage, match="by themselves"):
        Canvas(tmp_path / "a.tif")
    assert (
        picture_of(open_source(f"tiles:{tmp_path}@100"), 0).decode()[..., 0] == whole[:100, :100]
    ).all()  # decoded whole


def test_windows_lie_as_a_person_sees_them(tmp_path: Path) -> None:
    whole = scene(100, 140)
    tifffile.imwrite(tmp_path / "a.tif", whole, tile=(32, 32), photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    tiles = open_source(f"tiles:{tmp_path}@64")
    assert (picture_of(tiles, 0).decode() == np.rot90(whole, -1)[:64, :64]).all()


def test_an_archive_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    import os
    import shutil

    for side in (128, 64):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(scene(side, side)).save(tmp_path / "in/a.png")
        archive = shutil.make_archive(str(tmp_path / "images"), "zip", tmp_path / "in")
        os.utime(archive, (side, side))
        assert len(open_source(f"tiles:{archive}@32")) == (side // 32) ** 2


@pytest.fixture
def volumes(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    arrays = [RNG.integers(-1000, 2000, (9, 8, 5 + number)).astype(np.int16) for number in range(3)]
    for number, array in enumerate(arrays):
        image = nibabel.Nifti1Image(array, np.eye(4))
        image.header["descrip"] = b"DOE^JANE 1960"
        nibabel.save(image, tmp_path / f"scan{number}.nii{'.gz' if number else ''}")
    return tmp_path, arrays


def test_slices_of_volumes(volumes: tuple[Path, list[np.ndarray]]) -> None:
    folder, arrays = volumes
    for axis, spec in ((2, f"slices:{folder}"), (0, f"slices:{folder}@0"), (1, f"slices:{folder}@1")):
        source = open_source(spec)
        expected = [(number, frame) for number, array in enumerate(arrays) for frame in range(array.shape[axis])]
        assert names(source) == [f"scan{number}.nii{'.gz' if number else ''}#{frame}" for number, frame in expected]
        for index in (0, len(source) - 1, 6):
            number, frame = expected[index]
            assert (unpacked(source.read(index)).array == np.rot90(arrays[number].take(frame, axis))).all()
    plain = open_source(str(folder))  # without slices: the middle one stands for the volume
    assert len(plain) == 3
    found = open_picture(plain.read(2), "a", Preprocessing(channels=1, levels=(-1000.0, 2000.0))).decode()[..., 0]
    assert np.abs(found / 255 * 3000 - 1000 - np.rot90(arrays[2][:, :, 3])).max() < 10
    with pytest.raises(WrongRequest, match="axis 7"):
        open_source(f"slices:{folder}@7")


def test_pages_are_frames(tmp_path: Path) -> None:
    frames = scene(20, 30, samples=4).transpose(2, 0, 1).copy()
    tifffile.imwrite(tmp_path / "film.tif", frames, photometric="minisblack", metadata=None)
    Image.fromarray(frames[0]).save(tmp_path / "still.png")
    source = open_source(f"slices:{tmp_path}")
    assert names(source) == ["film.tif#0", "film.tif#1", "film.tif#2", "film.tif#3", "still.png"]
    for index, frame in enumerate([*frames, frames[0]]):
        assert (picture_of(source, index).decode()[..., 0] == frame).all()


HUGE = """
import sys
import numpy as np, tifffile
from pathlib import Path
path, side, tile = Path(sys.argv[1]), 40_960, 1024
def parts():
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 255, (tile, tile), np.uint8)
    blank = np.full((tile, tile), 240, np.uint8)
    for number in range((side // tile) ** 2):
        yield shown if number % 100 == 7 else blank
if sys.argv[2] == "write":
    tifffile.imwrite(path / "a.tif", parts(), shape=(side, side), dtype=np.uint8, tile=(tile, tile), compression="deflate",
                     compressionargs={"level": 1}, bigtiff=True)
else:
    from otherview.data.picture import picture_of
    from otherview.data.spec import open_source
    source = open_source(f"tiles:{path}@512")
    pixels = [picture_of(source, index).decode() for index in range(0, len(source), 9)]
    from otherview.bench.contenders import status_mb
    print(len(source), int(status_mb("VmHWM")), np.mean([one.std() for one in pixels]))
"""


@pytest.mark.slow
def test_a_huge_file_fits_into_little_memory(tmp_path: Path) -> None:
    """40,960 × 40,960 pixels: 1.7 GB, in tiles."""
    for what in ("write", "read"):
        done = subprocess.run([sys.executable, "-c", HUGE, tmp_path, what], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    count, megabytes, spread = done.stdout.split()
    assert int(count) == 16 * 4 and int(megabytes) < 1000 and float(spread) > 60


@pytest.mark.slow
def test_a_run_on_tiles(slide: Path, result_of: Callable[..., dict], tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out")
    spec = f"tiles:{slide.parent}@32"
    found = result_of("doctor", "--data", spec, "--out", out / "found", "--workers", 2)
    assert found["unreadable"] == 0 and "tiles:" in Path(found["good"]).read_text()
    trained = result_of(
        "pretrain", "--recipe", "siamese_im_cpu_adamw", "--data", spec, "--steps", 3, "--batch", 8, "--out", out / "run",
        "--training.workers", 2,
    )  # fmt: skip
    assert trained["steps"] == 3 and trained["broken_images"] == 0
