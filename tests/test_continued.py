"""What a run does for the weights that it starts from: the encoder waits, learns slower, and stays near its start."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import otherview
from otherview.config import RunConfig, load_config
from otherview.errors import Stopped, WrongRequest
from otherview.methods.learner import Learner
from otherview.runs import pretrain as pretrain_module
from otherview.runs.assemble import ENCODER_WAITS
from otherview.training.continued import after_wait, with_own_rate
from otherview.training.optim import make_optimiser, set_rate, step_where_finite
from otherview.training.settings import TrainingSettings
from tests.test_methods import learner_and_batch
from tests.test_optim import RECIPES, with_gradients

RATE, START = 1e-2, {"encoder_waits": 0.1, "encoder_lr": 0.5}


def encoder_of(learner: Learner) -> nn.Module:
    return next(iter(learner.encoders.values()))


def trained_of(learner: Learner) -> dict[int, nn.Parameter]:
    return {id(value): value for value in learner.parameters() if value.requires_grad}


def test_the_encoder_keeps_still_and_then_its_rate_rises_for_as_long() -> None:
    shares = [after_wait(progress, waits=0.1) for progress in (0.0, 0.05, 0.1, 0.15, 0.2, 1.0)]
    assert shares == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert after_wait(0.0, waits=0.0) == 1


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_encoder_has_a_rate_of_its_own(recipe: str, name: str) -> None:
    """In every method and with both optimisers; each trained parameter is in one group, with the weight decay that it had."""
    learner, _ = learner_and_batch(recipe)
    plain, own = (
        make_optimiser(learner, TrainingSettings.model_validate({"optimiser": name, **settings}))
        for settings in ({}, START)
    )
    decay = [
        {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
        for optimiser in (plain, own)
    ]
    assert decay[0] == decay[1] and decay[0].keys() == trained_of(learner).keys()
    inside = {id(p) for p in encoder_of(learner).parameters()}
    for progress, share in ((0.1, 0.0), (0.15, 0.25), (0.3, 0.5)):
        set_rate(own, RATE, progress)
        rates = {id(p): group["lr"] for group in own.param_groups for p in group["params"]}
        for key, rate in rates.items():
            assert rate == pytest.approx(RATE * share if key in inside else RATE)


def test_groups_stay_as_they_are_where_nothing_is_asked_for() -> None:
    learner, _ = learner_and_batch("siamese_im_cpu_adamw")
    groups = learner.parameter_groups(0.05)
    assert with_own_rate(groups, encoder_of(learner), TrainingSettings()) == groups


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_waiting_encoder_keeps_every_bit_while_the_heads_learn(name: str) -> None:
    learner, trained = with_gradients("siamese_im_cpu_adamw", seed=0)
    before = {key: value.detach().clone() for key, value in trained.items()}
    settings = TrainingSettings.model_validate({"optimiser": name, **START})
    optimiser = make_optimiser(learner, settings)
    set_rate(optimiser, RATE, 0.05)
    optimiser.step()
    for key, value in trained.items():
        assert torch.equal(value, before[key]) == key.startswith("online.encoder."), key


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("skipped", [False, True])
def test_the_encoder_is_drawn_to_its_start(name: str, skipped: bool) -> None:
    """By rate × strength of the distance, and not at all in a step that the device skips; heads are not drawn."""
    learner, trained = with_gradients("siamese_im_cpu_adamw", seed=0)
    settings = TrainingSettings.model_validate({"optimiser": name, "l2_to_start": 2.0, "weight_decay": 0.0})
    optimiser = make_optimiser(learner, settings)
    starts = {key: value.detach().clone() for key, value in trained.items()}
    with torch.no_grad():
        for value in trained.values():
            value += 1.0
            value.grad = torch.zeros_like(value)
    set_rate(optimiser, RATE)
    step_where_finite(optimiser, torch.tensor(not skipped))
    for key, value in trained.items():
        drawn = key.startswith("online.encoder.") and not skipped
        expected = starts[key] + (1 - 2 * RATE if drawn else 1.0)
        torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-5)


SMALL = {
    "batch": 8, "steps": 8, "encoder": {"width": 32, "depth": 1, "heads": 1, "image_size": (16, 16), "patch_size": 4},
    "method": {"name": "siamese_im", "head_width": 32, "head_heads": 1, "negative_weight": 0.5},
    "training": {"workers": 0, "log_every": 1, "save_every": 3, "precision": "fp32", "optimiser": "muon", "lr_per_256": 0.03},
}  # fmt: skip


def config_with(**training: float) -> RunConfig:
    return RunConfig.model_validate({**SMALL, "training": {**SMALL["training"], **training}})  # pyright: ignore[reportGeneralTypeIssues]


@pytest.fixture(scope="module")
def started_from(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "run"
    otherview.pretrain(config_with(), data="shapes:40@16", out=out, threads=1)
    return out


def weights(run: Path) -> dict[str, Tensor]:
    return dict(otherview.load_encoder(run).encoder.state_dict())


def test_a_run_that_starts_from_weights_waits_and_another_does_not(started_from: Path, tmp_path: Path) -> None:
    """Unless it is told not to; the number stands in its config."""
    assert load_config(started_from / "config.yaml").training.encoder_waits is None
    for name, asked, expected in (("a", {}, ENCODER_WAITS), ("b", {"encoder_waits": 0.0}, 0.0)):
        otherview.pretrain(
            config_with(**asked), data="shapes:40@16", out=tmp_path / name, init=str(started_from), threads=1
        )
        assert load_config(tmp_path / name / "config.yaml").training.encoder_waits == expected


@contextmanager
def stopped_after(steps: int) -> Iterator[Callable[[], bool]]:
    asked = iter(range(1000))
    yield lambda: next(asked) >= steps


def test_a_run_that_was_stopped_stays_near_the_same_start(
    started_from: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, though the start is read anew: what it is drawn to are the weights given, not those of the checkpoint."""
    settings = config_with(encoder_waits=0.2, encoder_lr=0.5, l2_to_start=3.0)

    def call(out: Path) -> None:
        otherview.pretrain(settings, data="shapes:40@16", out=out, init=str(started_from), threads=1)

    call(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_module, "stop_requests", lambda: stopped_after(4))
        with pytest.raises(Stopped):
            call(tmp_path / "halved")
    call(tmp_path / "halved")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "halved")
    assert all(torch.equal(one[name], other[name]) for name in one)
    near, far = weights(started_from), config_with(encoder_waits=0.2, encoder_lr=0.5)
    otherview.pretrain(far, data="shapes:40@16", out=tmp_path / "far", init=str(started_from), threads=1)
    moved = [
        sum(float((weights(tmp_path / name)[key] - value).norm()) for key, value in near.items())
        for name in ("whole", "far")
    ]
    assert 0 < moved[0] < moved[1]


