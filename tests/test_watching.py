"""Nothing goes wrong silently: steps that are not finite, collapse, divergence, starving, a full disk, trackers, a budget."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from otherview.config import load_config
from otherview.errors import WrongRequest
from otherview.files import json_lines
from otherview.losses.unigrad import correlation, dead_channels, unigrad
from otherview.methods.build import build
from otherview.recipes.registry import find
from otherview.recipes.siamese_im import short_with_adamw
from otherview.runs.cost import in_steps, seconds_of
from otherview.training.device import compile_and_checkpoint
from otherview.training.state import load_checkpoint, save_checkpoint
from tests.test_training import SMALL


def test_dead_channels_and_cosine() -> None:
    z = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0))
    assert float(dead_channels([z])) == 0
    z[..., :2] = 0.7
    assert float(dead_channels([z[:1], z[1:]])) == 0.25
    y = torch.randn_like(z)
    expected = torch.nn.functional.cosine_similarity(y, z, dim=-1).mean()
    assert float(unigrad(y, z, correlation([z]), weight=0.1).cosine) == pytest.approx(float(expected), abs=1e-6)
    assert float(unigrad(torch.zeros_like(z), z, correlation([z]), weight=0.1).cosine) == 0


@pytest.mark.slow
def test_a_run_made_to_diverge_skips_names_and_ends(otherview: Callable, tmp_path: Path) -> None:
    wild = [*SMALL, "--training.lr-per-256", "1e30", "--training.max-skipped", "3", "--out", tmp_path / "run"]
    wild[wild.index("--training.save-every") + 1] = "1"
    done = otherview(*wild)
    assert done.returncode == 1
    assert "3 in a row" in done.stderr.splitlines()[-1] and "lr_per_256" in done.stderr.splitlines()[-1]
    skipped = [json.loads(text) for text in (tmp_path / "run/nonfinite.jsonl").read_text().splitlines()]
    assert len(skipped) == 3 and all(len(one["images"]) == 16 for one in skipped)
    assert skipped[1]["step"] == skipped[0]["step"] + 1
    again = otherview(*wild)  # goes on from the checkpoint before the third, and still knows of the first two
    assert again.returncode == 1 and "3 in a row" in again.stderr.splitlines()[-1]
    assert len((tmp_path / "run/nonfinite.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_run_made_to_collapse_is_told_and_can_end_early(otherview: Callable, tmp_path: Path) -> None:
    """Without the negative term nothing holds the targets apart."""
    flags = list(SMALL)
    for name, value in (
        ("--method.negative-weight", 0),
        ("--steps", 150),
        ("--training.save-every", 1000),
    ):
        flags[flags.index(name) + 1] = str(value)
    flags += [
        "--training.log-every",
        "10",
        "--training.stop-on-collapse",
        "--training.collapse-after",
        "100",
        "--out",
        str(tmp_path / "run"),
    ]
    done = otherview(*flags, timeout=600)
    assert done.returncode == 1, done.stderr
    assert "collapsing: " in done.stderr.splitlines()[-1] and "4 or fewer since step" in done.stderr.splitlines()[-1]
    told = [entry["verdict"] for entry in json_lines(tmp_path / "run/metrics.jsonl") if "verdict" in entry]
    assert any(text.startswith("too early") for text in told) and told[-1].startswith("collapsing")


@pytest.mark.slow
def test_a_run_made_to_starve_says_what_to_do(result_of: Callable[..., dict], tmp_path: Path) -> None:
    """Drawing large images in the training process takes longer than a small model's steps."""
    flags = list(SMALL)
    flags[flags.index("shapes:200")] = "shapes:200@768"
    found = result_of(*flags, "--training.workers", "0", "--out", tmp_path / "run")
    assert found["waited_for_data_share"] > 0.3
    assert "data-bound" in found["verdict"] and "training.workers" in found["verdict"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"step": 1}, keep=False)
    write = torch.save

    def full(state: Any, path: Path) -> None:
        write(state, path)
        os.truncate(path, 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"step": 2}, keep=False)
    state, broken = load_checkpoint(tmp_path)
    assert state == {"step": 1} and not broken
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.json", "last.pt"]


