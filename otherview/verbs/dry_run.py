"""What a run would be: shapes, parameters, memory, one timed step and the cost of the whole. Writes nothing."""

import resource
import statistics
import time
from typing import TYPE_CHECKING, Any

from otherview.config import RunConfig
from otherview.data.plan import StepPlan
from otherview.verbs.assemble import with_classes
from otherview.verbs.request import DeviceName, resolve_device, set_threads

if TYPE_CHECKING:
    import torch

    from otherview.data.source import Source
    from otherview.learner import Learner

TIMED_STEPS = 3


def dry_run(config: RunConfig, data: str, *, device: DeviceName, threads: int | None) -> dict[str, Any]:
    """Build everything, take a few real steps on real data without keeping them, and extrapolate."""
    config.check()
    from otherview.data.spec import open_source

    source = open_source(data)
    config = with_classes(config, source, data)
    plan = _plan(config, source, config.steps_for(len(source)))

    learner, step, loading = _measure(config, source, plan, device=device, threads=threads, count=TIMED_STEPS)
    pace = _pace(step, loading, config.training.workers)
    rows, columns = config.encoder.grid
    patches = rows * columns
    hidden = config.views.mask.hidden_of(patches)
    return {
        "images": len(source),
        "steps": plan.steps,
        "epochs": round(plan.steps / plan.steps_per_epoch, 2),
        "patches": f"{rows}×{columns} = {patches}, {hidden} hidden from the online encoder",
        "tokens": f"online {1 + patches - hidden}"
        + (f", target {1 + patches}" if config.method.name in ("siamese_im", "moco_v3") else ""),
        "parameters_encoder": sum(p.numel() for p in next(iter(learner.encoders.values())).parameters()),
        "parameters_trained": sum(p.numel() for p in learner.parameters() if p.requires_grad),
        "peak_memory_mb": _peak_memory(resolve_device(device)),
        "seconds_per_step": round(step, 3),
        "seconds_of_loading_per_step": round(loading, 3),
        "seconds_per_epoch": round(pace * plan.steps_per_epoch, 1),
        "hours_expected": round(pace * plan.steps / 3600, 2),
        "warnings": config.warnings(),
    }


def seconds_per_step(
    config: RunConfig, source: "Source", *, device: DeviceName, threads: int | None, count: int
) -> float:
    """What a step takes on this machine, loading included: the median of `count` real ones that are not kept."""
    _, step, loading = _measure(
        config, source, _plan(config, source, count), device=device, threads=threads, count=count
    )
    return _pace(step, loading, config.training.workers)


def _plan(config: RunConfig, source: "Source", steps: int) -> StepPlan:
    return StepPlan(len(source), config.batch, steps, config.seed, accumulation=config.training.accumulation)


def _pace(step: float, loading: float, workers: int) -> float:
    """Workers load while the model computes; without them one waits for the other."""
    from otherview.data.loader import usable_cores

    return max(step, loading / min(workers, usable_cores())) if workers else step + loading


def _measure(
    config: RunConfig, source: "Source", plan: StepPlan, *, device: DeviceName, threads: int | None, count: int
) -> "tuple[Learner, float, float]":
    """A fresh learner, and its median seconds of a step and of loading a batch in this process."""
    from otherview.methods.build import build
    from otherview.training.blocks import prepare_blocks

    set_threads(threads)
    learner = build(config.method, encoder=config.encoder, views=config.views, seed=config.seed)
    prepare_blocks(learner, config.training)
    return learner, *_timed(learner, config, source, plan, resolve_device(device), count)


def _timed(
    learner: "Learner", config: RunConfig, source: "Source", plan: StepPlan, device: "torch.device", count: int
) -> tuple[float, float]:
    import torch

    from otherview.data.loader import SampleMaker, make_loader
    from otherview.training.loop import to_device
    from otherview.training.optim import make_optimiser
    from otherview.verbs.weights import decoding_of

    half = torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16")
    accumulation = config.training.accumulation
    learner.to(device)
    optimiser = make_optimiser(learner, config.training)
    loader = iter(
        make_loader(
            SampleMaker(source, learner.views, config.seed, decoding_of(config)), plan, start=0, workers=0, pin=False
        )
    )
    step_seconds, data_seconds = [], []
    for step in range(min(count, plan.steps)):
        began = time.monotonic()
        batches = [to_device(next(loader)[0], device) for _ in range(accumulation)]
        data_seconds.append(time.monotonic() - began)
        began = time.monotonic()
        with half:
            context = learner.prepare(batches, step / plan.steps)
        for index, batch in enumerate(batches):
            with half:
                loss = learner(batch, context, index).total / accumulation
            loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        step_seconds.append(time.monotonic() - began)
    return statistics.median(step_seconds), statistics.median(data_seconds)


def _peak_memory(device: "torch.device") -> int:
    """MB at the most: of the device, or of this process."""
    if device.type == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
