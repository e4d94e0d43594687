"""The device path without a device: fake CUDA tensors go through every method, so that a tensor left on the CPU, or a read by
the host in the middle of a step, fails here. So does a double where Apple's and Intel's devices have none.

Autograd wants a driver for CUDA, so this is prepare and forward; gradients and the optimiser's step go through "meta" tensors,
and gradients under bf16 through fake tensors of the CPU. Detection is left out: how many regions there are depends on values.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode

from otherview import geometry
from otherview.data.loader import KINDS
from otherview.data.picture import picture_of
from otherview.data.spec import open_source
from otherview.data.workers import joining
from otherview.errors import WrongRequest
from otherview.geometry import widest
from otherview.losses import unigrad
from otherview.methods.learner import Learner
from otherview.training import optim
from otherview.training.device import resolve_device
from otherview.training.loop import to_device
from otherview.training.settings import TrainingSettings
from tests import test_finetune, test_probe
from tests.dense import test_segmentation
from tests.test_methods import PARTS, PICO, learner_and_batch

STEPS = [
    *((recipe, None, bf16) for recipe in PICO for bf16 in (False, True)),
    *(("siamese_im_cpu_adamw", part, True) for part in PARTS),
]


def on_device(part: Any, device: str) -> Any:
    """A nested sample whose tensors lie on another device, empty."""
    if isinstance(part, Tensor):
        dtype = widest(torch.device(device)) if part.dtype == torch.float64 else part.dtype
        return torch.empty_strided(part.shape, part.stride(), dtype=dtype, device=device)
    if part is None:
        return None
    return type(part)(*(on_device(inner, device) for inner in part))


def move(learner: nn.Module, device: str) -> None:
    """Parameters and buffers, each by itself, as `Module.to` refuses fake tensors."""
    for module in learner.modules():
        for name, value in module._parameters.items():
            if value is not None:
                empty = on_device(value.detach(), device)
                module._parameters[name] = nn.Parameter(empty, requires_grad=value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = on_device(value, device)


class WithoutDoubles(TorchDispatchMode):
    """Fails where an operation gives float64 on such a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if (
                isinstance(value, Tensor)
                and value.device.type in geometry.WITHOUT_DOUBLES
                and value.dtype == torch.float64
            ):
                raise TypeError(f"{func} gives float64 on {value.device}")
        return out


@pytest.fixture(autouse=True)
def no_fakes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants made from fake tensors are forgotten with the test."""


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA tensors without CUDA: shapes, types and devices are computed, values are not."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def a_step(learner: Learner, batch: Any, device: str, *, bf16: bool) -> tuple[Tensor, Any]:
    move(learner, device)
    views = on_device(batch, device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        context = learner.prepare([views], 0.5)
        return learner(views, context, 0).total, context


@pytest.mark.parametrize(("recipe", "part", "bf16"), STEPS)
def test_a_step_stays_on_the_device(recipe: str, part: str | None, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = learner_and_batch(recipe, part, count=2)
    with pretended_gpu(monkeypatch):
        loss, _ = a_step(learner.train(), batch, "cuda", bf16=bf16)
    assert loss.device.type == "cuda" and loss.dtype == torch.float32


FITS: dict[str, Callable[[], tuple[Learner, Any]]] = {
    "finetune": lambda: (test_finetune.learner(), test_finetune.some_batch()),
    "linear probe": lambda: (test_probe.probe(), test_probe.some_batch()),
    "segment": lambda: segmenter(),
}


def segmenter() -> tuple[Learner, Any]:
    learner = test_segmentation.learner(test_segmentation.config())
    source = open_source("shapes:2@64")
    return learner, joining(KINDS)([learner.views(picture_of(source, index), Random(index)) for index in range(2)])


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", FITS)
def test_a_step_of_a_fit_stays_on_the_device(name: str, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = FITS[name]()
    with pretended_gpu(monkeypatch):
        loss, _ = a_step(learner.train(), batch, "cuda", bf16=bf16)
    assert loss.device.type == "cuda" and loss.dtype == torch.float32


LEARNERS: dict[str, Callable[[], tuple[Learner, Any]]] = {
    **{recipe: lambda recipe=recipe: learner_and_batch(recipe, count=2) for recipe in PICO},
    **FITS,
}


def a_whole_step(learner: Learner, batch: Any, optimiser: torch.optim.Optimizer) -> None:
    """What the loop does with a micro-batch, from the targets to the new weights."""
    learner(batch, learner.prepare([batch], 0.5), 0).total.backward()
    norm = nn.utils.clip_grad_norm_([value for value in learner.parameters() if value.requires_grad], 1.0)
    optim.set_rate(optimiser, 1e-3)
    optim.step_where_finite(optimiser, norm.isfinite())


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device without values or a host's autocast, that otherwise counts as one with a fused AdamW."""
    fused = [*optim.FUSED, "meta"]
    monkeypatch.setattr(optim, "FUSED", fused)
    monkeypatch.setattr(optim, "SKIPS", [*optim.SKIPS, "meta"])
    monkeypatch.setattr(sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: fused)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    return "meta"


