"""What an image's values mean: by its file, by its kind, by what was asked for; in eight bits and in sixteen."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from otherview.commands.doctor import show_findings
from otherview.config import RunConfig, load_config
from otherview.data.doctor import examine
from otherview.data.first_images import hardly_used, settled
from otherview.data.image import RGB, Preprocessing, Reduced, eight_bits
from otherview.data.loader import SampleMaker, StepPlan, make_loader
from otherview.data.picture import Picture, open_picture, picture_of
from otherview.data.ranges import EIGHT_BITS, ENDING, Seen, deep_images, ranges_of, with_ranges
from otherview.data.spec import open_source
from otherview.data.values import Values, percentiles, sample_of, to_levels
from otherview.evaluation.features import extract
from otherview.evaluation.whole_images import prepared
from otherview.geometry import Crop, PatchGrid
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings
from otherview.views.colour import ColourDraw, draw_colour
from otherview.views.crop import cut
from otherview.views.device_colour import coloured, coloured_alone
from otherview.views.recolour import recolour
from otherview.views.settings import ColourSettings, MaskSettings, ViewSettings
from otherview.views.transforms import AugmentedViews, PairViews, plain_view
from otherview.views.view import normalise
from otherview.weights.names import load_encoder

SIXTEEN = Preprocessing(ranges={"PNG uint16": ((0.0, 65535.0),)})


def png(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(array).save(held, "PNG")
    return held.getvalue()


def tiff_of(array: np.ndarray, **options: object) -> bytes:
    held = io.BytesIO()
    tifffile.imwrite(held, array, **options)  # pyright: ignore[reportArgumentType]
    return held.getvalue()


def scene(seed: int, *, most: float, dtype: type = np.uint16) -> np.ndarray:
    """A gray picture whose values reach `most`."""
    low = np.random.default_rng(seed).random((6, 7))
    low.flat[0], low.flat[1] = 0, 1
    return np.rint(cv2.resize(low, (28, 24), interpolation=cv2.INTER_NEAREST) * most).astype(dtype)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """8-bit JPEG, full-range 16-bit PNG, 12 bits in 16-bit TIFF: the same scenes."""
    tmp_path = tmp_path / "lab"
    tmp_path.mkdir()
    for index in range(12):
        Image.fromarray(scene(index, most=255, dtype=np.uint8)).save(tmp_path / f"{index:02}.jpg", quality=98)
        (tmp_path / f"{index:02}.png").write_bytes(png(scene(index, most=65535)))
        (tmp_path / f"{index:02}.tif").write_bytes(tiff_of(scene(index, most=4095)))
    return tmp_path


def test_mixed_depths_look_alike(lab: Path) -> None:
    source = open_source(str(lab))
    found = with_ranges(source, RGB)
    assert found.ranges == {"PNG uint16": ((0.0, 65535.0),), "TIFF uint16": ((0.0, 4095.0),)} and found.deep
    for index in range(12):
        jpeg, sixteen, twelve = (picture_of(source, 3 * index + kind, found).decode() for kind in range(3))
        assert jpeg.dtype == sixteen.dtype == twelve.dtype == np.uint16
        assert np.abs(sixteen.astype(int) - twelve).max() <= 16 and np.abs(sixteen.astype(int) - jpeg).max() < 12 * 257
    assert with_ranges(source, found) is found  # nothing is new


def test_depths_of_one_kind_are_told_apart() -> None:
    def of(*largest: Sequence[float]) -> object:
        every = (float(high) for some in largest for high in some)
        return ranges_of(
            [Seen("TIFF uint16", False, np.dtype(np.uint16), 0.0, high, np.array([high])) for high in every]
        )

    depths = {bits: (0.0, 2.0**bits - 1) for bits in (8, 10, 12, 14, 16)}
    assert of([3000, 4095, 2500]) == (depths[12],)
    assert of([200, 255]) == (depths[8],) and of([1000]) == (depths[10],) and of([16000]) == (depths[14],)
    assert of([4095, 3999] * 20, [65535, 40000] * 20) == (depths[12], depths[16])
    assert of(list(range(500, 65535, 700))) == (depths[16],)  # exposures of one device: nothing is missing between
    assert of([60000] * 99, [4000]) == (depths[16],)  # a single dark image is no depth


def test_an_image_beyond_what_was_found_is_not_cut_off() -> None:
    found = Preprocessing(channels=1, ranges={"TIFF uint16": ((0.0, 4095.0),)})
    values = scene(0, most=40000)
    shown = to_levels(Values(values, "TIFF"), found)[..., 0]
    assert np.abs(shown.astype(int) - values).max() <= 1
    unknown = to_levels(Values(scene(0, most=4095), "array"), found)  # a kind that was not met: its own bits
    assert unknown.max() == 65535


def test_signed_and_floats_have_the_range_of_all_images(tmp_path: Path) -> None:
    for index in range(10):
        np.save(tmp_path / f"{index}.npy", (scene(index, most=3000, dtype=np.float32) - 1000).astype(np.int16))
    found = with_ranges(open_source(str(tmp_path)), RGB).ranges
    assert found == {"array int16": ((-1000.0, 2000.0),)}
    (tmp_path / "floats").mkdir()
    for index in range(10):
        shares = scene(index, most=1, dtype=np.float32)
        shares[0, 0] = np.nan
        np.save(tmp_path / f"floats/{index}.npy", shares)
    assert with_ranges(open_source(str(tmp_path / "floats")), RGB).ranges == {"array float32": ((0.0, 1.0),)}


def test_what_the_file_says_comes_first() -> None:
    least_and_most = [(340, "H", 1, 0, True), (341, "H", 1, 1023, True)]
    said = open_picture(tiff_of(scene(0, most=900), extratags=least_and_most), "a", Preprocessing(channels=1))
    assert said.decode().max() == round(255 * 900 / 1023)
    wrong = open_picture(tiff_of(scene(0, most=4000), extratags=least_and_most), "a", Preprocessing(channels=1))
    assert wrong.decode().max() == round(255 * 4000 / 4095)  # values beyond: the tags are not believed


@pytest.mark.parametrize("levels", [(0.0, 65535.0), (-1000.0, 2000.0), "type", "auto"])
def test_eight_bits_are_never_dark(levels: object) -> None:
    picture = scene(1, most=255, dtype=np.uint8)
    for data in (png(picture), tiff_of(picture)):
        assert (open_picture(data, "a", Preprocessing(levels=levels)).decode()[..., 0] == picture).all()  # pyright: ignore


def test_ranges_and_percentiles_are_of_each_image() -> None:
    picture = scene(1, most=200, dtype=np.uint8)
    asked = open_picture(png(picture), "a", Preprocessing(levels=(50.0, 150.0))).decode()
    assert (asked[..., 0] == np.clip(np.rint((picture.astype(float) - 50) * 2.55), 0, 255)).all()
    stretched = open_picture(png(picture // 4), "a", Preprocessing(levels=("percentile", 0.0, 100.0))).decode()
    assert (stretched.min(), stretched.max()) == (0, 255)
    dark = open_picture(
        png(scene(2, most=900)), "a", Preprocessing(levels=("percentile", 1.0, 99.0), ranges={"PNG uint16": ()})
    )
    assert dark.decode().max() == 65535 and dark.decode().dtype == np.uint16
    flat = open_picture(png(np.full((9, 9), 70, np.uint8)), "a", Preprocessing(levels=("percentile", 1.0, 99.0)))
    assert len(np.unique(flat.decode())) == 1


@given(st.sampled_from(["<u2", ">u2", "<i2", ">i2", "|i1", "|u1"]), st.integers(0, 2**32), st.booleans())
def test_tables_are_the_formula(dtype: str, seed: int, deep: bool) -> None:
    info, rng = np.iinfo(np.dtype(dtype)), np.random.default_rng(seed)
    values = rng.integers(info.min, info.max, (4, 5), endpoint=True).astype(dtype)
    low, high = np.sort(rng.choice(np.arange(max(info.min, -200), 256), 2, replace=False)).astype(float)
    asked = Preprocessing(channels=1, levels=(low, high), ranges={"x": ()} if deep else {})
    whole = 65535 if deep else 255
    expected = np.clip(np.rint((values.astype(np.float64) - low) * (whole / (high - low))), 0, whole)
    if np.dtype(dtype).itemsize == 1 and not 0 <= low < high <= 255:  # eight bits keep their own range
        expected = np.clip(np.rint((values.astype(np.float64) - info.min) * (whole / 255)), 0, whole)
    assert (to_levels(Values(values), asked)[..., 0] == expected).all()


def test_neighbouring_levels_stay_apart() -> None:
    """512 of them became 3."""
    ramp = np.broadcast_to(np.arange(30000, 30512, dtype=np.uint16), (512, 512))
    shown = open_picture(png(np.ascontiguousarray(ramp)), "ramp", SIXTEEN)
    assert len(np.unique(shown.decode())) == 512
    view = plain_view(SIXTEEN._replace(size=(512, 512)), PatchGrid(16, 16), draw=lambda *_: Crop(0, 0, 512, 512, False))
    pixels = view(shown, Random(0)).pixels
    assert pixels.dtype == torch.uint16
    assert len(np.unique(normalise(pixels[None], (0.5,) * 3, (0.25,) * 3).numpy())) == 512
    colours = ColourDraw(brightness=0.9, contrast=1.1, order=["contrast", "brightness"], sigma=0.3, solarise=True)
    assert len(np.unique(recolour(np.ascontiguousarray(shown.decode()), colours)[256, :, 0])) > 450


def drawn_colours(count: int) -> list[ColourDraw]:
    rng = Random(0)
    everything = ColourSettings(gray_probability=0.2, blur_probability=0.5, solarise_probability=0.3)
    return [draw_colour(everything, rng) for _ in range(count)]


def test_colours_of_sixteen_bits_are_those_of_eight() -> None:
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8), (0, 0), 3)
    pixels = cv2.normalize(pixels, np.empty_like(pixels), 0, 255, cv2.NORM_MINMAX)
    for name, draw in {
        "brightness": ColourDraw(brightness=0.7, order=["brightness"]), "more": ColourDraw(brightness=1.4, order=["brightness"]),
        "contrast": ColourDraw(contrast=0.6, order=["contrast"]), "saturation": ColourDraw(saturation=1.6, order=["saturation"]),
        "gray": ColourDraw(gray=True), "blur": ColourDraw(sigma=1.7), "solarise": ColourDraw(solarise=True),
    }.items():  # fmt: skip
        one, two = recolour(pixels, draw), recolour(pixels.astype(np.uint16) * 257, draw)
        assert np.abs(one - two / 257).max() <= 1.6, name
    turned = ColourDraw(hue=0.21, order=["hue"])
    assert np.abs(recolour(pixels, turned) - recolour(pixels.astype(np.uint16) * 257, turned) / 257).mean() < 1.5
    gray = np.ascontiguousarray(pixels[..., :1])
    for draw in drawn_colours(30):  # of another number of channels, colours are left out
        one, two = recolour(gray, draw), recolour(gray.astype(np.uint16) * 257, draw)
        assert two.shape == gray.shape and np.abs(one - two / 257).max() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_the_device_colours_sixteen_bits_as_workers_do(channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (30, 40, channels), np.uint16)
    pixels = cv2.GaussianBlur(pixels, (0, 0), 2).reshape(30, 40, channels)
    settings = ViewSettings(
        online_colour=ColourSettings(solarise_probability=0.3), mask=MaskSettings(kind="none"), colour_on="device"
    )
    for seed in range(20):
        views = [
            PairViews(settings.model_copy(update={"colour_on": where}), (24, 24), PatchGrid(3, 3))(
                Picture("a", pixels), Random(seed)
            ).online
            for where in ("workers", "device")
        ]
        workers, device = views
        batch = device._replace(pixels=device.pixels[None], colour=device.colour[None], pending=device.pending[None])
        levels = coloured(batch, settings.online_colour)[0]
        assert (levels - workers.pixels.float() / 257).abs().max() < 0.05
        assert coloured_alone(device).dtype == torch.uint8


def test_the_deep_crop_is_the_eight_bit_crop() -> None:
    pixels = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (60, 50, 3), np.uint8), (0, 0), 2)
    for factor in (1, 2):
        crop = Crop(3.0, 5.0, 40.0, 36.0, False)
        one = cut(Reduced(pixels, factor), crop, size=(24, 24))
        two = cut(Reduced(pixels.astype(np.uint16) * 257, factor), crop, size=(24, 24))
        assert two.dtype == np.uint16 and np.abs(one - two / 257).max() <= 1.1  # eight bits are rounded twice
    ramp = np.linspace(0, 65535, 700).round().astype(np.uint16)
    for picture in (np.tile(ramp, (650, 1)), np.tile(ramp, (650, 1)).T):  # first averaged, and nothing moves by it
        taken = cut(Reduced(picture[..., None]), Crop(0.0, 0.0, *map(float, picture.shape), False), size=(90, 80))[
            ..., 0
        ]
        wide = taken.mean(axis=0) if picture.shape[1] == 700 else taken.mean(axis=1)
        places = (np.arange(len(wide)) + 0.5) / len(wide) * 700 - 0.5
        assert np.abs(wide - places * 65535 / 699)[2:-2].max() < 20  # a pixel is 94


def test_gray_is_resized_once_and_repeated() -> None:
    gray = scene(3, most=65535)
    repeated = open_picture(png(gray), "a", SIXTEEN).reduced(1.0).pixels
    assert repeated.shape == (24, 28, 3) and repeated.strides[2] == 0
    crop = Crop(2.0, 3.0, 20.0, 20.0, False)
    one = cut(Reduced(repeated), crop, size=(9, 9))
    assert one.strides[2] == 0 and (one == cut(Reduced(np.ascontiguousarray(repeated)), crop, size=(9, 9))).all()
    assert (prepared(open_picture(png(gray), "a", SIXTEEN), SIXTEEN._replace(size=(8, 8), crop_pct=0.9))[0] > 255).any()


def test_batches_of_a_mixed_folder_are_of_one_type(lab: Path) -> None:
    source = open_source(str(lab))
    found = with_ranges(source, RGB)
    views = PairViews(
        ViewSettings(mask=MaskSettings(count=5, minimum_block=2), masks_per_image=2), (16, 16), PatchGrid(4, 4)
    )
    plan = StepPlan(len(source), 12, 3, seed=0)
    for workers in (0, 2):
        batches = list(make_loader(SampleMaker(source, views, 0, found), plan, start=0, workers=workers, pin=False))
        assert {batch.views.online.pixels.dtype for batch in batches} == {torch.uint16} and len(batches) == 3
    (lab / "broken.png").write_bytes(b"\x89PNG nothing")
    encoder = Encoder(EncoderSettings(width=16, depth=1, heads=2, image_size=(16, 16), patch_size=8), seed=0)
    features = extract(encoder, open_source(str(lab)), found._replace(size=(16, 16)))
    assert len(features.kept) == 36
    tokens = torch.nn.functional.normalize(features.tokens["mean"], dim=1).unflatten(0, (12, 3))
    assert (tokens[:, 1] * tokens[:, 2]).sum(dim=1).min() > 0.99999  # PNG and TIFF of a scene


def test_randaugment_has_eight_bits_and_so_have_pictures(lab: Path) -> None:
    source = open_source(str(lab))
    found = with_ranges(source, RGB)._replace(size=(16, 16))
    image = picture_of(source, 1, found)
    image.label = lambda: 0
    view = AugmentedViews(plain_view(found, PatchGrid(4, 4), draw=lambda *_: Crop(0, 0, 20, 20, False)))(
        image, Random(0)
    ).view
    assert view.pixels.dtype == torch.uint8
    assert (eight_bits(np.array([0, 257, 65535, 128 * 257 + 128], np.uint16)) == [0, 1, 255, 128]).all()


def test_samples_have_no_rhythm() -> None:
    """A step of the image's width would see one column, a step of three one channel."""
    image = np.full((512, 512), 500.0, np.float32)
    image[:, :4] = -1000
    sample = sample_of(image, 2048)
    assert 0.9 < (sample == 500).mean() < 1
    colours = np.stack([np.full((96, 128), value, np.uint16) for value in (50, 1500, 3500)], axis=2)
    assert np.abs(np.bincount(np.searchsorted([50, 1500, 3500], sample_of(colours, 2**10))) / 1024 - 1 / 3).max() < 0.02
    assert percentiles(np.eye(4) > 0, 1.0, 99.0) == (0, 1)


