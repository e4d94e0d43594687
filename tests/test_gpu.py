"""What has to hold on a GPU: `pytest -m gpu`, minutes long.

OTHERVIEW_GPU_TESTS=cpu runs the same tests on the CPU, to see that they run at all before a GPU is at hand.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from otherview.files import json_lines
from otherview.losses.unigrad import correlation, unigrad
from otherview.methods.learner import Learner
from otherview.training.loop import to_device
from otherview.training.optim import make_optimiser, set_rate, step_where_finite
from otherview.training.settings import TrainingSettings
from otherview.weights.names import load_encoder
from tests.official import by_stem, check_gradients, load, renamed
from tests.test_methods import PICO, learner_and_batch
from tests.test_parity import batch_of, build
from tests.test_training import SMALL

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> str:
    if os.environ.get("OTHERVIEW_GPU_TESTS") == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def gradients(learner: Learner, batch: Any, device: str, *, bf16: bool) -> Tensor:
    """All gradients of one step as one vector."""
    learner.zero_grad()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        loss = learner(batch, learner.prepare([batch], 0.0), 0).total
    loss.backward()
    return torch.cat([p.grad.flatten().float() for p in learner.parameters() if p.grad is not None])


@by_stem("siamese_im")
def test_golden_losses_and_gradients(path: Path, device: str) -> None:
    arrays, settings = load(path)
    learner = build(arrays, settings).to(device)
    batch = to_device(batch_of(arrays), torch.device(device))
    loss = learner(batch, learner.prepare([batch], 0.0), 0).total
    loss.backward()
    assert float(loss.detach()) == pytest.approx(arrays["out/losses"][0], rel=1e-5)
    check_gradients(learner.cpu(), renamed(arrays, "grad/"))


BOUNDS = {"siamese_im_pico_32": 0.02, "mae_pico_32": 0.02, "moco_v3_pico_32": 0.3, "supervised_pico_32": 0.02}
"""How far the gradient of a step in bf16 may be from that in fp32, as a share of its length, on eight drawn images."""


@pytest.mark.parametrize("recipe", PICO)
def test_the_gradient_in_bf16_is_near_that_in_fp32(recipe: str, device: str) -> None:
    learner, batch = learner_and_batch(recipe, count=8)
    learner, batch = learner.to(device).train(), to_device(batch, torch.device(device))
    exact = gradients(learner, batch, device, bf16=False)
    rounded = gradients(learner, batch, device, bf16=True)
    apart = float((rounded - exact).norm() / exact.norm())
    print(f"{recipe}: {apart:.4f}")
    assert apart < BOUNDS[recipe]


def test_moco_v3_is_far_from_fp32_for_its_gates(device: str) -> None:
    """Where a rounded value crosses zero, ReLU's gradient is another; with smooth gates the distance is a third or less."""
    distances = []
    for smooth in (False, True):
        learner, batch = learner_and_batch("moco_v3_pico_32", count=64)
        for head in (learner.online.projector, learner.target.projector, learner.predictor) if smooth else ():
            for place, layer in enumerate(head):
                head[place] = nn.GELU() if isinstance(layer, nn.ReLU) else layer
        learner, batch = learner.to(device).train(), to_device(batch, torch.device(device))
        exact = gradients(learner, batch, device, bf16=False)
        distances.append(float((gradients(learner, batch, device, bf16=True) - exact).norm() / exact.norm()))
    print(f"ReLU {distances[0]:.3f}, GELU {distances[1]:.3f}")
    assert distances[0] < 0.5 and distances[1] < min(0.12, distances[0] / 2)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_nothing(name: str, device: str) -> None:
    learner, batch = learner_and_batch("siamese_im_pico_32", count=4)
    learner, batch = learner.to(device).train(), to_device(batch, torch.device(device))
    optimiser = make_optimiser(learner, TrainingSettings(optimiser=name))  # pyright: ignore[reportArgumentType]
    set_rate(optimiser, 1e-3)
    gradients(learner, batch, device, bf16=False)
    step_where_finite(optimiser, torch.tensor(True, device=device))
    trained = [value for value in learner.parameters() if value.requires_grad]
    before = [value.detach().clone() for value in trained]
    gradients(learner, batch, device, bf16=False)
    for value in trained:
        if value.grad is not None:
            value.grad.fill_(float("nan"))
    step_where_finite(optimiser, torch.tensor(False, device=device))
    assert all(torch.equal(one, other) for one, other in zip(before, trained, strict=True))
    gradients(learner, batch, device, bf16=False)
    step_where_finite(optimiser, torch.tensor(True, device=device))
    assert all(value.isfinite().all() for value in trained)
    assert not all(torch.equal(one, other) for one, other in zip(before, trained, strict=True))


def test_a_run_trains_and_its_checkpoint_is_read_on_a_cpu(otherview: Callable, tmp_path: Path, device: str) -> None:
    flags = [*SMALL, "--out", str(tmp_path / "run")]
    flags[flags.index("--device") + 1] = device
    done = otherview(*flags)
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in json_lines(tmp_path / "run/metrics.jsonl") if "loss" in line]
    assert len(losses) == 7 and losses[-1] < losses[0]
    encoder = load_encoder(f"{tmp_path / 'run'}@last")
    assert torch.isfinite(encoder(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).mean).all()


def test_the_memory_of_the_loss_grows_with_its_inputs(device: str) -> None:
    """Four times the tokens: about four times the memory, where a square of similarities would take sixteen."""
    if device == "cpu":
        pytest.skip("the CPU's is measured by `bench loss`")
    peaks = []
    for tokens in (12_544, 50_176):
        y = torch.randn(1, tokens, 768, device=device, requires_grad=True)
        z = torch.randn(1, tokens, 768, device=device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        unigrad(y, z, correlation([z]), weight=0.02).total.backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del y, z
    assert peaks[1] < 4.5 * peaks[0], peaks
