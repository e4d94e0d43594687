"""doctor names what is broken and writes a list that is a SPEC; training goes round broken images by the stated rule."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from otherview.data import doctor
from otherview.data.loader import Sample, SampleMaker, StepPlan, make_loader
from otherview.data.spec import open_source
from otherview.geometry import PatchGrid
from otherview.views.settings import MaskSettings, ViewSettings
from otherview.views.transforms import PairViews


def photo(seed: int, side: int = 40) -> bytes:
    """Another picture for every seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((side + 10, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 200, of which four files are broken: empty, cut, no image, and gone behind a link."""
    for number in range(200):
        path = tmp_path / f"images/{'ab'[number % 2]}/{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    for number, content in ((10, b""), (51, photo(51)[:500]), (120, b"<html>not found</html>")):
        (tmp_path / f"images/{'ab'[number % 2]}/{number:03}.jpg").write_bytes(content)
    gone = tmp_path / "images/b/199.jpg"
    gone.unlink()
    gone.symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "images/a/004.jpg").write_bytes(photo(2))  # again
    return tmp_path / "images"


BROKEN = {"a/010.jpg", "b/051.jpg", "a/120.jpg", "b/199.jpg"}


def test_doctor(images: Path, result_of: Callable[..., dict], tmp_path: Path) -> None:
    found = result_of("doctor", "--data", images, "--out", tmp_path / "found")
    assert (found["images"], found["unreadable"], found["duplicates"]) == (200, 4, 1)
    assert found["repeated"] == ["a/004.jpg = a/002.jpg"]
    assert {fault.split(":")[0] for fault in found["faults"]} == BROKEN
    assert found["sizes"] == {
        "height": {"least": 40, "median": 40, "largest": 40},
        "width": {"least": 50, "median": 50, "largest": 50},
    }
    assert found["kinds"] == {"JPEG RGB": 196}
    assert found["recipe"] == "chosen" and found["seconds_per_epoch"] > 0
    assert (tmp_path / "found/views.png").stat().st_size > 10_000
    good = open_source(found["good"])
    whole = open_source(str(images))
    kept = [index for index in range(200) if whole.name(index) not in BROKEN]
    assert [good.read(index) for index in range(len(good))] == [whole.read(index) for index in kept]
    assert [good.label(index) for index in range(len(good))] == [whole.label(index) for index in kept]
    pixels = np.concatenate([
        np.asarray(Image.open(io.BytesIO(good.read(index)))).reshape(1, -1, 3) for index in range(len(good))
    ]) / 255  # fmt: skip
    assert found["mean"] == pytest.approx(pixels.mean(axis=(0, 1)), abs=1e-3)
    assert found["std"] == pytest.approx(pixels.std(axis=(0, 1)), abs=1e-3)


@pytest.mark.slow
def test_good_rows_of_a_source_without_files(result_of: Callable[..., dict], tmp_path: Path) -> None:
    found = result_of("doctor", "--data", "shapes:70:val,shapes:5", "--out", tmp_path / "found")
    good, whole = open_source(found["good"]), open_source("shapes:70:val,shapes:5")
    assert Path(found["good"]).name == "good.txt" and len(good) == 75
    assert good.read(74) == whole.read(74) and good.label(3) == whole.label(3)


@pytest.mark.slow
def test_many_channels(result_of: Callable[..., dict], tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    for number in range(70):
        array = np.random.default_rng(number).integers(0, 4000, (5, 40, 44), np.uint16)
        np.save(tmp_path / f"arrays/{number}.npy", array)
    found = result_of("doctor", "--data", tmp_path / "arrays", "--channels", 5, "--levels", 0, 4000)
    assert (found["images"], found["unreadable"], len(found["mean"])) == (70, 0, 5)
    assert found["mean"] == pytest.approx([0.5] * 5, abs=0.01)
    words = found["command"].replace("--out runs/first", f"--out {tmp_path / 'run'}").split()[1:]
    trained = result_of(*words, "--steps", 2, "--batch", 8)
    assert trained["steps"] == 2
    from otherview.weights.names import load_encoder

    assert load_encoder(tmp_path / "run").card.preprocessing[3:5] == (5, (0.0, 4000.0))
    wrong = result_of("doctor", "--data", tmp_path / "arrays")
    assert (wrong["unreadable"], len(wrong["mean"])) == (0, 5) and "channels: 5" in wrong["chosen"][0]  # they are found
    wrong = result_of("doctor", "--data", tmp_path / "arrays", "--channels", 3)
    assert wrong["unreadable"] == 70 and "encoder.channels" in wrong["faults"][0] and wrong["recipe"] is None


def epoch(spec: str) -> dict[str, tuple[str, Sample]]:
    """Every sample of one epoch by the name of the image asked for: the name of the image read, and the sample."""
    source = open_source(spec)
    views = PairViews(ViewSettings(mask=MaskSettings(count=5, minimum_block=2)), (16, 16), PatchGrid(4, 4))
    plan = StepPlan(len(source), 1, len(source), seed=3)
    found = {}
    for sample in make_loader(SampleMaker(source, views, seed=3), plan, start=0, workers=0, pin=False):
        read, broken = int(sample.read), int(sample.broken)
        found[source.name(read if broken < 0 else broken)] = (source.name(read), sample)
    return found


def test_one_epoch_with_broken_files_equals_one_without_apart_from_the_replacements(images: Path) -> None:
    mended = epoch(str(images))
    for name in BROKEN:
        path = images / name
        path.unlink()
        path.write_bytes(photo(int(path.stem)))
    clean = epoch(str(images))
    assert mended.keys() == clean.keys()
    names = sorted(clean)
    for name in names:
        read, sample = mended[name]
        if name not in BROKEN:
            assert read == name
            assert (sample.views.online.pixels == clean[name][1].views.online.pixels).all()
            assert (sample.views.target.pixels == clean[name][1].views.target.pixels).all()
            assert (sample.views.online.masked == clean[name][1].views.online.masked).all()
        else:
            assert read == names[(names.index(name) + 1) % len(names)]


@pytest.mark.slow
def test_a_run_names_broken_images_and_stops_where_there_are_too_many(
    images: Path, otherview: Callable, tmp_path: Path
) -> None:
    run = ("pretrain", "--recipe", "siamese_im_demo", "--data", images, "--batch", 40, "--steps", 10)
    done = otherview(*run, "--out", "kept", "--json")
    assert done.returncode == 0, done.stderr
    said = [line.split(": replaced")[0] for line in done.stderr.splitlines() if line.startswith("broken image ")]
    assert sorted(said) == sorted(f"broken image {name}" for name in BROKEN)
    assert json.loads(done.stdout)["broken_images"] == 4
    shown = sorted(path.stem for path in (tmp_path / "kept/pictures").glob("*.png"))  # the sixth image is broken
    assert shown == ["1-views", "2-places", "3-components", "4-attention"]
    done = otherview(*run, "--out", "stopped", "--training.max-broken", 0.01)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "of 200 images cannot be read" in last and "otherview doctor" in last


def test_nothing_readable_is_said(otherview: Callable, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/1.png").write_bytes(b"junk")
    done = otherview("doctor", "--data", tmp_path / "x")
    assert done.returncode == 0
    assert "1 images, 1 unreadable" in done.stdout and "too few images can be read" in done.stdout
    for words, said in ((("--channels", 0), "number of channels"), (("--levels", 5, 1), "must be increasing")):
        wrong = otherview("doctor", "--data", tmp_path / "x", *words)
        assert wrong.returncode == 2 and said in wrong.stderr


def test_doctor_does_not_write_into_the_data_or_over_it(images: Path, otherview: Callable, tmp_path: Path) -> None:
    for out in (images, images / "doctor"):
        done = otherview("doctor", "--data", images, "--out", out)
        assert done.returncode == 2 and "lies in the data" in done.stderr
    listed = tmp_path / "found/good.csv"
    listed.parent.mkdir()
    listed.write_text("path\n../images/a/002.jpg\n")
    done = otherview("doctor", "--data", listed, "--out", listed.parent)
    assert done.returncode == 2 and "choose another folder" in done.stderr


@pytest.mark.slow
def test_evaluation_leaves_broken_images_out_and_names_them(images: Path, otherview: Callable) -> None:
    done = otherview(
        "evaluate",
        "knn",
        "--weights",
        "random:siamese_im_demo",
        "--train",
        images,
        "--test",
        images,
        "--allow-shared",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert {score["n"] for score in json.loads(done.stdout)["scores"]} == {196}
    for name in BROKEN:
        assert done.stderr.count(f"broken image left out: {name}") == 1


def test_moments_are_exact_at_any_size() -> None:
    """A running sum in float32 is off by 4 % at four million pixels."""
    pixels = np.full((2000, 2000, 3), 51, np.uint8)
    mean, square, histogram = doctor._moments(pixels)
    assert histogram.tolist() == [0, 0, 0, 1] + 12 * [0]
    assert mean == pytest.approx([0.2] * 3, rel=1e-12) and square == pytest.approx([0.04] * 3, rel=1e-12)