def test_a_config_that_starts_from_weights_asks_for_them(started_from: Path, tmp_path: Path) -> None:
    """Its own file names none; without them the run would be drawn to random weights, or be another one."""
    settings = config_with(l2_to_start=3.0)
    otherview.pretrain(settings, data="shapes:40@16", out=tmp_path / "run", init=str(started_from), threads=1)
    assert "--init" in (tmp_path / "run/config.yaml").read_text().splitlines()[0]
    recorded = load_config(tmp_path / "run/config.yaml")
    for config, said in (
        (recorded, "starts from weights .* give them to --init"),
        (settings, r"training\.\w+ is for a run that starts from weights"),
    ):
        for out in ("run", "another"):
            with pytest.raises(WrongRequest, match=said):
                otherview.pretrain(config, data="shapes:40@16", out=tmp_path / out, threads=1)
    assert not (tmp_path / "another").exists()


@pytest.mark.parametrize("flag", ["--training.encoder-waits", "--training.encoder-lr", "--training.l2-to-start"])
def test_without_weights_to_start_from_these_flags_are_refused(flag: str, otherview: Callable) -> None:
    done = otherview("pretrain", "--data", "shapes:40@16", "--out", "r", flag, "0.1")
    assert done.returncode == 2 and f"{flag} has no effect here, because the run starts from no weights" in done.stderr
