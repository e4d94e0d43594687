"""DICOM as hospitals have it: what a person is meant to see, in every packing, and nothing of the patient anywhere."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from otherview.data import dicom
from otherview.data import folder as folder_module
from otherview.data.dicom import frames_of, read_dicom
from otherview.data.foreign import ENDINGS, left_out, said_of
from otherview.data.image import RGB, Preprocessing
from otherview.data.picture import open_picture, picture_of
from otherview.data.ranges import with_ranges
from otherview.data.spec import open_source
from otherview.errors import BrokenImage

SHIPPED = Path(pydicom.__file__).parent / "data/test_files"
NAME, NUMBER, BORN, PLACE = "Zygalski^Wilhelmina", "QX-99173-KJ", "19411203", "Spital am Pyhrn"
OF_THE_PATIENT = NAME, "Zygalski", NUMBER, BORN, PLACE


def scan(
    pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, bits: int | None = None, **elements: Any
) -> bytes:
    """A file of one patient, with whatever else is said."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    found = Dataset()
    found.file_meta = meta
    found.SOPClassUID, found.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    found.PatientName, found.PatientID, found.PatientBirthDate = NAME, NUMBER, BORN
    found.InstitutionName = found.InstitutionAddress = PLACE
    found.PatientComments = f"{NAME} of {PLACE}"
    colours = pixels.ndim >= 3 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colours else pixels.shape
    if len(shape) == 3:
        found.NumberOfFrames = shape[0]
    found.Rows, found.Columns = shape[-2:]
    found.SamplesPerPixel = 3 if colours else 1
    found.PhotometricInterpretation = elements.pop("PhotometricInterpretation", "RGB" if colours else "MONOCHROME2")
    if colours:
        found.PlanarConfiguration = 0
    found.BitsAllocated = 8 * pixels.dtype.itemsize
    found.BitsStored = bits or found.BitsAllocated
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    big = syntax == ExplicitVRBigEndian
    found.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    found["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in elements.items():
        setattr(found, name, value)
    if syntax == RLELossless:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        found.compress(RLELossless)
    written = BytesIO()
    found.save_as(written, enforce_file_format=True)
    return written.getvalue()


RAMP = np.arange(96, dtype=np.int16).reshape(8, 12) * 40 - 1000


def shown(data: bytes, **preprocessing: Any) -> np.ndarray:
    return open_picture(data, "a", Preprocessing(channels=1, **preprocessing)).decode()[..., 0]


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.rint((values - low) * (255 / (high - low))), 0, 255)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_hounsfield_units_and_their_window(syntax: str) -> None:
    data = scan((RAMP + 1024).astype(np.uint16), syntax=syntax, bits=12, RescaleSlope=1, RescaleIntercept=-1024)
    values = read_dicom(data)
    assert values.kind == "DICOM int16" and (values.array == RAMP).all() and values.whole == (-1024, 3071)
    windowed = scan(RAMP, syntax=syntax, WindowCenter=40, WindowWidth=400)
    assert (shown(windowed) == expected(RAMP, -160, 239)).all()  # PS3.3 C.11.2.1.2: from c − ½ − (w − 1)/2
    exact = scan(RAMP, syntax=syntax, WindowCenter=[40, 500], WindowWidth=[400, 90], VOILUTFunction="LINEAR_EXACT")
    assert (shown(exact) == expected(RAMP, -160, 240)).all()
    assert (shown(windowed, levels=(-1000.0, 1000.0)) == expected(RAMP, -1000, 1000)).all()
    assert (shown(data, levels="type") == expected(RAMP, -1024, 3071)).all()


