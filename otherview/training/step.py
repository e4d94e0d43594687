"""One optimiser step: all micro-batches prepared together, one graph at a time, nothing read by the host.

    launched = launch_step(wrapped, run, optimiser, samples, step=17)
    outcomes = read_steps([launched])

Loss, its terms, the gradient norm, whether some rank was asked to stop and how many images were broken are averaged over ranks
in one tensor, so that all ranks decide alike. A step that is not finite changes nothing; on a GPU that is decided there, and the
host reads the numbers of several steps at once, so that the device never waits for it.
What may go wrong for a while and not for long (such steps, images that cannot be read) is counted in the run's tally,
named, and ends the run where there is too much of it.
"""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otherview.data.loader import Sample
from otherview.distributed import gather_objects, mean_over_ranks, rank, ranks
from otherview.errors import BrokenImage
from otherview.losses.objectives import StepLoss
from otherview.training.optim import set_rate, step_where_finite
from otherview.training.state import RunState


class Launched(NamedTuple):
    """A step whose numbers the host has not read."""

    step: int
    numbers: dict[str, Tensor]
    """The loss, its terms, the gradient norm before clipping and what `read_steps` takes out: scalars, means over ranks."""
    rate: float
    samples: Sequence[Sample]
    """Which images they were made of, without the views."""
    context: Any
    """What the learner prepared."""


class Outcome(NamedTuple):
    """What the host knows of a step."""

    step: int
    numbers: dict[str, float]
    """The loss, its terms, the gradient norm before clipping and the rate; means over ranks."""
    samples: Sequence[Sample]
    finite: bool
    """Whether the step was taken."""
    asked: bool
    """Whether some rank was asked to stop."""
    broken: float
    """Broken images that were replaced, as a mean over ranks."""


def launch_step(
    wrapped: torch.nn.Module, run: RunState, optimiser: torch.optim.Optimizer, samples: Sequence[Sample], step: int
) -> Launched:
    """Gradients, clipping, and the optimiser's step where everything is finite."""
    rate = run.rate(run.settings, run.batch, step / run.steps)
    set_rate(optimiser, rate, step / run.steps)
    loss, context = _gradients(wrapped, run, [sample.views for sample in samples], step / run.steps)
    trained = [parameter for parameter in run.learner.parameters() if parameter.requires_grad]
    norm = run.accelerator.clip_grad_norm_(trained, run.settings.clip_norm or math.inf)
    broken = sum(len(sample.replaced()) for sample in samples)
    numbers = _over_ranks(loss, norm, {"asked": float(run.asked_to_stop()), "broken": float(broken)})
    step_where_finite(optimiser, numbers["loss"].isfinite() & numbers["grad_norm"].isfinite())
    optimiser.zero_grad(set_to_none=True)
    return Launched(step, numbers, rate, [sample._replace(views=None) for sample in samples], context)


def read_steps(launched: Sequence[Launched]) -> list[Outcome]:
    """What happened in some steps, by one read."""
    rows = torch.stack([torch.stack([*one.numbers.values()]) for one in launched]).tolist()
    outcomes = []
    for one, row in zip(launched, rows, strict=True):
        numbers = dict(zip(one.numbers, row, strict=True))
        finite = math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"])
        asked, broken = numbers.pop("asked") > 0, numbers.pop("broken")
        outcomes.append(Outcome(one.step, {**numbers, "lr": one.rate}, one.samples, finite, asked, broken))
    return outcomes


def _gradients(wrapped: torch.nn.Module, run: RunState, views: list[Any], progress: float) -> tuple[StepLoss, Any]:
    """The gradients of all micro-batches, summed to their mean."""
    parts: list[StepLoss] = []
    with run.accelerator.autocast():
        context = run.learner.prepare(views, progress)
    last = len(views) - 1
    for index, batch in enumerate(views):
        with run.accelerator.no_sync(wrapped) if index < last else nullcontext():
            with run.accelerator.autocast():
                loss = wrapped(batch, context, index)
            run.accelerator.backward(loss.total / len(views))
            parts.append(StepLoss(loss.total.detach(), loss.terms))
    mean = StepLoss(
        torch.stack([part.total for part in parts]).mean(),
        {name: torch.stack([part.terms[name] for part in parts]).mean() for name in parts[0].terms},
    )
    return mean, context


def _over_ranks(loss: StepLoss, norm: Tensor | float | None, known: dict[str, float]) -> dict[str, Tensor]:
    """The numbers of a step as means over ranks, by one reduction."""
    names = ["loss", *loss.terms, "grad_norm", *known]
    device = loss.total.device
    values = [
        loss.total,
        *loss.terms.values(),
        *(torch.as_tensor(value, device=device) for value in (norm, *known.values())),
    ]
    means = mean_over_ranks(torch.stack([value.float() for value in values]))
    return dict(zip(names, means.unbind(), strict=True))


FILE = "nonfinite.jsonl"
ENOUGH_TO_JUDGE = 200
"""So many images must have been asked for before a share of broken ones means anything."""


def count_skipped(run: RunState, outcome: Outcome) -> str | None:
    """What to say of a step, if it was skipped; raises FloatingPointError after too many in a row."""
    tally = run.tally
    if outcome.finite:
        tally.skipped_in_a_row = 0
        return None
    tally.skipped += 1
    tally.skipped_in_a_row += 1
    _write(run, outcome)
    said = (
        f"step {outcome.step} was skipped: loss {outcome.numbers['loss']}, gradient norm {outcome.numbers['grad_norm']}"
    )
    if tally.skipped_in_a_row >= run.settings.max_skipped:
        raise FloatingPointError(
            f"{said}, {tally.skipped_in_a_row} in a row (the images are in {run.folder / FILE}): lower "
            "training.lr_per_256 or use training.precision fp32, and start again with --fresh"
        )
    return said


def _write(run: RunState, outcome: Outcome) -> None:
    """Every rank writes which images it held; a line is written at once, so that ranks do not mix."""
    images = [index for sample in outcome.samples for index in torch.as_tensor(sample.read).reshape(-1).tolist()]
    numbers = {name: str(value) for name, value in outcome.numbers.items()}
    line = json.dumps({"step": outcome.step, "rank": rank(), "images": images, **numbers})
    with (run.folder / FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def count_broken(run: RunState, outcome: Outcome) -> list[str]:
    """What to say of images that could not be read, each once.

    The outcome's mean over ranks has been read by all hosts: all decide alike, and a step without broken images
    costs nothing more.
    """
    tally = run.tally
    tally.samples += run.batch
    if not outcome.broken:
        return []
    tally.replaced += round(outcome.broken * ranks())
    mine = [index for sample in outcome.samples for index in sample.replaced()]
    new = sorted({index for part in gather_objects(mine) for index in part} - tally.broken)
    tally.broken.update(new)
    return [f"broken image {run.name_of(index)}: replaced by the next readable one" for index in new]


def refuse_too_many_broken(run: RunState) -> None:
    """Raise BrokenImage where a larger share of images cannot be read than the settings allow."""
    tally = run.tally
    if tally.samples >= ENOUGH_TO_JUDGE and tally.replaced > run.settings.max_broken * tally.samples:
        raise BrokenImage(
            f"{tally.replaced} of {tally.samples} images cannot be read ({run.name_of(min(tally.broken))} for one), more "
            f"than training.max_broken {run.settings.max_broken:.0%}: otherview doctor names them all and why"
        )
