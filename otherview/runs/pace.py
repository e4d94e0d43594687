"""How long a step takes here: a few real ones that are not kept, and how many of them fit into a time.

seconds_per_step(config, source, compute=settings, count=8)
steps_within("30m", config, source, compute=settings)
"""

import re
import statistics
import time
from dataclasses import replace

import torch

from otherview.config import RunConfig
from otherview.data.loader import SampleMaker, StepPlan, make_loader
from otherview.data.source import Source
from otherview.data.workers import usable_cores
from otherview.distributed import agree, gather_objects, rank, ranks
from otherview.errors import WrongRequest
from otherview.launch import launched_ranks, shortened
from otherview.methods.learner import Learner
from otherview.runs.assemble import build_learner
from otherview.training.device import compute_on, finish, make_accelerator
from otherview.training.loop import to_device
from otherview.training.optim import make_optimiser
from otherview.training.settings import ComputeSettings

MEASURED_STEPS = 8
"""Of a run whose steps are fitted into a time."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SPARE = 0.95
"""Share of the time that is planned for steps; checkpoints, evaluations and exports take the rest."""


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


def steps_within(budget: str, config: RunConfig, source: Source, *, compute: ComputeSettings) -> int:
    """Steps that fit into a time, as fast as they are here; raises WrongRequest where not even one does."""
    seconds = agree(lambda: seconds_of(budget))
    pace = seconds_per_step(config, source, compute=compute, count=MEASURED_STEPS)
    steps = int(SPARE * seconds / pace)
    if steps < 1:
        raise WrongRequest(
            f"--time-budget {budget} is shorter than one step ({pace:.1f} s): give more, or a smaller --batch"
        )
    return steps


def seconds_per_step(config: RunConfig, source: Source, *, compute: ComputeSettings, count: int) -> float:
    """What a step takes on this machine, loading included: the median of `count` real ones that are not kept."""
    device = compute_on(compute)
    plan = agree(lambda: plan_of(config, source, count))
    _, step, loading = measure(config, source, plan, device=device, count=count)
    return pace_of(step, loading, config.training.workers)


def pace_of(step: float, loading: float, workers: int) -> float:
    """Workers load while the model computes; without them one waits for the other."""
    return max(step, loading / min(workers, usable_cores())) if workers else step + loading


def measure(
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
    for step in range(min(1 if shortened() else count, plan.steps)):
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
