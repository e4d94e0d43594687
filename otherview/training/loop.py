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
from otherview.geometry import widest
from otherview.launch import keep_pages
from otherview.methods.learner import Learner
from otherview.training.console import RunProgress, clock
from otherview.training.metrics_log import MetricsLog, Throughput
from otherview.training.state import RunState, Summary, Tally, restore, save
from otherview.training.step import (
    Launched,
    Outcome,
    count_broken,
    count_skipped,
    launch_step,
    read_steps,
    refuse_too_many_broken,
)

MEASURED_STEPS = 20
"""After so many steps the time to expect is said."""


def train(run: RunState) -> Summary:
    """Train from the last checkpoint, or from the start, to the end."""
    learner, settings = run.learner, run.settings
    if run.accelerator.device.type == "cpu":
        keep_pages()
    learner.to(run.accelerator.device).train()
    optimiser = run.make_optimiser(learner, settings)
    start, log = restore(run, optimiser)
    run.check_ranks(start)
    wrapped = run.accelerator.prepare_model(learner)
    batches = iter(run.batches_from(start))
    metrics: Mapping[str, Any] = {}
    with RunProgress(total=run.steps, start=start, speak=rank() == 0, title=run.title) as progress:
        if start == 0:
            _call_back(run, 0, log, progress)
        throughput, before = Throughput(run.batch), replace(run.tally)
        launched: list[Launched] = []
        for step in range(start, run.steps):
            if step > start and settings.saves_at(step):
                progress.warn(save(run, optimiser, log, step))

            with throughput.waiting():
                samples = _next_step(batches, run)
            launched.append(launch_step(wrapped, run, optimiser, samples, step))
            throughput.tick()
            done = step + 1
            if not _reads(run, done, start, len(launched)):
                launched[-1] = launched[-1]._replace(context=None)  # the next step's targets need its room
                continue
            context, outcome = launched[-1].context, _read(run, launched, progress)

            logs = done % settings.log_every == 0 or done == run.steps
            _count_time(run, before, throughput, cpu=logs or outcome.asked)
            progress.step(done, {"loss": f"{outcome.numbers['loss']:.4f}", **throughput.shown()})
            if done == start + MEASURED_STEPS and run.steps - start > 4 * MEASURED_STEPS:
                _say_how_long(throughput, run.steps - done, progress)
            if logs:
                metrics = {**_metrics(learner, outcome, context, throughput), "skipped": run.tally.skipped}
                _log(run, log, done, metrics)
            context = None
            _call_back(run, done, log, progress)
            _end_epoch(run, done)
            _judge(run, done, log, progress)
            if outcome.asked and done < run.steps:
                raise _stopped(run, done, save(run, optimiser, log, done))
        progress.warn(save(run, optimiser, log, run.steps))
    for callback in run.callbacks:
        callback.on_end(run.steps, learner)
    return _summary(run, throughput, metrics)


def _summary(run: RunState, throughput: Throughput, metrics: Mapping[str, Any]) -> Summary:
    tally = run.tally
    return Summary(
        run.steps, tally.seconds, tally.cpu_seconds, throughput.images_per_second, throughput.waited_share, metrics
    )


def _say_how_long(throughput: Throughput, steps: int, progress: RunProgress) -> None:
    left = clock(throughput.seconds_for(steps))
    progress.say(f"{throughput.images_per_second:.0f} images/s: about {left} to go")


def _reads(run: RunState, done: int, start: int, unread: int) -> bool:
    """Whether the host reads what happened so far: now and then, and wherever something depends on it."""
    settings = run.settings
    return (
        unread >= steps_between_reads(run.accelerator.device)
        or done in (run.steps, start + MEASURED_STEPS)
        or done % settings.log_every == 0
        or settings.saves_at(done)
        or done % run.steps_per_epoch == 0
        or (run.judged and done % run.steps_between_verdicts == 0)
        or any(done % callback.every == 0 for callback in run.callbacks)
    )


def steps_between_reads(device: torch.device) -> int:
    """On a GPU the host runs ahead by a few steps, so that the device always has work."""
    return 1 if device.type == "cpu" else 4