def on_meta(name: str, optimiser: str, device: str) -> tuple[Learner, Any, torch.optim.Optimizer]:
    learner, batch = LEARNERS[name]()
    move(learner.train(), device)
    settings = TrainingSettings(optimiser=optimiser)  # pyright: ignore[reportArgumentType]
    return learner, on_device(batch, device), optim.make_optimiser(learner, settings)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("name", LEARNERS)
def test_gradients_and_optimiser_ask_the_device_for_nothing(name: str, optimiser: str, meta: str) -> None:
    a_whole_step(*on_meta(name, optimiser, meta))


def test_an_optimiser_that_asks_is_found(meta: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "_step_on_device", lambda optimiser, finite: finite.item() and optimiser.step())
    with pytest.raises(RuntimeError, match="meta"):
        a_whole_step(*on_meta("mae_cpu", "adamw", meta))


@pytest.mark.parametrize("name", LEARNERS)
def test_gradients_under_bf16_read_nothing(name: str) -> None:
    learner, batch = LEARNERS[name]()
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss, _ = a_step(learner.train(), batch, "cpu", bf16=True)
        loss.backward()
    gradients = [value.grad for value in learner.parameters() if value.grad is not None]
    assert gradients and all(gradient.dtype == torch.float32 for gradient in gradients)


def test_autocast_is_pretended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu(monkeypatch), torch.autocast("cuda", dtype=torch.bfloat16):
        product = torch.empty(2, 3, device="cuda") @ torch.empty(3, 4, device="cuda")
    assert product.dtype == torch.bfloat16


@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_needs_no_doubles(name: str, meta: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "WITHOUT_DOUBLES", {meta})
    with WithoutDoubles():
        a_whole_step(*on_meta(name, "muon", meta))


def test_a_double_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "WITHOUT_DOUBLES", {"meta"})
    with WithoutDoubles(), pytest.raises(TypeError, match="float64"):
        torch.empty(3, device="meta").double()


@pytest.mark.parametrize("recipe", PICO)
def test_without_doubles_the_loss_is_nearly_the_same(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = learner_and_batch(recipe, count=4)
    learner.train()
    exact = learner(batch, learner.prepare([batch], 0.0), 0).total.detach()
    monkeypatch.setattr(geometry, "WITHOUT_DOUBLES", {"cpu"})
    monkeypatch.setattr(unigrad, "WITHOUT_DOUBLES", {"cpu"})
    single = to_device(batch, torch.device("cpu"))
    context = learner.prepare([single], 0.0)
    torch.testing.assert_close(learner(single, context, 0).total.detach(), exact, rtol=1e-5, atol=0)
    assert all(value.isfinite().all() for value in learner.metrics(context).values())


def test_a_read_by_the_host_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = learner_and_batch("mae_cpu", count=2)
    forward = learner.forward

    def reads(*words: Any) -> Any:
        loss = forward(*words)
        loss.total.item()
        return loss

    monkeypatch.setattr(learner, "forward", reads)
    with pretended_gpu(monkeypatch), pytest.raises(DataDependentOutputException):
        a_step(learner.train(), batch, "cuda", bf16=False)


def test_a_tensor_left_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = learner_and_batch("mae_cpu", count=2)
    forward = learner.forward

    def adds(*words: Any) -> Any:
        loss = forward(*words)
        return loss._replace(total=loss.total + torch.ones(3).mean(dim=0, keepdim=True))

    monkeypatch.setattr(learner, "forward", adds)
    with pretended_gpu(monkeypatch), pytest.raises(RuntimeError, match=r"different devices|cuda"):
        a_step(learner.train(), batch, "cuda", bf16=False)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PICO)
def test_the_forward_pass_is_one_graph_and_stays_it(recipe: str) -> None:
    """No break for torch.compile, and nothing compiled after the first step, whatever crops and momentum are."""
    command = [sys.executable, "-m", "tests.graphs", recipe]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["graphs"], found["breaks"]) == (1, 0), found
    assert found["compiled"] == found["compiled"][:1] * 10, found


@pytest.mark.parametrize(
    ("there", "taken"),
    [({}, "cpu"), ({"mps"}, "mps"), ({"xpu"}, "xpu"), ({"cuda", "mps"}, "cuda")],
    ids=["nothing", "Apple", "Intel", "NVIDIA"],
)
def test_auto_takes_what_is_there(there: set[str], taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in (("cuda", torch.cuda), ("mps", torch.backends.mps), ("xpu", torch.xpu)):
        monkeypatch.setattr(module, "is_available", lambda name=name: name in there)
    assert resolve_device("auto").type == taken
    missing: Any = next(name for name in ("cuda", "mps", "xpu") if name not in there)
    with pytest.raises(WrongRequest, match=f"--device {missing}"):
        resolve_device(missing)
