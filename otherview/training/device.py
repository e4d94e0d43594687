"""Where and how a process computes: device, threads, ranks, precision, memory, and what is done to every block.

device = compute_on(settings)                  # threads are set, the processes of a job have found each other
accelerator = make_accelerator(device, training, folder)
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from timm.models.vision_transformer import Block
from timm.models.vision_transformer_sam import Block as WindowedBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

from otherview.errors import WrongRequest
from otherview.launch import adopt_slurm, launched_ranks
from otherview.methods.learner import Learner
from otherview.training.settings import ComputeSettings, DeviceName, TrainingSettings


def resolve_device(name: DeviceName) -> torch.device:
    """The torch device of a name; raises WrongRequest where there is none."""
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present[name]:
        raise WrongRequest(f"--device {name} is not available on this machine: use --device auto or cpu")
    return torch.device(name)


def finish(device: torch.device) -> None:
    """Wait until the device has done everything that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_mb(device: torch.device) -> int:
    """The most that was held so far: on the device, or by this process; where the system does not count the most, now."""
    if device.type in ("cuda", "xpu"):
        return round(torch.get_device_module(device).max_memory_allocated(device) / 2**20)
    if device.type == "mps":
        return round(torch.mps.driver_allocated_memory() / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return round(psutil.Process().memory_info().rss / 2**20)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / (2**20 if sys.platform == "darwin" else 2**10))


def check_threads(threads: int | None) -> None:
    """Raise WrongRequest for what is no number of threads."""
    if threads is not None and threads < 1:
        raise WrongRequest(f"--threads {threads} is not a number of threads: give 1 or more")


def set_threads(threads: int | None) -> None:
    """Limit CPU threads, where asked for."""
    check_threads(threads)
    if threads is not None:
        torch.set_num_threads(threads)


def compute_on(settings: ComputeSettings) -> torch.device:
    """The device that was asked for; sets the threads, and lets the processes of one job find each other."""
    check_threads(settings.threads)
    device = resolve_device(settings.device)
    meet(device)
    set_threads(settings.threads)  # after accelerate, which sets them too
    own: torch.device | None = PartialState().device if launched_ranks() > 1 else None
    return own or device


def meet(device: torch.device) -> None:
    """Wait for the other processes of a job, where there are some; each then knows its own device."""
    adopt_slurm()
    if launched_ranks() > 1:
        PartialState(cpu=device.type == "cpu")


def make_accelerator(device: torch.device, settings: TrainingSettings, folder: Path | None = None) -> Accelerator:
    """Devices, precision and trackers of one run; a process may make several runs after another."""
    _choose_algorithms(settings)
    # It would refuse a second run with another precision, and keep the device of the first.
    AcceleratorState._reset_state(reset_partial_state=launched_ranks() == 1)
    fields = DistributedDataParallelKwargs.__dataclass_fields__
    quiet = "forward_sync_buffers" if "forward_sync_buffers" in fields else "broadcast_buffers"  # its newer name
    options: dict[str, Any] = {quiet: False, "find_unused_parameters": False}
    handlers: list[Any] = [DistributedDataParallelKwargs(**options)]
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        kwargs_handlers=handlers,
        log_with=list(settings.trackers) or None,
        project_dir=folder,
    )


def _choose_algorithms(settings: TrainingSettings) -> None:
    """Where an operation has no deterministic algorithm, torch warns and takes another."""
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
        torch.use_deterministic_algorithms(True, warn_only=True)


BLOCKS = Block, WindowedBlock


def trained_blocks(learner: nn.Module) -> list[nn.Module]:
    """The blocks that take a gradient; the target's do not."""
    return [
        module
        for module in learner.modules()
        if isinstance(module, BLOCKS) and any(parameter.requires_grad for parameter in module.parameters())
    ]


def compile_and_checkpoint(learner: Learner, settings: TrainingSettings) -> None:
    """Compile, and recompute the blocks' activations in the backward pass, where asked for; names stay as they are."""
    if settings.compile == "blocks":
        for module in learner.modules():
            if isinstance(module, BLOCKS):
                module.compile()
    elif settings.compile == "whole":
        learner.prepare = torch.compile(learner.prepare)
        learner.forward = torch.compile(learner.forward)
        limits: Any = (
            torch._dynamo.config
        )  # one graph for each micro-batch; beyond the limit torch would stop compiling
        limits.recompile_limit = max(limits.recompile_limit, settings.accumulation + 2)
    if settings.gradient_checkpointing:
        for block in trained_blocks(learner):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
