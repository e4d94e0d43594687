"""What is wrong with all images is said once, before any work; single broken ones are left to the rule for them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from otherview.data.first_images import check_first
from otherview.data.image import RGB, Preprocessing
from otherview.data.spec import open_source
from otherview.errors import WrongChannels, WrongRequest

SMALL = ("--recipe", "siamese_im_pico_32", "--steps", "2", "--batch", "4", "--threads", "1", "--training.workers", "0")


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
