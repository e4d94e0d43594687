"""The run where no recipe is given: the rules, what only the machine can say, and that pretrain, dry run and doctor agree."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import otherview as package
from otherview.config import RunConfig, load_config
from otherview.data.doctor import examine
from otherview.data.image import RGB
from otherview.data.ranges import with_ranges
from otherview.data.spec import open_source
from otherview.data.survey import channels_of, different_of, survey
from otherview.nn.settings import EncoderSettings
from otherview.recipes.by_images import (
    LEAST_STEPS,
    Situation,
    batch_for,
    chosen,
    in_schedule,
    in_words,
    rungs_for,
    size_for,
    smaller,
    steps_at_most,
)
from otherview.recipes.registry import find
from otherview.runs import choice
from otherview.runs.choice import chosen_run
from otherview.runs.settings import PretrainSettings

CPU = Situation(images=9469, sides=(128, 171), on_gpu=False)
GPU = CPU._replace(on_gpu=True, cores=32)


@pytest.mark.parametrize(
    ("situation", "sizes"),
    [
        (CPU, (64, 8, 128, 4, 64)),
        (CPU._replace(sides=(32, 32)), (32, 4, 128, 4, 64)),
        (CPU._replace(images=100, sides=(3000, 4000)), (64, 8, 128, 4, 16)),
        (GPU, (112, 8, 384, 12, 256)),
        (GPU._replace(images=100, sides=(3000, 4000)), (224, 16, 192, 12, 16)),
        (GPU._replace(images=10**6, sides=(40, 40)), (32, 4, 768, 12, 256)),
        (GPU._replace(images=10**6, sides=(500, 500), below=1), (224, 16, 384, 12, 256)),
        (GPU._replace(weights=EncoderSettings(width=1024, depth=24, heads=16)), (128, 16, 1024, 24, 256)),
        (CPU._replace(weights=EncoderSettings(width=384, heads=6)), (128, 16, 384, 12, 64)),
    ],
)
def test_sizes(situation: Situation, sizes: tuple[int, ...]) -> None:
    config = chosen(situation, asked=RunConfig())
    encoder = config.encoder
    assert (encoder.image_size[0], encoder.patch_size, encoder.width, encoder.depth, config.batch) == sizes
    config.check()
    assert config.warnings() == []
    assert config.recipe == "chosen" and config.training.precision == ("bf16" if situation.on_gpu else "fp32")


@given(st.integers(2, 10**7), st.integers(16, 5000), st.booleans(), st.integers(1, 100_000))
def test_every_choice_can_be_run(images: int, side: int, on_gpu: bool, steps: int) -> None:
    situation = Situation(images=images, sides=(side, 2 * side), on_gpu=on_gpu)
    config = in_schedule(chosen(situation, asked=RunConfig()), steps, asked=RunConfig())
    config.check()
    assert config.batch <= images and config.steps == steps and config.training.warmup <= 0.5
    assert len(in_words(config, situation, asked=RunConfig(), total=images, budget="1h")) == 5
    assert RunConfig.model_validate(yaml.safe_load(package.config.to_yaml(config))) == config


def test_what_was_asked_for_stays_and_the_rest_follows_it() -> None:
    asked = RunConfig.model_validate({
        "batch": 32, "seed": 7, "encoder": {"width": 64, "image_size": [96, 64]}, "training": {"optimiser": "adamw"},
    })  # fmt: skip
    config = in_schedule(chosen(CPU, asked=asked), 500, asked=asked)
    config.check()
    assert (config.batch, config.seed, config.training.optimiser) == (32, 7, "adamw")
    assert config.encoder.patch_size == 8 and config.encoder.grid == (12, 8)
    assert config.method.head_width == 32 and config.method.negative_weight == 0.48
    assert config.training.lr_per_256 == pytest.approx(8e-3 / np.sqrt(2), rel=1e-3)
    assert config.training.warmup == 0.33 and config.method.momentum_schedule == "constant"
    rate = RunConfig.model_validate({"training": {"lr_per_256": 1e-3, "warmup": 0.2}})
    kept = in_schedule(chosen(CPU, asked=rate), 500, asked=rate)
    assert (kept.training.lr_per_256, kept.training.warmup) == (1e-3, 0.2)


def test_on_a_cpu_it_is_the_recipe_for_cpus_but_for_what_the_images_say() -> None:
    recipe = find("siamese_im_cpu").make()
    config = in_schedule(chosen(CPU._replace(sides=(32, 32)), asked=RunConfig()), 3300, asked=RunConfig())
    assert config.model_copy(update={"recipe": recipe.recipe}) == recipe


def test_an_encoder_that_sees_too_few_steps_is_exchanged_for_a_smaller_one() -> None:
    large = GPU._replace(images=10**6)
    assert [make.__name__.rpartition("_")[2] for make in rungs_for(10**6)] == ["base", "small", "tiny"]
    assert smaller(large, steps=LEAST_STEPS) is None
    less = smaller(large, steps=LEAST_STEPS - 1)
    assert less is not None and chosen(less, asked=RunConfig()).encoder.width == 384
    assert "siamese_im_small, since fewer than" in "".join(
        in_words(chosen(less, asked=RunConfig()), less, asked=RunConfig(), total=9, budget="1m")
    )
    least = smaller(less, steps=1)
    assert least is not None and smaller(least, steps=1) is None
    assert smaller(CPU, steps=1) is None


def test_bounds() -> None:
    assert [batch_for(CPU._replace(images=count)) for count in (2, 7, 40, 255, 256, 10**6)] == [2, 2, 8, 32, 64, 64]
    assert steps_at_most(100, batch=16) == 10_000 and steps_at_most(1_281_167, batch=4096) == 500_455
    assert [size_for(GPU._replace(sides=(side, 900))) for side in (20, 50, 111, 800)] == [32, 48, 96, 224]


@given(st.integers(1, 400), st.integers(1, 30), st.integers(0, 2**31))
def test_copies_are_counted_from_a_sample(different: int, copies: int, seed: int) -> None:
    """Beside the count of all: within a third, wherever the sample has room for it."""
    everything = np.repeat(np.arange(different), copies)
    drawn = np.random.default_rng(seed).permutation(everything)[:256]
    found = different_of(len(everything), Counter(drawn.tolist()).values())
    if copies == 1:
        assert found == different
    elif len(everything) > 256 and different <= 100:
        assert different / 1.34 - 1 <= found <= different * 1.34 + 1


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """60 images of 50×40 px, one of them broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(60):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize((50, 40)).save(folder / f"{number}.png")
    (folder / "17.png").write_bytes(b"junk")
    return folder


