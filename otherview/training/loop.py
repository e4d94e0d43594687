"""The loop: sometimes / each step / log. It knows no method by name.

summary = train(run)
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from otherview.data.loader import Sample
from otherview.distributed import mean_over_ranks, rank
from otherview.errors import BrokenImage
from otherview.learner import Learner, StepLoss
from otherview.training.clock import Clock
from otherview.training.console import RunProgress, clock
from otherview.training.journal import Journal
from otherview.training.optim import make_optimiser, set_rate
from otherview.training.resume import restore, save
from otherview.training.run import Run, Stopped, Summary
from otherview.training.schedule import warmup_cosine

MEASURED_STEPS = 20
"""After so many steps the time to expect is said."""
ENOUGH_TO_JUDGE = 200
"""So many images must have been asked for before a share of broken ones means anything."""


def train(run: Run) -> Summary:
    """Train from the last checkpoint, or from the start, to the end."""
    learner, settings, accelerator = run.learner, run.settings, run.accelerator
    learner.to(accelerator.device).train()
    optimiser = make_optimiser(learner, settings)
    start, journal = restore(run, optimiser)
    wrapped = accelerator.prepare_model(learner)
    batches = iter(run.loader_from(start))
    figures: Mapping[str, float] = {}
    with RunProgress(total=run.steps, start=start, speak=rank() == 0) as progress:
        if start == 0:
            _observe(run, 0, journal, progress)
        clockwork = Clock(run.batch)
        for step in range(start, run.steps):
            if step > start and step % settings.save_every == 0:
                save(run, optimiser, journal, step)

            with clockwork.waiting():
                micro_batches = _next_step(batches, run, progress)
            rate = _set_rate(optimiser, run, step)
            loss, context = _gradients(wrapped, run, micro_batches, step / run.steps)
            norm = accelerator.clip_grad_norm_(_trainable(learner), settings.clip_norm or float("inf"))
            numbers = _host_read(loss, norm, step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            clockwork.tick()

            done = step + 1
            progress.step(done, {"loss": f"{numbers['loss']:.4f}", **clockwork.shown()})
            if done == start + MEASURED_STEPS and run.steps - start > 4 * MEASURED_STEPS:
                left = clock(clockwork.seconds_for(run.steps - done))
                progress.say(f"{clockwork.images_per_second:.0f} images/s: about {left} to go")
            if done % settings.log_every == 0 or done == run.steps:
                figures = _figures(learner, context, numbers, rate=rate, clockwork=clockwork)
                journal.write(
                    {"step": done, "epoch": done / run.steps_per_epoch, "images": done * run.batch, **figures}
                )
            _observe(run, done, journal, progress)
            if run.asked_to_stop() and done < run.steps:
                save(run, optimiser, journal, done)
                raise Stopped(
                    f"stopped at step {done} of {run.steps}, checkpoint written; run the same command to continue"
                )
        save(run, optimiser, journal, run.steps)
    return Summary(run.steps, clockwork.seconds, clockwork.images_per_second, clockwork.waited_share, figures)


def _gradients(wrapped: torch.nn.Module, run: Run, micro_batches: list[Any], progress: float) -> tuple[StepLoss, Any]:
    """One optimiser step's gradients; one micro-batch's graph lives at a time."""
    parts: list[StepLoss] = []
    with run.accelerator.autocast():
        context = run.learner.prepare(micro_batches, progress)
    last = len(micro_batches) - 1
    for index, batch in enumerate(micro_batches):
        with run.accelerator.no_sync(wrapped) if index < last else nullcontext():
            with run.accelerator.autocast():
                loss = wrapped(batch, context, index)
            run.accelerator.backward(loss.total / len(micro_batches))
            parts.append(StepLoss(loss.total.detach(), loss.parts))
    names = parts[0].parts
    mean = StepLoss(
        torch.stack([part.total for part in parts]).mean(),
        {name: torch.stack([part.parts[name] for part in parts]).mean() for name in names},
    )
    return mean, context


def _host_read(loss: StepLoss, norm: Tensor | float | None, step: int) -> dict[str, float]:
    """The one read of a step: loss, its parts and the gradient norm, as means over ranks."""
    names = ["loss", *loss.parts, "grad_norm"]
    values = [loss.total, *loss.parts.values(), torch.as_tensor(norm, device=loss.total.device)]
    numbers = dict(zip(names, mean_over_ranks(torch.stack([v.float() for v in values])).tolist(), strict=True))
    if not all(abs(numbers[name]) < float("inf") for name in ("loss", "grad_norm")):
        raise FloatingPointError(
            f"loss {numbers['loss']} and gradient norm {numbers['grad_norm']} at step {step} are not finite: "
            "lower training.lr_per_256 or use training.precision fp32, and start again with --fresh"
        )
    return numbers


def _set_rate(optimiser: torch.optim.Optimizer, run: Run, step: int) -> float:
    """Set and return the learning rate of a step."""
    rate = run.settings.lr_per_256 * run.batch / 256 * warmup_cosine(step / run.steps, warmup=run.settings.warmup)
    set_rate(optimiser, rate)
    return rate


def _trainable(learner: Learner) -> list[torch.nn.Parameter]:
    return [parameter for parameter in learner.parameters() if parameter.requires_grad]


def _next_step(batches: Iterator[Sample], run: Run, progress: RunProgress) -> list[Any]:
    """The micro-batches of one step on the device; broken images are named once."""
    samples = list(islice(batches, run.settings.accumulation))
    for sample in samples:
        replaced = sample.replaced()
        run.samples += torch.as_tensor(sample.read).numel()
        run.replaced += len(replaced)
        for index in replaced:
            if index not in run.broken:
                run.broken.add(index)
                progress.say(f"broken image {run.name_of(index)}: replaced by the next readable one")
    _stop_if_broken(run)
    return [to_device(sample.views, run.accelerator.device) for sample in samples]


def _stop_if_broken(run: Run) -> None:
    """A run over data of which a large share cannot be read ends early, with a name to look at."""
    if run.samples >= ENOUGH_TO_JUDGE and run.replaced > run.settings.most_broken * run.samples:
        raise BrokenImage(
            f"{run.replaced} of {run.samples} images cannot be read ({run.name_of(min(run.broken))} for one), more than "
            f"training.most_broken {run.settings.most_broken:.0%}: otherview doctor names them all and why"
        )


def to_device(part: Any, device: torch.device) -> Any:
    """Every tensor of a nested sample on the device."""
    if isinstance(part, Tensor):
        if part.dtype == torch.float64 and device.type == "mps":
            part = part.float()
        return part.to(device, non_blocking=True)
    return type(part)(*(to_device(inner, device) for inner in part))


def _figures(
    learner: Learner, context: Any, numbers: Mapping[str, float], *, rate: float, clockwork: Clock
) -> dict[str, float]:
    with torch.no_grad():
        diagnostics = {name: float(value) for name, value in learner.figures(context).items()}
    return {
        **numbers,
        **diagnostics,
        "lr": rate,
        "images_per_second": clockwork.images_per_second,
        "waited": clockwork.waited_share,
    }


def _observe(run: Run, done: int, journal: Journal, progress: RunProgress) -> None:
    for observer in run.observers:
        if done % observer.every == 0 or done == run.steps:
            seen = observer.see(done, run.learner)
            run.learner.train()
            journal.write({"step": done, **seen})
            progress.say(f"step {done} · " + " · ".join(f"{name} {value:.3f}" for name, value in seen.items()))