def test_without_a_window_the_range_of_all_files(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.dcm").write_bytes(scan((RAMP + 100 * number).astype(np.int16)))
    source = open_source(str(tmp_path))
    (low, high), *_ = with_ranges(source, RGB).ranges["DICOM int16"]
    assert -1000 <= low <= -980 and 3180 <= high <= 3200
    stored = read_dicom(scan((RAMP + 1000).astype(np.uint16), bits=12))
    assert stored.said == (0, 4095) and stored.kind == "DICOM uint16"


def test_low_is_bright_in_monochrome1() -> None:
    data = scan((RAMP + 1000).astype(np.uint16), bits=12, PhotometricInterpretation="MONOCHROME1")
    assert (shown(data) == expected(4095 - (RAMP + 1000), 0, 4095)).all()
    windowed = scan(RAMP, PhotometricInterpretation="MONOCHROME1", WindowCenter=0, WindowWidth=801)
    assert np.abs(shown(windowed) - (255 - expected(RAMP, -400.5, 399.5))).max() <= 1


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black(kind: str) -> None:
    pixels = RAMP.copy()
    pixels[:, :3] = -2000
    data = scan(pixels, PixelPaddingValue=-2000, PhotometricInterpretation=kind)
    found = read_dicom(data)
    assert (found.array[:, :3] == found.array[:, 3:].min()).all()  # not a value that stretches the range
    assert (shown(data)[:, :3] == 0).all() and shown(data)[:, 3:].max() == 255
    band = scan(pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-900, PhotometricInterpretation=kind)
    assert (shown(band)[pixels <= -900] == 0).all()


def test_padding_below_the_range_of_the_type() -> None:
    pixels = (RAMP + 1000).astype(np.uint16)
    pixels[:, :2] = 0
    data = scan(pixels, PixelPaddingValue=0, WindowCenter=300, WindowWidth=700)  # black is −50
    assert (shown(data)[:, :2] <= 19).all() and shown(data).max() == 255


def test_small_slopes_and_floats_keep_their_meaning() -> None:
    dose = scan(
        (RAMP + 1000).astype(np.uint16), RescaleSlope="0.001", RescaleIntercept=0, WindowCenter=2, WindowWidth=4
    )
    found = read_dicom(dose)
    assert found.kind == "DICOM float32" and found.deep and found.said == (0, 3)
    assert np.abs(shown(dose).astype(int) - expected((RAMP + 1000) * 0.001, 0, 3)).max() <= 1
    eight = scan(np.arange(96, dtype=np.uint8).reshape(8, 12), WindowCenter=50, WindowWidth=61)
    assert (shown(eight) == expected(np.arange(96).reshape(8, 12), 19.5, 79.5)).all()  # a window counts for 8 bits, too


def test_the_kind_does_not_depend_on_the_pixels() -> None:
    """One series is one kind, or its images would have ranges of their own."""
    for elements in ({"RescaleSlope": 2, "RescaleIntercept": -5}, {"PhotometricInterpretation": "MONOCHROME1"}):
        kinds = {
            read_dicom(scan(np.full((8, 12), most, np.uint16), **elements)).kind for most in (3, 700, 60_000)
        }  # fmt: skip
        assert len(kinds) == 1


def test_files_named_by_their_uid_are_found(tmp_path: Path) -> None:
    for name in ("1.2.840.113619.2.5.70", "CT.1.2.840.99", "IM0001"):
        (tmp_path / name).write_bytes(scan(RAMP))
    (tmp_path / "notes.1").write_bytes(b"nothing")
    source = open_source(str(tmp_path))
    assert len(source) == 3 and left_out(source)[".1"] == 1


def test_frames() -> None:
    film = np.stack([RAMP + number for number in range(5)]).astype(np.int16)
    data = scan(film)
    assert frames_of(data) == 5 and frames_of(scan(RAMP)) == 1
    assert (read_dicom(data).array == film[2]).all() and (read_dicom(data, 4).array == film[4]).all()
    with pytest.raises(BrokenImage, match="5 frames, and frame 5"):
        read_dicom(data, 5)


def test_every_frame_is_an_image(tmp_path: Path) -> None:
    film = np.stack([RAMP + number for number in range(4)]).astype(np.int16)
    (tmp_path / "film.dcm").write_bytes(scan(film, WindowCenter=0, WindowWidth=2000))
    (tmp_path / "still").write_bytes(scan(RAMP))  # scanners write no ending
    source = open_source(f"slices:{tmp_path}")
    assert [source.name(index) for index in range(5)] == [
        "film.dcm#0",
        "film.dcm#1",
        "film.dcm#2",
        "film.dcm#3",
        "still",
    ]
    last = picture_of(source, 3, Preprocessing(channels=1)).decode()[..., 0]
    assert (last == expected(film[3], -1000, 999)).all()  # the window travels with a frame


def test_functional_groups_of_enhanced_files() -> None:
    def group(**parts: dict[str, Any]) -> Dataset:
        made = Dataset()
        for name, elements in parts.items():
            inner = Dataset()
            for element, value in elements.items():
                setattr(inner, element, value)
            setattr(made, name, [inner])
        return made

    film = np.stack([RAMP, RAMP + 1]).astype(np.int16)
    data = scan(
        film, SOPClassUID=EnhancedCTImageStorage,
        SharedFunctionalGroupsSequence=[group(PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -5})],
        PerFrameFunctionalGroupsSequence=[
            group(FrameVOILUTSequence={"WindowCenter": center, "WindowWidth": 1000}) for center in (0, 500)
        ],
    )  # fmt: skip
    one, two = read_dicom(data, 0), read_dicom(data, 1)
    assert (one.array == 2 * film[0] - 5).all() and (two.array == 2 * film[1] - 5).all()
    assert one.said == (-500, 499) and two.said == (0, 999)


def test_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert (open_picture(scan(pixels), "a").decode() == pixels).all()
    gray = open_picture(scan(pixels[..., 0]), "a").decode()
    assert (gray == pixels[..., :1]).all() and gray.dtype == np.uint8


PACKED = ("MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless")


@pytest.mark.parametrize("name", PACKED)
def test_compressed_files_have_the_same_values(name: str) -> None:
    plain, found = (read_dicom((SHIPPED / f"{one}.dcm").read_bytes()) for one in (PACKED[0], name))
    assert (found.array == plain.array).all() and found[1:] == plain[1:]