def test_survey(pictures: Path) -> None:
    seen = survey(open_source(str(pictures)), preprocessing=RGB)
    assert (seen.different, seen.sides) == (60, (40, 50))
    assert seen.mean == pytest.approx([0.5] * 3, abs=0.05) and all(0.15 < value < 0.3 for value in seen.std)
    twice = survey(open_source(f"{pictures},{pictures}"), preprocessing=RGB)
    assert twice.different == 60 and twice.mean == pytest.approx(seen.mean, abs=0.02)
    assert survey(open_source(str(pictures)), preprocessing=RGB) == seen


QUICK = ("--threads", 1, "--training.workers", 0)


def test_pretrain_dry_run_and_doctor_say_the_same(
    pictures: Path, otherview: Callable, result_of: Callable[..., dict], tmp_path: Path
) -> None:
    asked = ("--data", pictures, "--out", tmp_path / "run", *QUICK, "--time-budget", "2s")
    said = result_of("pretrain", *asked, "--dry-run")
    assert said["recipe"] == "chosen" and len(said["chosen"]) == 5
    assert said["chosen"][0] == "images   60 of about 50×40 px; channels: 3"
    done = otherview("pretrain", *asked)
    assert done.returncode == 0, done.stderr
    for line in said["chosen"]:
        assert done.stderr.count(f"  {line}\n") == 1
    config = load_config(tmp_path / "run/config.yaml")
    assert config.recipe == "chosen" and config.steps and config.batch == 8 and config.encoder.image_size == (32, 32)
    again = otherview("pretrain", *asked)  # the same command continues, and says no more what was chosen
    assert again.returncode == 0 and "finished" in again.stderr and "as many as fit" not in again.stderr
    other = otherview("pretrain", *asked, "--batch", 4)
    assert other.returncode == 2 and "batch 8 → 4" in other.stderr


@pytest.mark.slow
def test_doctor_suggests_what_pretrain_chooses(pictures: Path, result_of: Callable[..., dict], tmp_path: Path) -> None:
    found = result_of("doctor", "--data", pictures, "--out", tmp_path / "found", "--threads", 1, "--workers", 0)
    words = found["command"].split()[1:-1]
    assert words[1:3] == ["--data", f"{tmp_path}/found/good.csv"] and "--recipe" not in words
    said = result_of(*words, tmp_path / "run", "--dry-run", "--threads", 1)
    assert found["chosen"] == said["chosen"] and found["recipe"] == "chosen"
    assert found["seconds_per_epoch"] > 0 and len(said["chosen"]) == 5


