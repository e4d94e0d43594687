"""The command line: what is said, where, and with which status."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from otherview.__main__ import COMMANDS

PICO = ("pretrain", "--recipe", "siamese_im_cpu_adamw")


def wrong(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """Status 2, nothing on standard output, one line on standard error that names the value."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in said:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--data", "nowhere"), ["nowhere", "does not exist"]),
        (("--data", "empty"), ["empty", "holds no images"]),
        (("--data", "shapes:99", "--encoder.image-size", "33", "32"), ["33 32", "patch_size 4", "32 32"]),
        (("--data", "shapes:99", "--views.mask.count", "70"), ["count 70", "8×8", "0 … 63"]),
        (("--data", "shapes:99", "--views.mask.count", "-1"), ["count -1", "0 … 63"]),
        (("--data", "shapes:99", "--views.mask.count", "64"), ["count 64", "at least one patch"]),
        (("--data", "shapes:99", "--recipe", "mae_cpu", "--views.mask.kind", "none"), ["masks no patch", "mae"]),
        (("--data", "shapes:99", "--recipe", "moco_v3_cpu", "--views.mask.kind", "random"), ["moco_v3", "random"]),
        (("--data", "shapes:99", "--batch", "128"), ["128", "99", "largest batch that fits is 99"]),
        (("--data", "shapes:99", "--encoder.heads", "3"), ["heads 3", "width 128"]),
        (("--data", "shapes:99", "--knn-bank", "shapes:9"), ["--knn-test"]),
        (("--data", "shapes:99", "--threads", "0"), ["--threads 0"]),
        (("--data", "shapes:99", "--method.temperature=0.5"), ["--method.temperature has no effect", "info_nce"]),
        (
            ("--data", "shapes:99", "--recipe", "mae_cpu", "--views.target-colour.blur-sigma", "1", "2"),
            ["--views.target-colour.blur-sigma has no effect", "mae uses only one view"],
        ),
        (("--data", "shapes:99", "--views.crop-share", "1", "0.5"), ["crop_share 1 0.5"]),
        (("--data", "shapes:99", "--views.mask.minimum-block", "50"), ["minimum_block 50", "1 … 49"]),
    ],
)
def test_wrong_requests(otherview: Callable, tmp_path: Path, flags: tuple[str, ...], said: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    wrong(otherview(*PICO, *flags, "--out", "out"), *said)


def test_unwritable_output(otherview: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong(otherview(*PICO, "--data", "shapes:99", "--out", "file/out"), "file/out", "cannot be written")
    wrong(otherview("show", "masks", "--recipe", "siamese_im_cpu_adamw", "--out", "file/x.png"), "cannot be written")


def test_unknown_names(otherview: Callable) -> None:
    wrong(otherview("pretrain", "--recipe", "siamese_im_cpu_adam", "--data", "x", "--out", "y"), "siamese_im_cpu_adamw")
    wrong(otherview("recipes", "zzz"), "zzz", "siamese_im_vit_b16")
    wrong(otherview("pretain"), "did you mean pretrain")
    wrong(otherview("show", "vews"), "vews", "views, masks, correspondence")
    wrong(otherview("pretrain", "--config", "nowhere.yaml", "--data", "x", "--out", "y"), "nowhere.yaml")
    wrong(otherview("evaluate", "knn", "--weights", "nowhere", "--train", "shapes:99", "--test", "shapes:9"), "nowhere")
    wrong(
        otherview(
            "evaluate", "knn", "--weights", "random:siamese_im_cpu_adamw", "--train", "shapes:99", "--test", "shapes:9:val",
            "--k", "100",
        ),
        "--k 100", "99",
    )  # fmt: skip


def test_a_traceback_only_with_debug(otherview: Callable) -> None:
    assert "Traceback" not in otherview("recipes", "zzz").stderr
    assert "Traceback" in otherview("recipes", "zzz", "--debug").stderr


def test_a_broken_config_names_the_setting(otherview: Callable, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("batch: many\n")
    wrong(otherview("pretrain", "--config", "c.yaml", "--data", "shapes:9", "--out", "o"), "c.yaml", "batch", "many")


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "torch", "timm", "torchvision", "accelerate", "cv2", "matplotlib"}:
            raise ImportError(f"{name} is heavy")
sys.meta_path.insert(0, Block())
from otherview.__main__ import COMMANDS, dispatch
for words in [*COMMANDS, ""]:
    print("COMMAND", words)
    try:
        status = dispatch([*words.split(), "--help"])
    except SystemExit as leaving:
        status = leaving.code
    assert not status, words
"""


def test_help_needs_nothing_heavy() -> None:
    """Of every command, in one process that may not import what takes seconds."""
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    told = dict(zip([*COMMANDS, ""], done.stdout.split("COMMAND ")[1:], strict=True))
    assert all("usage" in text for words, text in told.items() if words) and "otherview pretrain" in told[""]


def test_help_comes_soon_and_shows_the_recipe_s_values(process: Callable) -> None:
    began = time.monotonic()
    done = process(*PICO, "--help")
    assert time.monotonic() - began < 5  # 1.5 s alone; tests share the machine
    assert "--method.negative-weight" in done.stdout and "(default: 0.12)" in done.stdout


def test_recipes(result_of: Callable, otherview: Callable) -> None:
    listed = result_of("recipes")["recipes"]
    assert {
        "siamese_im_vit_b16",
        "siamese_im_vit_b16_400ep",
        "siamese_im_vit_l16",
        "siamese_im_vit_h14",
    } <= listed.keys()
    assert all("command" in header and "cost" in header and "expected" in header for header in listed.values())
    whole = result_of("recipes", "siamese_im_vit_b16")["config"]
    assert (whole["batch"], whole["epochs"], whole["method"]["negative_weight"]) == (4096, 1600, 0.02)
    assert otherview("recipes", "siamese_im_vit_l16").stdout.count("  width: 1024") == 1


def test_a_printed_recipe_is_a_config(otherview: Callable, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(otherview("recipes", "siamese_im_cpu_adamw").stdout)
    done = otherview("pretrain", "--config", "c.yaml", "--data", "shapes:9", "--out", "o")
    assert "largest batch" in done.stderr  # read, accepted, and only then refused for its data


@pytest.mark.parametrize("picture", ["views", "masks", "correspondence"])
def test_pictures(result_of: Callable, tmp_path: Path, picture: str) -> None:
    import matplotlib.image

    result = result_of("show", picture, "--recipe", "siamese_im_cpu_adamw", "--count", "2", "--out", f"{picture}.png")
    pixels = matplotlib.image.imread(tmp_path / result["picture"])
    assert pixels.shape[0] > 200 and pixels[..., :3].std() > 0.05


@pytest.mark.slow
def test_dry_run_writes_nothing(result_of: Callable, tmp_path: Path) -> None:
    result = result_of(*PICO, "--data", "shapes:200", "--out", "out", "--steps", "77", "--dry-run")
    assert result["steps"] == 77
    assert result["parameters_encoder"] > 700_000
    assert result["seconds_per_step"] > 0 and result["hours_expected"] > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_way(result_of: Callable, otherview: Callable, tmp_path: Path) -> None:
    """Pre-train, evaluate twice, load from Python: shortened, but for real."""
    trained = result_of(*PICO, "--data", "shapes:300", "--out", "run", OTHERVIEW_SHORTEN="1")
    assert {
        "steps",
        "epochs",
        "seconds",
        "images_per_second",
        "waited_for_data_share",
        "verdict",
        "out",
    } <= trained.keys()
    for verb in ("knn", "linear"):
        scores = result_of(
            "evaluate", verb, "--weights", "run", "--train", "shapes:300:val", "--test", "shapes:100:test"
        )
        names = [row["name"] for row in [*scores["scores"], *scores["control"]]]
        assert names == [
            f"{verb}_{kind}" for kind in ("encoder_mean", "encoder_cls", "untrained_mean", "untrained_cls", "pixels")
        ]
        assert all(0 <= row["value"] <= 1 and row["n"] == 100 and row["unit"] == "accuracy" for row in scores["scores"])
    assert len((tmp_path / "run/results.jsonl").read_text().splitlines()) == 2
    script = """
import otherview, torch
encoder = otherview.load_encoder("run")
for images in (torch.rand(2, 3, 32, 32), torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)):
    tokens = encoder(images)
    print(tuple(tokens.mean.shape), tuple(tokens.cls.shape), tuple(tokens.patches.shape))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["(2, 128) (2, 128) (2, 64, 128)", "(2, 128) (2, 128) (2, 192, 128)"], (
        done.stderr
    )


@pytest.mark.slow
def test_demo_shortened(result_of: Callable, tmp_path: Path) -> None:
    result = result_of("demo", "--out", "demo", OTHERVIEW_SHORTEN="1")
    assert result["knn"].keys() == {"trained", "untrained", "pixels"}
    page = (tmp_path / result["report"]).read_text()
    assert page.count("data:image/png;base64,") == 5  # views, places, components, attention, neighbours
    assert page.count('class="plot"') >= 4  # the curves are no pictures any more
    assert "http://" not in page and "https://" not in page


@pytest.mark.slow
def test_bench_loss_needs_little_memory(result_of: Callable) -> None:
    result = result_of("bench", "loss")
    assert 0 < result["tokens_25088_width_768"]["peak_mb_beyond_inputs"] < 450
    assert json.dumps(result)