def test_whatever_ships_with_pydicom_is_read_or_named(capfd: pytest.CaptureFixture[str]) -> None:
    read, said = 0, set[str]()
    for path in sorted(SHIPPED.glob("*.dcm")):
        try:
            pixels = open_picture(path.read_bytes(), path.name, RGB).decode()
            assert pixels.shape[2] == 3 and pixels.size
            read += 1
        except BrokenImage as error:
            said.add(str(error).partition(": ")[2])
    assert read >= 45 and all(len(one) < 160 for one in said), said
    assert "without pixels" in " ".join(said)
    assert "UserWarning" not in capfd.readouterr().err


def test_twelve_bit_jpeg_and_palettes() -> None:
    twelve = read_dicom((SHIPPED / "JPGExtended.dcm").read_bytes())
    assert twelve.array.dtype == np.uint16 and twelve.array.max() > 255 and twelve.said == (0, 4095)
    assert open_picture((SHIPPED / "examples_palette.dcm").read_bytes(), "a").decode().shape == (350, 800, 3)


def test_no_message_quotes_the_patient() -> None:
    whole = scan(RAMP)
    for cut in (140, 200, 400, 600, len(whole) - 50):
        with pytest.raises(BrokenImage) as caught:
            read_dicom(whole[:cut])
        assert not any(word in str(caught.value) for word in OF_THE_PATIENT)
    wrong = scan(RAMP).replace(b"MONOCHROME2 ", f"{NAME:12.12}".encode(), 1)
    with pytest.raises(BrokenImage) as caught:
        read_dicom(wrong)
    assert "Zyg" not in str(caught.value)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dicom, "INSTALLED", False)
    with pytest.raises(BrokenImage, match=r"DICOM needs pydicom: pip install 'otherview\[dicom\]'"):
        open_picture(scan(RAMP), "a")
    monkeypatch.setattr(folder_module, "ENDINGS", ENDINGS - {".dcm"})
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "a.dcm").write_bytes(scan(RAMP))
    said = said_of(left_out(open_source(str(tmp_path))))
    assert "1 *.dcm (DICOM: pip install 'otherview[dicom]')" in said[0]


def everything_below(*folders: Path) -> str:
    """The content of all files, as text."""
    return " ".join(
        path.read_bytes().decode("latin-1")
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


@pytest.mark.slow
def test_nothing_of_the_patient_goes_anywhere(
    result_of: Callable[..., dict], otherview: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index, cache, run folder, page, log, embedding, report, output: none of them has a word of the files but their names."""
    monkeypatch.setenv("OTHERVIEW_CACHE", str(tmp_path / "cache"))
    for kind in range(2):
        (tmp_path / f"scans/{kind}").mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng(number).integers(-50, 50, (40, 44))
            pixels = (np.add.outer(np.arange(40), np.arange(44)) * 20 * (kind + 1) + noise - 900).astype(np.int16)
            path = tmp_path / f"scans/{kind}/scan{number}.dcm"
            path.write_bytes(scan(pixels, WindowCenter=0, WindowWidth=2000))
    (tmp_path / "scans/1/cut.dcm").write_bytes(scan(RAMP)[:-30])
    assert any(
        word.encode() in path.read_bytes() for word in OF_THE_PATIENT for path in (tmp_path / "scans").rglob("*.dcm")
    )
    spec, out = str(tmp_path / "scans"), tmp_path / "out"
    heard = []
    small = ("--recipe", "siamese_im_cpu_adamw", "--batch", 8, "--threads", 1, "--training.workers", 0)
    for words in (
        ("doctor", "--data", spec, "--out", out / "doctor", "--workers", 0),
        ("pretrain", *small, "--data", spec, "--steps", 4, "--out", out / "run"),
        ("embed", "--weights", out / "run", "--data", spec, "--out", out / "a.parquet", "--workers", 0),
        ("embed", "--weights", out / "run", "--data", f"slices:{spec}", "--out", out / "b.npy", "--workers", 0),
        (
            "evaluate",
            "knn",
            "--weights",
            out / "run",
            "--train",
            spec,
            "--test",
            spec,
            "--allow-shared",
            "--k",
            3,
            "--workers",
            0,
        ),
        ("show", "components", "--weights", out / "run", "--data", spec, "--out", out / "c.png"),
        ("evaluate", "knn", "--weights", out / "run", "--train", f"{spec}/0", "--test", spec),
    ):
        done = otherview(*words)
        assert done.returncode == (2 if words[-1] == spec and f"{spec}/0" in words else 0), done.stderr
        heard.append(done.stdout + done.stderr)
    written = everything_below(out, tmp_path / "cache")
    assert "scan0.dcm" in written and "cut.dcm" in written + heard[0]
    for word in OF_THE_PATIENT:
        assert word not in written and not any(word in one for one in heard), word
    assert os.path.getsize(out / "run/report.html") > 1000  # noqa: PTH202
