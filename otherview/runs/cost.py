"""What a run will cost: shapes, parameters, memory and a few timed steps; and how many steps fit into a time.

dry_run(settings)                       # writes nothing
within_budget(config, source, …)        # the pace is measured once, the steps are frozen into the run's config
"""

import re
import statistics
import time
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from otherview.config import RunConfig, load_config
from otherview.data.first_images import settled
from otherview.data.loader import SampleMaker, StepPlan, make_loader
from otherview.data.source import Source
from otherview.data.spec import open_aloud
from otherview.data.workers import usable_cores
from otherview.distributed import agree, from_first, gather_objects, rank, ranks
from otherview.errors import WrongRequest
from otherview.launch import launched_ranks
from otherview.methods.learner import Learner
from otherview.runs.assemble import Start, build_learner, starting, with_classes
from otherview.runs.memory import check_room
from otherview.runs.settings import PretrainSettings
from otherview.training.device import compute_on, finish, make_accelerator, peak_memory_mb
from otherview.training.loop import to_device
from otherview.training.optim import make_optimiser
from otherview.training.settings import ComputeSettings

TIMED_STEPS = 3
MEASURED_STEPS = 8
"""Of a run whose steps are fitted into a time."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SPARE = 0.95
"""Share of the time that is planned for steps; checkpoints, evaluations and exports take the rest."""


def dry_run(settings: PretrainSettings) -> dict[str, Any]:
    """Build everything, take a few real steps on real data without keeping them, and extrapolate. Writes nothing.

    With several ranks every one computes its share on its own device; the slowest one counts.
    """
    device = compute_on(settings)
    config, source, _ = agree(lambda: opened(settings))
    if settings.time_budget:
        config = within_budget(config, source, settings=settings)
    plan = agree(lambda: plan_of(config, source, config.steps_for(len(source))))
    predicted = agree(lambda: check_room(config, device=device, ranks=ranks()))
    learner, step, loading = _measure(config, source, plan, device=device, count=TIMED_STEPS)
    pace = _pace(step, loading, config.training.workers)
    rows, columns = config.encoder.grid
    patches = rows * columns
    masked = config.views.mask.masked_of(patches)
    two_views = config.method.name in ("siamese_im", "moco_v3")
    return {
        "images": len(source),
        "steps": plan.steps,
        "epochs": round(plan.steps / plan.steps_per_epoch, 2),
        "ranks": ranks(),
        "device": str(device),
        "patches": f"{rows}×{columns} = {patches}, {masked} masked for the online encoder",
        "tokens": f"online {1 + patches - masked}" + (f", target {1 + patches}" if two_views else ""),
        "parameters_encoder": sum(p.numel() for p in next(iter(learner.encoders.values())).parameters()),
        "parameters_trained": sum(p.numel() for p in learner.parameters() if p.requires_grad),
        "peak_memory_mb": max(gather_objects(peak_memory_mb(device))),
        "predicted_memory_mb": round(predicted / 2**20),
        "seconds_per_step": round(step, 3),
        "seconds_of_loading_per_step": round(loading, 3),
        "seconds_per_epoch": round(pace * plan.steps_per_epoch, 1),
        "hours_expected": round(pace * plan.steps / 3600, 2),
        "warnings": config.warnings(),
    }


class Opened(NamedTuple):
    """What is asked for, once it is found to be possible."""

    config: RunConfig
    source: Source
    start: Start | None


def opened(settings: PretrainSettings) -> Opened:
    """Everything that may be wrong about a request, before a folder is touched; raises WrongRequest.

    The config knows the classes of the data and the sizes of the weights that it starts from.
    """
    settings.config.check()
    source = open_aloud(settings.data)
    found = settled(source, settings.config.preprocessing._replace(ranges={}), flag="--data")  # of these images alone
    config, start = settings.config.seeing(found), None
    if settings.init is not None:
        config, start = starting(config, settings.init)
    return Opened(with_classes(config, source, settings.data), source, start)


def plan_of(config: RunConfig, source: Source, steps: int) -> StepPlan:
    """The plan of a run in so many steps, shared out over the ranks that were launched; raises WrongRequest where it cannot."""
    accumulation = config.training.accumulation
    return StepPlan(len(source), config.batch, steps, config.seed, ranks=launched_ranks(), accumulation=accumulation)


def seconds_of(budget: str) -> float:
    """'90s', '30m', '1.5h' or '2d' in seconds; raises WrongRequest for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", budget)
    if not match or float(match[1]) == 0:
        raise WrongRequest(f"--time-budget {budget} is not a duration: write 90s, 30m, 1.5h or 2d")
    return float(match[1]) * UNITS[match[2]]