def test_doctor_takes_fewer_images_than_it_shows(result_of: Callable[..., dict], tmp_path: Path) -> None:
    found = result_of("doctor", "--data", "shapes:3", "--out", tmp_path / "found", "--threads", 1, "--workers", 0)
    assert found["picture"] and len(found["chosen"]) == 5


def test_doctor_does_not_mind_a_run_in_its_folder(result_of: Callable[..., dict], tmp_path: Path) -> None:
    config = find("mae_cpu").make()
    (tmp_path / "config.yaml").write_text(package.config.to_yaml(config))
    found = result_of("doctor", "--data", "shapes:30", "--out", tmp_path, "--threads", 1, "--workers", 0)
    assert found["recipe"] == "chosen" and len(found["chosen"]) == 5


def test_channels_are_found(result_of: Callable[..., dict], tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    for number in range(12):
        array = np.random.default_rng(number).integers(0, 4000, (40, 44, 5), np.uint16)
        np.save(tmp_path / f"arrays/{number}.npy", array)
    assert channels_of(open_source(str(tmp_path / "arrays")), RGB) == 5
    result_of("pretrain", "--data", tmp_path / "arrays", "--out", tmp_path / "run", "--steps", 2, *QUICK)
    config = load_config(tmp_path / "run/config.yaml")
    assert config.encoder.channels == 5 and config.views.mean == pytest.approx([0.488] * 5, abs=0.02)


def settings(**asked: object) -> PretrainSettings:
    out = Path(str(asked.pop("out", "nowhere")))
    config = RunConfig.model_validate({"training": {"workers": 0}, **asked})
    return PretrainSettings(config, data="shapes:300", out=out, threads=1)


SHAPES = open_source("shapes:300")


def test_a_step_that_runs_out_of_memory_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def steps_within(budget: str, config: RunConfig, *_: object, **__: object) -> int:
        tried.append(config.training.accumulation)
        if len(tried) < 3:
            raise torch.OutOfMemoryError
        return 77

    monkeypatch.setattr(choice, "steps_within", steps_within)
    found = chosen_run(settings(), SHAPES, None)
    assert tried == [1, 2, 4] and (found.config.training.accumulation, found.config.steps) == (4, 77)
    assert found.said[-2:] == [
        f"out of memory with {images} images at once: {images // 2} at once, one part after another"
        for images in (64, 32)
    ]
    assert found.config.batch == 64


def test_only_a_time_asks_for_a_smaller_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "situation_of", lambda *_: GPU._replace(images=10**6))
    monkeypatch.setattr(choice, "fits", lambda *_, **__: True)
    monkeypatch.setattr(choice, "steps_within", lambda _, config, *__, **___: 10**9 // config.encoder.width**2)
    assert chosen_run(settings(steps=5), SHAPES, None).config.encoder.width == 768
    found = chosen_run(settings(), SHAPES, None)
    assert (found.config.encoder.width, found.config.steps) == (384, 6781)


def test_a_batch_that_does_not_fit_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "free_memory", lambda _: 150 * 2**20)
    found = chosen_run(settings(steps=9), SHAPES, None)
    assert found.config.training.accumulation > 1 and "parts, for the memory" in found.said[3]
    kept = chosen_run(settings(steps=9, training={"accumulation": 1, "workers": 0}), SHAPES, None)
    assert kept.config.training.accumulation == 1


def test_a_few_that_come_again_tell_nothing_of_the_others() -> None:
    assert different_of(10**6, [1] * 253 + [3]) == 990_000 and different_of(10**6, [1] * 254 + [2]) == 1_000_000
    assert different_of(1000, [50, 60, 146]) == 3


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ({"width": 100}, (64, 8, 100, 2)),
        ({"width": 512}, (64, 8, 512, 16)),
        ({"image_size": (100, 100)}, (100, 10, 128, 4)),
        ({"patch_size": 14}, (56, 14, 128, 4)),
    ],
)
def test_what_follows_from_one_size(asked: dict[str, Any], sizes: tuple[int, ...]) -> None:
    wanted = RunConfig.model_validate({"encoder": asked})
    config = chosen(CPU, asked=wanted)
    encoder = config.encoder
    assert (encoder.image_size[0], encoder.patch_size, encoder.width, encoder.heads) == sizes
    config.check()
    assert config.method.head_width % config.method.head_heads == 0 and config.method.head_width % 4 == 0
    assert (
        chosen(GPU._replace(images=900), asked=RunConfig.model_validate({"encoder": {"width": 512}})).encoder.heads == 8
    )


