"""What a person would see, whatever the file: modes, depths, pages, rotations, reduced decoding, faults."""

import io
import re
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from otherview.data.decode import MOST_PIXELS
from otherview.data.image import RGB, Preprocessing
from otherview.data.picture import open_picture
from otherview.errors import BrokenImage
from otherview.geometry import Crop
from otherview.views.crop import cut


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(data: bytes, **preprocessing: object) -> np.ndarray:
    return open_picture(data, "it", Preprocessing(**preprocessing)).decode()  # pyright: ignore[reportArgumentType]


def array_file(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((240, 160), Image.Resampling.BICUBIC)


def test_modes_become_rgb() -> None:
    assert (seen(saved(Image.new("RGBA", (4, 3), (255, 0, 0, 0)))) == 255).all()
    assert (seen(saved(Image.new("LA", (4, 3), (0, 51)))) == 204).all()  # a fifth of black over white
    assert (seen(saved(Image.new("L", (4, 3), 77))) == 77).all()
    assert (seen(saved(Image.new("1", (4, 3), 1))) == 255).all()
    assert (seen(saved(Image.new("CMYK", (4, 3), (0, 0, 0, 0)), "TIFF")) == 255).all()
    assert (seen(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))[5, 5] == (255, 0, 0)).all()
    assert (seen(saved(Image.new("L", (16, 16), 77), "JPEG"))[5, 5] == 77).all()
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert (seen(saved(palette))[0, 0] == (9, 8, 7)).all()
    assert (seen(saved(palette, transparency=1))[0, 0] == 255).all()


def test_sixteen_bits_keep_their_range() -> None:
    levels = np.array([[0, 257, 65535]], np.uint16)
    assert seen(saved(Image.fromarray(levels)))[0, :, 0].tolist() == [0, 1, 255]
    assert seen(saved(Image.fromarray(levels), "TIFF"))[0, :, 1].tolist() == [0, 1, 255]
    assert seen(array_file(levels))[0, :, 2].tolist() == [0, 1, 255]
    assert seen(array_file(levels), levels=(0.0, 514.0))[0, :, 0].tolist() == [0, 128, 255]


def test_sixteen_bit_colour_keeps_its_range(tmp_path: Path) -> None:
    """Pillow keeps the upper half of such levels only."""
    levels = np.zeros((3, 4, 3), np.uint16)
    levels[0, 0] = (4000, 257, 65535)
    for kind in (".png", ".tif"):
        assert cv2.imwrite(str(tmp_path / f"a{kind}"), levels[..., ::-1])
        data = (tmp_path / f"a{kind}").read_bytes()
        assert seen(data)[0, 0].tolist() == [16, 1, 255]
        assert seen(data, levels=(0.0, 4000.0))[0, 0].tolist() == [255, 16, 255]
    assert cv2.imwrite(str(tmp_path / "alpha.png"), np.zeros((3, 4, 4), np.uint16))
    assert (seen((tmp_path / "alpha.png").read_bytes()) == 255).all()
    written = io.BytesIO()
    Image.new("RGBA", (4, 3), (0, 0, 0, 0)).save(written, "PNG")
    for preprocessing in (RGB, Preprocessing(1)):
        assert (open_picture(written.getvalue(), "a", preprocessing).decode() == 255).all()


def test_signed_values() -> None:
    hounsfield = np.array([[-1000, 0, 3000]], np.int16)
    assert seen(array_file(hounsfield))[0, :, 0].tolist() == [0, 64, 255]  # its own values, where nothing is known
    assert seen(array_file(hounsfield), levels="type")[0, :, 0].tolist() == [124, 128, 139]
    assert seen(array_file(hounsfield), channels=1, levels=(-1000.0, 3000.0))[0, :, 0].tolist() == [0, 64, 255]


def test_no_other_door_to_pillow() -> None:
    """Formats that start programs are shut out by name, wherever a file is opened."""
    package = Path(__file__).parents[1] / "otherview"
    opened = [line for path in package.rglob("*.py") for line in path.read_text().splitlines() if "Image.open(" in line]
    assert len(opened) >= 4 and all("formats=FORMATS" in line for line in opened)


def test_pages_of_gray_are_one_channel_each_or_the_first_is_taken() -> None:
    pages = np.random.default_rng(0).integers(0, 256, (3, 11, 13), np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pages, photometric="minisblack")
    assert (seen(buffer.getvalue(), channels=1)[..., 0] == pages[0]).all()
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.concatenate([pages, pages[:2]]), photometric="minisblack")
    assert (seen(buffer.getvalue(), channels=5)[..., 4] == pages[1]).all()