@pytest.mark.slow
def test_a_run_on_a_full_disk_goes_on_and_says_so(otherview: Callable, tmp_path: Path) -> None:
    """The folder of checkpoints is a device that is always full."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to("/dev/full")
    done = otherview(*SMALL, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "no checkpoint at step 3" in done.stderr


@pytest.mark.slow
def test_tensorboard_has_what_the_journal_has(otherview: Callable, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = otherview(*SMALL, "--training.trackers", "tensorboard", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    folder = next(path.parent for path in (tmp_path / "run").rglob("events.out.tfevents*"))
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    tracked = [(event.step, event.value) for event in events.Scalars("loss")]
    written = [
        (entry["step"], entry["loss"]) for entry in json_lines(tmp_path / "run/metrics.jsonl") if "loss" in entry
    ]
    assert [step for step, _ in tracked] == [step for step, _ in written]
    assert [value for _, value in tracked] == pytest.approx([value for _, value in written], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag", ["--training.gradient-checkpointing", "--training.compile blocks", "--training.compile whole"]
)
def test_options_of_the_blocks_change_no_result(otherview: Callable, tmp_path: Path, flag: str) -> None:
    for name, extra in (("plain", ()), ("option", flag.split())):
        done = otherview(*SMALL, "--steps", "3", *extra, "--out", tmp_path / name, timeout=600)
        assert done.returncode == 0, done.stderr
    one, two = (
        [entry["loss"] for entry in json_lines(tmp_path / name / "metrics.jsonl") if "loss" in entry]
        for name in ("plain", "option")
    )
    assert len(one) == 2 and one == pytest.approx(two, rel=1e-5)


@pytest.mark.slow
def test_half_precision_trains_as_full_precision_does(otherview: Callable, tmp_path: Path) -> None:
    """The published recipes train in bf16: the loop, not only the parts, on a CPU's autocast."""
    assert find("siamese_im_vit_b16").make().training.precision == "bf16"
    losses = {}
    for precision in ("fp32", "bf16"):
        done = otherview(*SMALL, "--steps", "6", "--training.precision", precision, "--out", tmp_path / precision)
        assert done.returncode == 0, done.stderr
        losses[precision] = [
            entry["loss"] for entry in json_lines(tmp_path / precision / "metrics.jsonl") if "loss" in entry
        ]
    assert len(losses["bf16"]) == 3 and losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.01)


def test_options_of_the_blocks_act_on_those_that_learn() -> None:
    config = find("siamese_im_cpu_adamw").make()
    for option in ({"gradient_checkpointing": True}, {"compile": "blocks"}, {}):
        learner = build(config.method, encoder=config.encoder, views=config.views, seed=0)
        compile_and_checkpoint(learner, config.training.model_copy(update=option))
        online, target = (branch.encoder.vit.blocks[0] for branch in (learner.online, learner.target))  # pyright: ignore
        checkpointed = [isinstance(block.forward, partial) for block in (online, target)]
        assert checkpointed == ([True, False] if "gradient_checkpointing" in option else [False, False])
        compiled = [block._compiled_call_impl is not None for block in (online, target)]
        assert compiled == ([True, True] if "compile" in option else [False, False])


def test_times() -> None:
    assert [seconds_of(text) for text in ("90s", "30m", "1.5h", "2d")] == [90, 1800, 5400, 172_800]
    for wrong in ("30", "m", "0s", "-1h", "1 h"):
        with pytest.raises(WrongRequest, match="time-budget"):
            seconds_of(wrong)


def test_a_shorter_run_warms_up_in_as_many_steps() -> None:
    quick = short_with_adamw()
    warm_ups = {steps: in_steps(quick, steps).training.warmup * steps for steps in (400, 1650, 3300, 6600)}
    assert warm_ups == pytest.approx({400: 200, 1650: 330, 3300: 330, 6600: 660})
    calm = quick.model_copy(update={"training": quick.training.model_copy(update={"warmup": 0.7})})
    assert in_steps(calm, 400).training.warmup == 0.7
    paper = find("siamese_im_vit_b16").make()  # in epochs
    assert in_steps(paper, 400) == paper.model_copy(update={"steps": 400})


@pytest.mark.slow
def test_a_budget_is_measured_once(otherview: Callable, tmp_path: Path) -> None:
    flags = list(SMALL)
    del flags[flags.index("--steps") : flags.index("--steps") + 2]
    done = otherview(*flags, "--time-budget", "5s", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    steps = load_config(tmp_path / "run/config.yaml").steps
    assert steps is not None and steps >= 5
    again = otherview(*flags, "--time-budget", "5s", "--out", tmp_path / "run")
    assert again.returncode == 0 and "finished" in again.stderr
    assert load_config(tmp_path / "run/config.yaml").steps == steps
