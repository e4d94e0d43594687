"""A head, or a whole encoder, fitted to labels under the one loop, in a folder that knows what it is for.

    run_fit(learner, Fit(folder=…, about=…, source=…, plan=…, settings=…, preprocessing=…), make_optimiser=make_lars)

The learner is changed in place; the same call continues a fit that was stopped.
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from otherview.data.image import Preprocessing
from otherview.data.loader import SampleMaker, StepPlan
from otherview.data.source import Source
from otherview.distributed import agree, rank, ranks
from otherview.errors import WrongRequest
from otherview.files import json_lines, make_folder, only_writer, write_atomically
from otherview.launch import launched_rank, stop_requests
from otherview.methods.learner import Learner
from otherview.training.device import compile_and_checkpoint, make_accelerator, resolve_device, set_threads
from otherview.training.loop import train
from otherview.training.optim import Rate, rate_at
from otherview.training.settings import ComputeSettings, TrainingSettings
from otherview.training.state import RunState

MEDIAN_OF, LEAST_CHANGE = 5, 0.01
"""Of a loss that has moved: its median over so many lines has fallen by this share."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Everything that decides the outcome, and where it is kept."""

    folder: Path
    about: dict[str, Any]
    """Protocol, data and weights in words: a folder that holds another fit is refused."""
    source: Source
    plan: StepPlan
    settings: TrainingSettings
    preprocessing: Preprocessing
    compute: ComputeSettings


def default_batch(images: int, *, most: int, unit: int) -> int:
    """The protocol's batch, or a tenth of the images where they are few; a multiple of `unit`, at least 2."""
    return max(unit, 2, min(most, images // 10) // unit * unit)


def check_fit(folder: Path, about: dict[str, Any]) -> None:
    """Raise WrongRequest where the folder cannot be written or holds another fit that has begun; rank 0 answers for all."""
    if launched_rank() > 0:
        return
    identity = folder / "fit.json"
    wanted = json.loads(json.dumps(about))
    make_folder(folder)
    before = json.loads(identity.read_text(encoding="utf-8")) if (folder / "checkpoints").exists() else wanted
    for name in wanted | before:
        if before.get(name) != wanted.get(name):
            raise WrongRequest(
                f"{folder} holds a fit with {name} {before.get(name)}, not {wanted.get(name)}: give another --out, "
                "or remove the folder"
            )
    write_atomically(identity, json.dumps(wanted, indent=1).encode())


def run_fit(
    learner: Learner,
    fit: Fit,
    *,
    make_optimiser: Callable[[Learner, TrainingSettings], torch.optim.Optimizer],
    rate: Rate = rate_at,
) -> None:
    """Train from the last checkpoint, or from the start, to the end; the learner is changed in place."""
    accelerator = make_accelerator(resolve_device(fit.compute.device), fit.settings, fit.folder)
    agree(lambda: check_fit(fit.folder, fit.about))
    set_threads(fit.compute.threads)
    compile_and_checkpoint(learner, fit.settings)
    plan = replace(fit.plan, ranks=ranks(), rank=rank())
    if rank() == 0:
        print(f"{plan.steps:,} steps of {plan.batch} images, in {fit.folder}", file=sys.stderr)
    run = RunState(
        learner=learner,
        settings=fit.settings,
        folder=fit.folder,
        plan=plan,
        maker=SampleMaker(fit.source, learner.views, plan.seed, fit.preprocessing),
        accelerator=accelerator,
        config_hash=blake2b(json.dumps(fit.about).encode(), digest_size=6).hexdigest(),
        make_optimiser=make_optimiser,
        rate=rate,
        judged=False,
        title=str(fit.about["protocol"]),
    )
    with only_writer(fit.folder), stop_requests() as run.asked_to_stop:
        train(run)
    if rank() == 0 and (fault := unmoved(fit.folder)):
        print(fault, file=sys.stderr)


def unmoved(folder: Path) -> str | None:
    """A sentence about a fit whose loss ended where it began, or above, and what to do; by the medians of five logged lines."""
    losses = [line["loss"] for line in json_lines(folder / "metrics.jsonl") if line.get("loss") is not None]
    if len(losses) < 2 * MEDIAN_OF:
        return None
    first, last = (statistics.median(part) for part in (losses[:MEDIAN_OF], losses[-MEDIAN_OF:]))
    if last < (1 - LEAST_CHANGE) * first:
        return None
    if last > (1 + LEAST_CHANGE) * first:
        return f"the loss has risen: {first:.4f} → {last:.4f}; use a lower rate"
    return f"the loss has not moved: {first:.4f} → {last:.4f}; train for longer, or with a higher rate"
