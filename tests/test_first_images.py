"""What is wrong with all images is said once, before any work; single broken ones are left to the rule for them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from otherview.data.first_images import check_first
from otherview.data.foreign import left_out, said_of
from otherview.data.image import RGB, Preprocessing
from otherview.data.spec import open_source
from otherview.errors import WrongChannels, WrongRequest

SMALL = (
    "--recipe",
    "siamese_im_cpu_adamw",
    "--steps",
    "2",
    "--batch",
    "4",
    "--threads",
    "1",
    "--training.workers",
    "0",
)


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Arrays as a multispectral camera saves them."""
    folder = tmp_path / "five"
    for kind in ("a", "b"):
        (folder / kind).mkdir(parents=True)
        for index in range(6):
            rng = np.random.default_rng(index)
            np.save(folder / kind / f"{index}.npy", rng.integers(0, 4096, (40, 36, 5), dtype=np.uint16))
    return folder


def refused(done: object, said: str) -> None:
    stderr, code, stdout = done.stderr, done.returncode, done.stdout  # pyright: ignore
    assert code == 2 and said in stderr and len(stderr.strip().splitlines()) == 1 and not stdout, stderr


def test_forgotten_channels_are_named_before_any_work(five: Path, tmp_path: Path, otherview: Callable) -> None:
    done = otherview("pretrain", *SMALL, "--data", five, "--out", tmp_path / "run")
    refused(done, "the images of --data have 5 channels, not 3: add --encoder.channels 5")
    assert not (tmp_path / "run").exists()
    refused(
        otherview("pretrain", *SMALL, "--data", five, "--out", tmp_path / "run", "--dry-run"), "--encoder.channels 5"
    )
    flags = ["--encoder.channels", "5", "--views.mean", *["0.03"] * 5, "--views.std", *["0.02"] * 5]
    done = otherview("pretrain", *SMALL, *flags, "--data", five, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [("evaluate", "knn", "--k", "2"), ("evaluate", "linear-probe"), ("evaluate", "few-shot", "--shots", "1")],
    ids=lambda words: words[1],
)
def test_an_encoder_of_three_channels_says_so(
    words: tuple[str, ...], five: Path, tmp_path: Path, otherview: Callable
) -> None:
    train_test = [
        "--train",
        five,
        "--test",
        five,
        "--allow-shared",
        "--weights",
        "reference:demo",
        "--out",
        tmp_path / "o",
    ]
    refused(
        otherview(*words, *train_test), "the images of --train have 5 channels, not 3: the encoder takes images of 3"
    )


def test_what_is_embedded_is_looked_at_first(five: Path, tmp_path: Path, otherview: Callable) -> None:
    done = otherview("embed", "--weights", "reference:demo", "--data", five, "--out", tmp_path / "e.npy")
    refused(done, "the images of --data have 5 channels")


def test_a_list_whose_files_are_gone_is_refused_with_the_first_reason(tmp_path: Path, otherview: Callable) -> None:
    (tmp_path / "list.txt").write_text("".join(f"gone/{number}.jpg\n" for number in range(50)))
    done = otherview("pretrain", *SMALL, "--data", tmp_path / "list.txt", "--out", tmp_path / "run")
    refused(done, "none of 12 images of --data can be read, the first of them because gone/0.jpg")


def test_one_good_image_is_enough(tmp_path: Path) -> None:
    for number in range(11):
        (tmp_path / f"{number:02}.png").write_bytes(b"broken")
    with pytest.raises(WrongRequest, match="none of 11 images"):
        check_first(open_source(str(tmp_path)), RGB, flag="--data")
    Image.new("RGB", (8, 8)).save(tmp_path / "99.png")
    check_first(open_source(str(tmp_path)), RGB, flag="--data")


