"""The loop: sometimes / each step / log. It knows no method by name.

summary = train(run)
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from otherview.data.loader import Sample
from otherview.distributed import mean_over_ranks, rank
from otherview.errors import Stopped
from otherview.learner import Learner
from otherview.training.clock import Clock
from otherview.training.console import RunProgress, clock
from otherview.training.guard import count_broken, count_skipped, refuse_too_many_broken
from otherview.training.journal import Journal
from otherview.training.memory import keep_pages
from otherview.training.resume import restore, save
from otherview.training.run import Run, Summary
from otherview.training.step import Outcome, take_step

MEASURED_STEPS = 20
"""After so many steps the time to expect is said."""


def train(run: Run) -> Summary:
    """Train from the last checkpoint, or from the start, to the end."""
    learner, settings = run.learner, run.settings
    keep_pages()
    learner.to(run.accelerator.device).train()
    optimiser = run.make_optimiser(learner, settings)
    start, journal = restore(run, optimiser)
    wrapped = run.accelerator.prepare_model(learner)
    batches = iter(run.loader_from(start))
    figures: Mapping[str, Any] = {}
    with RunProgress(total=run.steps, start=start, speak=rank() == 0, title=run.title) as progress:
        if start == 0:
            _observe(run, 0, journal, progress)
        clockwork, before, on_cpu = Clock(run.batch), replace(run.tally), run.accelerator.device.type == "cpu"
        for step in range(start, run.steps):
            if step > start and settings.saves_at(step):
                progress.warn(save(run, optimiser, journal, step))

            with clockwork.waiting():
                samples = _next_step(batches, run)
            outcome = take_step(wrapped, run, optimiser, samples, step)
            progress.warn(count_skipped(run, outcome, samples, step))
            for line in count_broken(run, outcome, samples):
                progress.say(line)
            refuse_too_many_broken(run)
            clockwork.tick()
            run.tally.seconds = before.seconds + clockwork.seconds

            done = step + 1
            if on_cpu and (done % settings.log_every == 0 or done == run.steps or outcome.asked):
                run.tally.cpu_seconds = before.cpu_seconds + clockwork.cpu_seconds
            progress.step(done, {"loss": f"{outcome.numbers['loss']:.4f}", **clockwork.shown()})
            if done == start + MEASURED_STEPS and run.steps - start > 4 * MEASURED_STEPS:
                left = clock(clockwork.seconds_for(run.steps - done))
                progress.say(f"{clockwork.images_per_second:.0f} images/s: about {left} to go")
            if done % settings.log_every == 0 or done == run.steps:
                figures = {**_figures(learner, outcome, clockwork), "skipped": run.tally.skipped}
                _log(run, journal, done, figures)
            _observe(run, done, journal, progress)
            if run.judged and done % run.steps_per_epoch == 0 and done < run.steps:
                _judge(run, done, journal, progress)
            if outcome.asked and done < run.steps:
                raise _stopped(run, done, save(run, optimiser, journal, done))
        progress.warn(save(run, optimiser, journal, run.steps))
    tally = run.tally
    return Summary(
        run.steps, tally.seconds, tally.cpu_seconds, clockwork.images_per_second, clockwork.waited_share, figures
    )


def _stopped(run: Run, done: int, failure: str | None) -> Exception:
    """How a run that was asked to stop ends: with status 75, or with 1 where nothing could be kept."""
    if failure:
        return OSError(failure)
    return Stopped(f"stopped at step {done} of {run.steps}, checkpoint written; run the same command to continue")


def _next_step(batches: Iterator[Sample], run: Run) -> list[Sample]:
    """The micro-batches of one step on the device."""
    samples = islice(batches, run.settings.accumulation)
    return [sample._replace(views=to_device(sample.views, run.accelerator.device)) for sample in samples]


def to_device(part: Any, device: torch.device) -> Any:
    """Every tensor of a nested sample on the device."""
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    return type(part)(*(to_device(inner, device) for inner in part))


def _figures(learner: Learner, outcome: Outcome, clockwork: Clock) -> dict[str, Any]:
    with torch.no_grad():
        diagnostics = {name: value.tolist() for name, value in learner.figures(outcome.context).items()}
    return {
        **outcome.numbers,
        **diagnostics,
        "images_per_second": clockwork.images_per_second,
        "waited": clockwork.waited_share,
    }


def _log(run: Run, journal: Journal, done: int, figures: Mapping[str, Any]) -> None:
    line = {"epoch": done / run.steps_per_epoch, "images": done * run.batch, **figures}
    journal.write({"step": done, **line})
    run.track({name: value for name, value in line.items() if not isinstance(value, list)}, done)


def _judge(run: Run, done: int, journal: Journal, progress: RunProgress) -> None:
    """The verdict at an epoch's end; where asked for, a run that has collapsed ends here, on all ranks."""
    text = journal.monitor.verdict()
    journal.write({"step": done, "verdict": text})
    progress.say(f"step {done} · {text}")
    if not run.settings.stop_on_collapse:
        return
    collapsing = torch.tensor(float(journal.monitor.collapsing and rank() == 0), device=run.accelerator.device)
    if float(mean_over_ranks(collapsing)) > 0:
        raise RuntimeError(f"stopped at step {done}, as training.stop_on_collapse asks: {text}")


def _observe(run: Run, done: int, journal: Journal, progress: RunProgress) -> None:
    for observer in run.observers:
        if done % observer.every == 0 or done == run.steps:
            seen = observer.see(done, run.learner)
            run.learner.train()
            if not seen:
                continue
            journal.write({"step": done, **seen})
            run.track(seen, done)
            progress.say(f"step {done} · " + " · ".join(f"{name} {value:.3f}" for name, value in seen.items()))