def test_a_batch_is_shared_out_over_ranks() -> None:
    assert [batch_for(GPU._replace(ranks=ranks)) for ranks in (1, 3, 6, 8)] == [256, 255, 252, 256]
    assert batch_for(GPU._replace(images=20, ranks=8)) == 8


def test_deep_images_are_measured_as_the_run_reads_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number in range(40):
        values = np.random.default_rng(number).integers(0, 2 ** (7 + number % 6), (40, 40)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"deep/{number}.png")
    source = open_source(str(tmp_path / "deep"))
    found = chosen_run(
        PretrainSettings(RunConfig(steps=1), data=str(tmp_path / "deep"), out=tmp_path / "r"), source, None
    )
    exact = examine(source, preprocessing=with_ranges(source, RGB))
    assert found.config.views.mean == pytest.approx(tuple(exact.mean), abs=0.003)
    assert found.config.views.std == pytest.approx(tuple(exact.std), abs=0.003)


def test_a_config_of_ones_own_is_run_as_it_is(result_of: Callable[..., dict], tmp_path: Path) -> None:
    assert RunConfig.model_validate({"method": {"name": "mae"}}).is_whole and not RunConfig().is_whole
    own = find("siamese_im_demo").make().model_copy(update={"recipe": "", "steps": 2, "batch": 8})
    assert own.is_whole or RunConfig.model_validate(own.model_dump()).is_whole
    words = ("pretrain", "--data", "shapes:40", "--out", tmp_path / "run", *QUICK, "--steps", 9, "--batch", 8)
    result_of(*words, "--time-budget", "1s")
    result_of(*words, "--time-budget", "1s")  # the time decides, and the same command continues


def test_wrong_requests(tmp_path: Path, otherview: Callable) -> None:
    for flags, said in (
        (("--size", "x"), "--size x is not a number of pixels"),
        (("--size", "61"), "61 61 is not divisible"),
        (("--encoder.heads", "3"), "encoder.width 128 must be divisible by encoder.heads 3"),
        (("--time-budget", "soon"), "--time-budget soon is not a duration"),
        (("--batch", "400"), "largest batch that fits is 300"),
    ):
        done = otherview("pretrain", "--data", "shapes:300", "--out", "r", "--threads", 1, *flags)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert not (tmp_path / "r").exists()


def test_in_python_a_size_and_a_file_of_some_settings(
    otherview: Callable, result_of: Callable[..., dict], tmp_path: Path
) -> None:
    (tmp_path / "some.yaml").write_text("encoder: {width: 32, heads: 2, depth: 1}\nbatch: 8\nsteps: 2\n")
    words = ("pretrain", "--data", "shapes:40", "--out", tmp_path / "run", *QUICK)
    done = otherview(*words, "--config", tmp_path / "some.yaml")
    assert done.returncode == 0, done.stderr
    config = load_config(tmp_path / "run/config.yaml")
    assert "encoder  32 wide, 1 blocks: as asked for" in done.stderr
    assert (config.encoder.width, config.batch, config.steps, config.method.head_width) == (32, 8, 2, 16)
    small = {"width": 32, "depth": 1, "heads": 2}
    package.pretrain(
        RunConfig.model_validate({"steps": 2, "batch": 8, "encoder": small, "training": {"workers": 0}}),
        data="shapes:40", out=tmp_path / "python", threads=1,
    )  # fmt: skip
    assert load_config(tmp_path / "python/config.yaml").encoder.image_size == (32, 32)
    said = result_of(*words[:4], tmp_path / "sized", *QUICK, "--size", 48, "--steps", 2, "--dry-run")
    assert said["patches"].startswith("8×8 = 64")


def test_weights_decide_the_sizes(result_of: Callable[..., dict], tmp_path: Path) -> None:
    words = ("pretrain", "--data", "shapes:60@70", "--out", tmp_path / "run", "--init", "reference:demo", *QUICK)
    said = result_of(*words, "--steps", 2, "--dry-run")
    assert "the sizes of the weights" in said["chosen"][1] and "patches of 4 px" in said["chosen"][2]
    assert said["patches"].startswith("8×8 = 64")