def test_wide_integers_are_not_rounded_away() -> None:
    values = (2**30 + np.arange(16)).astype(np.int32).reshape(4, 4)
    shown = to_levels(Values(values), Preprocessing(channels=1, levels=(2.0**30, 2.0**30 + 15)))
    assert len(np.unique(shown)) == 16


def test_headers_tell_eight_bits() -> None:
    eight = [png(scene(0, most=255, dtype=np.uint8)), b"P6 4 4 255\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF....WEBP"]
    more = [png(scene(0, most=65535)), b"P5 4 4 65535\n", b"II*\0", b"\x93NUMPY", b"P6 255 255 256\n"]
    assert all(map(EIGHT_BITS.match, eight)) and not any(map(EIGHT_BITS.match, more))


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "train.parquet[17]",
        "train.parquet[cat/b.PNG]",
        "scan.nii.gz#3",
        "slide.tif@0,512",
        "x [1].jpg",
        "shapes:train[3]",
    ],
)
def test_parts_of_one_file_are_of_one_ending(name: str) -> None:
    found = ENDING.search(name)
    assert (found[1].lower() if found else "") in (".png", ".parquet", ".gz", ".tif", ".jpg", "")


def test_a_large_source_is_looked_at_here_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        classes = None
        looked_at = 0

        def __len__(self) -> int:
            return 50_000

        def read(self, index: int) -> bytes:
            self.looked_at += 1
            return b"\xff\xd8\xff"

        def label(self, index: int) -> None:
            return None

        def name(self, index: int) -> str:
            return f"train.parquet[{index}]"

    rows = Rows()
    assert deep_images(rows, 3) == [] and rows.looked_at == 64


