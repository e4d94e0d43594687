"""TIFF as it comes: values as they are in the file, channels as channels, alpha only where the file says so."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from otherview.data import tiff
from otherview.data.doctor import _kind
from otherview.data.image import Preprocessing
from otherview.data.picture import open_picture
from otherview.errors import BrokenImage, WrongChannels

RNG = np.random.default_rng(0)
CUBE = np.kron(RNG.random((5, 6, 8)), np.ones((8, 8)))
"""Smooth, [5, 48, 64] in 0 … 1."""
DEEP = (CUBE * 60000).astype(np.uint16)
LAST = DEEP.transpose(1, 2, 0)


def written(array: np.ndarray, **options: Any) -> bytes:
    held = io.BytesIO()
    tifffile.imwrite(held, array, **options)
    return held.getvalue()


def seen(data: bytes, channels: int = 3, levels: Any = "auto") -> np.ndarray:
    return open_picture(data, "it", Preprocessing(channels=channels, levels=levels)).decode()


def levels_of(deep: np.ndarray) -> np.ndarray:
    return np.rint(deep / 257).astype(np.uint8)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_five_channels_however_they_are_packed(compression: str | None, planar: str) -> None:
    array = LAST if planar == "contig" else DEEP
    data = written(
        array, photometric="rgb", planarconfig=planar, extrasamples=[0, 0], compression=compression,
        predictor=compression in ("lzw", "deflate"),
    )  # fmt: skip
    assert (seen(data, 5) == levels_of(LAST)).all()
    with pytest.raises(WrongChannels) as caught:
        seen(data, 3)
    assert caught.value.channels == 5
    assert _kind(data, 5) == "TIFF uint16 ×5"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_sample_is_alpha_only_where_the_file_says_so(dtype: type) -> None:
    values = LAST[..., :4] if dtype is np.uint16 else levels_of(LAST[..., :4])
    shown = levels_of(LAST[..., :4]) if dtype is np.uint16 else values
    infrared = written(values, photometric="rgb", extrasamples=[0])
    assert (seen(infrared, 3) == shown[..., :3]).all() and (seen(infrared, 4) == shown).all()
    alpha = values.copy()
    alpha[..., 3] = 0
    assert (seen(written(alpha, photometric="rgb", extrasamples=["unassalpha"]), 3) == 255).all()
    alpha[..., 3] = np.iinfo(dtype).max
    opaque = written(alpha, photometric="rgb", extrasamples=["unassalpha"])
    assert (seen(opaque, 3) == shown[..., :3]).all()


def test_pages_are_channels_where_ome_says_so() -> None:
    held = io.BytesIO()
    tifffile.imwrite(held, DEEP[:3], photometric="minisblack", ome=True, metadata={"axes": "CYX"})
    assert (seen(held.getvalue(), 3) == levels_of(LAST[..., :3])).all()
    assert _kind(held.getvalue(), 3) == "TIFF uint16 ×3"
    with pytest.raises(WrongChannels, match="48, 64, 3"):
        seen(held.getvalue(), 1)
    frames = written(DEEP[:3], photometric="minisblack")
    assert (seen(frames, 3) == levels_of(DEEP[0])[..., None]).all() and (
        seen(frames, 1)[..., 0] == levels_of(DEEP[0])
    ).all()


def test_floats_and_where_there_are_no_values() -> None:
    reflectance = CUBE[:3].transpose(1, 2, 0).astype(np.float32)
    assert (seen(written(reflectance, photometric="rgb")) == np.rint(255 * reflectance)).all()
    kelvin = (200 + 2800 * CUBE[0]).astype(np.float32)
    kelvin[:8, :8] = np.nan
    data = written(kelvin)
    with pytest.raises(BrokenImage, match=r"from \d+\.?\d* to \d+.*views\.levels"):
        seen(data, 1, "type")
    shown = seen(data, 1, (200.0, 3000.0))
    assert (shown[:8, :8] == 0).all() and abs(int(shown[20, 20, 0]) - 255 * CUBE[0, 20, 20]) < 1
    assert seen(data, 3, (200.0, 3000.0)).shape == (48, 64, 3)
    assert _kind(data, 1) == "TIFF float32 with NaN"


@pytest.mark.parametrize("installed", [True, False])
def test_one_channel_needs_no_package_and_keeps_its_type(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "INSTALLED", installed)
    deep = written(DEEP[0])
    assert (seen(deep, 1)[..., 0] == levels_of(DEEP[0])).all() and seen(deep, 3).shape == (48, 64, 3)
    signed = written((DEEP[0].astype(int) - 30_000).astype(np.int16))
    assert open_picture(signed, "it", Preprocessing(channels=1)).values.kind == "TIFF int16"  # pyright: ignore
    shown = seen(signed, 1, (-30_000.0, 30_000.0))
    assert abs(int(shown[20, 20, 0]) - 255 * CUBE[0, 20, 20]) < 1
    assert (seen(written(levels_of(LAST[..., :3]), photometric="rgb")) == levels_of(LAST[..., :3])).all()


def test_what_needs_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    five = written(LAST, photometric="rgb", extrasamples=[0, 0])
    infrared = written(LAST[..., :4], photometric="rgb", extrasamples=[0])
    with monkeypatch.context() as without:
        without.setattr(tiff, "INSTALLED", False)
        for data, channels in ((five, 5), (infrared, 4), (infrared, 3)):
            with pytest.raises(BrokenImage, match=r"needs tifffile: pip install 'otherview\[tiff\]'"):
                seen(data, channels)

    def undecoded(*_: Any, **__: Any) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", undecoded)
    with pytest.raises(BrokenImage, match=r"its LZW compression needs imagecodecs: pip install 'otherview\[tiff\]'"):
        seen(written(LAST, photometric="rgb", extrasamples=[0, 0], compression="lzw"), 5)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "YCbCr"])
def test_pictures_look_as_pillow_shows_them(mode: str, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "INSTALLED", installed)
    picture = Image.fromarray(levels_of(LAST[..., :3]))
    held = io.BytesIO()
    picture.convert("YCbCr" if mode == "YCbCr" else mode).save(held, "TIFF")
    expected = np.asarray(Image.open(io.BytesIO(held.getvalue())).convert("RGB"))
    assert (seen(held.getvalue()) == expected).all()


@pytest.mark.parametrize("bits", [4, 12])
def test_packed_bits(bits: int) -> None:
    small = (DEEP[0] >> (16 - bits)).astype(np.uint16 if bits > 8 else np.uint8)
    data = written(small, bitspersample=bits) if bits != 4 else four_bits(small)
    for levels in ("auto", "type", (0.0, 2.0**bits - 1)):  # the file says how many bits it has
        assert (seen(data, 1, levels)[..., 0] == np.rint(small * (255 / (2**bits - 1)))).all()


def four_bits(small: np.ndarray) -> bytes:
    """tifffile writes no packed integers below a byte: by hand, one strip."""
    import struct

    strip = ((small[:, ::2] << 4) | small[:, 1::2]).astype(np.uint8).tobytes()
    tags = [(256, 64), (257, 48), (258, 4), (259, 1), (262, 1), (273, 8), (277, 1), (278, 48), (279, len(strip))]
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + table + bytes(4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_files_are_turned_upright(orientation: int) -> None:
    data = written(LAST, photometric="rgb", extrasamples=[0, 0], extratags=[(274, "H", 1, orientation, True)])
    picture = Image.fromarray(levels_of(LAST[..., :3]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    held = io.BytesIO()
    picture.save(held, "PNG", exif=exif)
    assert (seen(data, 5)[..., :3] == seen(held.getvalue())).all()


@pytest.mark.parametrize(("dtype", "nodata"), [(np.float32, -9999), (np.int16, -9999), (np.uint16, 65535)])
def test_pixels_without_a_value_are_black(dtype: type, nodata: int) -> None:
    """As GDAL says it; they must not stretch the range."""
    values = (1000 + 3000 * CUBE[0]).astype(dtype)
    values[:8, :8] = nodata
    data = written(values, extratags=[(42113, "s", 0, str(nodata), True)])
    found = open_picture(data, "it", Preprocessing(channels=1)).values  # pyright: ignore
    assert found is not None and np.nanmin(found.array) >= 1000 and np.nanmax(found.array) <= 4000
    shown = seen(data, 1, (1000.0, 4000.0))[..., 0]
    assert shown[:8, :8].max() <= 1 and np.abs(shown[20:, 20:] - 255 * CUBE[0, 20:, 20:]).max() < 1


def test_every_file_of_a_folder_is_accounted_for(tmp_path: Path) -> None:
    """Counted as an image or named by kind: nothing goes without a word."""
    from otherview.data.foreign import left_out
    from otherview.data.spec import open_source

    picture = Image.fromarray(levels_of(LAST[..., :3]))
    for name, options in {
        "cmyk.jpg": {}, "gray.gif": {}, "still.avif": {}, "photo.jp2": {}, "fax.tif": {"compression": "group4"}, "lab.tif": {},
        "jpeg.tif": {"compression": "jpeg"}, "name with, comma [1].png": {}, "-dash.png": {}, "webp.webp": {},
    }.items():  # fmt: skip
        modes = {"cmyk.jpg": "CMYK", "gray.gif": "L", "fax.tif": "1", "lab.tif": "LAB"}
        picture.convert(modes.get(name, "RGB")).save(tmp_path / name, **options)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "pixel.png")
    Image.new("RGB", (4000, 8), "blue").save(tmp_path / "panorama.png")
    for name in ("photo.cr2", "photo.jxl", "notes.txt", "no_ending", "clip.mp4"):
        (tmp_path / name).write_bytes(b"something else")
    source = open_source(str(tmp_path))
    assert len(source) == 12 and sum(left_out(source).values()) == 5
    for index in range(12):
        pixels = open_picture(source.read(index), source.name(index)).decode()
        assert pixels.shape[2] == 3 and pixels.dtype == np.uint8