def within_budget(config: RunConfig, source: Source, *, settings: PretrainSettings) -> RunConfig:
    """The config in the steps that fit into `settings.time_budget`, or those of the run that `settings.out` holds already."""
    assert settings.time_budget is not None
    seconds = agree(lambda: seconds_of(settings.time_budget or ""))
    known = settings.out / "config.yaml"
    if from_first(known.exists() and not settings.fresh):
        return in_steps(config, load_config(known).steps or 1)
    pace = seconds_per_step(config, source, compute=settings, count=MEASURED_STEPS)
    steps = int(SPARE * seconds / pace)
    if steps < 1:
        raise WrongRequest(
            f"--time-budget {settings.time_budget} is shorter than one step ({pace:.1f} s): give more, or a smaller --batch"
        )
    return in_steps(config, steps)


def in_steps(config: RunConfig, steps: int) -> RunConfig:
    """The config with so many steps; where they are fewer than its own, the warm-up keeps its steps, up to half of them.

    Targets stay on a plateau where the rate climbs too fast, however long the run is (docs/log.md).
    """
    warmup = config.training.warmup
    if config.steps and steps < config.steps:
        warmup = max(warmup, min(warmup * config.steps / steps, 0.5))
    return config.model_copy(update={"steps": steps, "training": config.training.model_copy(update={"warmup": warmup})})


def seconds_per_step(config: RunConfig, source: Source, *, compute: ComputeSettings, count: int) -> float:
    """What a step takes on this machine, loading included: the median of `count` real ones that are not kept."""
    device = compute_on(compute)
    plan = agree(lambda: plan_of(config, source, count))
    _, step, loading = _measure(config, source, plan, device=device, count=count)
    return _pace(step, loading, config.training.workers)


def _pace(step: float, loading: float, workers: int) -> float:
    """Workers load while the model computes; without them one waits for the other."""
    return max(step, loading / min(workers, usable_cores())) if workers else step + loading


def _measure(
    config: RunConfig, source: Source, plan: StepPlan, *, device: torch.device, count: int
) -> tuple[Learner, float, float]:
    """A fresh learner, and the median seconds of a step and of loading a batch in this process; of the slowest rank."""
    accelerator = make_accelerator(device, config.training.model_copy(update={"trackers": ()}))
    learner = build_learner(config).to(device)
    optimiser = make_optimiser(learner, config.training)
    wrapped = accelerator.prepare_model(learner)
    own = replace(plan, ranks=ranks(), rank=rank())
    maker = SampleMaker(source, learner.views, config.seed, config.preprocessing)
    loader = iter(make_loader(maker, own, start=0, workers=0, pin=False))
    step_seconds, data_seconds = [], []
    for step in range(min(count, plan.steps)):
        began = time.monotonic()
        batches = [to_device(next(loader)[0], device) for _ in range(own.accumulation)]
        data_seconds.append(time.monotonic() - began)
        began = time.monotonic()
        with accelerator.autocast():
            context = learner.prepare(batches, step / plan.steps)
        for index, batch in enumerate(batches):
            with accelerator.autocast():
                loss = wrapped(batch, context, index).total / own.accumulation
            accelerator.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        finish(device)
        step_seconds.append(time.monotonic() - began)
    slowest = (max(gather_objects(statistics.median(seconds))) for seconds in (step_seconds, data_seconds))
    return learner, *slowest