def test_sources_of_eight_bits_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otherview.data.ranges.decode_values", lambda *_: pytest.fail("decoded"))
    source = open_source("shapes:200")
    assert deep_images(source, 3) == [] and with_ranges(source, RGB) is RGB


def test_dark_sources_are_warned_of(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not hardly_used(open_source(str(lab)), with_ranges(open_source(str(lab)), RGB), flag="--data")
    dark = tmp_path / "dark"
    dark.mkdir()
    for index in range(5):
        (dark / f"{index}.png").write_bytes(png(scene(index, most=12, dtype=np.uint8)))
    settled(open_source(str(dark)), RGB, flag="--data")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--data hardly use" in said and "percentile 1 99" in said and "mean 0.0" in said
    stretched = settled(open_source(str(dark)), RGB._replace(levels=("percentile", 1.0, 99.0)), flag="--data")
    assert not capsys.readouterr().err and not stretched.deep


def test_doctor_shows_levels_and_suggests_them(lab: Path, result_of: Callable[..., dict], tmp_path: Path) -> None:
    found = examine(open_source(str(lab)), preprocessing=with_ranges(open_source(str(lab)), RGB))
    assert {kind: (stored.low, stored.high) for kind, stored in found.stored.items()}["TIFF uint16"] == (0, 4095)
    assert found.mean == pytest.approx([0.5] * 3, abs=0.1)
    for stored in found.stored.values():
        assert stored.histogram.sum() == pytest.approx(1) and stored.spread > 0.2
    twelve = tmp_path / "twelve"
    twelve.mkdir()
    for path in lab.glob("*.tif"):
        path.rename(twelve / path.name)
    for data, asked in ((twelve, ("--levels", 0, 4095)), (twelve, ()), (lab, ())):
        found = result_of("doctor", "--data", data, "--out", tmp_path / "found", "--workers", 0, *asked)
        assert ("--views.levels 0 4095 " in found["command"]) is bool(asked)
        shown = "\n".join(show_findings(found))
        assert "█" in shown
        if data == twelve and not asked:
            assert "values 0 … 4095 of 65535, read as 0 … 4095" in shown
    assert np.asarray(Image.open(tmp_path / "found/views.png").convert("L")).mean() > 60


def test_a_run_keeps_what_it_found(lab: Path, result_of: Callable[..., dict], tmp_path: Path) -> None:
    words = ("--data", lab, "--recipe", "siamese_im_cpu_adamw", "--batch", 8, "--threads", 1, "--out", tmp_path / "run")
    result_of("pretrain", *words, "--steps", 2)
    kept = load_config(tmp_path / "run/config.yaml").views.ranges
    assert kept == {"PNG uint16": ((0.0, 65535.0),), "TIFF uint16": ((0.0, 4095.0),)}
    card = load_encoder(tmp_path / "run").card
    assert card.preprocessing.ranges == kept and card.preprocessing.levels == "auto"
    assert result_of("pretrain", *words, "--steps", 2)["steps"] == 2  # the same command continues, here it is finished
    with torch.no_grad():
        deep = load_encoder(tmp_path / "run")(torch.full((1, 3, 32, 32), 51 * 257).to(torch.uint16)).mean
        assert torch.allclose(
            deep, load_encoder(tmp_path / "run")(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8)).mean
        )


def test_old_files_mean_what_they_meant() -> None:
    assert RunConfig.model_validate({"views": {"levels": None}}).views.levels == "type"
    assert RunConfig.model_validate({"views": {"levels": [0, 4095]}}).views.levels == (0, 4095)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("5", "1"), "must be increasing"),
        (("percentile", "99", "1"), "0 to 100"),
        (("percentile", "1", "120"), "0 to 100"),
    ],
)
def test_wrong_levels_are_named(
    words: tuple[str, ...], said: str, otherview: Callable[..., Any], tmp_path: Path
) -> None:
    for flag, command in (
        ("--levels", ("doctor",)),
        ("--views.levels", ("pretrain", "--recipe", "siamese_im_cpu_adamw")),
    ):
        done = otherview(*command, "--data", "shapes:20", flag, *words, "--out", tmp_path / "out")
        assert done.returncode == 2 and said in done.stderr and flag.strip("-") in done.stderr