def test_several_numbers_of_channels_are_no_number(tmp_path: Path) -> None:
    for channels in (4, 5):
        np.save(tmp_path / f"{channels}.npy", np.zeros((9, 8, channels), np.uint8))
    with pytest.raises(WrongRequest, match=r"none of 2 images .* its shape is \(9, 8, 4\)"):
        check_first(open_source(str(tmp_path)), RGB, flag="--data")
    (tmp_path / "4.npy").unlink()
    with pytest.raises(WrongRequest, match="have 5 channels, not 7"):
        check_first(open_source(str(tmp_path)), Preprocessing(channels=7), flag="--data")


def test_the_error_travels_between_processes() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(WrongChannels("its shape", 5)))
    assert (str(again), again.channels) == ("its shape", 5)


LITTER = (
    ".DS_Store",
    "._00.png",
    "Thumbs.db",
    "@eaDir/00.png",
    ".ipynb_checkpoints/00-checkpoint.png",
    "__MACOSX/cat/._00.png",
)


def with_foreign_files(folder: Path) -> Path:
    """Two classes, what systems leave, files of other kinds, and a mask beside its image."""
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (40, 40), (60 * number, 9, 9)).save(folder / kind / f"{number:02}.png")
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"litter")
    (folder / "cat/.DS_Store").write_bytes(b"litter")
    for name in ("scan.czi", "cat/scan.czi", "notes.txt", "cat/README"):
        (folder / name).write_bytes(b"something else")
    (folder / "dog/02_mask.png").write_bytes((folder / "dog/02.png").read_bytes())
    return folder


SAID = "left out, since they are no images that are read: 2 *.czi (Zeiss), 1 *.txt, 1 without an ending"


def test_what_lies_beside_the_images_is_counted_and_litter_skipped(tmp_path: Path, otherview: Callable) -> None:
    folder = with_foreign_files(tmp_path / "lab")
    source = open_source(str(folder))
    assert len(source) == 9 and list(source.classes or ()) == ["cat", "dog"]
    assert left_out(source) == {".czi": 2, ".txt": 1, "": 1, "masks": 1}
    assert said_of(left_out(source))[0] == SAID
    done = otherview("doctor", "--data", folder, "--out", tmp_path / "report", "--threads", "1", OTHERVIEW_SHORTEN="1")
    assert done.returncode == 0 and SAID in done.stdout and "1 images look like masks of others" in done.stdout
    done = otherview("pretrain", *SMALL, "--data", folder, "--out", tmp_path / "run", "--dry-run")
    assert done.returncode == 0 and f"{folder}: {SAID}" in done.stderr
    again = left_out(open_source(f"{folder},{folder},shapes:3"))
    assert again[".czi"] == 4 and said_of({}) == [] and said_of({"masks": 0}) == []


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_skip_the_same(kind: str, tmp_path: Path) -> None:
    folder = with_foreign_files(tmp_path / "lab")
    (folder / "dog/02_mask.png").unlink()
    source = open_source(shutil.make_archive(str(tmp_path / "lab"), kind, folder))
    assert len(source) == 8
    assert {name: count for name, count in left_out(source).items() if count} == {".czi": 2, ".txt": 1, "": 1}
    if kind == "zip":
        assert list(source.classes or ()) == ["cat", "dog"]


def test_litter_among_shards_is_no_shard(tmp_path: Path) -> None:
    folder = with_foreign_files(tmp_path / "lab")
    (tmp_path / "shards").mkdir()
    shutil.move(shutil.make_archive(str(tmp_path / "a"), "tar", folder), tmp_path / "shards/a.tar")
    (tmp_path / "shards/._a.tar").write_bytes(b"litter")
    assert len(open_source(str(tmp_path / "shards"))) == len(open_source(str(tmp_path / "shards/*.tar"))) == 9


def test_many_kinds_are_summed_up() -> None:
    (line,) = said_of({f".{number}": number for number in range(1, 13)})
    assert line.endswith(", 4 other kinds") and "12 *.12, 11 *.11" in line
