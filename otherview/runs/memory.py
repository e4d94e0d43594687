"""The memory that a training step needs, without taking it: one step on tensors that have sizes and no values.

    step_memory(config, batch=256)          # bytes: weights, their gradients, the optimiser's state, what the backward pass needs
    check_room(config, device=device, ranks=1)  # raises WrongRequest, with the accumulation that fits

torch's fake tensors run the real forward pass, backward pass and optimiser; every storage is counted while it lives. For ViT-S/16
and ViT-B/16 with AdamW and 256 images that gives 9.3 and 19.4 GB; an H200 took 9.0 and 18.7 (docs/gpu.md).
"""

import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from otherview.bench.contenders import random_batch
from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.methods.learner import Learner
from otherview.runs.assemble import build_learner
from otherview.training.optim import make_optimiser

DRAWN = 2
"""Samples that are drawn to learn the shapes of a batch."""
CPU_SHARE, CPU_REST = 1.2, 50 * 2**20
"""A CPU in fp32 takes more than its tensors: scratch space and gaps by a fifth, and torch's own (docs/log.md)."""
SPARE = 0.85
"""Share of the free memory that a step may take."""


class _Counting(TorchDispatchMode):
    """Adds up the storages that live, each once, and remembers the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.living: dict[int, int] = {}
        self.now = self.peak = 0

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.living:
            return
        self.living[key] = storage.nbytes()
        self.now += self.living[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.living.pop(key, 0)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for part in tree_leaves(made):
            if isinstance(part, torch.Tensor):
                self.count(part)
        return made


OF_NO_WEIGHT: Any = {
    "recipe": True, "steps": True, "start_from": True, "views": {"ranges"}, "method": {"momentum", "momentum_schedule"},
    "training": {"warmup", "accumulation"},
}  # fmt: skip
"""Settings that change no byte of a step: a choice asks before it knows them, and the dry run after it asks again."""


def step_memory(config: RunConfig, *, batch: int) -> int:
    """Bytes that a step with so many images at once takes on a GPU; the weights of a config are made, and nothing else."""
    return _step_memory(config.model_dump_json(exclude=OF_NO_WEIGHT), batch)


@cache
def _step_memory(content: str, batch: int) -> int:
    config = RunConfig.model_validate_json(content)
    plain = config.training.model_copy(update={"compile": "off"})  # compiled steps take no more
    learner = build_learner(config.model_copy(update={"training": plain}))
    sample = random_batch(learner, DRAWN, channels=config.encoder.channels)
    mode = FakeTensorMode()
    _make_fake(learner, mode)
    with mode, _Counting() as counting:
        for value in (*learner.parameters(), *learner.buffers()):
            counting.count(value)
        images = tree_map_only(
            torch.Tensor, lambda part: torch.empty((batch, *part.shape[1:]), dtype=part.dtype), sample
        )
        optimiser = make_optimiser(learner, config.training)
        for _ in range(2):  # the second one has the optimiser's state from its start
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.training.precision == "bf16"):
                loss = learner(images, learner.prepare([images], 0.5), 0).total
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    return counting.peak


def _make_fake(learner: Learner, mode: FakeTensorMode) -> None:
    """Weights keep their sizes and lose their values."""
    future = torch.__future__
    before = future.get_overwrite_module_params_on_conversion()
    future.set_overwrite_module_params_on_conversion(True)
    try:
        learner._apply(mode.from_tensor)
    finally:
        future.set_overwrite_module_params_on_conversion(before)


def needed(config: RunConfig, *, images: int, device: torch.device) -> int:
    """Bytes for a step with `images` in a micro-batch of this process, on this kind of device."""
    found = step_memory(config, batch=images)
    return round(CPU_SHARE * found) + CPU_REST if device.type == "cpu" else found


def free_memory(device: torch.device) -> int:
    """Bytes that are free now, on the device or in this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def fits(config: RunConfig, *, device: torch.device, ranks: int, free: int) -> bool:
    """Whether a step takes no more than its share of the free bytes, as far as the memory can be computed."""
    return needed(config, images=at_once(config, ranks=ranks), device=device) <= SPARE * free


def at_once(config: RunConfig, *, ranks: int) -> int:
    """Images in a micro-batch of each process."""
    return config.batch // (config.training.accumulation * ranks)


def halved(config: RunConfig, *, ranks: int) -> Iterator[RunConfig]:
    """The same batch in 2, 4, 8 … times as many parts, down to one image at once in each process."""
    parts = 2 * config.training.accumulation
    while config.batch % (parts * ranks) == 0:
        yield config.model_copy(update={"training": config.training.model_copy(update={"accumulation": parts})})
        parts *= 2


def check_room(config: RunConfig, *, device: torch.device, ranks: int, free: int | None = None) -> int:
    """Bytes that a step takes in each process; raises WrongRequest, with what would fit, where they are not free."""
    free = free_memory(device) if free is None else free
    share = at_once(config, ranks=ranks)
    taken = needed(config, images=share, device=device)
    if taken <= free:
        return taken
    said = f"a step with {share} images at once takes about {taken / 1e9:.2g} GB, where {free / 1e9:.2g} GB are free"
    for less in halved(config, ranks=ranks):
        if at_once(less, ranks=ranks) > 1 and fits(less, device=device, ranks=ranks, free=free):
            raise WrongRequest(f"{said}: give --training.accumulation {less.training.accumulation}")
    raise WrongRequest(f"{said}: take a smaller encoder, or smaller images")