def test_the_first_page_counts() -> None:
    pages = [Image.new("RGB", (4, 3), (level,) * 3) for level in (10, 20)]
    for kind in ("GIF", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert (seen(saved(pages[0], kind, save_all=True, append_images=pages[1:], **options)) == 10).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_rotations_are_undone(photo: Image.Image, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    picture = open_picture(data, "it")
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert (picture.height, picture.width) == expected.shape[:2]
    assert (picture.decode() == expected).all()
    small = picture.reduced(0.4)
    assert small.factor == (2 if kind == "JPEG" else 1)
    assert small.pixels.shape[0] >= 0.4 * picture.height
    crop = Crop(8.0, 12.0, 120.0, 100.0, False)
    here, there = (cut(image, crop, size=(30, 25)).astype(int) for image in (small, picture.reduced(1.0)))
    assert np.abs(here - there).mean() < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [0.5, 0.25, 0.125])
def test_a_crop_lies_at_the_same_place_at_every_resolution(orientation: int, scale: float) -> None:
    """Odd sizes: a reduced decoding has a part of a pixel too many, and rotation may bring it to the front."""
    rows, columns = np.mgrid[:257, :331]
    for ramp in (rows, columns):
        stored = Image.fromarray((10 + 0.7 * ramp).round().astype(np.uint8))
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = open_picture(saved(stored, "JPEG", quality=98, exif=exif), "it")
        for top, left in ((1.0, 2.0), (float(picture.height - 130), float(picture.width - 140))):
            crop = Crop(top, left, 128.0, 128.0, False)
            full, reduced = (cut(picture.reduced(s), crop, size=(16, 16)).astype(int) for s in (1.0, scale))
            pixels_apart = (full - reduced).mean() / 0.7
            assert abs(pixels_apart) < 0.8  # levels are rounded, which is .7 px; seven may be lost at an eighth


@pytest.mark.parametrize("size", [(160, 240), (161, 243), (7, 9)])
@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.2, 4), (0.1, 8), (0.01, 8)])
def test_a_jpeg_is_decoded_no_smaller_than_asked(size: tuple[int, int], scale: float, factor: int) -> None:
    picture = open_picture(saved(Image.new("RGB", size[::-1]), "JPEG"), "it")
    reduced = picture.reduced(scale)
    assert reduced.factor == factor
    assert reduced.pixels.shape == (-(-size[0] // factor), -(-size[1] // factor), 3)
    assert (picture.height, picture.width) == size


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_arrays_of_any_channels_in_either_order(channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (11, 13, channels), np.uint8)
    assert (seen(array_file(array), channels=channels) == array).all()
    assert (seen(array_file(array.transpose(2, 0, 1)), channels=channels) == array).all()
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="minisblack", planarconfig="contig" if channels > 1 else None)
    assert (seen(buffer.getvalue(), channels=channels) == array).all()
    if channels == 1:
        assert (seen(array_file(array[..., 0]), channels=1) == array).all()


def test_floats() -> None:
    array = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert (seen(array_file(array))[..., 0] == np.rint(array * 255)).all()
    kelvin = 250 + 50 * array
    with pytest.raises(BrokenImage, match=r"it: its values, float32, run from 250 to 300.*views\.levels"):
        seen(array_file(kelvin), levels="type")
    assert (seen(array_file(kelvin))[..., 0] == np.rint(array * 255)).all()
    assert (seen(array_file(kelvin), channels=1, levels=(250.0, 300.0))[..., 0] == np.rint(array * 255)).all()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"not an image at all", "no image of a kind"),
        (saved(Image.new("RGB", (64, 64), (9, 9, 9)))[:90], "truncated"),
        (saved(Image.effect_noise((64, 64), 50), "JPEG")[:900], "truncated"),
        (array_file(np.zeros((4, 5, 6, 7))), "shape is"),
        (array_file(np.array([{}], dtype=object)), "Object arrays"),
        (array_file(np.array([["a", "b"]])), "not numbers"),
        (array_file(np.zeros((4, 5), dtype=[("x", int)])), "not numbers"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch) run\n", "no image of a kind"),  # runs Ghostscript
    ],
)
def test_faults_are_named(data: bytes, said: str) -> None:
    with pytest.raises(BrokenImage, match=f"^it: .*{re.escape(said)}"):
        seen(data)


def test_a_decompression_bomb_is_a_broken_image() -> None:
    bomb = bytearray(saved(Image.new("L", (8, 8)), "PNG"))
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(BrokenImage, match=r"bomb|pixels"):
        seen(bytes(bomb))
    jpeg = bytearray(saved(Image.new("RGB", (8, 8)), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = (60_000).to_bytes(2, "big") * 2
    assert MOST_PIXELS < 60_000**2
    with pytest.raises(BrokenImage, match="bomb"):
        open_picture(bytes(jpeg), "it").decode()


def test_other_channels_than_asked_for_name_the_setting() -> None:
    with pytest.raises(BrokenImage, match=r"4 channels were asked for \(encoder\.channels\)"):
        seen(saved(Image.new("RGB", (4, 3))), channels=4)