def _read(run: RunState, launched: list[Launched], progress: RunProgress) -> Outcome:
    """The newest step, once the host knows of all; steps that were skipped and images that could not be read are said.

    Too many of them end the run.
    """
    outcomes = read_steps(launched)
    launched.clear()
    for outcome in outcomes:
        progress.warn(count_skipped(run, outcome))
        for line in count_broken(run, outcome):
            progress.say(line)
        refuse_too_many_broken(run)
    return outcomes[-1]._replace(asked=any(outcome.asked for outcome in outcomes))


def _count_time(run: RunState, before: Tally, throughput: Throughput, *, cpu: bool) -> None:
    """Seconds over all processes of the run; the CPU's own are asked for now and then, as that takes a while."""
    run.tally.seconds = before.seconds + throughput.seconds
    if cpu and run.accelerator.device.type == "cpu":
        run.tally.cpu_seconds = before.cpu_seconds + throughput.cpu_seconds


def _stopped(run: RunState, done: int, failure: str | None) -> Exception:
    """How a run that was asked to stop ends: with status 75, or with 1 where nothing could be kept."""
    if failure:
        return OSError(failure)
    return Stopped(f"stopped at step {done} of {run.steps}, checkpoint written; run the same command to continue")


def _next_step(batches: Iterator[Sample], run: RunState) -> list[Sample]:
    """The micro-batches of one step on the device."""
    samples = islice(batches, run.settings.accumulation)
    try:
        return [sample._replace(views=to_device(sample.views, run.accelerator.device)) for sample in samples]
    except (ConnectionError, EOFError) as error:  # what is left of a worker that was killed while it sent a batch
        raise RuntimeError(
            f"a worker of the loader is gone ({error}): was it killed, perhaps for memory? lower training.workers"
        ) from error


def to_device(part: Any, device: torch.device) -> Any:
    """Every tensor of a nested sample on the device; float64, which crops are in, in its widest float."""
    if isinstance(part, Tensor):
        dtype = widest(device) if part.dtype == torch.float64 else part.dtype
        return part.to(device, dtype, non_blocking=device.type == "cuda")
    if not isinstance(part, tuple):
        return part  # a number that all images share
    return type(part)(*(to_device(inner, device) for inner in part))


def _metrics(learner: Learner, outcome: Outcome, context: Any, throughput: Throughput) -> dict[str, Any]:
    with torch.no_grad():
        diagnostics = {name: value.tolist() for name, value in learner.metrics(context).items()}
    return {
        **outcome.numbers,
        **diagnostics,
        "images_per_second": throughput.images_per_second,
        "waited": throughput.waited_share,
    }


def _log(run: RunState, log: MetricsLog, done: int, metrics: Mapping[str, Any]) -> None:
    line = {"epoch": done / run.steps_per_epoch, "images": done * run.batch, **metrics}
    log.write({"step": done, **line})
    run.track({name: value for name, value in line.items() if not isinstance(value, list)}, done)


def _end_epoch(run: RunState, done: int) -> None:
    if done % run.steps_per_epoch == 0:
        for callback in run.callbacks:
            callback.on_epoch(done, run.learner)


def _judge(run: RunState, done: int, log: MetricsLog, progress: RunProgress) -> None:
    """Now and then the verdict so far; where asked for, a run that has collapsed ends here, on all ranks."""
    if not run.judged or done % run.steps_between_verdicts or done == run.steps:
        return
    found = log.health.judge()
    log.write({"step": done, "verdict": str(found)})
    progress.judge(f"step {done} · {found}")
    if not run.settings.stop_on_collapse:
        return
    collapsing = torch.tensor(float(log.health.collapsing and rank() == 0), device=run.accelerator.device)
    if float(mean_over_ranks(collapsing)) > 0:
        raise RuntimeError(f"stopped at step {done}, as training.stop_on_collapse asks: {found}")


def _call_back(run: RunState, done: int, log: MetricsLog, progress: RunProgress) -> None:
    """Every callback whose turn it is; what it returns is logged, tracked and said."""
    for callback in run.callbacks:
        if done % callback.every == 0 or done == run.steps:
            found = callback.on_step(done, run.learner)
            run.learner.train()
            if not found:
                continue
            log.write({"step": done, **found})
            run.track(found, done)
            progress.say(f"step {done} · " + " · ".join(f"{name} {_short(value)}" for name, value in found.items()))


def _short(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
