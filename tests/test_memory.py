"""The memory of a step, predicted without taking it: beside what a process takes, and beside what the recipes say."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.recipes import ladder
from otherview.recipes.registry import find
from otherview.runs.memory import SPARE, check_room, needed, step_memory
from otherview.runs.pretrain import pretrain

CPU = torch.device("cpu")
MEASURE = """
import sys, torch
from otherview.bench.contenders import contender, random_batch, repeated, status_mb, stepper
from otherview.config import RunConfig
config, batch = RunConfig.model_validate_json(sys.argv[1]), int(sys.argv[2])
torch.zeros(9).sum()
before = status_mb("VmRSS")
learner = contender("ours", config)
step = stepper(learner, config, repeated(random_batch(learner, 2), batch))
for _ in range(3):
    step()
print(status_mb("VmHWM") - before)
"""


def measured(config: RunConfig, batch: int) -> float:
    """Bytes that three steps take in a process of their own."""
    words = [sys.executable, "-c", MEASURE, config.model_dump_json(), str(batch)]
    return 2**20 * float(subprocess.run(words, capture_output=True, text=True, check=True, timeout=1800).stdout)


def on_cpu(recipe: str) -> RunConfig:
    config = find(recipe).make()
    return config.model_copy(update={"training": config.training.model_copy(update={"precision": "fp32"})})


def small(**changes: object) -> RunConfig:
    return find("siamese_im_cpu_adamw").make().model_copy(update=changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "batch"),
    [
        ("siamese_im_cpu", 256),
        ("siamese_im_tiny", 8),
        ("siamese_im_small", 4),
        ("siamese_im_base", 2),
        ("mae_cpu", 256),
    ],
)
def test_a_step_takes_what_was_predicted(recipe: str, batch: int) -> None:
    config = on_cpu(recipe)
    assert needed(config, images=batch, device=CPU) == pytest.approx(measured(config, batch), rel=0.15)


@pytest.mark.soak
@pytest.mark.parametrize("recipe", ["siamese_im_large", "siamese_im_huge"])
def test_a_step_of_a_large_encoder_takes_what_was_predicted(recipe: str) -> None:
    config = on_cpu(recipe)
    assert needed(config, images=2, device=CPU) == pytest.approx(measured(config, 2), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("make", ladder.RECIPES)
def test_the_recipes_say_what_a_gpu_needs(make: Callable[[], RunConfig]) -> None:
    said = float(re.search(r"([\d.]+) GB of GPU memory", make.__doc__ or "").group(1))  # pyright: ignore[reportOptionalMemberAccess]
    assert step_memory(make(), batch=ladder.BATCH) / 1e9 == pytest.approx(said, rel=0.03)


@pytest.mark.parametrize("recipe", ["siamese_im_cpu_adamw", "mae_cpu", "moco_v3_cpu"])
def test_more_images_take_more_and_the_weights_are_counted_once(recipe: str) -> None:
    config = find(recipe).make()
    few, more = (step_memory(config, batch=batch) for batch in (4, 8))
    assert 1.2 * few < more < 2 * few


def test_checkpointing_takes_less() -> None:
    config = small()
    saving = config.training.model_copy(update={"gradient_checkpointing": True})
    assert step_memory(small(training=saving), batch=64) < 0.8 * step_memory(config, batch=64)


def test_what_does_not_fit_at_once_is_told_what_would() -> None:
    whole, half = (needed(small(), images=images, device=CPU) for images in (64, 32))
    assert check_room(small(), device=CPU, ranks=1, free=whole) == whole
    with pytest.raises(WrongRequest, match=r"a step with 64 images at once .*: give --training\.accumulation 2"):
        check_room(small(), device=CPU, ranks=1, free=round(half / SPARE) + 1)
    assert check_room(small(), device=CPU, ranks=2, free=half) == half  # each process has half of them
    with pytest.raises(WrongRequest, match=r"where 0\.001 GB are free: take a smaller encoder"):
        check_room(small(), device=CPU, ranks=1, free=10**6)


def test_a_dry_run_says_what_is_predicted_and_refuses_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {"data": "shapes:200", "out": tmp_path / "run", "dry_run": True, "device": "cpu"}
    found = pretrain(small(), **asked)
    assert found["predicted_memory_mb"] == round(needed(small(), images=64, device=CPU) / 2**20)
    monkeypatch.setattr("otherview.runs.memory.free_memory", lambda device: 10**6)
    with pytest.raises(WrongRequest, match="at once takes about"):
        pretrain(small(), **asked)
