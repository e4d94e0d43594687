"""What has to hold on a GPU: `pytest -m gpu`, minutes long. What is quick is asked of the CPU too, in the ordinary suite.

OTHERVIEW_GPU_TESTS=cpu runs the GPU's tests on the CPU, to see that they run at all before a GPU is at hand.
"""

import json
import os
import signal
import subprocess
import sys
import time
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
from tests.conftest import Run
from tests.official import by_stem, cases, check_gradients, load, renamed, rival_parameters
from tests.ranks import in_ranks, training_of_rank
from tests.test_methods import PICO, learner_and_batch
from tests.test_parity import batch_of, build
from tests.test_parity_rivals import mae_of, moco_v3_of
from tests.test_training import SMALL, identical

CARD = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=["cpu", CARD])
def device(request: pytest.FixtureRequest) -> str:
    return "cpu" if request.param == "cpu" else card_or_skip()


@pytest.fixture(params=[CARD])
def card() -> str:
    """The GPU alone: on a CPU, other tests ask the same or it takes long."""
    return card_or_skip()


def card_or_skip() -> str:
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


@pytest.mark.parametrize("kind", ["mae", "moco_v3"])
def test_golden_losses_and_gradients_of_the_others(kind: str, device: str) -> None:
    for path in cases(kind):
        learner, batches, arrays, _ = {"mae": mae_of, "moco_v3": moco_v3_of}[kind](path)
        learner, batch = learner.to(device), to_device(batches[0], torch.device(device))
        loss = learner(batch, learner.prepare([batch], 0.0), 0).total
        loss.backward()
        assert float(loss.detach()) == pytest.approx(arrays["out/losses"][0], rel=1e-5)
        check_gradients(learner.cpu(), rival_parameters(arrays, "grad/", kind))


BOUNDS = {"siamese_im_cpu_adamw": 0.02, "mae_cpu": 0.02, "moco_v3_cpu": 0.3, "supervised_cpu": 0.02}
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
        learner, batch = learner_and_batch("moco_v3_cpu", count=64)
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
    learner, batch = learner_and_batch("siamese_im_cpu_adamw", count=4)
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


RUNS = {
    "plain": (),
    "AdamW with accumulation": ("--training.accumulation", "2"),
    "Muon": ("--training.optimiser", "muon"),
    "three masks": ("--views.masks-per-image", "3", "--views.mask.count", "38"),
    "the article's loss": ("--method.loss", "global_dense"),
    "recomputed": ("--training.gradient-checkpointing",),
}
APART = {"Muon": 0.02}
"""Relative difference of losses over a run, where it is more than 1e-3: Muon's iterations are in bf16 on CUDA."""


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_the_device_is_that_of_the_cpu(otherview: Run, tmp_path: Path, card: str, name: str) -> None:
    found = losses(otherview, tmp_path / "card", card, *RUNS[name])
    assert found == pytest.approx(losses(otherview, tmp_path / "cpu", "cpu", *RUNS[name]), rel=APART.get(name, 1e-3))


def test_a_compiled_run_is_the_run(process: Run, tmp_path: Path, card: str) -> None:
    """In a process of its own: older torch cannot trace the checks of shapes."""
    found = losses(process, tmp_path / "compiled", card, "--training.compile", "whole")
    assert found == pytest.approx(losses(process, tmp_path / "eager", card), rel=1e-3)


def losses(run: Run, out: Path, device: str, *flags: str) -> list[float]:
    """The four losses that a small run writes down."""
    done = run(*on(device, "--steps", "8", *flags, "--out", out))
    assert done.returncode == 0, done.stderr
    found = [line["loss"] for line in json_lines(out / "metrics.jsonl") if "loss" in line]
    assert len(found) == 4
    return found


def on(device: str, *words: str | Path) -> list[str]:
    """The small run on a device."""
    flags = [*SMALL, *map(str, words)]
    flags[flags.index("--device") + 1] = device
    return flags


def test_a_checkpoint_of_the_device_is_the_same_encoder_on_the_cpu(otherview: Run, tmp_path: Path, card: str) -> None:
    """Its features agree on both, and so do the scores."""
    out = tmp_path / "run"
    assert otherview(*on(card, "--steps", "9", "--out", out)).returncode == 0
    encoder = load_encoder(f"{out}@last")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    here, there = encoder(images).mean, encoder.to(card)(images.to(card)).mean.cpu()
    assert torch.nn.functional.cosine_similarity(here, there).min() > 0.9999
    scores = []
    for place in ("cpu", card):
        words = [
            "evaluate",
            "knn",
            "--weights",
            out,
            "--train",
            "shapes:200",
            "--test",
            "shapes:100:test",
            "--no-cache",
        ]
        done = otherview(*words, "--device", place, "--json")
        assert done.returncode == 0, done.stderr
        scores.append([score["value"] for score in json.loads(done.stdout)["scores"]])
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


@pytest.mark.parametrize("to", ["timm", "onnx", "huggingface"])
def test_an_encoder_of_the_device_is_exported(process: Run, tmp_path: Path, card: str, to: str) -> None:
    pytest.importorskip({"timm": "timm", "onnx": "onnxscript", "huggingface": "transformers"}[to])
    assert process(*on(card, "--steps", "4", "--out", tmp_path / "run")).returncode == 0
    done = process(  # older torch cannot trace the checks of shapes
        "export", "--weights", tmp_path / "run", "--to", to, "--out", tmp_path / ("e.onnx" if to == "onnx" else "e")
    )
    assert done.returncode == 0, done.stderr


def test_a_run_continues_where_it_was_killed_bit_for_bit_kill(tmp_path: Path, card: str) -> None:
    words = [sys.executable, "-m", "otherview", *on(card, "--steps", "200", "--training.save-every", "1")]
    words += ["--training.deterministic", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert subprocess.run([*words, str(whole)], capture_output=True, timeout=300).returncode == 0
    process = subprocess.Popen([*words, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "checkpoints/last.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert subprocess.run([*words, str(killed)], capture_output=True, timeout=300).returncode == 0
    assert identical(whole, killed)


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_equal_one_ranks(tmp_path: Path, card: str, backend: str, accumulation: int) -> None:
    """On one card over gloo; over NCCL, which wants a card for each, where there are two."""
    if backend == "nccl" and (card == "cpu" or torch.cuda.device_count() < 2):
        pytest.skip("needs a GPU for each of two processes")
    alone = training_of_rank(0, 1, "sgd", {}, accumulation, card)
    for mine in in_ranks(2, training_of_rank, tmp_path, 2, "sgd", {}, accumulation, card, backend=backend):
        torch.testing.assert_close(mine["loss"], alone["loss"].cpu(), rtol=1e-5, atol=1e-6)
        for name, value in alone["gradients"].items():
            torch.testing.assert_close(mine["gradients"][name], value.cpu(), rtol=1e-3, atol=1e-5)


def test_the_memory_of_the_loss_grows_with_its_inputs(card: str) -> None:
    """Four times the tokens: about four times the memory, where a square of similarities would take sixteen."""
    if card == "cpu":
        pytest.skip("the CPU's is measured by `bench loss`")
    peaks = []
    for tokens in (12_544, 50_176):
        y = torch.randn(1, tokens, 768, device=card, requires_grad=True)
        z = torch.randn(1, tokens, 768, device=card)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        unigrad(y, z, correlation([z]), weight=0.02).total.backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del y, z
    assert peaks[1] < 4.5 * peaks[0], peaks
